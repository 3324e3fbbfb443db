"""The inbox of a hub: one Redis channel, over which every message to one of its channels comes."""

from __future__ import annotations

from collections.abc import Callable

from mpx_channels.messages.codec import Message
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.multiplexer import commands

from .mailbox import Delivery
from .mailboxes import Mailboxes
from .part import Context, Part

__all__ = ["Inbox"]


class Inbox(Part):
    """Sends to channels of processes, and takes what comes to those of this one.

    What processes tell each other comes this way, too; the parts that it is for put their methods
    here: ``on_reply`` takes the number of a question and its answer, and says whether anybody
    waits for it; ``on_question`` who asks, under which number, and what; ``on_dropped`` a message
    that reached no reader, and why.
    """

    def __init__(self, context: Context, mailboxes: Mailboxes) -> None:
        self._context = context
        self._mailboxes = mailboxes
        self.name = context.names.inbox(context.process_id)
        self.on_reply: Callable[[int, Message], bool] = lambda number, answer: False
        self.on_question: Callable[[str, object, Message], None] = lambda by, number, asked: None
        self.on_dropped: Callable[[Message, str], None] = lambda message, reason: None
        self.on_live: Callable[[], None] = lambda: None
        self._subscription = context.multiplexer.new_channel_subscription(
            self._received, on_activation=lambda name: self.on_live()
        )

    @property
    def live(self) -> bool:
        """Whether what is sent to our channels arrives now."""
        return self._subscription.is_active(self.name)

    async def ready(self) -> None:
        """Return once what is sent to our channels arrives; raises as `Confirmations.wait`."""
        if not self.live:
            await self._context.confirmations.wait(self._subscription, self.name)

    def started(self) -> None:
        self._subscription.add(self.name)

    async def send(
        self, inbox: str, channel: str, message: Message, *, exactly: bool = False
    ) -> bool:
        """Send a message to a channel of the process with that inbox; False if nobody has it.

        Somebody who listens by a pattern seems to have it, unless we are to know it ``exactly``,
        which asks Redis for more.
        """
        context = self._context
        context.counters.messages_out += 1
        data = context.wrapping.wrap(inbox, message, {"to": channel})
        if exactly:
            received = await commands.publish_to_one(context.multiplexer, inbox, data)
        elif not context.multiplexer.counts_all:
            received = await commands.publish_counted(context.multiplexer, inbox, data)
        else:
            received = await context.multiplexer.publish_soon(inbox, data)
        if received:
            return True
        context.counters.dropped_unroutable += 1
        return False

    def _received(self, name: str, data: bytes) -> None:
        context = self._context
        counters, decode = context.counters, context.wrapping.decode
        counters.messages_in += 1
        try:
            header, body = context.wrapping.unwrap(name, data)
            if "re" in header:
                if not self.on_reply(header["re"], decode(body)):
                    counters.dropped_unroutable += 1
                return
            if "by" in header:
                self.on_question(header["by"], header.get("id"), decode(body))
                return
            item = Delivery(decode, body, context.loop.time() + context.expiry)
        except UnreadableMessage as error:
            context.unreadable(name, error)
            return
        channel = header.get("to", "")
        mailbox = self._mailboxes.of(channel)
        if mailbox is None:
            counters.dropped_unroutable += 1
            self.on_dropped(item.take(), f"nobody has the channel {channel!r} any more")
        elif mailbox.put(item):
            counters.deliveries += 1
        else:
            self._mailboxes.full(mailbox)
            self.on_dropped(item.take(), f"the channel {channel!r} is full")
