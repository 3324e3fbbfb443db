"""How long consumers keep an event loop before others have it."""

from __future__ import annotations

import asyncio
from time import monotonic
from weakref import WeakKeyDictionary

__all__ = ["Turns"]

# Seconds that a consumer may have the event loop to itself while there is more to handle.
ALONE = 0.001
# Seconds that all of a loop's consumers may have it together; after that each has a message.
TOGETHER = 0.02


class Turns:
    """Of the consumers of one event loop; a turn of one is a part of a turn of all."""

    __slots__ = ("__weakref__", "_end")

    _by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()

    def __init__(self) -> None:
        # When the turn of all ends; 0 between two of them.
        self._end = 0.0

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Turns:
        """Those of a loop."""
        turns = cls._by_loop.get(loop)
        if turns is None:
            turns = cls._by_loop[loop] = cls()
        return turns

    def begin(self, loop: asyncio.AbstractEventLoop) -> float:
        """A consumer begins its turn; when that ends, by the monotonic clock."""
        now = monotonic()
        end = self._end
        if not end:
            end = self._end = now + TOGETHER
            # The loop has come around then.
            loop.call_soon(self._over)
        return min(now + ALONE, end)

    def _over(self) -> None:
        self._end = 0.0
