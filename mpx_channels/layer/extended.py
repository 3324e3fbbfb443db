"""What the layer has beyond the specification: subscriptions, promises, requests, and looks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any

from mpx_channels.channels.names import require_group_pattern, require_redis_name
from mpx_channels.messages.codec import Message
from mpx_channels.multiplexer import Health, MpxError
from mpx_channels.multiplexer.health import require_timeout

from .answers.promises import LayerPromise
from .answers.requests import REPLY_TO
from .doors import DoorsLayer
from .exceptions import NotInSharded, PlainChannel
from .groups.topics import Topics
from .hub import Hub
from .processes.fleet import FleetStats
from .processes.ledger import LocalStats
from .subscription import Subscription
from .taps import MAX_BYTES, MAX_MESSAGES, Tap, Tapped, waiting
from .targets import Targets

__all__ = ["ExtendedLayer"]


class ExtendedLayer(DoorsLayer):
    """What only this layer has, for code that runs on an event loop."""

    # -- beyond groups ------------------------------------------------------------------------

    async def channel_add(self, name: str, channel: str) -> None:
        """Have `channel` get everything that is published to the Redis channel `name`.

        Each message comes as ``{"type": "channel.message", "channel": str, "data": bytes}``.
        Returns once Redis has confirmed, and raises as `group_add`. So do `pattern_add` and
        `group_pattern_add`.
        """
        require_redis_name(name)
        await self._add(lambda hub: hub.raw_channels, name, channel)

    async def channel_discard(self, name: str, channel: str) -> None:
        """End `channel_add`; does nothing if there was none."""
        require_redis_name(name)
        await self._discard(lambda hub: hub.raw_channels, name, channel)

    async def pattern_add(self, pattern: str, channel: str) -> None:
        """Have `channel` get everything published to Redis channels that match `pattern`.

        Each message comes as ``{"type": "pattern.message", "pattern": str, "channel": str,
        "data": bytes}``, once per pattern that matches.
        """
        require_redis_name(pattern)
        await self._add(lambda hub: hub.raw_patterns, pattern, channel)

    async def pattern_discard(self, pattern: str, channel: str) -> None:
        """End `pattern_add`; does nothing if there was none."""
        require_redis_name(pattern)
        await self._discard(lambda hub: hub.raw_patterns, pattern, channel)

    async def group_pattern_add(self, pattern: str, channel: str) -> None:
        """Have `channel` get every message to every group that matches `pattern`.

        Each comes as an ordinary event with the group's name under ``"mpx_group"``. It comes once,
        even if the channel is also a member of the group or several patterns match. The syntax is
        Redis' (``*``, ``?``, ``[a-z]``).
        """
        name = self._group_pattern(pattern)
        await self._add(lambda hub: hub.wildcards, name, channel)

    async def group_pattern_discard(self, pattern: str, channel: str) -> None:
        """End `group_pattern_add`; does nothing if there was none.

        Messages that this process sent before still arrive, as with `group_discard`.
        """
        name = self._group_pattern(pattern)

        async def discard(hub: Hub) -> None:
            if (mailbox := hub.mailboxes.get(channel)) is not None:
                await hub.wildcards.leave_after(self._published.latest(), name, mailbox)

        self.require_valid_channel_name(channel)
        await self._hubs.run(discard)

    def _group_pattern(self, pattern: str) -> str:
        name = self._group_pattern_name(pattern)
        if self._sharded:
            raise NotInSharded(
                "wildcard groups need classic Pub/Sub, as sharded channels have no patterns: set "
                "'sharded_pubsub': False in CONFIG, in all processes of the prefix"
            )
        return name

    def _group_pattern_name(self, pattern: str) -> str:
        require_group_pattern(pattern, self.MAX_NAME_LENGTH)
        return self._names.group_pattern(pattern)

    @property
    def _sharded(self) -> bool:
        """Whether names are sharded channels, of which there are no patterns."""
        return self.config.cluster and self.config.sharded_pubsub

    async def _add(self, topics: Callable[[Hub], Topics], name: str, channel: str) -> None:
        async def add(hub: Hub) -> None:
            await topics(hub).join(name, await hub.own_mailbox(channel, inbox, capacity))

        inbox, capacity = self._require_inbox(channel), self.get_capacity(channel)
        await self._hubs.run(add)

    async def _discard(self, topics: Callable[[Hub], Topics], name: str, channel: str) -> None:
        async def discard(hub: Hub) -> None:
            if (mailbox := hub.mailboxes.get(channel)) is not None:
                topics(hub).leave(name, mailbox)

        self.require_valid_channel_name(channel)
        await self._hubs.run(discard)

    def subscribe(
        self,
        *,
        groups: Iterable[str] = (),
        group_patterns: Iterable[str] = (),
        channels: Iterable[str] = (),
        patterns: Iterable[str] = (),
    ) -> Subscription:
        """Listen from code that is not a consumer: a view, a task, a management command.

        For example::

            async with layer.subscribe(groups=["room-1"]) as events:
                async for event in events:
                    ...
        """
        wanted = (
            (self.group_add, groups),
            (self.group_pattern_add, group_patterns),
            (self.channel_add, channels),
            (self.pattern_add, patterns),
        )
        return Subscription(self.open_channel, self.close_channel, wanted)

    # -- promises and requests ----------------------------------------------------------------

    async def new_promise(self, name: str, timeout: float | None = None) -> LayerPromise:
        """A promise on `name`, in force when this returns; await it for the value.

        A call of `resolve` or `reject` from then on, in any process, settles it. `timeout` is in
        seconds and starts now; with None there is no limit. `name` follows the rule for groups.
        Raises `NotConnected` when Redis does not confirm it in ``connect_timeout`` seconds.
        """
        _check_timeout(timeout)
        self.require_valid_promise_name(name)
        return await (await self._hubs.open()).promises.new(name, timeout)

    async def promise(self, name: str, timeout: float | None = None) -> Any:
        """Wait until somebody settles `name`, and return the value; see `new_promise`."""
        _check_timeout(timeout)
        self.require_valid_promise_name(name)

        async def wait(hub: Hub) -> Any:
            return await (await hub.promises.new(name, timeout))

        return await self._hubs.run(wait)

    async def resolve(self, name: str, value: Any = None) -> int:
        """Settle the promises on `name` with any serialisable value.

        Returns how many waited for it, in all processes. If that is 0, the value is gone. A process
        that does not answer in ``connect_timeout`` seconds, or not before our link breaks, is not
        counted. Raises `PromiseDisconnected` if the link broke and nobody was counted, but some
        process has got the value; and as `Multiplexer.publish`.
        """
        return await self._settle(name, {"value": value})

    async def reject(self, name: str, reason: str) -> int:
        """Fail the promises on `name` with `PromiseRejected`. Else as `resolve`."""
        return await self._settle(name, {"error": str(reason)})

    async def request(self, channel: str, message: Message, timeout: float | None = 10.0) -> Any:
        """Send a message to a channel and wait for its consumer's answer.

        The consumer gets the message as an ordinary event and answers with ``await
        self.reply(event, value)``. `timeout` is in seconds. Only this process gets the answer.
        Raises `RequestTimeout`, `RequestFailed` with the reason if the consumer failed or there is
        no such channel, `PromiseDisconnected` if our link broke meanwhile, `NotConnected` if there
        was no link within the time, and the errors of `send`.
        """
        _check_timeout(timeout)
        if not isinstance(message, dict):
            raise TypeError(f"a message must be a dict, not {message!r}")
        if REPLY_TO in message:
            raise ValueError(f"the key {REPLY_TO!r} is taken: it says where the answer goes")
        inbox, capacity = self._inbox_name(channel), self.get_capacity(channel)

        return await self._hubs.run(
            lambda hub: hub.requests.request(channel, inbox, message, capacity, timeout)
        )

    async def reply(self, event: Message, value: Any = None) -> bool:
        """Answer an event that is a request; returns whether the asking process still lives.

        Raises `ValueError` for an event that is not a request.
        """
        return await self._hubs.run(lambda hub: hub.requests.reply(event, {"value": value}))

    async def reply_error(self, event: Message, reason: str) -> bool:
        """Answer a request with a failure: the caller gets `RequestFailed`. Else as `reply`."""
        return await self._hubs.run(lambda hub: hub.requests.reply(event, {"error": str(reason)}))

    def require_valid_promise_name(self, name: str) -> None:
        """Raise `TypeError` unless `name` follows the rule for groups."""
        try:
            self.require_valid_group_name(name)
        except TypeError as error:
            raise TypeError(str(error).replace("Group", "Promise", 1) + f" Got {name!r}.") from None

    async def _settle(self, name: str, answer: Message) -> int:
        self.require_valid_promise_name(name)
        body = self.wrapping.encode(answer)

        async def settle(hub: Hub) -> int:
            await hub.inbox.ready()
            return await hub.promises.settle(name, body)

        return await self._hubs.run(settle)

    # -- looks --------------------------------------------------------------------------------

    async def healthy(self, timeout: float = 1.0) -> Health:
        """Whether this process hears its own publish, on every host, within `timeout` seconds.

        If not, `Health.reason` says what is wrong and on which host; it is never raised. The check
        uses the connections of the running event loop, and opens them if nothing else has. Raises
        `ValueError` if `timeout` is not a number of seconds above 0.
        """
        require_timeout(timeout)
        try:
            return await self._hubs.run(lambda hub: hub.multiplexer.healthy(timeout))
        except (MpxError, RuntimeError) as error:  # an embedded server, a loop that ended
            return Health(False, reason=str(error))

    async def fleet_stats(self, *, groups: int = 20, queues: bool = True) -> FleetStats:
        """Every process of this prefix that is subscribed now, the busiest groups, and the queues.

        Processes have a second to answer. This one is among them, and each event loop counts as a
        process. ``groups`` is how many of the busiest groups to return, up to 1000, chosen among
        the largest of each process. ``queues=False`` skips the scan of Redis' keys. Raises
        `ValueError` for a number below 0, `ConnectionLost` when our link breaks meanwhile, and as
        `Multiplexer.publish`. What the ACL does not allow is left out: see `FleetStats`.
        """
        if not groups >= 0:
            raise ValueError(f"groups must be a whole number from 0 up, not {groups!r}")

        async def look(hub: Hub) -> FleetStats:
            await hub.inbox.ready()
            return await hub.overview.fleet(groups, queues)

        return await self._hubs.run(look)

    async def cluster_stats(self, *, groups: int = 20, queues: bool = True) -> FleetStats:
        """The older name of `fleet_stats`."""
        return await self.fleet_stats(groups=groups, queues=queues)

    async def group_size(self, group: str) -> int:
        """How many channels are in a group, in all processes.

        A process that does not answer in a second is not counted. Raises `TypeError` for an
        invalid name, `ConnectionLost` when our link breaks meanwhile, and as `Multiplexer.publish`.
        """
        self.require_valid_group_name(group)

        async def look(hub: Hub) -> int:
            await hub.inbox.ready()
            return await hub.overview.group_size(group)

        return await self._hubs.run(look)

    def local_stats(self) -> LocalStats:
        """What the layer holds and has counted in every event loop of the process; thread-safe.

        Each loop takes its own snapshot, between two callbacks. Returns within about a second, even
        if loops are blocked.
        """
        return self._hubs.ledger.stats()

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
        """Watch messages as they pass, for example::

            async with layer.tap(groups=["room-1"]) as passing:
                async for each in passing:  # a Tapped, or a TapEvent
                    ...

        ``everything`` means all messages to groups, channels of processes and promises of this
        prefix, from any sender. ``local_channels`` are channels of `new_channel`, in any process.
        ``channels`` and ``patterns`` are Redis' own, as for `subscribe`; a message comes once for
        each of them that matches.

        A tap changes nothing for others: it is not a member of a group, takes no message from a
        reader and does not count as waiting for a promise. There is one exception: a message to a
        channel whose process is gone is not counted as unroutable while a tap sees it (`request`
        and `group_send_counted` are not misled). Over `max_messages` and `max_bytes` of unread
        messages the newest are dropped, and counted in a `TapEvent`. Raises `TypeError` for invalid
        names and `PlainChannel`; entering it raises `SubscriptionRefused` and `NotConnected`.

        Sharded channels of a cluster have no patterns. There, ``everything`` and patterns cover the
        names that have subscribers. Redis is asked for these every second, so messages to a new
        name are missed until then. In a cluster a tap has its own connections, two to each master.
        """
        targets = Targets(self._names)
        for group in groups:
            targets.group(self._group_name(group))
        for pattern in group_patterns:
            targets.group_pattern(self._group_pattern_name(pattern))
        for channel in local_channels:
            if not (inbox := self._inbox_name(channel)):
                raise PlainChannel(f"{channel!r} is a plain channel: peek() shows what waits there")
            targets.channel(inbox, channel)
        if everything:
            targets.everything()
        for name in channels:
            targets.raw(require_redis_name(name))
        for pattern in patterns:
            targets.raw_pattern(require_redis_name(pattern))
        if not targets.by_pattern:
            raise ValueError("tap() needs something to listen to")
        make = partial(self.config.multiplexer, agree=False) if self._sharded else None
        return Tap(self._hubs.open, targets.by_pattern, max_messages, max_bytes, make)

    async def peek(self, channel: str) -> AsyncIterator[Tapped]:
        """The unread messages of a plain channel, the oldest first; they stay where they are.

        Raises `ValueError` for a channel of a process, and as `Multiplexer.publish`.
        """
        if self._inbox_name(channel):
            raise ValueError(f"{channel!r} is a channel of a process: tap() shows what comes to it")
        for each in await self._hubs.run(lambda hub: waiting(hub, channel)):
            yield each


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
        raise ValueError(f"timeout must be a number of seconds from 0 up, or None, not {timeout!r}")
