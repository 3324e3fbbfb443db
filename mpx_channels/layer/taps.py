"""Taps: messages as they pass, for whoever looks on and takes no part."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

from mpx_channels.channels.reader import STAMP
from mpx_channels.messages.codec import Message
from mpx_channels.messages.envelope import PRESENCE
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.messages.wrapping import Wrapping
from mpx_channels.multiplexer import (
    ChannelSubscription,
    CommandRefused,
    Multiplexer,
    NotConnected,
    PatternSubscription,
    SubscriptionRefused,
    commands,
)
from mpx_channels.multiplexer.exceptions import describe
from mpx_channels.multiplexer.flow import PATIENCE, Flow

from .followed import Followed
from .hub import Hub
from .targets import CHANNEL, GROUP, QUEUE, RAW, Target

__all__ = ["Tap", "TapEvent", "Tapped", "waiting"]

# What a tap holds unread: messages, and bytes of them.
MAX_MESSAGES = 10_000
MAX_BYTES = 64 * 1024 * 1024
# Seconds to wait for the servers that are there, of several.
PATIENCE_FOR_SOME = 0.5
# Seconds between two looks whether our own connections stand.
LOOK_EVERY = 0.01


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


def _opened(
    wrapping: Wrapping,
    kind: str,
    public: str,
    name: str,
    data: bytes,
    at: float,
    expires: float | None = None,
) -> Tapped:
    """What passed under Redis' `name`, which users know as `public`."""
    try:
        header, body = wrapping.unwrap(name, data)
        message = wrapping.decode(body)
    except UnreadableMessage as error:
        return Tapped(at, kind, public, data, error=str(error), expires=expires)
    public = header.get("to", public)
    exclude = tuple(header.get("not", ()))
    return Tapped(at, kind, public, data, message, exclude=exclude, expires=expires)


async def waiting(hub: Hub, channel: str) -> list[Tapped]:
    """The unread messages of a plain channel, the oldest first; they stay where they are."""
    multiplexer, name = hub.multiplexer, hub.names.queue(channel)
    wrapping = hub.context.wrapping
    now = await commands.server_time(multiplexer, multiplexer.node_of(name))
    found = []
    async for data in commands.list_items(multiplexer, name):
        expires = None
        stamp = data[:STAMP]  # no number in what others put there: it is shown as unreadable
        if stamp.isdigit():
            expires, data = int(stamp) / 1000, data[STAMP:]
            if expires <= now:
                continue
        found.append(_opened(wrapping, QUEUE, channel, name, data, time.time(), expires))
    return found


