"""What channels are told of the link to Redis, those that ask to be told."""

from __future__ import annotations

from collections.abc import Collection

from mpx_channels.channels.inbox import Inbox
from mpx_channels.channels.mailbox import Event, Mailbox
from mpx_channels.channels.mailboxes import Mailboxes
from mpx_channels.channels.part import Context, Part
from mpx_channels.multiplexer import LinkLost

from .topics import Topic

__all__ = ["LinkEvents"]

# The kinds of topics whose names are groups, or patterns over them.
GROUPS = ("group", "group_pattern")


class LinkEvents(Part):
    """Observes memberships, and puts the events of `Hooks` into mailboxes.

    The hub has it behind the parts with memberships: they say first who was cut off.
    """

    def __init__(self, context: Context, mailboxes: Mailboxes, inbox: Inbox) -> None:
        self._context = context
        self._mailboxes = mailboxes
        self._inbox = inbox
        inbox.on_live = self._inbox_live
        # Members of what a link carried that broke just now.
        self._down: set[Mailbox] = set()
        # What those that want to know miss, if it was live.
        self._gaps: dict[Mailbox, list[str]] = {}

    # -- Observer -----------------------------------------------------------------------------

    def went_live(self, topic: Topic, mailboxes: Collection[Mailbox]) -> None:
        if not self._mailboxes.hooked:
            return
        owner = topic.owner
        for mailbox in mailboxes:
            hooks = mailbox.hooks
            if hooks is None:
                continue
            for type_ in hooks.activation:
                event = {"type": type_, "kind": owner.kind, "name": owner.public(topic.name)}
                mailbox.put_always(Event(event))
            self.left(mailbox)

    def went_down(self, topic: Topic) -> None:
        members = topic.members.values()
        self._down.update(members)
        # With a history, it is known later what was missed.
        if topic.live and topic.track is None and topic.owner.kind in GROUPS:
            for mailbox in members:
                if mailbox.hooks is not None and mailbox.hooks.gap:
                    groups = self._gaps.setdefault(mailbox, [])
                    groups.append(topic.owner.public(topic.name))

    def left(self, mailbox: Mailbox) -> None:
        """Tell a channel that was cut off, once all that it subscribed to is live again."""
        if not mailbox.cut_off:
            return
        # The newest come back last: who is in thousands of groups is looked through but once.
        if self._inbox.live and all(each.live for each in reversed(mailbox.memberships or ())):
            mailbox.cut_off = False
            for type_ in mailbox.hooks.reconnect if mailbox.hooks is not None else ():
                mailbox.put_always(Event({"type": type_}))

    def cut_off(self, mailbox: Mailbox) -> None:
        """A channel is opened while the link is down."""
        multiplexer = self._context.multiplexer
        node = multiplexer.node_of(self._inbox.name)
        error = multiplexer.error_of(node)
        self._tell_cut_off(mailbox, str(error or f"{node} has not answered yet"))

    def _tell_cut_off(self, mailbox: Mailbox, reason: str) -> None:
        mailbox.cut_off = True
        for type_ in mailbox.hooks.disconnect if mailbox.hooks is not None else ():
            # CONFIG's events are as bare as those of channels_redis.
            more = {"reason": reason} if type_.startswith("mpx.") else {}
            mailbox.put_always(Event({"type": type_, **more}))

    def _inbox_live(self) -> None:
        for mailbox in self._mailboxes.hooked:
            self.left(mailbox)

    # -- Part ---------------------------------------------------------------------------------

    def lost(self, loss: LinkLost) -> None:
        down, self._down = self._down, set()
        gaps, self._gaps = self._gaps, {}
        self._context.counters.gaps += len(down)
        everybody = loss.includes(self._inbox.name)
        for mailbox in self._mailboxes.hooked:
            # One that was not told of the link's return yet has nothing new to hear.
            if mailbox.cut_off or not (everybody or mailbox in down):
                continue
            self._tell_cut_off(mailbox, str(loss))
        for mailbox, groups in gaps.items():
            self._mailboxes.tell_gap(mailbox, "reconnect", groups)
