"""A channel's mailbox: messages on their way from the reader of the socket to their consumer."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Protocol

from mpx_channels.messages.codec import Message, is_flat
from mpx_channels.multiplexer.flow import PATIENCE, Flow

from .layer_stats import LayerCounters
from .marker import Marker

__all__ = [
    "Delivery",
    "Event",
    "Failure",
    "Hooks",
    "Item",
    "Mailbox",
    "Membership",
    "Taken",
    "give_back",
]

# A message, and what puts it back where it came from, for who turns out not to need it.
Taken = tuple[Message, Callable[[], object]]


class Item(Protocol):
    """What a mailbox holds: something that becomes a message when it is taken."""

    expires: float

    def take(self) -> Message:
        """The message, for one reader; or raises what its reader is to meet."""


class Delivery:
    """One message as a process got it, shared by the mailboxes it went to.

    It is decoded once. Handlers may change their event, so each gets its own: a flat message is
    copied, a nested one decoded again for everybody but the first. ``extra`` is added to each.
    """

    __slots__ = ("_body", "_decode", "_extra", "_flat", "_message", "expires")

    def __init__(
        self,
        decode: Callable[[bytes | memoryview], Message],
        body: bytes | memoryview,
        expires: float,
        extra: Message | None = None,
    ) -> None:
        message = decode(body)
        if extra is not None:
            message.update(extra)
        self.expires = expires
        self._extra = extra
        self._flat = is_flat(message)
        self._message: Message | None = message
        self._decode = decode
        self._body = body

    def take(self) -> Message:
        message = self._message
        if message is None:
            message = self._decode(self._body)
            if self._extra is not None:
                message.update(self._extra)
            return message
        if self._flat:
            return message.copy()
        self._message = None
        return message


class Event:
    """A flat message that was made here; everybody gets a copy."""

    __slots__ = ("expires", "message")

    def __init__(self, message: Message, expires: float = float("inf")) -> None:
        self.message = message
        self.expires = expires

    def take(self) -> Message:
        return self.message.copy()


class Failure:
    """An exception on its way to the reader of a mailbox."""

    __slots__ = ("error", "expires")

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.expires = float("inf")

    def take(self) -> Message:
        raise self.error


class Hooks:
    """The types of the events that a channel gets about its link; empty for none.

    ``activation``: a name's subscription is live; ``disconnect``: the link broke; ``reconnect``:
    it stands again, and all that the channel subscribed to is live again; ``gap``: messages may
    have been missed, or were and now follow; ``presence``: who comes to its groups, and goes.
    """

    __slots__ = ("activation", "disconnect", "gap", "presence", "reconnect")

    def __init__(
        self,
        activation: tuple[str, ...] = (),
        disconnect: tuple[str, ...] = (),
        reconnect: tuple[str, ...] = (),
        gap: tuple[str, ...] = (),
        presence: tuple[str, ...] = (),
    ) -> None:
        self.activation = activation
        self.disconnect = disconnect
        self.reconnect = reconnect
        self.gap = gap
        self.presence = presence

    def __add__(self, other: Hooks) -> Hooks:
        """Both together."""
        return Hooks(
            self.activation + other.activation,
            self.disconnect + other.disconnect,
            self.reconnect + other.reconnect,
            self.gap + other.gap,
            self.presence + other.presence,
        )


class Membership(Protocol):
    """Something that a channel subscribed to; ``live`` while Redis delivers it."""

    live: bool

    def leave(self, mailbox: Mailbox, /) -> None:
        """Deliver no more to this mailbox."""


class Mailbox:
    """The unread messages of one channel, at most ``capacity``, and whoever waits for them.

    When it gets full, it says so to the `Flow`, which has its reader have a turn before there is
    more. ``patience`` is what the reader has left of that; at 0 it is slow, and the mailbox full.
    """

    __slots__ = (
        "_flow",
        "_last_place",
        "_loop",
        "_unread",
        "_waiter",
        "_waiters",
        "capacity",
        "channel",
        "closable",
        "counters",
        "cut_off",
        "hooks",
        "idle",
        "memberships",
        "patience",
        "prefix_mailbox",
        "wildcards",
    )

    def __init__(
        self,
        channel: str,
        capacity: int,
        loop: asyncio.AbstractEventLoop,
        counters: LayerCounters,
        flow: Flow,
    ) -> None:
        self.channel = channel
        self.capacity = capacity
        self.counters = counters
        # What this channel subscribed to, for leaving all of it at once.
        self.memberships: list[Membership] | None = None
        # Whether its last reader was cancelled and none came back.
        self.idle = False
        # Takes what nobody waits for here: the mailbox of who receives with the bare prefix.
        self.prefix_mailbox: Mailbox | None = None
        # How many of these are wildcard groups: who has some finds a group's name in every event.
        self.wildcards = 0
        self.hooks: Hooks | None = None
        # Whether its reader is a consumer of ours that has a WebSocket.
        self.closable = False
        # Between the end of a link and the return of all that the channel subscribed to.
        self.cut_off = False
        self.patience = PATIENCE
        self._flow = flow
        self._last_place = capacity - 1
        self._loop = loop
        # None while there is nothing: an empty deque takes 760 bytes, and most mailboxes are empty.
        self._unread: deque[Item] | None = None
        # Who waits: the first, and those behind it, if there are any.
        self._waiter: asyncio.Future[Item] | None = None
        self._waiters: deque[asyncio.Future[Item]] | None = None

    @classmethod
    def unbounded(cls) -> Mailbox:
        """A mailbox on the running loop that belongs to no layer's channel."""
        return cls("", sys.maxsize, asyncio.get_running_loop(), LayerCounters(), Flow())

    @property
    def oldest(self) -> Item | None:
        """The unread message that has been here for longest."""
        return self._unread[0] if self._unread else None

    def put(self, item: Item) -> bool:
        """Add a message for the next reader; False if the mailbox is full."""
        # A reader that waits has seen an empty mailbox: hand it over, past the queue.
        while (waiter := self._waiter) is not None:
            if self._waiters is None:
                self._waiter = None  # as nearly always, without a step between
            else:
                self._next_waits()
            if not waiter.done():
                waiter.set_result(item)
                return True
        if self.prefix_mailbox is not None:
            return self.prefix_mailbox.put(item)
        unread = self._unread
        if unread is None:
            self._unread = deque((item,))
            if not self._last_place:
                self._flow.filled(self)
        elif len(unread) < self._last_place:
            unread.append(item)
        elif len(unread) == self._last_place:
            unread.append(item)
            self._flow.filled(self)
        else:
            return False
        return True

    def put_always(self, item: Item, *, first: bool = False) -> None:
        """Add what may not be dropped, past the capacity: its maker makes few of them."""
        unread = self._unread
        if unread is None:
            self.put(item)
            return
        if first:
            unread.appendleft(item)
        else:
            unread.append(item)
        if len(unread) >= self.capacity:
            self._flow.filled(self)

    def put_marker(self, marker: Marker) -> None:
        """Have `Marker.reached` called when all that is unread now was taken."""
        if self.prefix_mailbox is not None and self._unread is None:
            self.prefix_mailbox.put_marker(marker)
        elif self._unread is not None:
            self._unread.append(marker)
        else:
            while (waiter := self._waiter) is not None:
                if not waiter.done():
                    marker.reached()
                    return
                self._next_waits()
            self._unread = deque((marker,))

    def enlarge(self, count: int) -> None:
        """Have room for so many more messages."""
        self.capacity += count
        self._last_place += count

    async def get(self) -> Message:
        """Take the oldest message that has not expired; cancelling loses none."""
        if self._unread is not None:
            item = self._take()
            if item is not None:
                return item.take()
        # As `ask`, but without a step between: this is what every reader does for every message.
        waiter: asyncio.Future[Item] = self._loop.create_future()
        if self._waiter is None:
            self._waiter = waiter
        else:
            self._add_waiter(waiter)
        try:
            handed = await waiter
        except asyncio.CancelledError:
            self.withdraw(waiter)
            raise
        return handed.take()

    def get_nowait(self) -> Message | None:
        """Take the oldest message that has not expired, if one is unread."""
        item = self._take() if self._unread is not None else None
        return item.take() if item is not None else None

    def ask(self) -> asyncio.Future[Item]:
        """The next item, once it is there; whoever cannot wait for it calls `withdraw`."""
        waiter: asyncio.Future[Item] = self._loop.create_future()
        item = self._take() if self._unread is not None else None
        if item is None:
            self._add_waiter(waiter)
        else:
            waiter.set_result(item)
        return waiter

    def withdraw(self, waiter: asyncio.Future[Item]) -> None:
        """Take back what was asked; if it was handed over already, the next in line gets it."""
        if waiter is self._waiter:
            self._next_waits()
        elif self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)
        elif not waiter.cancelled():
            self.put_always(waiter.result(), first=True)

    def move_to(self, other: Mailbox) -> None:
        """Have another mailbox take what is unread here, and what comes."""
        unread, self._unread = self._unread, None
        self.patience = PATIENCE
        for item in unread or ():
            if isinstance(item, Marker):
                other.put_marker(item)
            else:
                other.put(item)
        self.prefix_mailbox = other

    def clear(self) -> None:
        """Forget what is unread, except for what never expires: that is no message of a layer."""
        self._unread = deque(item for item in self._unread or () if item.expires == inf) or None
        if self._unread is None:
            self.patience = PATIENCE

    @property
    def unread(self) -> int:
        """How many messages wait."""
        return len(self._unread) if self._unread is not None else 0

    @property
    def half_empty(self) -> bool:
        """Whether it takes messages for a while."""
        return 2 * self.unread <= self.capacity

    @property
    def waited_for(self) -> bool:
        """Whether somebody is in `get`."""
        return self._waiter is not None

    def __len__(self) -> int:
        return self.unread

    def _add_waiter(self, waiter: asyncio.Future[Item]) -> None:
        if self._waiter is None:
            self._waiter = waiter
        elif self._waiters is None:
            self._waiters = deque((waiter,))
        else:
            self._waiters.append(waiter)

    def _next_waits(self) -> None:
        """The first does not wait any more."""
        if self._waiters:
            self._waiter = self._waiters.popleft()
        else:
            self._waiter = self._waiters = None

    def _take(self) -> Item | None:
        unread = self._unread
        assert unread is not None
        now = self._loop.time()
        while unread:
            item = unread.popleft()
            if item.expires > now:
                if not unread:
                    self._unread = None
                    self.patience = PATIENCE
                return item
            if type(item) is Marker:
                item.reached()
            else:
                self.counters.dropped_expired += 1
        self._unread = None
        self.patience = PATIENCE
        return None


def give_back(taken: Taken) -> None:
    """Have the next reader get the message, and before any other."""
    taken[1]()
