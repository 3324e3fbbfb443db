"""How long consumers keep an event loop before others have it."""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from weakref import WeakKeyDictionary

__all__ = ["ALONE", "TOGETHER", "Turns"]

# Seconds that a consumer may have the event loop to itself while there is more to handle.
ALONE = 0.001
# Seconds that all of a loop's consumers may have it together; after that each has a message.
TOGETHER = 0.02


class Turns:
    """Of the consumers of one event loop; a turn of one is a part of a turn of all."""

    __slots__ = ("__weakref__", "end")

    _by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()

    def __init__(self) -> None:
        # When the turn of all ends, by the monotonic clock; inf while nobody has used up its own.
        self.end = inf

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Turns:
        """Those of a loop."""
        turns = cls._by_loop.get(loop)
        if turns is None:
            turns = cls._by_loop[loop] = cls()
        return turns

    def used(self, loop: asyncio.AbstractEventLoop) -> None:
        """A consumer has used up its turn, and lets others have the loop."""
        if self.end == inf:
            self.end = monotonic() + TOGETHER - ALONE
            loop.call_soon(self._over)  # the loop has come around then

    def _over(self) -> None:
        self.end = inf
