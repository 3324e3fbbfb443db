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

    What came back from the node that had them (`came_back`) goes before what is submitted here.
    That waits for ``timeout`` seconds, behind at most ``most`` others.
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

    def came_back(self, sent: Sent) -> None:
        """A command that the node would not do goes elsewhere, before what came later."""
        if sent.in_doubt:
            self._doubts.append(sent)
        else:
            self._first.add(self._waiting(sent))

    def drain(self) -> list[Sent]:
        """All that waits, in its order; nothing does any more."""
        found = self._doubts
        for backlog in (self._first, self._behind):
            for future, command in tuple(backlog):
                found.append(Sent(future, command, self._again.pop(future, None)))
            backlog.close()
            backlog.clear()
        self._doubts = []
        return found

    def _waiting(self, sent: Sent) -> Waiting:
        if sent.again is not None:
            self._again[sent.future] = sent.again
        return Waiting(sent.future, sent.command)

    def _late(self, waiting: Waiting) -> None:
        self._again.pop(waiting.future, None)
        if not waiting.future.done():
            self._counters.dropped_backlog_timeout += 1
            text = f"no node of the cluster took this in {self._timeout} s{self._cause()}"
            waiting.future.set_exception(NotConnected(text))
