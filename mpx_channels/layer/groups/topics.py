"""Who of this process hears which names: what groups, raw channels and patterns have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from mpx_channels.channels.mailbox import Item, Mailbox
from mpx_channels.channels.part import Context, Part
from mpx_channels.multiplexer import ChannelSubscription, LinkLost, Node, PatternSubscription

__all__ = ["ChannelTopics", "Observer", "PatternTopics", "Topic", "Topics"]


class Observer(Protocol):
    """Whoever tells channels what becomes of their memberships."""

    def went_live(self, topic: Topic, mailboxes: Collection[Mailbox], /) -> None:
        """Redis delivers a topic to these members from now on."""

    def went_down(self, topic: Topic, /) -> None:
        """The members of a topic do not get its messages any more; it is ``live`` if they did."""

    def left(self, mailbox: Mailbox, /) -> None:
        """A channel that was cut off has one topic less to wait for."""


class Topic:
    """One name, and the channels of this process that hear it."""

    __slots__ = ("at_once", "live", "members", "name", "owner", "track")

    def __init__(self, owner: Topics, name: str, live: bool) -> None:
        self.owner = owner
        self.name = name
        self.members: dict[str, Mailbox] = {}
        # Whether Redis delivers the name here now.
        self.live = live
        # Whether who joins has nothing to wait for; it may have, if not, where there is a history.
        self.at_once = live
        # How far this process has come in the history, of a group that has one.
        self.track: Track | None = None

    def add(self, mailbox: Mailbox) -> None:
        """Make a channel a member; once is enough."""
        members, channel = self.members, mailbox.channel
        if channel not in members:
            members[channel] = mailbox
            memberships = mailbox.memberships
            if memberships is None:
                mailbox.memberships = [self]
            else:
                memberships.append(self)
            return
        owner = self.owner
        if self.live and owner.tentative:
            owner.tentative.pop((self.name, channel), None)
        if owner.leaving:
            owner.leaving.pop((self, mailbox), None)  # it stays instead

    def leave(self, mailbox: Mailbox) -> None:
        """Make a channel no member."""
        self.owner.leave(self.name, mailbox)


class Track(Protocol):
    """What is kept of a topic whose messages have an order that is known.

    ``first``: done once it is known where the topic stood before any join is over; None then.
    """

    first: asyncio.Future[None] | None

    def left(self, mailbox: Mailbox, /) -> None:
        """It is no member any more."""

    def held_for(self, mailbox: Mailbox, /) -> int:
        """How many items are kept for it."""

    def end(self) -> None:
        """Nobody is a member any more."""


class Histories(Protocol):
    """Whoever keeps track of topics that have a history."""

    def opened(self, topic: Topic, /) -> None:
        """It is about to have its first member here."""

    def activated(self, topic: Topic, /) -> None:
        """Redis has confirmed a topic that has a track."""

    def received(self, topic: Topic, data: bytes, /) -> None:
        """A message with a position has come to a topic that has a track."""

    def holds(self, topic: Topic, mailbox: Mailbox, item: Item, /) -> bool:
        """Whether an item is kept for a member until it has what came before; else it has that."""


class Tentative:
    """A membership that stands if one of the joins that wait for it comes to a good end."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting = 0


