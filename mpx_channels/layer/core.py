"""MpxChannelLayer: the Channels specification on top of the multiplexer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from asyncio import get_running_loop
from collections.abc import Collection, Iterable
from time import monotonic
from typing import Any

from channels.exceptions import ChannelFull

from mpx_channels.multiplexer import BacklogFull

from .asking import Asking
from .background import background
from .base import ForeignChannel
from .broadcasts import broadcast
from .codec import Message
from .envelope import ENCRYPTED
from .hub import Hub
from .mailbox import Hooks, Mailbox
from .names import channel_names
from .overview import Overview
from .sync import SyncLayer
from .taking import Taking, give_back
from .tapping import Tapping
from .wrapping import MessageTooLarge

__all__ = ["MpxChannelLayer"]


class MpxChannelLayer(Asking, Tapping, Overview, Taking):
    """A channel layer over Redis Pub/Sub, with two connections per process (and event loop).

    `LayerConfig` has the CONFIG keys. Rules not said here are those of
    https://github.com/django/channels/blob/main/docs/channel_layer_spec.rst.
    """

    extensions = ["groups", "flush"]
    # The specification has the layer name its exceptions.
    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    @functools.cached_property
    def sync(self) -> SyncLayer:
        """The layer for synchronous code, without event loops."""
        return SyncLayer(self)

    # -- channels -----------------------------------------------------------------------------

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A name for a channel of this process; only the first of a process asks Redis.

        Raises `NotConnected` when Redis does not confirm in ``connect_timeout`` seconds. In a call
        of `async_to_sync` the channel is made for all such calls and `layer.sync`: it ends with the
        process, or when nobody has read it for ``group_expiry`` seconds.
        """
        if self._visiting():
            # Whoever is cancelled leaves a channel that nobody reads, which will end.
            return await self._elsewhere(self.new_channel(prefix))
        mailbox = await self.open_channel(prefix)
        if background.is_current():
            self._hubs[get_running_loop()].abandon(mailbox)
        return mailbox.channel

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel; returns once Redis has it.

        Raises `TypeError` for an invalid name or message, `UnserializableMessage` with the path
        to a value that cannot be sent, `ChannelFull` for a plain channel at its capacity, and the
        errors of `Multiplexer.publish`.
        """
        self._inbox_name(channel)
        hub = self._hubs.get(get_running_loop())
        if hub is None:
            if self._visiting():
                await self._elsewhere(self.send(channel, message))
                return
            hub = await self._hub()
        await self._post(hub, channel, message)

    async def receive(self, channel: str) -> Message:
        """Wait for the next message to a channel; cancelling loses none.

        A channel of `new_channel` is read in its process. A name that ends in its ``!`` reads all
        channels of this process with that beginning. A plain channel (without ``!``) is read by
        any number of processes, each message by one of them. A cancelled reader of a channel of
        this process that does not come back within ``expiry`` seconds gives the channel up. What a
        call of `async_to_sync` made is read by any other, and on any event loop of the process.
        Raises `MultiplexerStopped` when the layer is closed meanwhile, for a plain channel and for
        what synchronous code made.
        """
        hub = self._hubs.get(get_running_loop())
        mailbox = hub.mailboxes.get(channel) if hub is not None else None
        if hub is None or mailbox is None:
            return await self._receive_otherwise(hub, channel)
        if mailbox.abandoned:
            hub.reclaim(mailbox)
        try:
            return await mailbox.get()
        except asyncio.CancelledError:
            if not mailbox.waited_for:
                hub.abandon(mailbox)
            raise

    async def _receive_otherwise(self, hub: Hub | None, channel: str) -> Message:
        """`receive`, where there is no mailbox yet, or none here."""
        inbox = self._inbox_name(channel)
        shared = self._shared_hub()
        if self._visiting() or (shared is not None and shared is not hub and shared.inbox == inbox):
            return (await self._elsewhere(self._take(channel), give_back))[0]
        if not inbox:
            return (await self._take_plain(channel))[0]
        await self._own_mailbox(channel)
        return await self.receive(channel)

    async def open_channel(
        self, prefix: str = "specific.", *, hooks: Hooks | None = None
    ) -> Mailbox:
        """As `new_channel`, and hand out the mailbox: for readers that stay, such as consumers.

        It is theirs until they give it to `close_channel`. It is of the running event loop, also
        within `async_to_sync`.
        """
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {prefix!r}")
        hub = await self._hub()
        channel = f"{prefix}{hub.process_id}!{hub.new_local_name()}"
        self.require_valid_channel_name(channel)
        if not hub.live:
            await hub.ready()
        mailbox = hub.open(channel, self.get_capacity(channel))
        if hooks is not None:
            hub.hook(mailbox, hooks)
        return mailbox

    def close_channel(self, mailbox: Mailbox) -> None:
        """Take a channel down with all that it subscribed to; harmless if it is down."""
        hub = self._hubs.get(get_running_loop())
        if hub is not None:
            hub.close(mailbox)

    # -- groups -------------------------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; returns once Redis has confirmed it.

        What is sent to the group from then on arrives. A channel of another process is added by
        that process, which is asked to. Raises `TypeError` for invalid names, `PlainChannel`,
        `ForeignChannel` when the other process is gone, `SubscriptionRefused`, and `NotConnected`
        when Redis does not confirm in ``connect_timeout`` seconds; the channel is no member then.
        """
        name = self._group_name(group)
        hub = self._hubs.get(get_running_loop())
        mailbox = hub.mailboxes.get(channel) if hub is not None else None
        if hub is None or mailbox is None:
            if self._visiting():
                await self._elsewhere(self.group_add(group, channel))
                return
            if self._is_foreign(channel):
                await self._ask_owner("group_add", group, channel)
                return
            hub, mailbox = await self._own_mailbox(channel)
        topic = hub.groups.topics.get(name)
        if topic is not None and topic.live and mailbox.hooks is None:
            topic.add(mailbox)  # what most joins are, and all there is to them
        else:
            await hub.join(hub.groups, name, mailbox)

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; does nothing if it is not in it.

        What was sent to the group before, by an awaited `group_send` of this process, still
        arrives: if there was one in the last ``connect_timeout`` seconds, this waits for a round
        trip to Redis. A cancelled call leaves at once.
        """
        name = self._group_name(group)
        hub = self._hubs.get(get_running_loop())
        mailbox = hub.mailboxes.get(channel) if hub is not None else None
        if hub is not None and mailbox is not None:
            if name in self._published_at:
                await hub.groups.leave_after(self._published_at[name], name, mailbox)
            else:
                hub.groups.leave(name, mailbox)
        elif self._visiting():
            await self._elsewhere(self.group_discard(group, channel))
        elif self._is_foreign(channel):
            # A process that is gone has taken its memberships along.
            with contextlib.suppress(ForeignChannel):
                await self._ask_owner("group_discard", group, channel)

    async def group_send(
        self, group: str, message: Message, *, exclude: Collection[str] = ()
    ) -> None:
        """Send a message to every channel in a group; returns once Redis has it.

        The channels named in `exclude` do not get it. Raises as `send`.
        """
        name = self._group_name(group)
        header = {"not": channel_names(exclude)} if exclude else None
        data = self.wrapping.wrap(name, message, header)
        hub = self._hubs.get(get_running_loop())
        if hub is None:
            if self._visiting():
                await self._elsewhere(self.group_send(group, message, exclude=exclude))
                return
            hub = await self._hub()
        hub.counters.messages_out += 1
        await hub.multiplexer.publish_soon(name, data)
        self._published_at[name] = monotonic()

    async def group_send_many(self, messages: Iterable[tuple[str, Message]]) -> None:
        """Send messages, each to its group, in one write; returns once Redis has all of them.

        All names and messages are checked before the first leaves. Raises as `send`; if Redis
        refuses some, the others were sent.
        """
        named = [(self._group_name(group), message) for group, message in messages]
        frames = [(name, self.wrapping.wrap(name, message)) for name, message in named]
        publishing = self._publish_all(frames)
        await (self._elsewhere(publishing) if self._visiting() else publishing)

    async def _publish_all(self, frames: list[tuple[str, bytes]]) -> None:
        hub = await self._hub()
        hub.counters.messages_out += len(frames)
        sent: list[asyncio.Future[int]] = []
        try:
            for name, data in frames:
                sent.append(hub.multiplexer.publish_soon(name, data))
        except BacklogFull:
            for future in sent:
                future.cancel()  # takes back those that have not left
            raise
        results = await asyncio.gather(*sent, return_exceptions=True)
        self._published_at.update(dict.fromkeys((name for name, _ in frames), monotonic()))
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def group_broadcast(
        self, group: str, content: Any, *, exclude: Collection[str] = ()
    ) -> None:
        """Send a frame to every browser in a group, encoded once, here.

        A str goes out as a text frame and bytes as a binary one; anything else as JSON. Our
        WebSocket consumers pass it on as it is, by their handler ``mpx_broadcast``: a thousand
        members cost one encoding, where ``send_json`` in a handler costs a thousand.
        """
        await self.group_send(group, broadcast(content), exclude=exclude)

    # -- the whole ----------------------------------------------------------------------------

    def serialize(self, message: Message) -> bytes:
        """A message as bytes that `deserialize` reads: in the layer's format and nothing else, as
        channels_redis has it; if the layer has keys encrypted, but bound to no channel or group.

        Raises `TypeError`, `UnserializableMessage` and `MessageTooLarge`.
        """
        body = self.wrapping.encode(message)
        return self.wrapping.seal("", body) if self.wrapping.encrypts else body

    def deserialize(self, message: bytes) -> Message:
        """The message that `serialize` made bytes of, here or in another process, within
        ``expiry`` seconds if it is encrypted. Raises `UnreadableMessage`.
        """
        if self.wrapping.encrypts or message.startswith(ENCRYPTED):
            message = bytes(self.wrapping.unwrap("", message)[1])
        return self.wrapping.decode(message)
