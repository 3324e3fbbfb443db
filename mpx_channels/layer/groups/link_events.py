"""What channels are told of the link to Redis, those that ask to be told."""

from __future__ import annotations

from collections.abc import Collection

from mpx_channels.multiplexer import LinkLost

from ..channels.inbox import Inbox
from ..channels.mailbox import Event, Mailbox
from ..channels.mailboxes import Mailboxes
from ..part import Context, Part
from .topics import Topic

__all__ = ["LinkEvents"]


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

    def went_down(self, mailboxes: Collection[Mailbox]) -> None:
        self._down.update(mailboxes)

    def left(self, mailbox: Mailbox) -> None:
        """Tell a channel that was cut off, once all that it subscribed to is live again."""
        if not mailbox.cut_off:
            return
        # The newest come back last: who is in thousands of groups is looked through but once.
        if self._inbox.live and all(each.live for each in reversed(mailbox.memberships or ())):
            mailbox.cut_off = False
            for type_ in mailbox.hooks.reconnect if mailbox.hooks is not None else ():
                mailbox.put_always(Event({"type": type_}))

    def _inbox_live(self) -> None:
        for mailbox in self._mailboxes.hooked:
            self.left(mailbox)

    # -- Part ---------------------------------------------------------------------------------

    def lost(self, loss: LinkLost) -> None:
        down, self._down = self._down, set()
        self._context.counters.gaps += len(down)
        everybody = loss.includes(self._inbox.name)
        for mailbox in self._mailboxes.hooked:
            # One that was not told of the link's return yet has nothing new to hear.
            if mailbox.cut_off or not (everybody or mailbox in down):
                continue
            mailbox.cut_off = True
            for type_ in mailbox.hooks.disconnect if mailbox.hooks is not None else ():
                # CONFIG's events are as bare as those of channels_redis.
                reason = {"reason": str(loss)} if type_.startswith("mpx.") else {}
                mailbox.put_always(Event({"type": type_, **reason}))
