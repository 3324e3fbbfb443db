"""Commands that wait for a connection, in their order, each until it is due."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from .deadlines import Deadlines
from .doubts import Doubts
from .wire import Frame

__all__ = ["Backlog", "Waiting"]


class Waiting(NamedTuple):
    """A command that was not written yet, and who waits for its answer."""

    future: asyncio.Future[Frame]
    command: bytes

    def __hash__(self) -> int:
        return hash(self.future)


class Backlog(Deadlines[Waiting]):
    """Those that were not written, or of which the kernel took nothing."""

    def take_back(
        self,
        commands: Sequence[bytes],
        unanswered: deque[asyncio.Future[Frame] | None],
        doubts: Doubts,
        due: float | None,
    ) -> None:
        """These are the last that were to be written, and wait for another chance.

        Who waits for them is at the end of ``unanswered``, and no more afterwards. Those that
        were ``doubts`` are so again, ahead of all others. Without ``due`` the rest have all of
        the time before them.
        """
        if not commands:
            return
        if due is None:
            due = asyncio.get_running_loop().time() + self._seconds
        first = self.next_due()
        if first is not None:
            due = min(due, first)  # those that are there came later
        for command in reversed(commands):
            future = unanswered.pop()
            if future is None or future.done():
                continue
            if not doubts.take_back(future, command):
                self.add_first(Waiting(future, command), due)
