"""Commands that wait until it is known where their slot is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from ..backlog import Backlog, Waiting
from ..counters import EngineCounters
from ..doubts import PackedAgain
from ..exceptions import BacklogFull, NotConnected
from ..publisher import Sent
from ..wire import Frame

__all__ = ["Detour"]


class Detour:
    """Stands in for the publisher of some slots, and keeps the order of what is for them.

    What came back from the node that had them (`came_back`) goes before what is submitted here, and
    what may have run before that. That which may not waits for ``timeout`` seconds, behind at most
    ``most`` others.
    """

    def __init__(
        self,
        slots: Iterable[int],
        counters: EngineCounters,
        *,
        most: int,
        timeout: float,
        cause: Callable[[], str],
    ) -> None:
        self.slots = set(slots)
        # Why nothing is taken at all.
        self.refusal: Exception | None = None
        self._counters = counters
        self._most = most
        self._timeout = timeout
        self._cause = cause
        self._loop = asyncio.get_running_loop()
        self._doubts: list[Sent] = []
        self._first: Backlog = Backlog(self._late, timeout)
        self._behind: Backlog = Backlog(self._late, timeout)
        self._again: dict[asyncio.Future[Frame], PackedAgain] = {}
        # In which order those that came back were submitted.
        self._turns: dict[asyncio.Future[Frame], int] = {}

    def __len__(self) -> int:
        return len(self._doubts) + len(self._first) + len(self._behind)

    def submit(self, command: bytes, again: PackedAgain | None = None) -> asyncio.Future[Frame]:
        """As `Publisher.submit`; raises `refusal` where there is one."""
        if self.refusal is not None:
            raise self.refusal
        if len(self) >= self._most:
            self._counters.dropped_backlog_full += 1
            raise BacklogFull(f"{len(self)} commands wait for the cluster already{self._cause()}")
        future: asyncio.Future[Frame] = self._loop.create_future()
        self._behind.add(self._waiting(Sent(future, command, again)))
        return future

    def came_back(self, sent: Sent, turn: int) -> None:
        """A command that a node would not do goes elsewhere, before what came later.

        That need not have come back later: one may have been at another node than the other.
        """
        self._turns[sent.future] = turn
        if sent.in_doubt:
            self._doubts.append(sent)
        else:
            self._first.add(self._waiting(sent))

    def drop(self, command: Callable[[bytes], bool], error: Exception) -> None:
        """Those that came back, and have not run, fail where they are such a `command`."""
        for waiting in [each for each in self._first if command(each.command)]:
            self._first.discard(waiting)
            self._again.pop(waiting.future, None)
            if not waiting.future.done():
                waiting.future.set_exception(error)

    def drain(self) -> list[Sent]:
        """All that waits, in its order; nothing does any more."""
        first = self._emptied(self._first)
        turns, self._turns = self._turns, {}
        doubts, self._doubts = self._doubts, []
        for came_back in (doubts, first):
            came_back.sort(key=lambda sent: turns[sent.future])
        return doubts + first + self._emptied(self._behind)

    def _emptied(self, backlog: Backlog) -> list[Sent]:
        found = [
            Sent(future, command, self._again.pop(future, None)) for future, command in backlog
        ]
        backlog.close()
        backlog.clear()
        return found

    def _waiting(self, sent: Sent) -> Waiting:
        if sent.again is not None:
            self._again[sent.future] = sent.again
        return Waiting(sent.future, sent.command)

    def _late(self, waiting: Waiting) -> None:
        self._again.pop(waiting.future, None)
        self._turns.pop(waiting.future, None)
        if not waiting.future.done():
            self._counters.dropped_backlog_timeout += 1
            text = f"no node of the cluster took this in {self._timeout} s{self._cause()}"
            waiting.future.set_exception(NotConnected(text))
