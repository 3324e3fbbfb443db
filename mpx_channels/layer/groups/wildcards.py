"""Wildcard groups: a channel hears all groups whose names match a pattern, each message once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from mpx_channels.channels.mailbox import Delivery, Item, Mailbox
from mpx_channels.channels.mailboxes import Mailboxes
from mpx_channels.channels.part import Context
from mpx_channels.history.positions import split, text
from mpx_channels.messages.envelope import OURS, POSITIONED, PRESENCE
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.multiplexer import Node

from .topics import Observer, PatternTopics, Topic

__all__ = ["Wildcards"]

Put = Callable[[Mailbox, Item], object]


class _Copies:
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

    def deliver(
        self, mailbox: Mailbox, item: Item, mailboxes: Mailboxes, put: Put | None = None
    ) -> None:
        """To a mailbox that has not got it, and was not excluded."""
        if mailbox not in self.receivers and mailbox.channel not in self.excluded:
            self.receivers.add(mailbox)
            if put is not None:
                put(mailbox, item)
            else:
                mailboxes.deliver((mailbox,), item, self.name)


class Wildcards(PatternTopics):
    """The wildcard groups of an event loop. Its patterns are over Redis' names of groups."""

    kind = "group_pattern"

    def __init__(self, context: Context, observer: Observer, mailboxes: Mailboxes) -> None:
        super().__init__(context, observer, self._match)
        self._mailboxes = mailboxes
        # The members of a group with a history.
        self.with_history: Callable[[str], Collection[Mailbox]] = lambda name: ()
        # Whether there are groups with a history at all.
        self.some_kept = False
        # The last publish of each server, by the server's node.
        self._copies: dict[Node, _Copies] = {}

    def public(self, name: str) -> str:
        return self.context.names.group_pattern_of(name)

    def enter(self, name: str, mailbox: Mailbox) -> Topic:
        topic = self.topics.get(name)
        if topic is None or mailbox.channel not in topic.members:
            mailbox.wildcards += 1
        entered = super().enter(name, mailbox)
        if topic is None and entered.live:
            # Redis has the pattern still, and will not confirm it.
            self._copies.clear()
        return entered

    def leave(self, name: str, mailbox: Mailbox) -> bool:
        left = super().leave(name, mailbox)
        if left:
            mailbox.wildcards -= 1
        return left

    def deliver_first(
        self,
        name: str,
        data: bytes,
        body: bytes | memoryview,
        item: Delivery,
        excluded: Collection[str],
        members: Collection[Mailbox],
        *,
        put: Put | None = None,
        behind: Collection[Mailbox] = (),
    ) -> None:
        """To the members of a group what came by the group's own name.

        Of a group with a history, ``put`` is how, and ``behind`` get it out of that.
        """
        if self.topics:
            # Kept only if it may come again: it keeps all who got it.
            tagged = self._tagged(name, data, body, item.expires)
            copies = _Copies(name, data, tagged, excluded)
            self._copies[self.context.multiplexer.server_of(name)] = copies
        else:
            tagged = item
            copies = _Copies(name, data, item, excluded)
            self._copies.clear()
        if behind:
            copies.receivers.update(behind)
        for mailbox in members:
            copies.deliver(mailbox, tagged if mailbox.wildcards else item, self._mailboxes, put)

    def _fences(self, published: float, name: str) -> list[asyncio.Future[None]]:
        return self.context.multiplexer.fences(published, scripted=self.some_kept)

    def _match(self, pattern: str, name: str, data: bytes) -> None:
        """A message to a group that matches somebody's pattern here."""
        context = self.context
        if ":" in context.names.group_of(name):
            return  # of a layer whose prefix begins with ours: "*" matches that, too
        server = context.multiplexer.server_of(name)
        copies = self._copies.get(server)
        if (
            copies is None
            or copies.name != name
            or pattern in copies.patterns
            or copies.data != data
        ):
            context.counters.messages_in += 1
            try:
                header, body = context.wrapping.unwrap(name, data)
                item = self._tagged(name, data, body, context.loop.time() + context.expiry)
            except UnreadableMessage as error:
                # Who comes and goes is for members of the group itself.
                if not data.startswith(PRESENCE):
                    context.unreadable(name, error)
                return
            if OURS in header:
                return  # for members of the group, and no event for others
            copies = self._copies[server] = _Copies(name, data, item, header.get("not", ()))
            if data.startswith(POSITIONED):
                # They get it by the group itself, or out of its history.
                copies.receivers.update(self.with_history(name))
        copies.patterns.add(pattern)
        for mailbox in self.members_of(pattern):
            copies.deliver(mailbox, copies.item, self._mailboxes)

    def _activated(self, name: str) -> None:
        # A pattern is new: what comes from now on is another publish, even if it looks the same.
        # Redis confirms a pattern between one publish and the next, never within one. Whoever adds
        # one may do so within one, while its other copies wait for a reader.
        self._copies.clear()
        super()._activated(name)

    def counts(self) -> Mapping[str, int]:
        return {"patterns": len(self.topics)}

    def _tagged(self, name: str, data: bytes, body: bytes | memoryview, expires: float) -> Delivery:
        context = self.context
        extra = {"mpx_group": context.names.group_of(name)}
        if data.startswith(POSITIONED):
            extra["mpx_position"] = text(split(data))
        return Delivery(context.wrapping.decode, body, expires, extra)
