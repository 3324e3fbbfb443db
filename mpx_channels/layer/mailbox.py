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
        self.groups: list[str] | None = None
        # When it was last logged to be full, by the loop's clock.
        self.complained_at = float("-inf")
        self._loop = loop
        # None while there is nothing: an empty deque takes 760 bytes, and most mailboxes are empty.
        self._unread: deque[Delivery] | None = None
        self._waiters: list[asyncio.Future[Delivery]] = []

    def put(self, delivery: Delivery) -> bool:
        """Add a message for the next reader; False if the mailbox is full."""
        # A reader that waits has seen an empty mailbox: hand it over, past the queue.
        waiters = self._waiters
        while waiters:
            waiter = waiters.pop(0)
            if not waiter.done():
                waiter.set_result(delivery)
                return True
        unread = self._unread
        if unread is None:
            self._unread = deque((delivery,))
        elif len(unread) < self.capacity:
            unread.append(delivery)
        else:
            return False
        return True

    async def get(self) -> Message:
        """Take the oldest message that has not expired; cancelling loses none."""
        if self._unread is not None:
            message = self._take()
            if message is not None:
                return message
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            delivery: Delivery = await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.cancelled():
                self._give_back(waiter.result())
            raise
        return delivery.take()

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

    def _give_back(self, delivery: Delivery) -> None:
        """A reader was handed a message and cancelled at once: the next in line gets it."""
        if self._unread is not None:
            self._unread.appendleft(delivery)
        else:
            self.put(delivery)
