"""Who of this process hears which names: groups, raw channels, patterns, wildcard groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from mpx_channels.multiplexer import ChannelSubscription, Multiplexer, Node, PatternSubscription

from .mailbox import Mailbox

__all__ = ["ChannelTopics", "PatternTopics", "Topic", "TopicOwner", "Topics"]


class TopicOwner(Protocol):
    """Whoever the topics belong to: it hears of messages and of activations."""

    def topic_live(self, topics: Topics, name: str, topic: Topic, /) -> None:
        """Redis delivers this name from now on."""

    def link_down(self, error: Exception, /) -> None:
        """A link broke that topics are on: `Topics.went_down` says which."""

    def topic_left(self, mailbox: Mailbox, /) -> None:
        """A channel that was cut off has one name less to wait for."""


class Topic:
    """One name, and the channels of this process that hear it."""

    __slots__ = ("live", "members", "name", "owner")

    def __init__(self, owner: Topics, name: str, live: bool) -> None:
        self.owner = owner
        self.name = name
        self.members: dict[str, Mailbox] = {}
        # Whether Redis delivers the name here now.
        self.live = live

    def add(self, mailbox: Mailbox) -> None:
        """Make a channel a member; once is enough."""
        members, channel = self.members, mailbox.channel
        if channel not in members:
            members[channel] = mailbox
            if mailbox.memberships is None:
                mailbox.memberships = [self]
            else:
                mailbox.memberships.append(self)
        elif self.owner.leaving:
            self.owner.leaving.pop((self, mailbox), None)  # it stays instead


class Topics:
    """The memberships of one kind. Names are Redis' here, with the layer's prefix and all."""

    def __init__(self, kind: str, public: Callable[[str], str], owner: TopicOwner) -> None:
        self.kind = kind
        # From the name in Redis to the name as users know it.
        self.public = public
        self.topics: dict[str, Topic] = {}
        # Members that leave once something has come, each with a token of this leave.
        self.leaving: dict[tuple[Topic, Mailbox], object] = {}
        self._owner = owner

    def join(self, name: str, mailbox: Mailbox) -> Topic:
        """Make a channel a member; messages come once the topic is live."""
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(self, name, self._subscribe(name))
        topic.add(mailbox)
        return topic

    def leave(self, name: str, mailbox: Mailbox) -> None:
        """Make a channel no member; harmless if it is none."""
        try:
            topic = self.topics[name]
            del topic.members[mailbox.channel]
        except KeyError:
            return
        if mailbox.memberships is not None:
            mailbox.memberships.remove(topic)
        if not topic.members:
            del self.topics[name]
            self._unsubscribe(name)
        if mailbox.cut_off:
            self._owner.topic_left(mailbox)

    async def leave_after(self, published: float, name: str, mailbox: Mailbox) -> None:
        """As `leave`, once the channel has what this process had published at that moment.

        Joining meanwhile is not undone. Whoever is cancelled leaves at once: nobody would come back
        to do it again, and to go on hearing of a group is worse than to miss one's own message.
        """
        topic = self.topics.get(name)
        if topic is None or mailbox.channel not in topic.members:
            return
        key = (topic, mailbox)
        fences = self.fences(published, name)
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

    def clear(self) -> None:
        """Have no members at all; Redis is told at once."""
        self.leaving.clear()
        for name in list(self.topics):
            del self.topics[name]
            self._unsubscribe(name, at_once=True)

    def memberships(self) -> int:
        """How many pairs of a name and a channel there are."""
        return sum(len(topic.members) for topic in self.topics.values())

    def went_live(self, name: str) -> None:
        """Redis has confirmed a name."""
        topic = self.topics.get(name)
        if topic is not None and not topic.live:
            topic.live = True
            self._owner.topic_live(self, name, topic)

    def went_down(self, error: Exception) -> list[Topic]:
        """A link broke: return the topics that were on it.

        Nothing is delivered to them until Redis confirms again.
        """
        raise NotImplementedError

    def fences(self, published: float, name: str) -> list[asyncio.Future[None]]:
        """Done once what was published, and the name hears, was delivered."""
        raise NotImplementedError

    def activation(self, name: str) -> asyncio.Future[None]:
        """Done once Redis has confirmed the name."""
        raise NotImplementedError

    def pending(self, name: str) -> tuple[Node, ...]:
        """The servers that have not confirmed the name."""
        raise NotImplementedError

    def forget(self, name: str, activation: asyncio.Future[None]) -> None:
        """Nobody waits for this future any more."""
        raise NotImplementedError

    def _subscribe(self, name: str) -> bool:
        """Have Redis deliver the name; return whether it does so already."""
        raise NotImplementedError

    def _unsubscribe(self, name: str, *, at_once: bool = False) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return iter(self.topics)


class ChannelTopics(Topics):
    """Topics that are Redis channels: all of them are one subscription of the multiplexer."""

    def __init__(
        self,
        kind: str,
        public: Callable[[str], str],
        owner: TopicOwner,
        multiplexer: Multiplexer,
        on_message: Callable[[str, bytes], None],
    ) -> None:
        super().__init__(kind, public, owner)
        self._multiplexer = multiplexer
        self._subscription: ChannelSubscription = multiplexer.new_channel_subscription(
            on_message, owner.link_down, self.went_live
        )

    def went_down(self, error: Exception) -> list[Topic]:
        concerns = self._multiplexer.concerns
        down = [topic for topic in self.topics.values() if concerns(error, topic.name)]
        for topic in down:
            topic.live = False
        return down

    def fences(self, published: float, name: str) -> list[asyncio.Future[None]]:
        return self._multiplexer.fences(published, name)

    def activation(self, name: str) -> asyncio.Future[None]:
        return self._subscription.activation(name)

    def pending(self, name: str) -> tuple[Node, ...]:
        return self._subscription.pending(name)

    def forget(self, name: str, activation: asyncio.Future[None]) -> None:
        self._subscription.forget(name, activation)

    def _subscribe(self, name: str) -> bool:
        self._subscription.add(name)
        return self._subscription.is_active(name)

    def _unsubscribe(self, name: str, *, at_once: bool = False) -> None:
        self._subscription.remove(name, at_once=at_once)


class PatternTopics(Topics):
    """Topics that are Redis patterns: a subscription each."""

    def __init__(
        self,
        kind: str,
        public: Callable[[str], str],
        owner: TopicOwner,
        multiplexer: Multiplexer,
        on_message: Callable[[str, str, bytes], None],
    ) -> None:
        super().__init__(kind, public, owner)
        self._multiplexer = multiplexer
        self._on_message = on_message
        self._subscriptions: dict[str, PatternSubscription] = {}

    def fences(self, published: float, name: str) -> list[asyncio.Future[None]]:
        return self._multiplexer.fences(published)  # what it matches may be anywhere

    def activation(self, name: str) -> asyncio.Future[None]:
        return self._subscriptions[name].activation()

    def pending(self, name: str) -> tuple[Node, ...]:
        subscription = self._subscriptions.get(name)
        return subscription.pending() if subscription is not None else ()

    def went_down(self, error: Exception) -> list[Topic]:
        # Each is on every server.
        for topic in self.topics.values():
            topic.live = False
        return list(self.topics.values())

    def forget(self, name: str, activation: asyncio.Future[None]) -> None:
        subscription = self._subscriptions.get(name)
        if subscription is not None:
            subscription.forget(activation)

    def _subscribe(self, name: str) -> bool:
        def on_message(channel: str, data: bytes) -> None:
            self._on_message(name, channel, data)

        subscription = self._multiplexer.new_pattern_subscription(
            name, on_message, self._owner.link_down, self.went_live
        )
        self._subscriptions[name] = subscription
        return subscription.active

    def _unsubscribe(self, name: str, *, at_once: bool = False) -> None:
        self._subscriptions.pop(name).close(at_once=at_once)