class Topics(Part):
    """The memberships of one kind. Names are Redis' here, with the layer's prefix and all.

    ``kind`` is what events call it, ``public`` makes the name that users know of Redis' name.
    """

    kind: str

    def __init__(self, context: Context, observer: Observer) -> None:
        self.context = context
        self.topics: dict[str, Topic] = {}
        # By the topic's name and the channel.
        self.tentative: dict[tuple[str, str], Tentative] = {}
        # Members that leave once something has come, each with a token of this leave.
        self.leaving: dict[tuple[Topic, Mailbox], object] = {}
        self._observer = observer
        # None where no topic can have one.
        self.histories: Histories | None = None

    def public(self, name: str) -> str:
        """From the name in Redis to the name as users know it."""
        return name

    async def join(self, name: str, mailbox: Mailbox) -> None:
        """Make a channel a member; returns once Redis has confirmed, or undoes it and raises.

        It is not undone while another join of the same channel still waits.
        """
        topic = self.topics.get(name)
        known = (
            topic is not None
            and mailbox.channel in topic.members
            and (topic, mailbox) not in self.leaving
        )
        topic = self.enter(name, mailbox)
        track = topic.track
        if topic.live:
            if mailbox.hooks is not None and not known:
                self._observer.went_live(topic, (mailbox,))
            if track is None or track.first is None:
                return
        key = (name, mailbox.channel)
        if not known:
            self.tentative[key] = Tentative()
        tentative = self.tentative.get(key)
        if tentative is not None:
            tentative.waiting += 1
        try:
            if not topic.live:
                await self.context.confirmations.wait(self, name)
            if track is not None and track.first is not None:
                await asyncio.wait((track.first,), timeout=self.context.connect_timeout)
        except BaseException:
            if tentative is not None:
                tentative.waiting -= 1
                if not tentative.waiting and self.tentative.get(key) is tentative:
                    self.leave(name, mailbox)
            raise
        if tentative is not None and self.tentative.get(key) is tentative:
            del self.tentative[key]

    def enter(self, name: str, mailbox: Mailbox) -> Topic:
        """Make a channel a member; messages come once the topic is live."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self._open(name)
        topic.add(mailbox)
        return topic

    def opened(self, name: str) -> Topic:
        """A topic, perhaps without members: somebody is about to enter."""
        return self.topics.get(name) or self._open(name)

    def _open(self, name: str) -> Topic:
        """A topic that has no members yet."""
        topic = self.topics[name] = Topic(self, name, self._subscribe(name))
        if self.histories is not None:
            self.histories.opened(topic)
        return topic

    def leave(self, name: str, mailbox: Mailbox) -> bool:
        """Make a channel no member; False if it was none."""
        try:
            topic = self.topics[name]
            members = topic.members
            del members[mailbox.channel]
        except KeyError:
            return False
        if self.tentative:
            self.tentative.pop((name, mailbox.channel), None)
        memberships = mailbox.memberships
        if memberships is not None:
            memberships.remove(topic)
        if topic.track is not None:
            topic.track.left(mailbox)
        if not members:
            del self.topics[name]
            self._unsubscribe(name)
        if mailbox.cut_off:
            self._observer.left(mailbox)
        return True

    async def leave_after(self, published: float, name: str, mailbox: Mailbox) -> None:
        """As `leave`, once the channel has what this process had published at that moment.

        Joining meanwhile is not undone. Whoever is cancelled leaves at once: nobody would come back
        to do it again, and to go on hearing of a group is worse than to miss one's own message.
        """
        topic = self.topics.get(name)
        if topic is None or mailbox.channel not in topic.members:
            return
        key = (topic, mailbox)
        fences = self._fences(published, name)
        if not fences:
            self.leaving.pop(key, None)
            self.leave(name, mailbox)
            return
        # Shared by all who have the same channel leave at the same time: the first to be done does.
        token = self.leaving.setdefault(key, object())
        try:
            await asyncio.wait(fences)  # not one by one: they are others', too, so not to cancel
        finally:
            if self.leaving.get(key) is token:
                del self.leaving[key]
                if topic.members.get(mailbox.channel) is mailbox:  # it has not ended meanwhile
                    self.leave(name, mailbox)

    def memberships(self) -> int:
        """How many pairs of a name and a channel there are."""
        return sum(len(topic.members) for topic in self.topics.values())

    def members_of(self, name: str) -> Collection[Mailbox]:
        """The channels of this process that hear a name."""
        topic = self.topics.get(name)
        return topic.members.values() if topic is not None else ()

    def lost(self, loss: LinkLost) -> None:
        for topic in self.topics.values():
            if self._is_lost(topic.name, loss):
                self._observer.went_down(topic)
                topic.live = topic.at_once = False

    def clear(self) -> None:
        """Have no members at all; Redis is told at once."""
        self.tentative.clear()
        self.leaving.clear()
        for name, topic in list(self.topics.items()):
            if topic.track is not None:
                topic.track.end()
            del self.topics[name]
            self._unsubscribe(name, at_once=True)

    # -- Source, of confirmations -------------------------------------------------------------

    def activation(self, name: str) -> asyncio.Future[None]:
        """Done once Redis has confirmed the name."""
        raise NotImplementedError

    def pending(self, name: str) -> tuple[Node, ...]:
        """The servers that have not confirmed the name."""
        raise NotImplementedError

    def refusal(self, name: str) -> Exception | None:
        """Why Redis refused the name when it was last asked; None if it did not."""
        raise NotImplementedError

    def forget(self, name: str, activation: asyncio.Future[None]) -> None:
        """Nobody waits for this future any more."""
        raise NotImplementedError

    # -- for subclasses -----------------------------------------------------------------------

    def _activated(self, name: str) -> None:
        """Redis has confirmed a name."""
        topic = self.topics.get(name)
        if topic is not None and not topic.live:
            topic.live, topic.at_once = True, topic.track is None
            self._observer.went_live(topic, topic.members.values())
        if topic is not None and topic.track is not None and self.histories is not None:
            self.histories.activated(topic)

    def _is_lost(self, name: str, loss: LinkLost) -> bool:
        raise NotImplementedError

    def _fences(self, published: float, name: str) -> list[asyncio.Future[None]]:
        """Done once what was published, and the name hears, was delivered."""
        raise NotImplementedError

    def _subscribe(self, name: str) -> bool:
        """Have Redis deliver the name; return whether it does so already."""
        raise NotImplementedError

    def _unsubscribe(self, name: str, *, at_once: bool = False) -> None:
        raise NotImplementedError


class ChannelTopics(Topics):
    """Topics that are Redis channels: all of them are one subscription of the multiplexer."""

    # Whether others publish to them, who know nothing of a cluster's slots.
    classic = False

    def __init__(
        self, context: Context, observer: Observer, received: Callable[[str, bytes], None]
    ) -> None:
        super().__init__(context, observer)
        self._subscription: ChannelSubscription = context.multiplexer.new_channel_subscription(
            received, on_activation=self._activated, classic=self.classic
        )

    def activation(self, name: str) -> asyncio.Future[None]:
        return self._subscription.activation(name)

    def pending(self, name: str) -> tuple[Node, ...]:
        return self._subscription.pending(name)

    def refusal(self, name: str) -> Exception | None:
        return self._subscription.refusal(name)

    def forget(self, name: str, activation: asyncio.Future[None]) -> None:
        self._subscription.forget(name, activation)

    def _is_lost(self, name: str, loss: LinkLost) -> bool:
        return loss.includes(name)

    def _fences(self, published: float, name: str) -> list[asyncio.Future[None]]:
        kept = self.topics[name].track is not None
        return self.context.multiplexer.fences(published, name, scripted=kept)

    def _subscribe(self, name: str) -> bool:
        return self._subscription.add(name)

    def _unsubscribe(self, name: str, *, at_once: bool = False) -> None:
        self._subscription.remove(name, at_once=at_once)


class PatternTopics(Topics):
    """Topics that are Redis patterns: a subscription each."""

    def __init__(
        self, context: Context, observer: Observer, received: Callable[[str, str, bytes], None]
    ) -> None:
        super().__init__(context, observer)
        self._received = received
        self._subscriptions: dict[str, PatternSubscription] = {}

    def activation(self, name: str) -> asyncio.Future[None]:
        return self._subscriptions[name].activation()

    def pending(self, name: str) -> tuple[Node, ...]:
        subscription = self._subscriptions.get(name)
        return subscription.pending() if subscription is not None else ()

    def refusal(self, name: str) -> Exception | None:
        subscription = self._subscriptions.get(name)
        return subscription.refusal() if subscription is not None else None

    def forget(self, name: str, activation: asyncio.Future[None]) -> None:
        subscription = self._subscriptions.get(name)
        if subscription is not None:
            subscription.forget(activation)

    def _is_lost(self, name: str, loss: LinkLost) -> bool:
        return loss.patterns

    def _fences(self, published: float, name: str) -> list[asyncio.Future[None]]:
        return self.context.multiplexer.fences(published)  # what it matches may be anywhere

    def _subscribe(self, name: str) -> bool:
        def received(channel: str, data: bytes) -> None:
            self._received(name, channel, data)

        subscription = self.context.multiplexer.new_pattern_subscription(
            name, received, on_activation=self._activated
        )
        self._subscriptions[name] = subscription
        return subscription.active

    def _unsubscribe(self, name: str, *, at_once: bool = False) -> None:
        self._subscriptions.pop(name).close(at_once=at_once)
