"""Groups: a Redis channel each, over which a message comes to this process once."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence

from mpx_channels.channels.mailbox import Delivery, Event
from mpx_channels.channels.mailboxes import Mailboxes
from mpx_channels.channels.part import Context
from mpx_channels.messages.envelope import OURS, POSITIONED, PRESENCE
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.multiplexer import BacklogFull, commands

from .topics import ChannelTopics, Observer, Topic
from .wildcards import Wildcards

__all__ = ["Groups"]


class Groups(ChannelTopics):
    """The groups that channels of this event loop are in."""

    kind = "group"

    def __init__(
        self, context: Context, observer: Observer, mailboxes: Mailboxes, wildcards: Wildcards
    ) -> None:
        super().__init__(context, observer, self._received)
        self._mailboxes = mailboxes
        self._wildcards = wildcards
        # Looked up for every message.
        self._unwrap = context.wrapping.unwrap
        self._decode = context.wrapping.decode
        self._time = context.loop.time
        # What becomes of a change of who is in a group.
        self.on_presence: Callable[[Topic, bytes], None] = lambda topic, data: None

    def public(self, name: str) -> str:
        return self.context.names.group_of(name)

    async def send(self, name: str, data: bytes) -> None:
        """Publish a message."""
        self.context.counters.messages_out += 1
        await self.context.multiplexer.publish_soon(name, data)

    async def send_counted(self, name: str, data: bytes) -> int:
        """Publish a message; return how many processes got it."""
        self.context.counters.messages_out += 1
        return await commands.publish_counted(self.context.multiplexer, name, data)

    async def send_many(self, frames: Sequence[tuple[str, bytes]]) -> None:
        """Publish in one write; if Redis refuses some, the others were sent."""
        sent: list[asyncio.Future[int]] = []
        self.context.counters.messages_out += len(frames)
        publish = self.context.multiplexer.publish_soon
        try:
            for name, data in frames:
                sent.append(publish(name, data))
        except BacklogFull:
            for future in sent:
                future.cancel()  # takes back those that have not left
            raise
        for result in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _received(self, name: str, data: bytes) -> None:
        """A message to a group that has, or just had, members here."""
        context = self.context
        counters = context.counters
        counters.messages_in += 1
        topic = self.topics.get(name)
        if topic is None:
            counters.dropped_unroutable += 1
            return
        if topic.track is not None and self.histories is not None and data.startswith(POSITIONED):
            self.histories.received(topic, data)
            return
        try:
            header, body = self._unwrap(name, data)
            item = Delivery(self._decode, body, self._time() + context.expiry)
        except UnreadableMessage as error:
            # Here, where no message comes by.
            if data.startswith(PRESENCE):
                self.on_presence(topic, data)
            else:
                context.unreadable(name, error)
            return
        members = topic.members.values()
        if header or self._wildcards.topics:
            if OURS in header:
                self._for_ours(topic, item)
                return
            excluded = header.get("not", ())
            self._wildcards.deliver_first(name, data, body, item, excluded, members)
            return
        delivered = 0
        for mailbox in members:
            if mailbox.put(item):
                delivered += 1
            else:
                self._mailboxes.full(mailbox, name)
        counters.deliveries += delivered

    def _for_ours(self, topic: Topic, item: Delivery) -> None:
        """A message that consumers of ours get, and that is not dropped for lack of room."""
        event = Event({**item.take(), "group": self.public(topic.name)})
        histories = self.histories if topic.track is not None else None
        for mailbox in topic.members.values():
            if mailbox.closable:
                self.context.counters.deliveries += 1
                if histories is None or not histories.holds(topic, mailbox, event):
                    mailbox.put_always(event)

    # -- look ---------------------------------------------------------------------------------

    def size(self, group: str) -> int:
        """How many channels of this event loop are in a group."""
        return len(self.members_of(self.context.names.group(group)))

    def largest(self, most: int) -> dict[str, int]:
        """The groups with the most members here, and how many these are."""
        sized = ((len(topic.members), topic.name) for topic in self.topics.values())
        return {self.public(name): size for size, name in heapq.nlargest(most, sized)}

    def counts(self) -> Mapping[str, int]:
        return {"groups": len(self.topics), "memberships": self.memberships()}
