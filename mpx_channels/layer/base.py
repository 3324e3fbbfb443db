"""What every part of the layer stands on: its configuration, and a hub for each event loop."""

from __future__ import annotations

import asyncio
import functools
import os
from asyncio import get_running_loop
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from channels.layers import BaseChannelLayer
from django.conf import settings

from mpx_channels import embedded
from mpx_channels.multiplexer import MpxError, NotConnected
from mpx_channels.multiplexer.topology import Node

from .background import background, passing_by
from .codec import Message
from .config import LayerConfig
from .existing import LayerType, living_layers
from .hosts import Host
from .hub import Hub
from .ledger import Ledger, LocalStats
from .loops import when_closed
from .mailbox import Hooks, Mailbox
from .names import PROCESS_ID_LENGTH, Names
from .polls import reach
from .published import Published
from .stats import LayerStats

__all__ = ["ForeignChannel", "LayerBase", "PlainChannel"]

T = TypeVar("T")

# Checked names are remembered, up to this many: the checks cost more than the rest of a join.
NAMES_REMEMBERED = 8192


class ForeignChannel(MpxError, ValueError, AssertionError):
    """The channel belongs to another process, or another event loop of this one.

    An `AssertionError`, too, for code that was written for channels_redis.
    """


class PlainChannel(MpxError, ValueError):
    """A plain channel cannot do this: it belongs to no process."""


