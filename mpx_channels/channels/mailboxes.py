"""The channels of a hub: their mailboxes, who reads them, and when they end."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Iterable, Mapping

from mpx_channels.messages.codec import Message
from mpx_channels.multiplexer import MultiplexerStopped

from .idle import Idle, Unread
from .mailbox import Event, Failure, Hooks, Item, Mailbox, Taken
from .part import Context, Part

__all__ = ["Mailboxes"]

# Channels of synchronous callers that nobody reads at the moment; with more, the oldest ends.
SHARED_IDLE = 10_000


class Mailboxes(Part):
    """All channels that are open on an event loop, by their names.

    ``shared``: they are those of synchronous callers, who read now and then, and none of whom says
    when it ends. ``hooks``: for all of them.
    """

    def __init__(
        self, context: Context, *, group_expiry: float, hooks: Hooks | None, shared: bool
    ) -> None:
        self._context = context
        self._shared = shared
        self._hooks = hooks
        self._local_names = itertools.count(1)
        self.by_channel: dict[str, Mailbox] = {}
        # Those with hooks, in the order of their making.
        self.hooked: dict[Mailbox, None] = {}
        # What those that are full, and want to know, will read of it.
        self._overflows: dict[Mailbox, _Overflow] = {}
        # Of who receives with a bare prefix, by that.
        self._by_prefix: dict[str, Mailbox] = {}
        self._idle = Idle(group_expiry if shared else context.expiry, self._take_down)
        self._unread = Unread(context.loop, group_expiry, self.by_channel, self._take_down)

    def started(self) -> None:
        self._unread.start()

    # -- opening and closing ------------------------------------------------------------------

    def new_name(self, prefix: str) -> str:
        """The name of a channel that was not given out yet."""
        return f"{prefix}{self._context.process_id}!{next(self._local_names):x}"

    def open(self, channel: str, capacity: int) -> Mailbox:
        """A mailbox for a channel of this process; a bare prefix is one for all with it."""
        context = self._context
        flow = context.multiplexer.flow
        mailbox = Mailbox(channel, capacity, context.loop, context.counters, flow)
        if channel.endswith("!"):
            for name, other in self.by_channel.items():
                if name.startswith(channel):
                    other.move_to(mailbox)
            self._by_prefix[channel] = mailbox
        elif self._by_prefix:
            mailbox.prefix_mailbox = self._by_prefix.get(_prefix_of(channel))
        self.by_channel[channel] = mailbox
        if self._hooks is not None:
            self.hook(mailbox, self._hooks)
        return mailbox

    def close_one(self, mailbox: Mailbox) -> None:
        """Take a channel down, with its messages and its memberships."""
        reopened = self.by_channel.pop(mailbox.channel, None)
        if reopened is not None and reopened is not mailbox:
            # Its consumer has joined a group after it had ended, or after its socket was closed.
            self.close_one(reopened)
        self.hooked.pop(mailbox, None)
        if self._by_prefix.pop(mailbox.channel, None) is not None:
            for other in self.by_channel.values():
                if other.prefix_mailbox is mailbox:
                    other.prefix_mailbox = None
        if self._overflows:
            self._overflows.pop(mailbox, None)
        self._idle.forget(mailbox)
        mailbox.cut_off = False
        memberships, mailbox.memberships = mailbox.memberships, None
        for membership in memberships or ():
            membership.leave(mailbox)
        mailbox.clear()

    def hook(self, mailbox: Mailbox, hooks: Hooks) -> None:
        """Have a channel get these events; on top of those it gets already."""
        mailbox.hooks = hooks if mailbox.hooks is None else mailbox.hooks + hooks
        self.hooked[mailbox] = None

    # -- readers ------------------------------------------------------------------------------

    def set_in_use(self, mailbox: Mailbox) -> None:
        """A reader came back to a channel that may be idle."""
        mailbox.idle = False
        self._idle.forget(mailbox)

    def set_idle(self, mailbox: Mailbox) -> None:
        """The last reader was cancelled: if none comes back within the expiry, the channel ends.

        Channels' consumers cancel their `receive` when they end. A reader that merely timed out
        comes back sooner. The channels of synchronous callers stay for longer, but not any number
        of them.
        """
        self._idle.add(mailbox)
        if self._shared and len(self._idle) > SHARED_IDLE:
            oldest, log = self._idle.oldest, self._context.log
            log.info(
                "too many idle",
                "Nobody reads more than %d channels of synchronous code: taking down the oldest, "
                "%s",
                SHARED_IDLE,
                oldest.channel,
            )
            self.close_one(oldest)

    async def take(self, mailbox: Mailbox) -> Taken:
        """The next message, and what has the next reader get it instead; cancelling loses none."""
        self.set_in_use(mailbox)
        waiter = mailbox.ask()
        try:
            item = await waiter
        except asyncio.CancelledError:
            mailbox.withdraw(waiter)
            raise
        finally:
            if not mailbox.waited_for:
                self.set_idle(mailbox)
        return item.take(), functools.partial(mailbox.put_always, item, first=True)

    def _take_down(self, mailbox: Mailbox) -> None:
        if self.by_channel.get(mailbox.channel) is mailbox:
            self.close_one(mailbox)

    # -- messages -----------------------------------------------------------------------------

    def of(self, channel: str) -> Mailbox | None:
        """Where a message to this channel goes; also to one that nobody opened by its full name."""
        mailbox = self.by_channel.get(channel)
        if mailbox is None and self._by_prefix:
            mailbox = self._by_prefix.get(_prefix_of(channel))
        return mailbox

    def deliver(self, mailboxes: Iterable[Mailbox], item: Item, name: str | None = None) -> None:
        """Put an item into mailboxes, as far as they have room; ``name`` as in `full`."""
        delivered = 0
        for mailbox in mailboxes:
            if mailbox.put(item):
                delivered += 1
            else:
                self.full(mailbox, name)
        self._context.counters.deliveries += delivered

    def full(self, mailbox: Mailbox, name: str | None = None) -> None:
        """A message was dropped: its mailbox is at its capacity. ``name``: in Redis, of a group."""
        if mailbox.hooks is not None and mailbox.hooks.gap:
            overflow = self._overflows.get(mailbox)
            if overflow is None:
                overflow = self._overflows[mailbox] = _Overflow(mailbox, self._overflows)
                mailbox.put_always(overflow)
            overflow.add(self._context.names.group_of(name) if name is not None else None)
        log = self._context.log
        self._context.counters.dropped_full += 1
        log.info(
            log.kind("full", mailbox.channel),
            "Channel %s has %d unread messages, its capacity: dropping newer ones",
            mailbox.channel,
            mailbox.capacity,
        )

    def tell_gap(
        self,
        mailbox: Mailbox,
        reason: str,
        groups: list[str],
        *,
        recovered: bool = False,
        dropped: int | None = None,
    ) -> None:
        """Tell a channel, if it wants to know, that it missed something in front of what comes."""
        for type_ in mailbox.hooks.gap if mailbox.hooks is not None else ():
            event = {"type": type_, "reason": reason, "groups": groups, "recovered": recovered}
            mailbox.put_always(Event({**event, "dropped": dropped}))

    # -- Part ---------------------------------------------------------------------------------

    def clear(self) -> None:
        for mailbox in self.by_channel.values():
            mailbox.clear()
            mailbox.memberships = None
            mailbox.wildcards = 0

    async def close(self, timeout: float) -> None:
        self._idle.close()
        self._unread.close()

    def closed(self) -> None:
        """The connections are closed: synchronous readers would wait for ever.

        Their loop goes on, and nobody cancels them.
        """
        if self._shared:
            for mailbox in tuple(self.by_channel.values()):
                while mailbox.waited_for:
                    mailbox.put_always(Failure(MultiplexerStopped("the layer was closed")))

    def counts(self) -> Mapping[str, int]:
        return {
            "channels": len(self.by_channel),
            "unread": sum(map(len, self.by_channel.values())),
        }


class _Overflow(Event):
    """Messages that a full mailbox dropped; it counts on until it is read."""

    __slots__ = ("_groups", "_mailbox", "_open")

    def __init__(self, mailbox: Mailbox, open_: dict[Mailbox, _Overflow]) -> None:
        assert mailbox.hooks is not None
        event = {"type": mailbox.hooks.gap[0], "reason": "overflow", "groups": []}
        super().__init__({**event, "recovered": False, "dropped": 0})
        self._groups: dict[str, None] = {}
        self._mailbox = mailbox
        self._open = open_

    def add(self, group: str | None) -> None:
        """One more."""
        self.message["dropped"] += 1
        if group is not None:
            self._groups[group] = None

    def take(self) -> Message:
        if self._open.get(self._mailbox) is self:
            del self._open[self._mailbox]
        return {**self.message, "groups": list(self._groups)}


def _prefix_of(channel: str) -> str:
    return channel.partition("!")[0] + "!"
