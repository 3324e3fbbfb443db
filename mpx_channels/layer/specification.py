"""The Channels specification on top of the hubs: channels and groups."""

from __future__ import annotations

import asyncio
import functools
from asyncio import get_running_loop
from collections.abc import Collection, Iterable, Mapping
from time import monotonic
from typing import Any, overload

from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from mpx_channels.channels.layer_stats import LayerStats
from mpx_channels.channels.mailbox import Hooks, Mailbox, Taken, give_back
from mpx_channels.channels.names import PROCESS_ID_LENGTH, channel_names
from mpx_channels.history.positions import NO_REPLAY, Recovery
from mpx_channels.history.settings import Histories, HistorySetting
from mpx_channels.loops.portal import portal
from mpx_channels.messages.codec import Message
from mpx_channels.messages.exceptions import MessageTooLarge
from mpx_channels.messages.wrapping import Wrapping
from mpx_channels.multiplexer import Node, NotConnected

from .clusters import names_for
from .config import LayerConfig
from .exceptions import PlainChannel
from .existing import LayerType
from .groups.published import Published
from .hub import Hub
from .hubs import Hubs

__all__ = ["SpecifiedLayer"]

# Checked names are remembered, up to this many: the checks cost more than the rest of a join.
NAMES_REMEMBERED = 8192


