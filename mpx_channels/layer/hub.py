"""What a layer holds on one event loop: the multiplexer, and a part for each capability."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, TypeVar

from mpx_channels.channels.inbox import Inbox
from mpx_channels.channels.layer_stats import LayerCounters, LayerStats
from mpx_channels.channels.mailbox import Hooks, Mailbox
from mpx_channels.channels.mailboxes import Mailboxes
from mpx_channels.channels.names import PROCESS_ID_LENGTH, Names
from mpx_channels.channels.part import Context, Part
from mpx_channels.channels.queues import Queues
from mpx_channels.history.positions import Recovery, parse
from mpx_channels.history.settings import Histories
from mpx_channels.messages.codec import Message
from mpx_channels.messages.wrapping import Wrapping
from mpx_channels.multiplexer import LinkLost, Multiplexer, NotConnected
from mpx_channels.multiplexer.confirmations import Confirmations
from mpx_channels.multiplexer.exceptions import describe
from mpx_channels.multiplexer.logs import LimitedLog
from mpx_channels.presence.settings import PresenceSetting

from .answers.promises import Promises
from .answers.requests import Requests
from .exceptions import ForeignChannel
from .groups.archive import Archive
from .groups.groups import Groups
from .groups.history import GroupHistory
from .groups.link_events import LinkEvents
from .groups.presence import GroupPresence
from .groups.published import Published
from .groups.raw import RawChannels, RawPatterns
from .groups.wildcards import Wildcards
from .processes.control import Control
from .processes.drainer import Drainer
from .processes.overview import Overview

__all__ = ["Hub"]

logger = logging.getLogger("mpx_channels.layer")

# Seconds that closing waits for Redis in all, and how many of them are for the parts: it is to be
# over within one.
CLOSING = 0.85
CLOSING_PARTS = 0.7

P = TypeVar("P", bound=Part)


class Hub:
    """One layer on one event loop: it lives and dies with the loop.

    ``shared``: its channels are those of synchronous callers. The parts are composed here, and
    whatever concerns all of them goes over `parts`, in the order of their lines.
    """

    def __init__(
        self,
        multiplexer: Multiplexer,
        names: Names,
        wrapping: Wrapping,
        published: Published,
        *,
        expiry: float,
        connect_timeout: float,
        group_expiry: float,
        hooks: Hooks | None,
        histories: Histories,
        recovery_limit: int,
        presence: PresenceSetting,
        shared: bool = False,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.multiplexer = multiplexer
        self.names = names
        self.published = published
        self.process_id = uuid.uuid4().hex[:PROCESS_ID_LENGTH]
        self.counters = LayerCounters()
        # Whoever holds the hub lets go of it then.
        self.on_end: Callable[[], object] = lambda: None
        self.context = context = Context(
            loop=self.loop,
            multiplexer=multiplexer,
            names=names,
            wrapping=wrapping,
            counters=self.counters,
            confirmations=Confirmations(multiplexer, connect_timeout),
            process_id=self.process_id,
            expiry=expiry,
            connect_timeout=connect_timeout,
            log=LimitedLog(logger),
        )
        self.parts: list[Part] = []
        add = self._add
        self.channels = add(
            Mailboxes(context, group_expiry=group_expiry, hooks=hooks, shared=shared)
        )
        # Looked into by the layer for every join, leave and receive.
        self.mailboxes = self.channels.by_channel
        woken_by = "SPUBLISH" if multiplexer.sharded else "PUBLISH"
        self.queues = add(Queues(context, woken_by if multiplexer.cluster else ""))
        self.inbox = add(Inbox(context, self.channels))
        events = LinkEvents(context, self.channels, self.inbox)
        self.wildcards = add(Wildcards(context, events, self.channels))
        self.groups = add(Groups(context, events, self.channels, self.wildcards))
        # As `mailboxes`.
        self.topics = self.groups.topics
        self.archive = Archive(context, histories)
        self.history = add(
            GroupHistory(
                context, self.archive, recovery_limit, self.groups, self.wildcards, self.channels
            )
        )
        self.presence = add(GroupPresence(context, presence, self.groups, self.channels))
        self.raw_channels = add(RawChannels(context, events, self.channels))
        self.raw_patterns = add(RawPatterns(context, events, self.channels))
        # Behind those: they say first who was cut off.
        self.events = add(events)
        self.requests = add(Requests(context, self.inbox, self.queues))
        self.promises = add(Promises(context, self.requests))
        self.control = add(Control(context, self.inbox, self.requests))
        self.drainer = add(Drainer(self.control))
        self.overview = add(Overview(context, self.control, self.groups, self.presence, self.stats))
        multiplexer.on_lost(self._lost)
        self.control.handlers |= {
            "flush": self._flush,
            "group_add": self._join_group,
            "group_discard": self._leave_group,
            "presence_join": self._join_presence,
            "presence_leave": self._leave_presence,
        }

    def _add(self, part: P) -> P:
        """One more part; those before it come before it in everything."""
        self.parts.append(part)
        return part

    # -- life ---------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.multiplexer.running

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        for part in self.parts:
            part.started()
        await self.multiplexer.start()

    async def connected(self, timeout: float, *, every_host: bool) -> None:
        """Return once what is sent to our channels arrives; with several servers, all stand.

        Raises `NotConnected` after `timeout` seconds.
        """
        if every_host:
            await self.multiplexer.wait_connected(timeout)
        try:
            async with asyncio.timeout(timeout):
                await self.inbox.ready()
        except TimeoutError:
            name = self.inbox.name
            node = self.multiplexer.node_of(name)
            error = self.multiplexer.error_of(node)
            cause = f": {describe(error)}" if error is not None else ""
            text = f"{node} did not confirm {name!r} in {timeout} s{cause}"
            raise NotConnected(text) from error

    async def stop(self) -> None:
        """Let publishes out and close the connections. Returns within a second."""
        deadline = self.loop.time() + CLOSING
        self.context.confirmations.close()
        try:
            await asyncio.gather(*[part.close(CLOSING_PARTS) for part in self.parts])
            await self.multiplexer.stop(max(0.0, deadline - self.loop.time()))
        finally:
            self.channels.closed()
            self.context.log.flush()
            self.on_end()

    def loop_closed(self) -> None:
        """The event loop was closed, and nobody had stopped us: leave no socket open."""
        for part in self.parts:
            part.abandon()
        self.multiplexer.abandon()
        self.on_end()

    def clear(self) -> None:
        """Forget every membership and unread message; the channels stay."""
        for part in self.parts:
            part.clear()

    def _lost(self, loss: LinkLost) -> None:
        for part in self.parts:
            part.lost(loss)

    def stats(self) -> LayerStats:
        """A snapshot; it walks over the mailboxes."""
        held = [part.counts() for part in self.parts]
        return LayerStats.of(held, self.counters, self.multiplexer.stats())

    # -- groups -------------------------------------------------------------------------------

    async def send_many(self, frames: Sequence[tuple[str, bytes]]) -> list[str | None]:
        """Send messages to groups; returns their positions, None where there is no history."""
        archive = self.archive
        if archive.keeps_some and any(archive.setting_of(name) for name, _ in frames):
            return await archive.send_many(frames)
        await self.groups.send_many(frames)
        return [None] * len(frames)

    # -- channels of ours, and of other processes ---------------------------------------------

    async def own_mailbox(self, channel: str, inbox: str, capacity: int) -> Mailbox:
        """The mailbox of a channel of ours; a new one if it has none any more.

        Raises `ForeignChannel` unless the channel's inbox is ours.
        """
        mailbox = self.mailboxes.get(channel)
        if mailbox is not None:
            return mailbox
        if inbox != self.inbox.name:
            raise ForeignChannel(
                f"channel {channel!r} belongs to another process or event loop than this one: "
                "use the name that new_channel() returned here (a consumer's self.channel_name)"
            )
        await self.inbox.ready()
        mailbox = self.mailboxes.get(channel)
        if mailbox is None:
            mailbox = self.channels.open(channel, capacity)
            # Perhaps of a consumer that has ended: nobody may ever read it.
            self.channels.set_idle(mailbox)
        return mailbox

    async def add_to_group(self, group: str, channel: str, inbox: str, capacity: int) -> None:
        """Have a channel join a group, or its process do so."""
        if inbox == self.inbox.name:
            mailbox = await self.own_mailbox(channel, inbox, capacity)
            await self.groups.join(self.names.group(group), mailbox)
        else:
            await self.inbox.ready()
            await self.control.ask_owner("group_add", group, channel, inbox)

    async def group_close(self, name: str, data: bytes) -> int:
        """Publish a close behind a group's messages; return how many processes got it."""
        if self.multiplexer.scripts_apart and self.archive.setting_of(name):
            return await self.archive.publish_behind(name, data)
        return await self.groups.send_counted(name, data)

    async def group_send(self, name: str, data: bytes) -> None:
        """Publish to a group, by its name in Redis."""
        await self.groups.send(name, data)

    async def add_to_group_since(
        self, group: str, channel: str, inbox: str, capacity: int, since: object
    ) -> Recovery:
        """As `add_to_group`, and replay to the channel what it missed since a position."""
        if inbox == self.inbox.name:
            mailbox = await self.own_mailbox(channel, inbox, capacity)
            return await self.history.join(self.names.group(group), mailbox, since)
        await self.inbox.ready()
        # What is no position need not be fit to travel.
        since = since if parse(since) is not None else ""
        answer = await self.control.ask_owner("group_add", group, channel, inbox, since=since)
        # A process of an older version knows nothing of it.
        return Recovery(*answer) if answer else Recovery(False, 0, None, "no_history")

    async def join_presence(
        self, group: str, channel: str, inbox: str, capacity: int, id: str, info: Message
    ) -> None:
        """Have a channel be in a group as somebody, or its process do so."""
        if inbox == self.inbox.name:
            mailbox = await self.own_mailbox(channel, inbox, capacity)
            await self.presence.join(self.names.group(group), mailbox, id, info)
        else:
            await self.inbox.ready()
            await self.control.ask_owner("presence_join", group, channel, inbox, id=id, info=info)

    async def leave_presence(self, group: str, channel: str, inbox: str, id: str) -> None:
        """End that, here or in the channel's process; a plain channel is in no group."""
        if inbox == self.inbox.name:
            if (mailbox := self.mailboxes.get(channel)) is not None:
                await self.presence.leave(self.names.group(group), mailbox, id)
        elif inbox:
            await self.inbox.ready()
            # A process that is gone has taken its members along, or will.
            with contextlib.suppress(ForeignChannel):
                await self.control.ask_owner("presence_leave", group, channel, inbox, id=id)

    async def discard_from_group(self, group: str, channel: str, inbox: str) -> None:
        """Have a channel leave a group, or its process do so; a plain channel is in none."""
        name = self.names.group(group)
        if inbox == self.inbox.name:
            if (mailbox := self.mailboxes.get(channel)) is not None:
                await self.groups.leave_after(self.published.at.get(name, 0.0), name, mailbox)
        elif inbox:
            await self.inbox.ready()
            server_of = self.multiplexer.server_of
            # What we sent just now may come over another link than the question, and later.
            kept_apart = self.multiplexer.scripts_apart and self.archive.setting_of(name)
            apart = server_of(name) is not server_of(inbox) or kept_apart
            sent = {"sent": True} if apart and self.published.just_now(name) else {}
            # A process that is gone has taken its memberships along.
            with contextlib.suppress(ForeignChannel):
                await self.control.ask_owner("group_discard", group, channel, inbox, **sent)

    # -- what other processes ask for ---------------------------------------------------------

    async def _flush(self, asked: Message) -> None:
        self.clear()

    async def _join_group(self, asked: Message) -> Any:
        if "since" in asked:
            return astuple(await self.history.join(*self._member(asked), asked["since"]))
        await self.groups.join(*self._member(asked))
        return None

    async def _leave_group(self, asked: Message) -> None:
        name, mailbox = self._member(asked)
        at = self.published.at
        if asked.get("sent"):
            # By who asks, and it comes over another link than this question.
            at[name] = time.monotonic()
        await self.groups.leave_after(at.get(name, 0.0), name, mailbox)

    async def _join_presence(self, asked: Message) -> None:
        await self.presence.join(*self._member(asked), asked["id"], asked["info"])

    async def _leave_presence(self, asked: Message) -> None:
        await self.presence.leave(*self._member(asked), asked["id"])

    def _member(self, asked: Message) -> tuple[str, Mailbox]:
        """The group and the channel of ours that another process asks something about."""
        mailbox = self.mailboxes.get(asked["channel"])
        if mailbox is None:
            raise ForeignChannel(f"nobody has the channel {asked['channel']!r} any more")
        return self.names.group(asked["group"]), mailbox
