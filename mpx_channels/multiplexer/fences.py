"""Fences: when what has been published by now was delivered here."""

from __future__ import annotations

import asyncio
import functools
import time

from .deadlines import Deadlines
from .registry import Registry

__all__ = ["Fences"]


class Fences:
    """Futures that are done once all that has been published on a server by now was delivered.

    Redis writes to a connection in the order in which things happen: what was published comes
    before the answer to a later PING. One PING is for all who ask in a turn of the loop. A fence
    is done as well when the link breaks, and after ``patience`` seconds.
    """

    def __init__(self, registry: Registry, patience: float) -> None:
        self._registry = registry
        self._patience = patience
        self._all: Deadlines[asyncio.Future[None]] = Deadlines(self._end, patience)
        # The one whose PING leaves with this turn.
        self._next: asyncio.Future[None] | None = None
        # What was published before this moment (`time.monotonic`) has come.
        self._caught_up = 0.0

    def ask(self, published: float) -> asyncio.Future[None] | None:
        """The fence of this turn; `ping` is to be called, and what it asks for written.

        None if there is nothing to wait for: if the moment of which it is asked (`published`, by
        `time.monotonic`) is before another fence, or longer ago than a fence waits.
        """
        if published < self._caught_up or published < time.monotonic() - self._patience:
            return None
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
            self._all.add(self._next)
        return self._next

    def ping(self) -> bool:
        """Whether a PING is to be written now; the registry knows of it."""
        fence, self._next = self._next, None
        if fence is None or fence.done():
            return False
        self._registry.ping(functools.partial(self._passed, fence, time.monotonic()))
        return True

    def end_all(self) -> None:
        """The link broke: nothing more will come over it."""
        for fence in tuple(self._all):
            self._all.discard(fence)
            self._end(fence)

    def forget(self) -> None:
        """Begin anew, on the running loop; what another has left never ends."""
        self._next = None
        self._all = Deadlines(self._end, self._patience)

    def _passed(self, fence: asyncio.Future[None], written: float) -> None:
        self._caught_up = written
        self._all.discard(fence)
        self._end(fence)

    def _end(self, fence: asyncio.Future[None]) -> None:
        if not fence.done():
            fence.set_result(None)
