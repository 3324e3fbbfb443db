"""A channel's mailbox: messages on their way from the reader of the socket to `receive`."""

from __future__ import annotations

import asyncio
from collections import deque

from .codec import Message, decode, is_flat
from .stats import Counters

__all__ = ["Delivery", "Mailbox"]


class Delivery:
    """One message as a process got it, shared by the mailboxes it went to.

    It is decoded once. Handlers may change their event, so each gets its own: a flat message is
    copied, a nested one decoded again for everybody but the first.
    """

    __slots__ = ("_body", "_flat", "_message", "expires")

    def __init__(self, body: bytes | memoryview, expires: float) -> None:
        message = decode(body)
        self.expires = expires
        self._flat = is_flat(message)
        self._message: Message | None = message
        self._body = body

    def take(self) -> Message:
        """The message, for one reader."""
        message = self._message
        if message is None:
            return decode(self._body)
        if self._flat:
            return message.copy()
        self._message = None
        return message


class Mailbox:
    """The unread messages of one channel, at most ``capacity``, and whoever waits for them."""

    __slots__ = (
        "_loop",
        "_unread",
        "_waiters",
        "capacity",
        "channel",
        "complained_at",
        "counters",
        "groups",
    )

    def __init__(
        self,
        channel: str,
        capacity: int,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
    ) -> None:
        self.channel = channel
        self.capacity = capacity
        self.counters = counters
        # Names of the groups this channel is in, for leaving them all at once.
        self.groups: set[str] | None = None
        # When it was last logged to be full, by the loop's clock.
        self.complained_at = float("-inf")
        self._loop = loop
        # None while there is nothing: an empty deque takes 760 bytes, and most mailboxes are empty.
        self._unread: deque[Delivery] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def put(self, delivery: Delivery) -> bool:
        """Add a message for the next reader; False if the mailbox is full."""
        unread = self._unread
        if unread is None:
            self._unread = deque((delivery,))
        elif len(unread) < self.capacity:
            unread.append(delivery)
        else:
            return False
        if self._waiters:
            self._wake()
        return True

    async def get(self) -> Message:
        """Take the oldest message that has not expired; cancelling loses none."""
        while True:
            if self._unread is not None:
                message = self._take()
                if message is not None:
                    return message
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                elif not waiter.cancelled() and self._unread is not None:
                    # Woken, then cancelled: the message is for the next in line.
                    self._wake()
                raise

    def clear(self) -> None:
        """Forget what is unread."""
        self._unread = None

    @property
    def waited_for(self) -> bool:
        """Whether somebody is in `get`."""
        return bool(self._waiters)

    def __len__(self) -> int:
        return len(self._unread) if self._unread is not None else 0

    def _take(self) -> Message | None:
        unread = self._unread
        assert unread is not None
        now = self._loop.time()
        while unread:
            delivery = unread.popleft()
            if delivery.expires > now:
                if not unread:
                    self._unread = None
                return delivery.take()
            self.counters.dropped_expired += 1
        self._unread = None
        return None

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return