class SpecifiedLayer(BaseChannelLayer, metaclass=LayerType):
    """What every channel layer has.

    Each method checks its arguments and passes the work to the right hub. The most frequent paths
    are written out inline, to save a call.
    """

    extensions = ["groups", "flush"]
    # The specification has the layer name its exceptions.
    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge
    # What makes bytes of messages; a layer that puts more into them has another.
    wrapping_class = Wrapping

    def __init__(
        self,
        hosts: Iterable[object] | None = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        random_prefix_length: int = 12,
        serializer_format: str = "msgpack",
        **more: Any,
    ) -> None:
        more.update(hosts=hosts, prefix=prefix, expiry=expiry, group_expiry=group_expiry)
        more.update(capacity=capacity, channel_capacity=channel_capacity)
        more.update(symmetric_encryption_keys=symmetric_encryption_keys)
        more.update(random_prefix_length=random_prefix_length, serializer_format=serializer_format)
        self.config = checked = LayerConfig.parse(more)
        super().__init__(expiry=checked.expiry, capacity=checked.capacity)
        self.channel_capacity = self.compile_capacities(checked.channel_capacity or {})
        self.prefix = checked.prefix
        self.group_expiry = checked.group_expiry
        checked.check_embedded()
        # What messages become on their way to Redis, and back: for all event loops.
        self.wrapping = checked.wrapping(self.wrapping_class)
        self._names = names_for(checked)
        self._published = Published(checked.connect_timeout)
        self._published_at = self._published.at
        self._histories = Histories(checked.history)
        # Looked at for every message to a group.
        self._some_kept = self._histories.some
        self._hubs = Hubs(self._make_hub)
        self._hub_by_loop = self._hubs.by_loop
        self._group_name = functools.lru_cache(NAMES_REMEMBERED)(self._make_group_name)
        self._inbox_name = functools.lru_cache(NAMES_REMEMBERED)(self._make_inbox_name)

    # -- life ---------------------------------------------------------------------------------

    async def connect(self, timeout: float | None = None, *, every_host: bool = True) -> None:
        """Connect now, not at the first use; returns once what is sent to this process arrives.

        With ``every_host=False`` other hosts than the one of this process' inbox may be away.
        Raises `NotConnected` with the reason after ``timeout`` seconds (``connect_timeout`` unless
        given), and `SubscriptionRefused`.
        """
        patience = self.config.connect_timeout if timeout is None else timeout
        await self._hubs.run(lambda hub: hub.connected(patience, every_host=every_host))

    async def close(self) -> None:
        """Send what waits and close the connections; the next use opens new ones.

        Closes the connections of the running event loop and those of synchronous code, whose
        channels end with them. Returns within a second.
        """
        await self._hubs.close_all()

    async def close_pools(self) -> None:
        """As in channels_redis: close only the connections of the running event loop.

        A loop of `async_to_sync` has none. The connections of synchronous code stay open.
        """
        await self._hubs.close()

    @property
    def process_id(self) -> str | None:
        """The id of this process on the running event loop; None before the first use."""
        hub = self._hubs.here
        return hub.process_id if hub is not None else None

    @property
    def servers(self) -> tuple[str, ...]:
        """Addresses of the servers, without credentials; none before the first use on this loop."""
        hub = self._hubs.here
        return tuple(map(str, hub.multiplexer.nodes)) if hub is not None else ()

    def nodes(self) -> list[Node]:
        """The servers that the layer will use; starts an embedded one, but does not connect."""
        return list(self.config.multiplexer().seeds)

    def stats(self) -> LayerStats | None:
        """What the layer holds and has counted on the running event loop; None before first use."""
        hub = self._hubs.here
        return hub.stats() if hub is not None else None

    # -- channels -----------------------------------------------------------------------------

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A name for a channel of this process; only the first of a process asks Redis.

        Raises `NotConnected` when Redis does not confirm in ``connect_timeout`` seconds. In a call
        of `async_to_sync` the channel is made for all such calls and `layer.sync`: it ends with the
        process, or when nobody has read it for ``group_expiry`` seconds.
        """
        if self._hubs.for_one_call:
            # Whoever is cancelled leaves a channel that nobody reads, which will end.
            return await self._hubs.run(lambda hub: self.new_channel(prefix))
        mailbox = await self.open_channel(prefix)
        hub = self._hubs.of_portal
        if hub is not None and hub is self._hubs.here:
            hub.channels.set_idle(mailbox)
        return mailbox.channel

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel; returns once Redis has it.

        Raises `TypeError` for an invalid name or message, `UnserializableMessage` with the path
        to a value that cannot be sent, `ChannelFull` for a plain channel at its capacity, and the
        errors of `Multiplexer.publish`.
        """
        inbox = self._inbox_name(channel)
        hub = self._hub_by_loop.get(get_running_loop())
        if hub is None:
            if self._hubs.for_one_call:
                await self._hubs.run(lambda _: self.send(channel, message))
                return
            hub = await self._hubs.open()
        if inbox:
            await hub.inbox.send(inbox, channel, message)
        else:
            await hub.queues.send(channel, message, self.get_capacity(channel))

    async def receive(self, channel: str) -> Message:
        """Wait for the next message to a channel; cancelling loses none.

        A channel of `new_channel` is read in its process. A name that ends in ``!`` reads all
        channels of this process that begin with it. A plain channel (without ``!``) can be read by
        any number of processes; each message goes to one of them. If a reader of a channel of this
        process is cancelled and does not come back within ``expiry`` seconds, the channel ends. A
        channel made in a call of `async_to_sync` can be read in any other such call, and on any
        event loop of the process. Raises `MultiplexerStopped` if the layer is closed meanwhile, for
        plain channels and for channels that synchronous code made.
        """
        hub = self._hub_by_loop.get(get_running_loop())
        mailbox = hub.mailboxes.get(channel) if hub is not None else None
        if hub is None or mailbox is None:
            return await self._receive_otherwise(hub, channel)
        if mailbox.idle:
            hub.channels.set_in_use(mailbox)
        message = mailbox.get_nowait()
        if message is not None:
            return message
        # As `Mailbox.get`, which would be a coroutine more for each consumer that waits.
        waiter = mailbox.ask()
        try:
            item = await waiter
        except asyncio.CancelledError:
            mailbox.withdraw(waiter)
            if not mailbox.waited_for:
                hub.channels.set_idle(mailbox)
            raise
        return item.take()

    async def _receive_otherwise(self, hub: Hub | None, channel: str) -> Message:
        """`receive`, where there is no mailbox yet, or none here."""
        inbox = self._inbox_name(channel)
        shared = self._hubs.of_portal
        of_portal = shared is not None and shared is not hub and shared.inbox.name == inbox
        if of_portal or self._hubs.for_one_call:
            taken = await portal.submit(self.take(channel), give_back).wait()
            return taken[0]
        hub = await self._hubs.open()
        if not inbox:
            return (await hub.queues.take(channel))[0]
        await hub.own_mailbox(channel, inbox, self.get_capacity(channel))
        return await self.receive(channel)

    async def take(self, channel: str, timeout: float | None = None) -> Taken:
        """`receive` on the portal's loop, for a reader on another loop that may be gone by then.

        Also returns a function that puts the message back, for the next reader to get first. Raises
        `TimeoutError` after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                inbox = self._inbox_name(channel)
                hub = await self._hubs.open()
                if not inbox:
                    return await hub.queues.take(channel)
                mailbox = await hub.own_mailbox(channel, inbox, self.get_capacity(channel))
                return await hub.channels.take(mailbox)
        except TimeoutError:
            raise TimeoutError(f"nothing came to {channel!r} in {timeout} s") from None

    async def open_channel(
        self,
        prefix: str = "specific.",
        *,
        hooks: Hooks | None = None,
        patience: float | None = None,
    ) -> Mailbox:
        """As `new_channel`, but return the mailbox: for lasting readers, such as consumers.

        The reader owns it until it calls `close_channel`. It belongs to the running event loop,
        also within `async_to_sync`. With ``patience``, it is opened after that many seconds even if
        Redis has not confirmed; it then counts as cut off, as if the link had broken, and its hooks
        say so.
        """
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {prefix!r}")
        hub = await self._hubs.open()
        channel = hub.channels.new_name(prefix)
        self.require_valid_channel_name(channel)
        if not hub.inbox.live:
            try:
                async with asyncio.timeout(patience):
                    await hub.inbox.ready()
            except (TimeoutError, NotConnected):
                if patience is None:
                    raise
        mailbox = hub.channels.open(channel, self.get_capacity(channel))
        if hooks is not None:
            hub.channels.hook(mailbox, hooks)
        if not hub.inbox.live:
            hub.events.cut_off(mailbox)
        return mailbox

    def close_channel(self, mailbox: Mailbox) -> None:
        """End a channel and all its subscriptions; harmless if it has ended."""
        hub = self._hubs.here
        if hub is not None:
            hub.channels.close_one(mailbox)

    # -- groups -------------------------------------------------------------------------------

    @overload
    async def group_add(self, group: str, channel: str) -> None: ...
    @overload
    async def group_add(self, group: str, channel: str, since: object) -> Recovery: ...
    async def group_add(
        self, group: str, channel: str, since: object = NO_REPLAY
    ) -> Recovery | None:
        """Add a channel to a group; returns once Redis has confirmed it.

        With ``since``, a position of ``"mpx_position"`` in an event or of `group_history`, the
        channel first gets what it missed since then, and then what comes, in order and once. The
        `Recovery` that is returned says whether that was everything. A position may come from a
        browser: no value of it raises, not even None.

        Everything sent to the group from then on arrives. A channel of another process is added by
        that process, at our request. Raises `TypeError` for invalid names, `PlainChannel`,
        `ForeignChannel` when the other process is gone, `SubscriptionRefused`, and `NotConnected`
        when Redis does not confirm in ``connect_timeout`` seconds; the channel is not a member
        then.
        """
        name = self._group_name(group)
        if since is not NO_REPLAY:
            return await self._group_add_since(group, channel, since)
        hub = self._hub_by_loop.get(get_running_loop())
        if hub is not None and (mailbox := hub.mailboxes.get(channel)) is not None:
            topic = hub.topics.get(name)
            if topic is not None and topic.at_once and mailbox.hooks is None:
                topic.add(mailbox)  # what most joins are, and all there is to them
                return None
            await hub.groups.join(name, mailbox)
            return None
        await self._group_add_otherwise(group, channel)
        return None

    async def _group_add_otherwise(self, group: str, channel: str) -> None:
        """`group_add`, where there is no mailbox yet, or none here.

        Apart, as each variable that a function within shares makes every call slower.
        """
        inbox, capacity = self._require_inbox(channel), self.get_capacity(channel)
        await self._hubs.run(lambda hub: hub.add_to_group(group, channel, inbox, capacity))

    async def _group_add_since(self, group: str, channel: str, since: object) -> Recovery:
        inbox, capacity = self._require_inbox(channel), self.get_capacity(channel)
        return await self._hubs.run(
            lambda hub: hub.add_to_group_since(group, channel, inbox, capacity, since)
        )

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; does nothing if it is not in it.

        Messages that this process sent before, with an awaited `group_send`, still arrive: if there
        was one in the last ``connect_timeout`` seconds, this call waits for a round trip to Redis.
        If the call is cancelled, the channel leaves at once.
        """
        name = self._group_name(group)
        hub = self._hub_by_loop.get(get_running_loop())
        if hub is not None and (mailbox := hub.mailboxes.get(channel)) is not None:
            if name in self._published_at:
                await hub.groups.leave_after(self._published_at[name], name, mailbox)
            else:
                hub.groups.leave(name, mailbox)
        else:
            await self._group_discard_otherwise(group, channel)

    async def _group_discard_otherwise(self, group: str, channel: str) -> None:
        """`group_discard`, where there is no mailbox here."""
        inbox = self._inbox_name(channel)
        await self._hubs.run(lambda hub: hub.discard_from_group(group, channel, inbox))

    async def group_send(
        self,
        group: str,
        message: Message,
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> str | None:
        """Send a message to every channel in a group; returns once Redis has it.

        The channels named in `exclude` do not get it. For a group with a history (``history`` in
        CONFIG), returns the message's position. In such a group, a second message with the same
        ``idempotency_key``, from any sender, is not sent while the first is in the history; the
        position of the first is returned instead. If the connection breaks before the answer comes,
        the layer finds out what became of the message; without a history it raises
        `ConnectionLost`. Raises as `send`, and `ValueError` for a key where there is no history.
        """
        name = self._group_name(group)
        header = {"not": channel_names(exclude)} if exclude else None
        data = self.wrapping.wrap(name, message, header)
        if self._some_kept or idempotency_key is not None:
            setting = self._histories.required(group, idempotency_key)
            if setting is not None:
                return await self._send_kept(name, setting, data, idempotency_key)
        hub = self._hub_by_loop.get(get_running_loop())
        if hub is None:
            await self._hubs.run(functools.partial(Hub.group_send, name=name, data=data))
        else:
            hub.counters.messages_out += 1
            await hub.multiplexer.publish_soon(name, data)
        self._published_at[name] = monotonic()
        return None

    async def flush(self) -> None:
        """Forget groups, histories and unread messages of this prefix: in Redis, in every process.

        Channels stay, and can be added to groups again. A process that does not answer in a
        second keeps its groups.
        """

        async def flush(hub: Hub) -> None:
            await hub.inbox.ready()
            hub.clear()
            await hub.overview.flush()

        await self._hubs.run(flush)

    # -- inside -------------------------------------------------------------------------------

    def _make_hub(self, shared: bool) -> Hub:
        return Hub(
            self.config.multiplexer(),
            self._names,
            self.wrapping,
            self._published,
            expiry=self.config.expiry,
            connect_timeout=self.config.connect_timeout,
            group_expiry=self.config.group_expiry,
            hooks=self.config.hooks(),
            histories=self._histories,
            recovery_limit=self.config.recovery_limit,
            presence=self.config.presence(),
            shared=shared,
        )

    async def _send_kept(
        self, name: str, setting: HistorySetting, data: bytes, key: str | None
    ) -> str:
        hub = self._hub_by_loop.get(get_running_loop())
        if hub is None:
            position = await self._hubs.run(lambda hub: hub.archive.send(name, setting, data, key))
        else:
            position = await hub.archive.send(name, setting, data, key)
        self._published_at[name] = monotonic()
        return position

    def _make_group_name(self, group: str) -> str:
        self.require_valid_group_name(group)
        self._published.make_room()
        return self._names.group(group)

    def _make_inbox_name(self, channel: str) -> str:
        """The inbox of the process that has the channel; "" for a plain channel."""
        self.require_valid_channel_name(channel)
        owner, mark, _ = channel.partition("!")
        return self._names.inbox(owner[-PROCESS_ID_LENGTH:]) if mark else ""

    def _require_inbox(self, channel: str) -> str:
        """The inbox of the process that has the channel; raises `PlainChannel`."""
        inbox = self._inbox_name(channel)
        if not inbox:
            raise PlainChannel(
                f"{channel!r} is a plain channel, which any process may read: only channels of "
                "new_channel() can subscribe to groups and other names"
            )
        return inbox
