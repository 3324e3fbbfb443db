"""The hubs of a layer: one for each event loop that uses it, and the way to the right one."""

from __future__ import annotations

import asyncio
import functools
import weakref
from asyncio import get_running_loop
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from mpx_channels.loops.closing import when_closed
from mpx_channels.loops.fork import in_forked_child, leave_behind
from mpx_channels.loops.portal import in_async_to_sync, portal

from .hub import Hub
from .processes.ledger import Ledger

__all__ = ["Hubs"]

T = TypeVar("T")


class Hubs:
    """A hub per event loop, made by `make` at its first use; it gets whether the loop is the
    portal's, which synchronous callers share.

    A loop that `async_to_sync` made for one call is too short-lived to connect for: what is to be
    done there is done in the portal. It gets a hub of its own when something needs a mailbox on
    the loop itself, such as a consumer.
    """

    def __init__(self, make: Callable[[bool], Hub]) -> None:
        self._make = make
        # Hot paths look here for the running loop's hub.
        self.by_loop: dict[asyncio.AbstractEventLoop, Hub] = {}
        self.ledger = Ledger()
        _all.add(self)

    def __len__(self) -> int:
        return len(self.by_loop)

    @property
    def here(self) -> Hub | None:
        """The running loop's hub, if it has one."""
        return self.by_loop.get(get_running_loop())

    @property
    def of_portal(self) -> Hub | None:
        """The hub that synchronous callers share, if there is one; from any thread."""
        loop = portal.running_loop
        return self.by_loop.get(loop) if loop is not None else None

    @property
    def for_one_call(self) -> bool:
        """Whether the running loop has no hub and is to get none: it lives for one call."""
        return in_async_to_sync() and self.here is None

    async def open(self) -> Hub:
        """The running loop's hub, connected or about to be."""
        loop = get_running_loop()
        hub = self.by_loop.get(loop)
        if hub is None:
            # Other threads do the same at the same time.
            for other in list(self.by_loop):
                if other.is_closed() and (ended := self.by_loop.pop(other, None)) is not None:
                    ended.on_end()
            hub = self.by_loop[loop] = self._make(portal.is_current())
            account = self.ledger.open(hub)
            hub.on_end = functools.partial(_end, self.by_loop, hub, account)
            when_closed(loop, hub.loop_closed)
        if not hub.running:
            await hub.start()
        return hub

    async def run(
        self,
        work: Callable[[Hub], Coroutine[Any, Any, T]],
        undo: Callable[[T], object] | None = None,
    ) -> T:
        """Do something with the hub that is right for the running loop.

        ``undo`` takes back what was done in the portal for a caller who gave up meanwhile.
        """
        if self.for_one_call:
            return await portal.submit(self._open_and(work), undo).wait()
        return await work(await self.open())

    async def _open_and(self, work: Callable[[Hub], Coroutine[Any, Any, T]]) -> T:
        return await work(await self.open())

    async def close(self) -> None:
        """Close the hub of the running loop, if there is one."""
        if (hub := self._take()) is not None:
            await hub.stop()

    async def close_all(self) -> None:
        """Close that, and the hub that synchronous callers share."""
        closing = [hub.stop()] if (hub := self._take()) is not None else []
        if self.of_portal is not None and not portal.is_current():
            closing.append(portal.submit(self.close()).wait())
        await asyncio.gather(*closing)

    def _take(self) -> Hub | None:
        return self.by_loop.pop(get_running_loop(), None)

    def forget(self) -> None:
        """In a forked child: begin anew, and leave the parent's connections alone."""
        leave_behind(dict(self.by_loop), self.ledger)
        self.by_loop.clear()
        self.ledger = Ledger()


def _end(
    hubs: dict[asyncio.AbstractEventLoop, Hub], hub: Hub, close_account: Callable[[], None]
) -> None:
    """A hub has ended; its loop may have another one by now."""
    if hubs.get(hub.loop) is hub:
        hubs.pop(hub.loop, None)
    close_account()


_all: weakref.WeakSet[Hubs] = weakref.WeakSet()


def _forget_all() -> None:
    for hubs in _all:
        hubs.forget()


in_forked_child(_forget_all)