class LayerBase(BaseChannelLayer, metaclass=LayerType):
    """Configuration, names and hubs."""

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
        self.config = config = LayerConfig.parse(
            {
                "hosts": hosts,
                "prefix": prefix,
                "expiry": expiry,
                "group_expiry": group_expiry,
                "capacity": capacity,
                "channel_capacity": channel_capacity,
                "symmetric_encryption_keys": symmetric_encryption_keys,
                "random_prefix_length": random_prefix_length,
                "serializer_format": serializer_format,
                **more,
            }
        )
        super().__init__(expiry=config.expiry, capacity=config.capacity)
        self.channel_capacity = self.compile_capacities(config.channel_capacity or {})
        self.prefix = config.prefix
        self.group_expiry = config.group_expiry
        for host in config.parsed_hosts:
            if embedded.is_embedded(host.url):
                embedded.check(host.url)
        # What messages become on their way to Redis, and back: for all event loops.
        self.wrapping = config.wrapping()
        self._names = Names(config.prefix)
        self._hubs: dict[asyncio.AbstractEventLoop, Hub] = {}
        self._ledger = Ledger()
        self._published = Published(config.connect_timeout)
        self._published_at = self._published.at
        self._group_name = functools.lru_cache(NAMES_REMEMBERED)(self._make_group_name)
        self._inbox_name = functools.lru_cache(NAMES_REMEMBERED)(self._make_inbox_name)

    async def connect(self, timeout: float | None = None, *, every_host: bool = True) -> None:
        """Connect now, not at the first use; returns once what is sent to this process arrives.

        With ``every_host=False`` other hosts than the one of this process' inbox may be away.
        Raises `NotConnected` with the reason after ``timeout`` seconds (``connect_timeout`` unless
        given), and `SubscriptionRefused`.
        """
        if self._visiting():
            await self._elsewhere(self.connect(timeout, every_host=every_host))
            return
        hub = await self._hub()
        if timeout is None:
            timeout = self.config.connect_timeout
        if every_host:
            await hub.multiplexer.wait_connected(timeout)
        try:
            async with asyncio.timeout(timeout):
                await hub.ready()
        except TimeoutError:
            node = hub.multiplexer.node_of(hub.inbox)
            raise NotConnected(f"{node} did not confirm {hub.inbox!r} in {timeout} s") from None

    @property
    def process_id(self) -> str | None:
        """What this process, on the running event loop, is called; None before the first use."""
        hub = self._hubs.get(get_running_loop())
        return hub.process_id if hub is not None else None

    @property
    def servers(self) -> tuple[str, ...]:
        """Addresses of the servers, without credentials; none before the first use on this loop."""
        hub = self._hubs.get(get_running_loop())
        return tuple(map(str, hub.multiplexer.nodes)) if hub is not None else ()

    async def close(self) -> None:
        """Let publishes out and close the connections; the next use opens others.

        Those of the running event loop, and those that synchronous code uses, whose channels end
        with them. Returns within a second.
        """
        await self.close_pools()
        if self._shared_hub() is not None and not background.is_current():
            await self._elsewhere(self.close_pools())

    async def close_pools(self) -> None:
        """What channels_redis calls it: close the connections of the running event loop alone.

        A loop of `async_to_sync` has none, and what synchronous code uses goes on.
        """
        hub = self._hubs.pop(get_running_loop(), None)
        if hub is not None:
            await hub.stop()

    def nodes(self) -> list[Node]:
        """The servers that the layer is to use, as redis-py reaches them; starts an embedded one.

        Connects to none.
        """
        return list(self.config.multiplexer(self._hosts()).nodes)

    def stats(self) -> LayerStats | None:
        """What the layer holds and has counted on the running event loop; None before its use."""
        hub = self._hubs.get(get_running_loop())
        return hub.stats() if hub is not None else None

    def local_stats(self) -> LocalStats:
        """What the layer holds and has counted in every event loop of the process; thread-safe.

        Each loop takes its snapshot itself, between two callbacks. Returns within about a second,
        also when loops are blocked.
        """
        return self._ledger.stats()

    async def _hub(self) -> Hub:
        """The running loop's hub, connected or about to be."""
        loop = get_running_loop()
        hub = self._hubs.get(loop)
        if hub is None:
            # Other threads do the same at the same time.
            for other in list(self._hubs):
                if other.is_closed() and (ended := self._hubs.pop(other, None)) is not None:
                    ended.on_end()
            hub = self._hubs[loop] = self._make_hub()
            hub.on_end = functools.partial(_end, self._hubs, hub, self._ledger.open(hub))
            when_closed(loop, hub.loop_closed)
        if not hub.running:
            await hub.start()
        return hub

    def _visiting(self) -> bool:
        """Whether to go `_elsewhere`: the running loop is one of a call, and has no hub.

        It gets one when something needs a mailbox on the loop itself, such as a consumer.
        """
        return passing_by() and get_running_loop() not in self._hubs

    async def _elsewhere(
        self, coroutine: Coroutine[Any, Any, T], undo: Callable[[T], object] | None = None
    ) -> T:
        """Run a call on the background loop: this one is too short-lived to connect for."""
        return await background.submit(coroutine, undo).wait()

    def _shared_hub(self) -> Hub | None:
        """The hub of the background loop, if there is one; from any thread."""
        loop = background.running_loop
        return self._hubs.get(loop) if loop is not None else None

    async def _ready_hub(self) -> Hub:
        """The running loop's hub, once what is sent to its inbox arrives."""
        hub = await self._hub()
        await hub.ready()
        return hub

    def _make_hub(self) -> Hub:
        config = self.config
        hooks = None
        if config.on_disconnect or config.on_reconnect:
            hooks = Hooks(
                disconnect=(config.on_disconnect,) if config.on_disconnect else (),
                reconnect=(config.on_reconnect,) if config.on_reconnect else (),
            )
        return Hub(
            config.multiplexer(self._hosts()),
            self._names,
            self.wrapping,
            self._published,
            expiry=config.expiry,
            patience=config.connect_timeout,
            hooks=hooks,
            group_expiry=config.group_expiry,
            shared=background.is_current(),
        )

    def _hosts(self) -> list[Host]:
        """Where the servers are; an embedded one is running then."""
        return [
            replace(host, url=embedded.start(host.url, base_dir=_project_folder()))
            if embedded.is_embedded(host.url)
            else host
            for host in self.config.parsed_hosts
        ]

    async def _own_mailbox(self, channel: str) -> tuple[Hub, Mailbox]:
        """The hub, and the mailbox of a channel of ours; a new one if it has none any more."""
        hub = self._hubs.get(get_running_loop())
        mailbox = hub.mailboxes.get(channel) if hub is not None else None
        if hub is not None and mailbox is not None:
            return hub, mailbox
        inbox = self._inbox_name(channel)
        if not inbox:
            raise PlainChannel(
                f"{channel!r} is a plain channel, which any process may read: only channels of "
                "new_channel() can subscribe to groups and other names"
            )
        hub = await self._hub()
        if inbox != hub.inbox:
            raise ForeignChannel(
                f"channel {channel!r} belongs to another process or event loop than this one: "
                "use the name that new_channel() returned here (a consumer's self.channel_name)"
            )
        await hub.ready()
        mailbox = hub.mailboxes.get(channel)
        if mailbox is None:
            open_ = hub.open_bare if channel.endswith("!") else hub.open
            mailbox = open_(channel, self.get_capacity(channel))
            # Perhaps of a consumer that has ended: nobody may ever read it.
            hub.abandon(mailbox)
        return hub, mailbox

    def _mailbox_here(self, channel: str) -> tuple[Hub, Mailbox] | None:
        """The hub, and the mailbox of a channel that is open here; None if there is none."""
        hub = self._hubs.get(get_running_loop())
        mailbox = hub.mailboxes.get(channel) if hub is not None else None
        if hub is not None and mailbox is not None:
            return hub, mailbox
        self.require_valid_channel_name(channel)
        return None

    async def _ask_owner(self, do: str, group: str, channel: str) -> None:
        """Have the process that owns a channel do something with it; returns when it has.

        Raises `ForeignChannel` when it cannot, or does not say in ``connect_timeout`` seconds.
        """
        hub = await self._ready_hub()
        number, answered = hub.answers.expect_one()
        try:
            inbox = self._inbox_name(channel)
            asked: Message = {"do": do, "group": group, "channel": channel}
            name = self._group_name(group)
            fresh = self._published.just_now(name)
            if fresh and hub.multiplexer.server_of(name) is not hub.multiplexer.server_of(inbox):
                asked["sent"] = True  # what we sent comes over another link, perhaps later
            data = self.wrapping.wrap(inbox, asked, {"by": hub.process_id, "id": number})
            if not await reach(hub, inbox, data):
                raise ForeignChannel(f"no process has the channel {channel!r} any more")
            async with asyncio.timeout(self.config.connect_timeout):
                answer = await answered
        except TimeoutError:
            raise ForeignChannel(f"the process of {channel!r} does not answer") from None
        finally:
            hub.answers.expect_no_more(number)
        if "error" in answer:
            raise ForeignChannel(f"{do} of {channel!r} by its process: {answer['error']}")

    def _is_foreign(self, channel: str) -> bool:
        """Whether a channel belongs to another process or event loop."""
        inbox = self._inbox_name(channel)
        hub = self._hubs.get(get_running_loop())
        return bool(inbox) and (hub is None or inbox != hub.inbox)

    def _make_group_name(self, group: str) -> str:
        self.require_valid_group_name(group)
        self._published.make_room()
        return self._names.group(group)

    def _make_inbox_name(self, channel: str) -> str:
        """The inbox of the process that has the channel; "" for a plain channel."""
        self.require_valid_channel_name(channel)
        owner, mark, _ = channel.partition("!")
        return self._names.inbox(owner[-PROCESS_ID_LENGTH:]) if mark else ""

    async def _post(
        self, hub: Hub, channel: str, message: Message, *, exactly: bool = False
    ) -> bool:
        """Send a message to a channel, plain or not; False if nobody has it.

        Somebody who listens by a pattern seems to have it, unless we are to know it ``exactly``,
        which asks Redis for more. Raises `ChannelFull` for a plain channel at its capacity.
        """
        inbox = self._inbox_name(channel)
        hub.counters.messages_out += 1
        if not inbox:
            name = self._names.queue(channel)
            capacity = self.get_capacity(channel)
            data = self.wrapping.wrap(name, message)
            await hub.queues.put(name, data, capacity, self.expiry)
            return True
        data = self.wrapping.wrap(inbox, message, {"to": channel})
        if exactly:
            received = await reach(hub, inbox, data)
        else:
            received = await hub.multiplexer.publish_soon(inbox, data)
        if received:
            return True
        hub.counters.dropped_unroutable += 1
        return False


def _end(
    hubs: dict[asyncio.AbstractEventLoop, Hub], hub: Hub, close_account: Callable[[], None]
) -> None:
    """A hub has ended; its loop may have another one by now."""
    if hubs.get(hub.loop) is hub:
        hubs.pop(hub.loop, None)
    close_account()


_left_behind: list[object] = []


def _forget_hubs() -> None:
    """In a forked child: begin anew, and leave the parent's connections alone.

    They are kept from the garbage collector, which would tell the parent's selector, a file
    description that both share, to forget them.
    """
    for layer in living_layers():
        _left_behind.append((layer._hubs, layer._ledger))
        layer._hubs = {}
        layer._ledger = Ledger()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_hubs)


def _project_folder() -> Path | None:
    """Django's convention for a project's folder, or None where there is none."""
    base = getattr(settings, "BASE_DIR", None) if settings.configured else None
    return Path(base) if base is not None else None
