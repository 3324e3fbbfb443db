"""Taps: messages as they pass, for whoever looks on and takes no part."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Self

from mpx_channels.multiplexer import (
    ChannelSubscription,
    NotConnected,
    PatternSubscription,
    SubscriptionRefused,
    escape_glob,
)
from mpx_channels.multiplexer.flow import PATIENCE

from .base import PlainChannel
from .codec import Message
from .envelope import UnreadableMessage
from .hub import Hub
from .listening import Listening, require_name
from .queues import STAMP

__all__ = ["Tap", "TapEvent", "Tapped", "Tapping"]

# What a tap holds unread: messages, and bytes of them.
MAX_MESSAGES = 10_000
MAX_BYTES = 64 * 1024 * 1024
# Seconds to wait for the servers that are there, of several.
PATIENCE_FOR_SOME = 0.5
# How many messages of a plain channel are asked for at a time.
PEEKED_AT_ONCE = 100

# How a tap came to a message; `RAW` is shown as it is.
GROUP, CHANNEL, PROMISE, QUEUE, RAW = "group", "channel", "promise", "queue", "raw"


@dataclass(frozen=True, slots=True)
class Tapped:
    """A message that passed.

    - ``at``: when it came by, as Unix time in seconds.
    - ``kind``: "group", "channel" (of a process), "promise", "queue" (a plain channel), or "raw"
      for a Redis channel. ``name``: its name, as users know it.
    - ``data``: what was published.
    - ``message``: what it means; None in a Redis channel, and where ``error`` says why it cannot
      be read. Of a promise it has the key "value", or "error" if it was rejected.
    - ``exclude``: channels that a message to a group is not for.
    - ``expires``: when a message in a plain channel is thrown away, as Unix time by Redis' clock.
    """

    at: float
    kind: str
    name: str
    data: bytes
    message: Message | None = None
    error: str = ""
    exclude: tuple[str, ...] = ()
    expires: float | None = None


@dataclass(slots=True)
class TapEvent:
    """Something that happened to a tap between two messages, ``at`` a Unix time.

    ``event`` is "disconnected" (``reason`` says why; messages may have been missed from then on),
    "connected" (again), or "dropped": ``messages`` of them, as nobody took them in time.
    """

    event: str
    at: float
    reason: str = ""
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Ear:
    """What one pattern is for. ``name``: the only one that it matches; ``addressees``: the channels
    that a message has to be for, if there are any.
    """

    kind: str
    name: str | None = None
    addressees: frozenset[str] = frozenset()


class Tapping(Listening):
    """The part of the layer that shows what passes, without taking it from anybody."""

    def tap(
        self,
        *,
        everything: bool = False,
        groups: Iterable[str] = (),
        group_patterns: Iterable[str] = (),
        local_channels: Iterable[str] = (),
        channels: Iterable[str] = (),
        patterns: Iterable[str] = (),
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
    ) -> Tap:
        """Look on as messages pass, for example::

            async with layer.tap(groups=["room-1"]) as passing:
                async for each in passing:  # a Tapped, or a TapEvent
                    ...

        ``everything`` is all that is sent to groups, to channels of processes and to promises of
        this prefix, whoever sends it. ``local_channels`` are channels of `new_channel`, in
        whatever process. ``channels`` and ``patterns`` are Redis' own, as for `subscribe`; a
        message comes once for each of them that matches.

        Nobody notices a tap: it is no member of a group, takes no message from a reader and keeps
        no promise. Only what is sent to a channel whose process is gone is not counted as
        unroutable while a tap sees it; `request` and `group_send_counted` know better. Over
        `max_messages` and `max_bytes` of unread messages the newest are dropped, and counted in a
        `TapEvent`. Raises `TypeError` for invalid names and `PlainChannel`; entering it raises
        `SubscriptionRefused` and `NotConnected`.
        """
        # Patterns also for single names: Redis counts those who subscribe to a name, and they
        # are taken for processes that answer.
        ears: dict[str, Ear] = {}

        def one(kind: str, name: str, addressees: Iterable[str] = ()) -> None:
            ears[escape_glob(name)] = Ear(kind, name, frozenset(addressees))

        for group in groups:
            one(GROUP, self._group_name(group))
        for pattern in group_patterns:
            ears[self._group_pattern(pattern)] = Ear(GROUP)
        inboxes: dict[str, list[str]] = {}
        for channel in local_channels:
            if not (inbox := self._inbox_name(channel)):
                raise PlainChannel(f"{channel!r} is a plain channel: peek() shows what waits there")
            inboxes.setdefault(inbox, []).append(channel)
        for inbox, addressees in inboxes.items():
            one(CHANNEL, inbox, addressees)
        if everything:
            for kind, pattern in zip((GROUP, CHANNEL, PROMISE), self._names.traffic, strict=True):
                ears[pattern] = Ear(kind)
        for name in channels:
            one(RAW, require_name(name))
        for pattern in patterns:
            ears[require_name(pattern)] = Ear(RAW)
        if not ears:
            raise ValueError("tap() needs something to listen to")
        return Tap(self, ears, max_messages, max_bytes)

    async def peek(self, channel: str) -> AsyncIterator[Tapped]:
        """The unread messages of a plain channel, the oldest first; they stay where they are.

        Raises `ValueError` for a channel of a process, and as `Multiplexer.publish`.
        """
        if self._inbox_name(channel):
            raise ValueError(f"{channel!r} is a channel of a process: tap() shows what comes to it")
        hub = await self._hub()
        name = self._names.queue(channel)
        node = hub.multiplexer.node_of(name)
        seconds, microseconds = await hub.multiplexer.command(b"TIME", node=node)
        now = int(seconds) + int(microseconds) / 1e6
        start = 0
        while True:
            end = start + PEEKED_AT_ONCE
            words = (b"LRANGE", name.encode(), b"%d" % start, b"%d" % (end - 1))
            found: list[bytes] = await hub.multiplexer.command(*words, node=node)
            for stamped in found:
                expires = int(stamped[:STAMP]) / 1000
                if expires > now:
                    data = stamped[STAMP:]
                    yield self._opened(QUEUE, channel, name, data, time.time(), expires)
            if len(found) < PEEKED_AT_ONCE:
                return
            start = end

    def _opened(
        self,
        kind: str,
        public: str,
        name: str,
        data: bytes,
        at: float,
        expires: float | None = None,
    ) -> Tapped:
        """What passed under Redis' `name`, which users know as `public`."""
        try:
            header, body = self.wrapping.unwrap(name, data)
            message = self.wrapping.decode(body)
        except UnreadableMessage as error:
            return Tapped(at, kind, public, data, error=str(error), expires=expires)
        public = header.get("to", public)
        exclude = tuple(header.get("not", ()))
        return Tapped(at, kind, public, data, message, exclude=exclude, expires=expires)


