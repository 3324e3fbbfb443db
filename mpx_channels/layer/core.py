"""MpxChannelLayer: the Channels specification on top of the multiplexer."""

from __future__ import annotations

import asyncio
import functools
from asyncio import get_running_loop
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from channels.layers import BaseChannelLayer
from django.conf import settings

from mpx_channels import embedded
from mpx_channels.multiplexer import MpxError

from .codec import Message, encode
from .config import LayerConfig
from .envelope import address, seal
from .hub import PROCESS_ID_LENGTH, Hub
from .mailbox import Mailbox
from .stats import LayerStats

__all__ = ["ForeignChannel", "MpxChannelLayer"]

# Checked names are remembered, up to this many: the checks cost more than the rest of a join.
NAMES_REMEMBERED = 8192


class ForeignChannel(MpxError, ValueError):
    """The channel belongs to another process, or another event loop of this one."""


class MpxChannelLayer(BaseChannelLayer):
    """A channel layer over Redis Pub/Sub, with two connections per process (and event loop).

    `LayerConfig` has the CONFIG keys. Rules not said here are those of
    https://github.com/django/channels/blob/main/docs/channel_layer_spec.rst.
    """

    extensions = ["groups", "flush"]

    def __init__(
        self,
        hosts: Sequence[object] | None = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        **more: Any,
    ) -> None:
        self.config = config = LayerConfig.parse(
            {
                "hosts": hosts,
                "prefix": prefix,
                "expiry": expiry,
                "group_expiry": group_expiry,
                "capacity": capacity,
                "channel_capacity": channel_capacity,
                **more,
            }
        )
        super().__init__(expiry=config.expiry, capacity=config.capacity)
        self.channel_capacity = self.compile_capacities(config.channel_capacity or {})
        self.prefix = config.prefix
        self.group_expiry = config.group_expiry
        if embedded.is_embedded(config.host.url):
            embedded.check(config.host.url)
        self._hubs: dict[asyncio.AbstractEventLoop, Hub] = {}
        self._group_name = functools.lru_cache(NAMES_REMEMBERED)(self._make_group_name)
        self._inbox_name = functools.lru_cache(NAMES_REMEMBERED)(self._make_inbox_name)

    # -- channels -----------------------------------------------------------------------------

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A name for a channel of this process; only the first of a process asks Redis.

        Raises `NotConnected` when Redis does not confirm in ``connect_timeout`` seconds.
        """
        hub = await self._hub()
        channel = f"{prefix}{hub.process_id}!{hub.new_local_name()}"
        self.require_valid_channel_name(channel)
        if not hub.live:
            await hub.ready()
        hub.open(channel, self.get_capacity(channel))
        return channel

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to one channel; returns once Redis has it.

        Raises `TypeError` for an invalid name or message, `UnserializableMessage` with the path
        to a value that cannot be sent, and the errors of `Multiplexer.publish`.
        """
        inbox = self._inbox_name(channel)
        data = address(channel, self._encode(message))
        hub = self._hubs.get(get_running_loop())
        if hub is None:
            hub = await self._hub()
        hub.counters.messages_out += 1
        if not await hub.multiplexer.publish_soon(inbox, data):
            hub.counters.dropped_unroutable += 1

    async def receive(self, channel: str) -> Message:
        """Wait for the next message to a channel of this process; cancelling loses none.

        A cancelled reader that does not come back within ``expiry`` seconds gives the channel up.
        """
        hub = self._hubs.get(get_running_loop())
        mailbox = hub.mailboxes.get(channel) if hub is not None else None
        if hub is None or mailbox is None:
            hub, mailbox = await self._own_mailbox(channel)
        try:
            return await mailbox.get()
        except asyncio.CancelledError:
            if not mailbox.waited_for:
                hub.abandon(mailbox)
            raise

    # -- groups -------------------------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel of this process to a group; returns once Redis has confirmed it.

        What is sent to the group from then on arrives. Raises `TypeError` for invalid names,
        `ForeignChannel`, `SubscriptionRefused`, and `NotConnected` when Redis does not confirm in
        ``connect_timeout`` seconds; the channel is no member then.
        """
        name = self._group_name(group)
        hub = self._hubs.get(get_running_loop())
        mailbox = hub.mailboxes.get(channel) if hub is not None else None
        if hub is None or mailbox is None:
            hub, mailbox = await self._own_mailbox(channel)
        if hub.join(name, mailbox).live:
            return
        try:
            await hub.group_live(name)
        except BaseException:
            hub.leave(name, channel)
            raise

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group; does nothing if it is not in it."""
        name = self._group_name(group)
        self.require_valid_channel_name(channel)
        hub = self._hubs.get(get_running_loop())
        if hub is not None:
            hub.leave(name, channel)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to every channel in a group; returns once Redis has it.

        Raises as `send`.
        """
        name = self._group_name(group)
        data = seal(self._encode(message))
        hub = self._hubs.get(get_running_loop())
        if hub is None:
            hub = await self._hub()
        hub.counters.messages_out += 1
        await hub.multiplexer.publish_soon(name, data)

    # -- the whole ----------------------------------------------------------------------------

    async def flush(self) -> None:
        """Forget every group membership and unread message of this process."""
        hub = self._hubs.get(get_running_loop())
        if hub is not None:
            hub.clear()

    async def close(self) -> None:
        """Let publishes out and close this event loop's connections; the next use opens others."""
        hub = self._hubs.pop(get_running_loop(), None)
        if hub is not None:
            await hub.stop()

    def stats(self) -> LayerStats | None:
        """What the layer holds and has counted on the running event loop; None before its use."""
        hub = self._hubs.get(get_running_loop())
        return hub.stats() if hub is not None else None

    # -- inside -------------------------------------------------------------------------------

    async def _hub(self) -> Hub:
        """The running loop's hub, connected or about to be."""
        loop = get_running_loop()
        hub = self._hubs.get(loop)
        if hub is None:
            for closed in [other for other in self._hubs if other.is_closed()]:
                del self._hubs[closed]
            config = self.config
            url = config.host.url
            if embedded.is_embedded(url):
                url = embedded.start(url, base_dir=_project_folder())
            hub = self._hubs[loop] = Hub(
                config.multiplexer(url), config.prefix, config.expiry, config.connect_timeout
            )
        if not hub.running:
            await hub.start()
        return hub

    async def _own_mailbox(self, channel: str) -> tuple[Hub, Mailbox]:
        """The hub and a mailbox for a channel of ours that has none (yet, or any more)."""
        inbox = self._inbox_name(channel)
        hub = await self._hub()
        if inbox != hub.inbox:
            raise ForeignChannel(
                f"channel {channel!r} belongs to another process or event loop than this one: "
                "use the name that new_channel() returned here (a consumer's self.channel_name)"
            )
        await hub.ready()
        mailbox = hub.mailboxes.get(channel)
        if mailbox is None:
            mailbox = hub.open(channel, self.get_capacity(channel))
        return hub, mailbox

    def _make_group_name(self, group: str) -> str:
        self.require_valid_group_name(group)
        return f"{self.prefix}:g:{group}"

    def _make_inbox_name(self, channel: str) -> str:
        self.require_valid_channel_name(channel)
        owner, mark, _ = channel.partition("!")
        if not mark:
            raise NotImplementedError(
                f"{channel!r} is a plain channel (it has no '!'): not supported yet"
            )
        return f"{self.prefix}:p:{owner[-PROCESS_ID_LENGTH:]}"

    def _encode(self, message: Message) -> bytes:
        if not isinstance(message, dict):
            raise TypeError(f"a message must be a dict, not {message!r}")
        return encode(message)


def _project_folder() -> Path | None:
    """Django's convention for a project's folder, or None where there is none."""
    base = getattr(settings, "BASE_DIR", None) if settings.configured else None
    return Path(base) if base is not None else None
