"""From the multiplexer to the mailboxes: what each message of Redis is, and who gets it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mpx_channels.multiplexer.logs import LimitedLog

from .answers import REPLY_TO
from .codec import Message
from .envelope import UndecryptableMessage, UnreadableMessage
from .mailbox import Delivery, Event, Item, Mailbox
from .topics import Topic, Topics

if TYPE_CHECKING:
    from mpx_channels.multiplexer import Node

    from .hub import Hub

__all__ = ["Inflow"]

logger = logging.getLogger("mpx_channels.layer")


class Publication:
    """The publish that is being delivered, while wildcard groups may hear of it again.

    Redis hands one publish to a connection once for its channel and once for every pattern that
    matches, right after another. That lets us tell one publish from the next, and hand each
    mailbox one copy. With several servers, what others deliver comes in between, so there is one
    for each: a name is on one server only.
    """

    __slots__ = ("data", "excluded", "item", "name", "patterns", "receivers")

    def __init__(self, name: str, data: bytes, item: Item, excluded: Collection[str]) -> None:
        self.name = name
        self.data = data
        self.item = item
        self.excluded = frozenset(excluded)
        self.patterns: set[str] = set()
        self.receivers: set[Mailbox] = set()

    def deliver(self, mailbox: Mailbox, item: Item, inflow: Inflow) -> None:
        """To a mailbox that has not got it, and was not excluded."""
        if mailbox not in self.receivers and mailbox.channel not in self.excluded:
            self.receivers.add(mailbox)
            inflow.deliver((mailbox,), item)


class Inflow:
    """The callbacks of a hub's subscriptions. Poison is counted and dropped, and kills nobody."""

    def __init__(self, hub: Hub, expiry: float) -> None:
        self._hub = hub
        self._loop = hub.loop
        self._counters = hub.counters
        self._expiry = expiry
        self._wrapping = hub.wrapping
        self._decode = hub.wrapping.decode
        # The last one of each server, by the server's node.
        self._publications: dict[Node, Publication] = {}
        self._log = LimitedLog(logger)
        self._serving: set[asyncio.Task[None]] = set()

    def group(self, name: str, data: bytes) -> None:
        """A message to a group that has, or just had, members here."""
        self._counters.messages_in += 1
        topic = self._hub.groups.topics.get(name)
        if topic is None:
            self._counters.dropped_unroutable += 1
            return
        try:
            header, body = self._wrapping.unwrap(name, data)
            item = Delivery(self._decode, body, self._loop.time() + self._expiry)
        except UnreadableMessage as error:
            self.unreadable(name, error)
            return
        if header or self._hub.wildcards.topics:
            self._special(name, data, header, body, item, topic)
            return
        delivered = 0
        for mailbox in topic.members.values():
            if mailbox.put(item):
                delivered += 1
            else:
                self._full(mailbox)
        self._counters.deliveries += delivered

    def _special(
        self,
        name: str,
        data: bytes,
        header: Mapping[str, Any],
        body: bytes | memoryview,
        item: Delivery,
        topic: Topic,
    ) -> None:
        """A group's message that is not for all, or that wildcard groups may match."""
        wild = bool(self._hub.wildcards.topics)
        tagged = self._tagged(name, body) if wild else item
        publication = Publication(name, data, tagged, header.get("not", ()))
        if wild:
            # Kept only if it may come again: it keeps all who got it.
            self._publications[self._hub.multiplexer.server_of(name)] = publication
        else:
            self._publications.clear()
        for mailbox in topic.members.values():
            # Who uses wildcard groups finds the group's name in every event.
            publication.deliver(mailbox, tagged if mailbox.wildcards else item, self)

    def end_publication(self) -> None:
        """A pattern is new: what comes from now on is another publish, even if it looks the same.

        Redis confirms a pattern between one publish and the next, never within one.
        """
        self._publications.clear()

    def wildcard(self, pattern: str, name: str, data: bytes) -> None:
        """A message to a group that matches somebody's pattern here."""
        if ":" in self._hub.names.group_of(name):
            return  # of a layer whose prefix begins with ours: "*" matches that, too
        server = self._hub.multiplexer.server_of(name)
        publication = self._publications.get(server)
        if (
            publication is None
            or publication.name != name
            or pattern in publication.patterns
            or publication.data != data
        ):
            self._counters.messages_in += 1
            try:
                header, body = self._wrapping.unwrap(name, data)
                item = self._tagged(name, body)
            except UnreadableMessage as error:
                self.unreadable(name, error)
                return
            publication = Publication(name, data, item, header.get("not", ()))
            self._publications[server] = publication
        publication.patterns.add(pattern)
        topic = self._hub.wildcards.topics.get(pattern)
        for mailbox in topic.members.values() if topic is not None else ():
            publication.deliver(mailbox, publication.item, self)

    def _tagged(self, name: str, body: bytes | memoryview) -> Delivery:
        extra = {"mpx_group": self._hub.names.group_of(name)}
        return Delivery(self._decode, body, self._loop.time() + self._expiry, extra)

    def raw(self, name: str, data: bytes) -> None:
        """A message on a Redis channel that somebody here subscribed to."""
        event = {"type": "channel.message", "channel": name, "data": data}
        self._raw(self._hub.raw_channels, name, event)

    def raw_match(self, pattern: str, name: str, data: bytes) -> None:
        """A message on a Redis channel that matches somebody's pattern here."""
        event = {"type": "pattern.message", "pattern": pattern, "channel": name, "data": data}
        self._raw(self._hub.raw_patterns, pattern, event)

    def _raw(self, topics: Topics, name: str, event: dict[str, Any]) -> None:
        self._counters.messages_in += 1
        topic = topics.topics.get(name)
        if topic is not None:
            self.deliver(topic.members.values(), Event(event, self._loop.time() + self._expiry))

    def inbox(self, name: str, data: bytes) -> None:
        """A message to one of our channels, or an answer to a question of ours."""
        self._counters.messages_in += 1
        try:
            header, body = self._wrapping.unwrap(name, data)
            if "re" in header:
                if not self._hub.answers.reply(header["re"], self._decode(body)):
                    self._counters.dropped_unroutable += 1
                return
            if "by" in header:
                self._serve(str(header["by"]), header.get("id"), self._decode(body))
                return
            item = Delivery(self._decode, body, self._loop.time() + self._expiry)
        except UnreadableMessage as error:
            self.unreadable(name, error)
            return
        channel = header.get("to", "")
        mailbox = self._hub.mailbox_for(channel)
        if mailbox is None:
            self._counters.dropped_unroutable += 1
            self._tell_asker(item.take(), f"nobody has the channel {channel!r} any more")
        elif mailbox.put(item):
            self._counters.deliveries += 1
        else:
            self._full(mailbox)
            self._tell_asker(item.take(), f"the channel {channel!r} is full")

    def control(self, name: str, data: bytes) -> None:
        """A question to all processes; it is no traffic of the project's, so it is not counted."""
        try:
            header, body = self._wrapping.unwrap(name, data)
            asked = self._decode(body)
        except UnreadableMessage as error:
            self.unreadable(name, error)
            return
        if "by" in header and "id" in header:
            self._serve(header["by"], header["id"], asked)

    def _serve(self, process_id: str, number: object, asked: Message) -> None:
        """Another process asks for something that only this one can do."""

        async def serve() -> None:
            answer: Message
            try:
                answer = {"value": await self._hub.serving.serve(asked)}
            except Exception as error:
                answer = {"error": str(error.args[0] if error.args else error)}
            self._answer(process_id, number, answer)

        task = self._loop.create_task(serve(), name="mpx-serve")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    def _tell_asker(self, message: Message, reason: str) -> None:
        """A message was dropped: if it is a request, somebody waits in vain."""
        match message.get(REPLY_TO):
            case [str(process_id), int(number)]:
                self._answer(process_id, number, {"error": reason})

    def promise(self, name: str, data: bytes) -> None:
        """An answer to a promise; whoever gave it wants to know how many waited for it."""
        self._counters.messages_in += 1
        try:
            header, body = self._wrapping.unwrap(name, data)
            told = self._hub.answers.settle(name, self._decode(body))
        except UnreadableMessage as error:
            self.unreadable(name, error)
            return
        if "by" in header:
            self._answer(str(header["by"]), header.get("id"), {"value": told})

    def deliver(self, mailboxes: Iterable[Mailbox], item: Item) -> None:
        """Put an item into mailboxes, as far as they have room."""
        for mailbox in mailboxes:
            if mailbox.put(item):
                self._counters.deliveries += 1
            else:
                self._full(mailbox)

    def _answer(self, process_id: str, number: object, answer: Message) -> None:
        """Publish what nobody here waits for; a failure is logged."""
        name = self._hub.names.inbox(process_id)
        try:
            data = self._wrapping.wrap(name, answer, {"re": number}, limit=False)
            published = self._hub.multiplexer.publish_soon(name, data)
        except Exception as error:
            self._unpublished(name, error)
        else:
            published.add_done_callback(self._look_at(name))

    def _look_at(self, name: str) -> Callable[[asyncio.Future[int]], None]:
        def done(published: asyncio.Future[int]) -> None:
            error = None if published.cancelled() else published.exception()
            if error is not None:
                self._unpublished(name, error)

        return done

    def _unpublished(self, name: str, error: BaseException) -> None:
        """An answer is lost: whoever waits for it hears nothing before the timeout."""
        self._log.warning("answer", "Could not publish an answer to %s: %s", name, str(error))

    def given_up(self, mailbox: Mailbox, limit: int) -> None:
        """Say that a channel is taken down because there are too many that nobody reads."""
        self._log.info(
            "given up",
            "Nobody reads more than %d channels of synchronous code: taking down the oldest, %s",
            limit,
            mailbox.channel,
        )

    def _full(self, mailbox: Mailbox) -> None:
        self._counters.dropped_full += 1
        self._log.info(
            self._log.kind("full", mailbox.channel),
            "Channel %s has %d unread messages, its capacity: dropping newer ones",
            mailbox.channel,
            mailbox.capacity,
        )

    def unreadable(self, name: str, error: Exception) -> None:
        """Count a message that is none of ours, and say so at a limited rate."""
        if isinstance(error, UndecryptableMessage):
            self._counters.dropped_undecryptable += 1
            what = "undecryptable"
        else:
            self._counters.dropped_unreadable += 1
            what = "unreadable"
        self._log.warning(
            (what, type(error).__name__),
            "Dropped an %s message on %s from %s: %s",
            what,
            name,
            self._hub.multiplexer.node_of(name),
            str(error),
        )

    def abandon(self) -> None:
        """The event loop was closed: what is under way will never end."""
        for task in self._serving:
            self._hub.multiplexer.forget_task(task)

    def close(self) -> None:
        """Nothing comes any more."""
        self._log.flush()
