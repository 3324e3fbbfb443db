"""Commands that wait for a connection, in their order, each until it is due."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from .deadlines import Deadlines
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
        due: float | None,
    ) -> None:
        """These are the last that were to be written, and wait for another chance.

        Who waits for them is at the end of ``unanswered``, and no more afterwards. Without
        ``due`` they have all of the time before them.
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
            if future is not None and not future.done():
                self.add_first(Waiting(future, command), due)
