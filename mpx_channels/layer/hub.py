"""What a layer holds on one event loop: the multiplexer, the mailboxes and who hears what."""

from __future__ import annotations

import asyncio
import itertools
import os
import uuid
from collections.abc import Callable

from mpx_channels.multiplexer import Multiplexer, MultiplexerStopped

from .abandoned import Abandoned, Neglected
from .answers import Answers
from .confirmations import Confirmations
from .inflow import Inflow
from .mailbox import Event, Failure, Hooks, Mailbox
from .names import PROCESS_ID_LENGTH, Names
from .processes import host_name
from .published import Published
from .queues import Queues
from .serving import Serving
from .stats import Counters, LayerStats
from .topics import ChannelTopics, PatternTopics, Topic, Topics
from .wrapping import Wrapping

__all__ = ["Hub"]

# Channels of synchronous callers that nobody reads at the moment; with more, the oldest ends.
SHARED_IDLE = 10_000


class Hub:
    """One layer on one event loop: it lives and dies with the loop."""

    def __init__(
        self,
        multiplexer: Multiplexer,
        names: Names,
        wrapping: Wrapping,
        published: Published,
        *,
        expiry: float,
        patience: float,
        hooks: Hooks | None,
        group_expiry: float,
        shared: bool = False,
    ) -> None:
        """``shared``: its channels are those of synchronous callers."""
        self.loop = asyncio.get_running_loop()
        self.multiplexer = multiplexer
        self.names = names
        self.wrapping = wrapping
        self.counters = Counters()
        # Names the hub, not the process: after a fork or on another loop there is another inbox.
        self.process_id = uuid.uuid4().hex[:PROCESS_ID_LENGTH]
        self.inbox = names.inbox(self.process_id)
        self.mailboxes: dict[str, Mailbox] = {}
        self.confirmations = Confirmations(multiplexer, patience)
        # Whoever holds the hub lets go of it then.
        self.on_end: Callable[[], object] = lambda: None
        self._shared = shared
        self._hooks = hooks
        self._hooked: dict[Mailbox, None] = {}
        self._stand_ins: dict[str, Mailbox] = {}
        self._local_names = itertools.count(1)
        self.inflow = inflow = Inflow(self, expiry)
        self._inbox = multiplexer.new_channel_subscription(
            inflow.inbox, self.link_down, self._inbox_up
        )
        # Questions to all processes; and a name that says that this one lives, and where.
        # `published` is not kept: with 30 attributes CPython looks each of them up more slowly.
        self.serving = Serving(self, published)
        self.controls = names.controls(multiplexer)
        self._control = multiplexer.new_channel_subscription(inflow.control)
        self.groups = ChannelTopics("group", names.group_of, self, multiplexer, inflow.group)
        self.raw_channels = ChannelTopics("channel", str, self, multiplexer, inflow.raw)
        self.raw_patterns = PatternTopics("pattern", str, self, multiplexer, inflow.raw_match)
        self.wildcards = PatternTopics(
            "group_pattern", names.group_pattern_of, self, multiplexer, inflow.wildcard
        )
        self.answers = Answers(multiplexer, inflow.promise)
        self.queues = Queues(multiplexer, names.wake(self.process_id), self.counters)
        self._abandoned = Abandoned(self.loop, group_expiry if shared else expiry, self._take_down)
        self._neglected = Neglected(self.loop, group_expiry, self.mailboxes, self._take_down)
        # Of the last link that broke.
        self._link_error: Exception | None = None

    # -- life ---------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether what is sent to our channels arrives now."""
        return self._inbox.is_active(self.inbox)

    @property
    def running(self) -> bool:
        return self.multiplexer.running

    async def start(self) -> None:
        """Begin to connect, and to listen to the inbox; returns at once."""
        self._inbox.add(self.inbox)
        presence = self.names.presence(self.process_id, os.getpid(), host_name())
        self._control.add(*self.controls.values(), presence)
        self._neglected.start()
        await self.multiplexer.start()

    async def stop(self) -> None:
        """Let publishes out and close the connections."""
        self._abandoned.close()
        self._neglected.close()
        self.confirmations.close()
        self.answers.close()
        try:
            await self.queues.close()
            await self.multiplexer.stop()
        finally:
            self.inflow.close()
            if self._shared:
                self._end_channels()
            self.on_end()

    def _end_channels(self) -> None:
        """Synchronous readers would wait for ever: their loop goes on, and nobody cancels them."""
        for mailbox in tuple(self.mailboxes.values()):
            while mailbox.waited_for:
                mailbox.put_always(Failure(MultiplexerStopped("the layer was closed")))

    def loop_closed(self) -> None:
        """The event loop was closed, and nobody had stopped us: leave no socket open."""
        self.queues.abandon()
        self.inflow.abandon()
        self.multiplexer.abandon()
        self.on_end()

    async def ready(self) -> None:
        """Return once what is sent to our channels arrives."""
        if not self.live:
            await self.confirmations.wait(self._inbox, self.inbox)

    def clear(self) -> None:
        """Forget every membership and unread message; the channels stay."""
        for mailbox in self.mailboxes.values():
            mailbox.clear()
            mailbox.memberships = None
            mailbox.wildcards = 0
        self.queues.clear()
        for topics in self._all_topics():
            topics.clear()

    def _all_topics(self) -> tuple[Topics, ...]:
        return (self.groups, self.raw_channels, self.raw_patterns, self.wildcards)

    # -- channels -----------------------------------------------------------------------------

    def new_local_name(self) -> str:
        """The local part of a channel name that this hub has not given out yet."""
        return format(next(self._local_names), "x")

    def open(self, channel: str, capacity: int) -> Mailbox:
        """A mailbox for a channel of this process."""
        mailbox = Mailbox(channel, capacity, self.loop, self.counters)
        self.mailboxes[channel] = mailbox
        if self._stand_ins:
            mailbox.stand_in = self._stand_ins.get(channel.partition("!")[0] + "!")
        if self._hooks is not None:
            self.hook(mailbox, self._hooks)
        return mailbox

    def open_bare(self, prefix: str, capacity: int) -> Mailbox:
        """A mailbox for all channels of this process that begin with `prefix`, up to its ``!``."""
        stand_in = Mailbox(prefix, capacity, self.loop, self.counters)
        for channel, mailbox in self.mailboxes.items():
            if channel.startswith(prefix):
                mailbox.move_to(stand_in)
        self.mailboxes[prefix] = self._stand_ins[prefix] = stand_in
        return stand_in

    def mailbox_for(self, channel: str) -> Mailbox | None:
        """Where a message to this channel goes; also to one that nobody opened by its full name."""
        mailbox = self.mailboxes.get(channel)
        if mailbox is None and self._stand_ins:
            mailbox = self._stand_ins.get(channel.partition("!")[0] + "!")
        return mailbox

    def hook(self, mailbox: Mailbox, hooks: Hooks) -> None:
        """Have a channel get these events; on top of those it gets already."""
        before = mailbox.hooks or Hooks()
        mailbox.hooks = Hooks(
            before.activation + hooks.activation,
            before.disconnect + hooks.disconnect,
            before.reconnect + hooks.reconnect,
        )
        self._hooked[mailbox] = None

    def reclaim(self, mailbox: Mailbox) -> None:
        """A reader came back to a channel that may have been given up."""
        mailbox.abandoned = False
        self._abandoned.forget(mailbox)

    def abandon(self, mailbox: Mailbox) -> None:
        """A reader gave up: if none comes back within the expiry, the channel is taken down.

        Channels' consumers cancel their `receive` when they end. A reader that merely timed out
        comes back sooner. Synchronous callers read now and then, and none of them says when it
        ends: their channels stay for longer, but not any number of them.
        """
        self._abandoned.add(mailbox)
        if self._shared and len(self._abandoned) > SHARED_IDLE:
            oldest = self._abandoned.oldest
            self.inflow.given_up(oldest, SHARED_IDLE)
            self.close(oldest)

    def _take_down(self, mailbox: Mailbox) -> None:
        if self.mailboxes.get(mailbox.channel) is mailbox:
            self.close(mailbox)

    def close(self, mailbox: Mailbox) -> None:
        """Take a channel down, with its messages and its memberships."""
        self.mailboxes.pop(mailbox.channel, None)
        self._hooked.pop(mailbox, None)
        if self._stand_ins.pop(mailbox.channel, None) is not None:
            for other in self.mailboxes.values():
                if other.stand_in is mailbox:
                    other.stand_in = None
        self._abandoned.forget(mailbox)
        mailbox.cut_off = False
        memberships, mailbox.memberships = mailbox.memberships, None
        for topic in memberships or ():
            topic.owner.leave(topic.name, mailbox)
        mailbox.clear()

    # -- memberships --------------------------------------------------------------------------

    async def join(self, topics: Topics, name: str, mailbox: Mailbox) -> None:
        """Make a channel a member; returns once Redis has confirmed, or undoes it and raises."""
        topic = topics.topics.get(name)
        known = (
            topic is not None
            and mailbox.channel in topic.members
            and (topic, mailbox) not in topics.leaving
        )
        if topics is self.wildcards and topic is None:
            self.inflow.end_publication()
        if topics.join(name, mailbox).live:
            if mailbox.hooks is not None and not known:
                self._tell_live(topics, name, mailbox)
            return
        try:
            await self.confirmations.wait(topics, name)
        except BaseException:
            if not known:
                topics.leave(name, mailbox)
            raise

    def topic_live(self, topics: Topics, name: str, topic: Topic) -> None:
        """Redis delivers a name from now on: tell the members that want to know."""
        if topics is self.wildcards:
            self.inflow.end_publication()
        if not self._hooked:
            return
        for mailbox in topic.members.values():
            if mailbox.hooks is not None:
                self._tell_live(topics, name, mailbox)

    def topic_left(self, mailbox: Mailbox) -> None:
        """What a channel still has may be live all together: what it left was not."""
        self._tell_reconnect(mailbox)

    def _tell_live(self, topics: Topics, name: str, mailbox: Mailbox) -> None:
        hooks = mailbox.hooks
        assert hooks is not None
        for type_ in hooks.activation:
            event = {"type": type_, "kind": topics.kind, "name": topics.public(name)}
            mailbox.put_always(Event(event))
        if mailbox.cut_off:
            self._tell_reconnect(mailbox)

    def _tell_reconnect(self, mailbox: Mailbox) -> None:
        """The link is back: tell a channel once everything that it subscribed to is live."""
        memberships = mailbox.memberships or ()
        if self.live and all(topic.live for topic in memberships):
            mailbox.cut_off = False
            for type_ in mailbox.hooks.reconnect if mailbox.hooks is not None else ():
                mailbox.put_always(Event({"type": type_}))

    def _inbox_up(self, name: str) -> None:
        for mailbox in self._hooked:
            if mailbox.cut_off:
                self._tell_reconnect(mailbox)

    def link_down(self, error: Exception) -> None:
        """A link broke: tell the channels that it concerns."""
        if error is self._link_error:
            return  # every subscription tells us of it
        self._link_error = error
        down = [topic for topics in self._all_topics() for topic in topics.went_down(error)]
        members = {mailbox for topic in down for mailbox in topic.members.values()}
        self.counters.gaps += len(members)
        if self.multiplexer.concerns(error, self.inbox):
            self.answers.inbox_down(error)
            concerned = list(self._hooked)
        else:
            concerned = [mailbox for mailbox in self._hooked if mailbox in members]
        for mailbox in concerned:
            # One that was not told of the link's return yet has nothing new to hear.
            if not mailbox.cut_off and mailbox.hooks is not None:
                mailbox.cut_off = True
                for type_ in mailbox.hooks.disconnect:
                    # CONFIG's events are as bare as those of channels_redis.
                    reason = {"reason": str(error)} if type_.startswith("mpx.") else {}
                    mailbox.put_always(Event({"type": type_, **reason}))

    # -- look ---------------------------------------------------------------------------------

    def stats(self) -> LayerStats:
        """A snapshot; it walks over the mailboxes."""
        counters = self.counters
        return LayerStats(
            channels=len(self.mailboxes),
            groups=len(self.groups.topics),
            memberships=self.groups.memberships(),
            raw_channels=len(self.raw_channels.topics),
            patterns=len(self.raw_patterns.topics) + len(self.wildcards.topics),
            promises=len(self.answers),
            messages_out=counters.messages_out,
            messages_in=counters.messages_in,
            deliveries=counters.deliveries,
            unread=sum(map(len, self.mailboxes.values())),
            gaps=counters.gaps,
            drops=counters.drops(),
            multiplexer=self.multiplexer.stats(),
        )
