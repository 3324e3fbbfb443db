"""Who of this process hears which names: groups, raw channels, patterns, wildcard groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from mpx_channels.multiplexer import ChannelSubscription, Multiplexer, Node, PatternSubscription

from .mailbox import Mailbox

__all__ = ["ChannelTopics", "PatternTopics", "Tentative", "Topic", "TopicOwner", "Topics"]


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
        elif self.live and self.owner.tentative:
            self.owner.tentative.pop((self.name, channel), None)


class Tentative:
    """A membership that stands if one of the joins that wait for it comes to a good end."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting = 0


class Topics:
    """The memberships of one kind. Names are Redis' here, with the layer's prefix and all."""

    def __init__(self, kind: str, public: Callable[[str], str], owner: TopicOwner) -> None:
        self.kind = kind
        # From the name in Redis to the name as users know it.
        self.public = public
        self.topics: dict[str, Topic] = {}
        # By the topic's name and the channel.
        self.tentative: dict[tuple[str, str], Tentative] = {}
        self._owner = owner

    def join(self, name: str, mailbox: Mailbox) -> Topic:
        """Make a channel a member; messages come once the topic is live.

        Whoever waits for that says so with `wait`, and how it ended with `confirmed` or `gave_up`.
        """
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(self, name, self._subscribe(name))
        topic.add(mailbox)
        return topic

    def wait(self, name: str, mailbox: Mailbox, *, known: bool) -> Tentative | None:
        """Somebody waits for a topic that a channel joined; ``known``: it had been a member before.

        None if the membership stands whatever comes of it.
        """
        key = (name, mailbox.channel)
        if not known:
            self.tentative[key] = Tentative()
        tentative = self.tentative.get(key)
        if tentative is not None:
            tentative.waiting += 1
        return tentative

    def confirmed(self, name: str, mailbox: Mailbox, tentative: Tentative | None) -> None:
        """A wait ended well: the membership stands."""
        key = (name, mailbox.channel)
        if tentative is not None and self.tentative.get(key) is tentative:
            del self.tentative[key]

    def gave_up(self, name: str, mailbox: Mailbox, tentative: Tentative | None) -> None:
        """A wait ended in vain: if it was the last for this membership, the channel leaves."""
        if tentative is None:
            return
        tentative.waiting -= 1
        if not tentative.waiting and self.tentative.get((name, mailbox.channel)) is tentative:
            self.leave(name, mailbox)

    def leave(self, name: str, mailbox: Mailbox) -> None:
        """Make a channel no member; harmless if it is none."""
        topic = self.topics.get(name)
        if topic is None or topic.members.pop(mailbox.channel, None) is None:
            return
        if self.tentative:
            self.tentative.pop((name, mailbox.channel), None)
        if mailbox.memberships is not None:
            mailbox.memberships.remove(topic)
        if not topic.members:
            del self.topics[name]
            self._unsubscribe(name)
        if mailbox.cut_off:
            self._owner.topic_left(mailbox)

    def clear(self) -> None:
        """Have no members at all; Redis is told at once."""
        self.tentative.clear()
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

    def activation(self, name: str) -> asyncio.Future[None]:
        return self._subscription.activation(name)

    def pending(self, name: str) -> tuple[Node, ...]:
        return self._subscription.pending(name)

    def refusal(self, name: str) -> Exception | None:
        return self._subscription.refusal(name)

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

    def activation(self, name: str) -> asyncio.Future[None]:
        return self._subscriptions[name].activation()

    def pending(self, name: str) -> tuple[Node, ...]:
        subscription = self._subscriptions.get(name)
        return subscription.pending() if subscription is not None else ()

    def refusal(self, name: str) -> Exception | None:
        subscription = self._subscriptions.get(name)
        return subscription.refusal() if subscription is not None else None

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
