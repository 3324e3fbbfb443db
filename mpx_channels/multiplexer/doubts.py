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

    def watch(
        self, future: asyncio.Future[Frame], again: PackedAgain, *, in_doubt: bool = False
    ) -> None:
        """If the answer to this is lost, it is to be found out; if it was lost, it is now."""
        self._again[future] = again
        if in_doubt:
            self._doubt(future)
        future.add_done_callback(self._let_go)

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
                self._doubt(future)
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

    def _doubt(self, future: asyncio.Future[Frame]) -> None:
        if future not in self._in_doubt:
            self._in_doubt.add(future)
            future.add_done_callback(self._in_doubt.discard)

    def wait(self, future: asyncio.Future[Frame], command: bytes) -> None:
        """This one came from another connection, behind those that are here."""
        self._waiting.append((future, command))

    def forget(self, future: asyncio.Future[Frame]) -> tuple[PackedAgain | None, bool]:
        """What would find it out, and whether it is in doubt: the command goes elsewhere."""
        again, in_doubt = self._again.pop(future, None), future in self._in_doubt
        if again is not None:
            future.remove_done_callback(self._let_go)
        if in_doubt:
            self._in_doubt.discard(future)
            future.remove_done_callback(self._in_doubt.discard)
        return again, in_doubt

    def take_out(
        self, wanted: Callable[[bytes], bool]
    ) -> list[tuple[asyncio.Future[Frame], bytes]]:
        """Those that wait and are `wanted`, for another connection."""
        taken = [each for each in self._waiting if wanted(each[1])]
        self._waiting = deque(each for each in self._waiting if not wanted(each[1]))
        return taken

    def _let_go(self, future: asyncio.Future[Frame]) -> None:
        self._again.pop(future, None)

    def clear(self) -> Iterator[asyncio.Future[Frame]]:
        """Forget all that wait, and return who waited."""
        while self._waiting:
            yield self._waiting.popleft()[0]
