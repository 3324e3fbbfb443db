"""Receiving on one event loop for a reader in another thread, who may be gone by then."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from .base import LayerBase
from .codec import Message
from .envelope import UnreadableMessage
from .hub import Hub
from .mailbox import Mailbox
from .queues import STAMP

__all__ = ["Taken", "Taking", "give_back"]

# A message, and what puts it back where it came from.
Taken = tuple[Message, Callable[[], object]]


def give_back(taken: Taken) -> None:
    """Undo `Taking._take`: the next reader gets the message, and before any other."""
    taken[1]()


class Taking(LayerBase):
    """The part of the layer that takes messages so that they can be given back."""

    async def _take(self, channel: str, timeout: float | None = None) -> Taken:
        """`receive` on the background loop, for a reader elsewhere: `give_back` undoes it.

        Raises `TimeoutError` after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                if not self._inbox_name(channel):
                    return await self._take_plain(channel)
                hub, mailbox = await self._own_mailbox(channel)
                return await self._take_own(hub, mailbox)
        except TimeoutError:
            raise TimeoutError(f"nothing came to {channel!r} in {timeout} s") from None

    async def _take_own(self, hub: Hub, mailbox: Mailbox) -> Taken:
        hub.reclaim(mailbox)
        waiter = mailbox.ask()
        try:
            item = await waiter
        except asyncio.CancelledError:
            mailbox.withdraw(waiter)
            raise
        finally:
            if not mailbox.waited_for:
                hub.abandon(mailbox)
        return item.take(), functools.partial(mailbox.put_always, item, first=True)

    async def _take_plain(self, channel: str) -> Taken:
        hub = await self._hub()
        name = self._names.queue(channel)
        while True:
            stamped = await hub.queues.get(name)
            try:
                _, body = self.wrapping.unwrap(name, stamped[STAMP:])
                message = self.wrapping.decode(body)
            except UnreadableMessage as error:
                hub.inflow.unreadable(name, error)
            else:
                return message, functools.partial(hub.queues.put_back, name, stamped)
