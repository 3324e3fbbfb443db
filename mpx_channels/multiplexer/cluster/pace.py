"""When the cluster is looked at again, and who waits for that."""

from __future__ import annotations

import asyncio
import random

from ..topology import Node

__all__ = ["Pace"]

# Seconds between looks while all is well. A master that was demoted goes on to accept SPUBLISH, so
# whoever only sends hears of it in no other way.
EVERY = 5.0
# Seconds between two looks in any case; after some that brought no news, `SLOWEST`, but `SOON` when
# a node says that something is another's.
LEAST = 0.02
SOON = 0.08
SLOWEST = 1.0
MOST_DOUBLINGS = 6


class Pace:
    """At once when there is cause, and ever more slowly while that brings no news.

    A cluster that is in trouble is not to be asked a hundred times a second, by all processes.
    """

    def __init__(self) -> None:
        self._wanted = asyncio.Event()
        self._told = asyncio.Event()
        self._first: Node | None = None
        self._in_vain = 0
        self._waiters: list[asyncio.Future[None]] = []

    def soon(self, first: Node | None = None) -> None:
        """Something is not as we thought: look now; `first` ask this node, which has said so."""
        if first is not None:
            self._first = first
            self._told.set()
        self._wanted.set()

    def begins(self) -> Node | None:
        """A look begins; which node is to be asked first."""
        self._wanted.clear()
        self._told.clear()
        first, self._first = self._first, None
        return first

    def looked(self) -> None:
        """A look has brought an answer, and all has been done about it."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def next_look(self) -> None:
        """Return when one more has been taken."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def rest(self, *, news: bool, well: bool) -> None:
        """Return when it is time for the next one."""
        self._in_vain = 0 if news else min(self._in_vain + 1, MOST_DOUBLINGS)
        least = min(LEAST * 2.0**self._in_vain, SLOWEST) * random.uniform(0.7, 1.0)
        await asyncio.sleep(min(least, SOON))
        if least > SOON:
            await _in_time(self._told, least - SOON)
        if well and not await _in_time(self._wanted, EVERY * random.uniform(0.7, 1.0)):
            self._in_vain = 0


async def _in_time(event: asyncio.Event, seconds: float) -> bool:
    """Wait for it so long; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
