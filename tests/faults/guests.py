"""Receivers of a case's own: they come and go, and miss nothing of their groups meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .traffic import Process, WorkerFailed

if TYPE_CHECKING:
    from .counts import Ledger

__all__ = ["Guests"]

# How often one that does not get in tries: as a browser does, which goes on for ever.
TRIES = 20


class Guests:
    """As browsers that reconnect: each joins from the last position that it got, at any process."""

    def __init__(self) -> None:
        self._at: dict[str, Process] = {}
        self._since: dict[str, dict[str, str | None]] = {}

    async def come(
        self,
        ledger: Ledger,
        worker: Process,
        name: str,
        groups: Iterable[str],
        *,
        pause: float = 0.0,
    ) -> None:
        """Have one come to a process, if need be from another one."""
        await self.go(name)
        known = name in self._since
        ledger.back(name, time.monotonic())  # nobody is told of the end of what it left in
        since = self._since.setdefault(name, dict.fromkeys(groups))
        for group in since:
            if places := ledger.receivers[name].places.get(group):
                since[group] = places[-1].text
        for tries in range(TRIES):
            try:
                since.update(await worker.ask("come", name, since, pause))
                break
            except WorkerFailed:
                if tries == TRIES - 1:
                    raise
        if not known:
            ledger.join(name, since, time.monotonic())
        self._at[name] = worker

    async def go(self, name: str) -> None:
        """Have one leave; harmless if it is not there."""
        worker = self._at.pop(name, None)
        if worker is not None:
            await worker.ask("go", name)

    async def all_go(self) -> None:
        """The case is over."""
        for name in list(self._at):
            await self.go(name)
        self._since.clear()