class Tap:
    """What passes, one after the other; made by `MpxChannelLayer.tap`.

    Entering it returns once Redis has confirmed everything. Then iterate; it ends when it is left.
    Of several servers some may be away: then the first thing is a `TapEvent` that says so.
    """

    def __init__(
        self,
        open_hub: Callable[[], Awaitable[Hub]],
        targets: dict[str, Target],
        max_messages: int,
        max_bytes: int,
        make_multiplexer: Callable[[], Multiplexer] | None = None,
    ) -> None:
        """``make_multiplexer``: for one of our own, to look on at sharded channels over."""
        self._open_hub = open_hub
        self._make_multiplexer = make_multiplexer
        self._targets = targets  # by pattern
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._unread: deque[tuple[float, str, str, bytes] | TapEvent] = deque()
        self._unread_bytes = 0
        self.patience = PATIENCE
        # Dropped since the buffer was full, which goes on until it is half empty.
        self._dropping: TapEvent | None = None
        self._subscriptions: dict[str, PatternSubscription | ChannelSubscription] = {}
        self._followed: list[Followed] = []
        self._own: Multiplexer | None = None
        self._cut_off = False
        self._more = asyncio.Event()
        self._hub: Hub | None = None
        self._flow: Flow | None = None
        self._ended = False

    async def __aenter__(self) -> Self:
        if self._hub is not None:
            raise RuntimeError("this tap was opened already: make another one")
        self._hub = hub = await self._open_hub()
        await hub.inbox.ready()
        patience = hub.context.connect_timeout
        multiplexer = hub.multiplexer
        if self._make_multiplexer is not None:
            multiplexer = await self._connect(self._make_multiplexer, hub, patience)
        away = [
            NotConnected(f"no connection to {node}: {describe(error)}")
            for node in multiplexer.nodes
            if (error := multiplexer.error_of(node))
        ]
        if away:
            patience = min(patience, PATIENCE_FOR_SOME)
        try:
            async with asyncio.timeout(patience):
                results = await asyncio.gather(*self._listen(multiplexer), return_exceptions=True)
        except TimeoutError:
            if not away:
                await self._close()
                raise NotConnected(f"Redis did not confirm in {patience} s") from None
            # Of several servers: what passes on the others is there to be seen.
            results = []
            self._disconnected(away[0])
        except BaseException:
            await self._close()
            raise
        refusals = [result for result in results if isinstance(result, BaseException)]
        if refusals:
            await self._close()
            if all(isinstance(refusal, CommandRefused) for refusal in refusals):
                raise SubscriptionRefused("; ".join(map(str, refusals)))
            raise refusals[0]
        if away and not self._all_active():
            self._disconnected(away[0])
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._close()

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
        target = self._targets[pattern]
        kind = target.kind
        if kind == RAW:
            return Tapped(at, RAW, name, data)
        assert self._hub is not None
        public = self._hub.names.traffic_of(name)
        if ":" in public:
            return None  # of a layer whose prefix begins with ours: "*" matches that, too
        wrapping = self._hub.context.wrapping
        if kind == GROUP and data.startswith(PRESENCE):
            try:
                return Tapped(at, GROUP, public, data, self._hub.presence.event(name, data))
            except UnreadableMessage as error:
                return Tapped(at, GROUP, public, data, error=str(error))
        if kind == CHANNEL:
            try:
                header, _ = wrapping.unwrap(name, data)
            except UnreadableMessage:
                pass
            else:
                if "to" not in header:
                    return None  # what processes tell each other
                to = header["to"]
                bare = to.partition("!")[0] + "!"
                if target.addressees and target.addressees.isdisjoint((to, bare)):
                    return None
        return _opened(wrapping, kind, public, name, data, at)

    # -- subscriptions ------------------------------------------------------------------------

    async def _connect(
        self, make: Callable[[], Multiplexer], hub: Hub, patience: float
    ) -> Multiplexer:
        """Have connections of our own, to all masters that the hub has one to."""
        self._own = own = make()
        own.on_lost(self._disconnected)
        await own.start()
        for _ in range(round(patience / LOOK_EVERY)):
            if _up(hub.multiplexer) <= _up(own):
                break
            await asyncio.sleep(LOOK_EVERY)
        if not _up(own):
            error = own.last_error
            await self._close()
            cause = f": {describe(error)}" if error is not None else ""
            raise NotConnected(f"no connection to {own.node} in {patience} s{cause}") from error
        return own

    def _listen(self, multiplexer: Multiplexer) -> list[Awaitable[None]]:
        """Begin to listen to everything; returns what is done when it is confirmed."""
        self._flow = multiplexer.flow
        patterns = list(self._targets)
        if self._own is not None:
            for pattern, target in self._targets.items():
                put, look = partial(self._put, pattern), self._look_connected
                self._followed.append(Followed(multiplexer, pattern, target.name, put, look))
            # Channels of Redis' own may be classic ones as well.
            patterns = [each for each in patterns if self._targets[each].kind == RAW]
        for pattern in patterns:
            self._subscriptions[pattern] = self._subscribe(multiplexer, pattern)
        confirming = [self._confirm(multiplexer, pattern) for pattern in patterns]
        return [*confirming, *(each.ready() for each in self._followed)]

    def _subscribe(self, multiplexer: Multiplexer, pattern: str) -> PatternSubscription:
        return multiplexer.new_pattern_subscription(
            pattern, partial(self._put, pattern), self._disconnected, self._activated
        )

    async def _confirm(self, multiplexer: Multiplexer, pattern: str) -> None:
        subscription = self._subscriptions[pattern]
        assert isinstance(subscription, PatternSubscription)
        try:
            await subscription.wait_for_activation()
        except SubscriptionRefused:
            # A user of Redis who may read a name may not read the pattern that says the same.
            name = self._targets[pattern].name
            if name is None:
                raise
            subscription.close()
            exact: ChannelSubscription = multiplexer.new_channel_subscription(
                partial(self._put, pattern), self._disconnected, self._activated, classic=True
            )
            self._subscriptions[pattern] = exact
            exact.add(name)
            await exact.wait_for_activation(name)

    async def _close(self) -> None:
        self._ended = True
        self._unread.clear()
        for subscription in self._subscriptions.values():
            subscription.close(at_once=True)
        for followed in self._followed:
            followed.close()
        self._more.set()
        if self._own is not None:
            await self._own.stop()

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
                if not self.half_empty and self._flow is not None:
                    self._flow.filled(self)
                return
            self._dropping = dropping = TapEvent("dropped", time.time())
            self._event(dropping)
        dropping.messages += 1

    def _event(self, event: TapEvent) -> None:
        self._unread.append(event)
        self._more.set()

    def _disconnected(self, error: Exception) -> None:
        if not self._cut_off and not self._ended:
            self._cut_off = True
            self._event(TapEvent("disconnected", time.time(), describe(error)))

    def _activated(self, name: str) -> None:
        self._look_connected()

    def _look_connected(self) -> None:
        if self._cut_off and self._all_active():
            self._cut_off = False
            self._event(TapEvent("connected", time.time()))

    def _all_active(self) -> bool:
        own = self._own
        return (
            all(map(_active, self._subscriptions.values()))
            and all(each.active for each in self._followed)
            and (own is None or all(map(own.is_up, own.nodes)))
        )


def _up(multiplexer: Multiplexer) -> set[str]:
    """The addresses of the nodes to which there is a connection."""
    return {str(node) for node in multiplexer.nodes if multiplexer.is_up(node)}


def _active(subscription: PatternSubscription | ChannelSubscription) -> bool:
    if isinstance(subscription, PatternSubscription):
        return subscription.active
    return all(map(subscription.is_active, subscription.channels))
