"""Commands whose answers were lost, and what finds out whether they ran."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from .wire import Frame

__all__ = ["Doubts", "PackedAgain"]

# As `Again`, with the command packed.
PackedAgain = Callable[[], bytes]


class Doubts:
    """Those that wait for the next connection, in their order, ahead of all that was not written.

    So nothing that was sent later overtakes them. They wait without an end: what may have run
    cannot be said to have failed.
    """

    def __init__(self) -> None:
        self._again: dict[asyncio.Future[Frame], PackedAgain] = {}
        self._waiting: deque[tuple[asyncio.Future[Frame], bytes]] = deque()
        # Those of which an answer was lost, whether they wait or were written again.
        self._in_doubt: set[asyncio.Future[Frame]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def watch(self, future: asyncio.Future[Frame], again: PackedAgain) -> None:
        """If the answer to this is lost, it is to be found out."""
        self._again[future] = again
        future.add_done_callback(self._again.pop)

    def lost(
        self, futures: Iterable[asyncio.Future[Frame] | None]
    ) -> Iterator[asyncio.Future[Frame]]:
        """The answers to these were lost, which were written last; return what is lost for good."""
        waiting: list[tuple[asyncio.Future[Frame], bytes]] = []
        for future in futures:
            if future is None or future.done():
                continue
            again = self._again.get(future)
            if again is None:
                yield future
            else:
                waiting.append((future, again()))
                if future not in self._in_doubt:
                    self._in_doubt.add(future)
                    future.add_done_callback(self._in_doubt.discard)
        self._waiting.extendleft(reversed(waiting))

    def pop(self) -> tuple[asyncio.Future[Frame], bytes]:
        """The first; raises `IndexError` where there is none."""
        return self._waiting.popleft()

    def take_back(self, future: asyncio.Future[Frame], command: bytes) -> bool:
        """If this is one of them, it was not written after all, and is the first again."""
        if future not in self._in_doubt:
            return False
        self._waiting.appendleft((future, command))
        return True

    def clear(self) -> Iterator[asyncio.Future[Frame]]:
        """Forget all that wait, and return who waited."""
        while self._waiting:
            yield self._waiting.popleft()[0]