class Tap:
    """What passes, one after the other; made by `Tapping.tap`.

    Entering it returns once Redis has confirmed everything. Then iterate; it ends when it is left.
    Of several servers some may be away: then the first thing is a `TapEvent` that says so.
    """

    def __init__(
        self,
        layer: Tapping,
        ears: dict[str, Ear],
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self._layer = layer
        self._ears = ears  # by pattern
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._unread: deque[tuple[float, str, str, bytes] | TapEvent] = deque()
        self._unread_bytes = 0
        self.patience = PATIENCE
        # Dropped since the buffer was full, which goes on until it is half empty.
        self._dropping: TapEvent | None = None
        self._subscriptions: dict[str, PatternSubscription | ChannelSubscription] = {}
        self._cut_off = False
        self._more = asyncio.Event()
        self._hub: Hub | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        if self._hub is not None:
            raise RuntimeError("this tap was opened already: make another one")
        layer = self._layer
        self._hub = hub = await layer._ready_hub()
        for pattern in self._ears:
            self._subscriptions[pattern] = self._subscribe(hub, pattern)
        patience = layer.config.connect_timeout
        multiplexer = hub.multiplexer
        away = [error for node in multiplexer.nodes if (error := multiplexer.error_of(node))]
        if away:
            patience = min(patience, PATIENCE_FOR_SOME)
        try:
            async with asyncio.timeout(patience):
                results = await asyncio.gather(
                    *(self._confirm(hub, pattern) for pattern in self._ears),
                    return_exceptions=True,
                )
        except TimeoutError:
            if not away:
                self._close()
                raise NotConnected(f"Redis did not confirm in {patience} s") from None
            # Of several servers: what passes on the others is there to be seen.
            results = []
            self._disconnected(away[0])
        except BaseException:
            self._close()
            raise
        refusals = [result for result in results if isinstance(result, BaseException)]
        if refusals:
            self._close()
            if all(isinstance(refusal, SubscriptionRefused) for refusal in refusals):
                raise SubscriptionRefused("; ".join(map(str, refusals)))
            raise refusals[0]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Tapped | TapEvent:
        while True:
            while not self._unread:
                self.patience = PATIENCE
                if self._ended or self._hub is None:
                    raise StopAsyncIteration
                self._more.clear()
                await self._more.wait()
            taken = self._unread.popleft()
            if isinstance(taken, TapEvent):
                if taken is self._dropping:
                    self._dropping = None
                return taken
            at, pattern, name, data = taken
            self._unread_bytes -= len(data)
            if self._dropping is not None and self.half_empty:
                self._dropping = None
            tapped = self._open(at, pattern, name, data)
            if tapped is not None:
                return tapped

    @property
    def unread(self) -> int:
        """How much waits to be taken, messages and events."""
        return len(self._unread)

    @property
    def half_empty(self) -> bool:
        """Whether it takes messages for a while."""
        few = len(self._unread) * 2 <= self._max_messages
        return few and self._unread_bytes * 2 <= self._max_bytes

    def _open(self, at: float, pattern: str, name: str, data: bytes) -> Tapped | None:
        """What it is; None for what is not for us."""
        ear = self._ears[pattern]
        kind = ear.kind
        if kind == RAW:
            return Tapped(at, RAW, name, data)
        assert self._hub is not None
        public = self._hub.names.traffic_of(name)
        if ":" in public:
            return None  # of a layer whose prefix begins with ours: "*" matches that, too
        layer = self._layer
        if kind == CHANNEL:
            try:
                header, _ = layer.wrapping.unwrap(name, data)
            except UnreadableMessage:
                pass
            else:
                if "to" not in header:
                    return None  # what processes tell each other
                to = header["to"]
                bare = to.partition("!")[0] + "!"
                if ear.addressees and ear.addressees.isdisjoint((to, bare)):
                    return None
        return layer._opened(kind, public, name, data, at)

    # -- subscriptions ------------------------------------------------------------------------

    def _subscribe(self, hub: Hub, pattern: str) -> PatternSubscription:
        return hub.multiplexer.new_pattern_subscription(
            pattern, partial(self._put, pattern), self._disconnected, self._activated
        )

    async def _confirm(self, hub: Hub, pattern: str) -> None:
        subscription = self._subscriptions[pattern]
        assert isinstance(subscription, PatternSubscription)
        try:
            await subscription.wait_for_activation()
        except SubscriptionRefused:
            # A user of Redis who may read a name may not read the pattern that says the same.
            name = self._ears[pattern].name
            if name is None:
                raise
            subscription.close()
            exact: ChannelSubscription = hub.multiplexer.new_channel_subscription(
                partial(self._put, pattern), self._disconnected, self._activated
            )
            self._subscriptions[pattern] = exact
            exact.add(name)
            await exact.wait_for_activation(name)

    def _close(self) -> None:
        self._ended = True
        self._unread.clear()
        for subscription in self._subscriptions.values():
            subscription.close(at_once=True)
        self._more.set()

    def _put(self, pattern: str, name: str, data: bytes) -> None:
        dropping = self._dropping
        if dropping is None:
            if (
                len(self._unread) < self._max_messages
                and self._unread_bytes + len(data) <= self._max_bytes
            ):
                self._unread.append((time.time(), pattern, name, data))
                self._unread_bytes += len(data)
                self._more.set()
                # Whether the next will fit is not known before it comes.
                if not self.half_empty and self._hub is not None:
                    self._hub.multiplexer.flow.filled(self)
                return
            self._dropping = dropping = TapEvent("dropped", time.time())
            self._event(dropping)
        dropping.messages += 1

    def _event(self, event: TapEvent) -> None:
        self._unread.append(event)
        self._more.set()

    def _disconnected(self, error: Exception) -> None:
        if not self._cut_off:
            self._cut_off = True
            self._event(TapEvent("disconnected", time.time(), str(error) or type(error).__name__))

    def _activated(self, name: str) -> None:
        if self._cut_off and all(map(_active, self._subscriptions.values())):
            self._cut_off = False
            self._event(TapEvent("connected", time.time()))


def _active(subscription: PatternSubscription | ChannelSubscription) -> bool:
    if isinstance(subscription, PatternSubscription):
        return subscription.active
    return all(map(subscription.is_active, subscription.channels))
