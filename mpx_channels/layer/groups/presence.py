"""Presence: who is in a group, over all processes, and who comes and goes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

from mpx_channels.channels.mailbox import Delivery, Mailbox
from mpx_channels.channels.mailboxes import Mailboxes
from mpx_channels.channels.part import Context, Part
from mpx_channels.messages.codec import Message
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.multiplexer import ConnectionLost, LinkLost
from mpx_channels.presence.settings import PresenceSetting
from mpx_channels.presence.store import MOST, Page, Store
from mpx_channels.presence.values import Info, Presence, PresenceCount, split

from .groups import Groups
from .leases import Leases
from .topics import Topic

__all__ = ["GroupPresence"]

# The type of the events.
TYPE = "mpx.presence"


class GroupPresence(Part):
    """Whom channels of this event loop are in which groups, and what is told of it."""

    def __init__(
        self, context: Context, setting: PresenceSetting, groups: Groups, mailboxes: Mailboxes
    ) -> None:
        self._context = context
        self._groups = groups
        self._mailboxes = mailboxes
        self._store = Store(
            context.multiplexer,
            context.process_id,
            context.names,
            lease=setting.lease,
            linger=setting.linger,
            events=setting.events,
        )
        self._leases = Leases(context, self._store, setting.lease, self._heard)
        self.rosters = self._leases.rosters
        groups.on_presence = self._received

    # -- joining ------------------------------------------------------------------------------

    async def join(self, name: str, mailbox: Mailbox, id: str, info: Info) -> None:
        """Have a channel be in a group as somebody; raises as `Rosters.join`."""
        record = self._context.wrapping.wrap(
            self._store.members_key(name), {"id": id, "info": info}, limit=False
        )
        await self.rosters.join(name, mailbox, id, record)

    async def leave(self, name: str, mailbox: Mailbox, id: str) -> None:
        """End that at once; raises as `Rosters.leave`."""
        await self.rosters.leave(name, mailbox, id)

    # -- looking ------------------------------------------------------------------------------

    async def page(self, name: str, limit: int, after: str | None) -> Presence:
        """Up to so many members of a group, those behind a `Presence.next`.

        Raises `ValueError` for an ``after`` that is none, and as `Multiplexer.command`.
        """
        begin = self._from_token(after) if after is not None else None
        members: dict[str, Info] = {}
        left = limit
        while left:
            most = min(MOST, left)
            # One more than is wanted: so it is known whether there are more.
            page = await self._read(name, begin, most + 1)
            more, taken = len(page.ids) > most, min(most, len(page.ids))
            for record in page.records[:taken]:
                found = self._opened(name, record)
                if found is not None:
                    members[found[0]] = found[1]
            if taken:
                begin = page.ids[taken - 1]
            left -= taken
            if not more:
                return Presence(members, None)
        assert begin is not None
        return Presence(members, self._to_token(begin))

    async def count(self, name: str) -> PresenceCount:
        """How many are in a group; raises as `Multiplexer.command`."""
        page = await self._read(name, None, 0)
        return PresenceCount(page.members, page.connections)

    async def _read(self, name: str, after: bytes | None, count: int) -> Page:
        """A page of those who are there: who should have been taken out is, before."""
        page = await self._ask(name, after, count)
        dead: Sequence[str] = page.dead if self._leases.judges else ()
        if not page.overdue and not dead:
            return page
        if page.overdue:
            await self._leases.sweep(name)
        for process in dead:
            await self._leases.sweep(name, process)
        return await self._ask(name, after, count)

    async def _ask(self, name: str, after: bytes | None, count: int) -> Page:
        while True:
            # To ask twice does no harm.
            with contextlib.suppress(ConnectionLost):
                return await self._store.read(name, after, count)

    def _to_token(self, name: bytes) -> str:
        return name.hex() if self._context.wrapping.encrypts else name.decode()

    def _from_token(self, token: str) -> bytes:
        if not self._context.wrapping.encrypts:
            return token.encode()
        try:
            return bytes.fromhex(token)
        except ValueError:
            raise ValueError(f"after must be what `next` of a page said, not {token!r}") from None

    # -- events -------------------------------------------------------------------------------

    def _received(self, topic: Topic, data: bytes) -> None:
        """Somebody has come to a group, or gone."""
        if not self._mailboxes.hooked:
            return
        context, name = self._context, topic.name
        listeners = [
            mailbox
            for mailbox in topic.members.values()
            if mailbox.hooks is not None and mailbox.hooks.presence
        ]
        if not listeners:
            return
        try:
            event = self.event(name, data)
        except UnreadableMessage as error:
            context.unreadable(name, error)
            return
        body = context.wrapping.encode(event, limit=False)
        item = Delivery(context.wrapping.decode, body, context.loop.time() + context.expiry)
        if topic.track is not None:
            listeners = [each for each in listeners if not self._waits(topic, each, item)]
        self._mailboxes.deliver(listeners, item, name)

    def _waits(self, topic: Topic, mailbox: Mailbox, item: Delivery) -> bool:
        """Whether an event comes to a member later, behind messages that it has missed."""
        track, histories = topic.track, self._groups.histories
        if track is None or histories is None:
            return False
        if track.held_for(mailbox) >= mailbox.capacity:
            self._mailboxes.full(mailbox, topic.name)
            return True
        return histories.holds(topic, mailbox, item)

    def event(self, name: str, data: bytes) -> Message:
        """What somebody is told who hears of a change; raises `UnreadableMessage`."""
        change = split(data)
        joined = [self._opened(name, record) for record in change.joined]
        left = [(self._opened(name, record), cause) for record, cause in change.left]
        return {
            "type": TYPE,
            "group": self._groups.public(name),
            "joined": dict(found for found in joined if found is not None),
            "left": {found[0]: cause for found, cause in left if found is not None},
            "members": change.members,
        }

    def _opened(self, name: str, record: bytes) -> tuple[str, Info] | None:
        """The id and the info in a record; None, and counted, if it cannot be read."""
        wrapping, key = self._context.wrapping, self._store.members_key(name)
        try:
            _, body = wrapping.unwrap(key, record, math.inf)
            found = wrapping.decode(body)
            return found["id"], found["info"]
        except UnreadableMessage as error:
            self._context.unreadable(key, error)
        except (KeyError, TypeError) as error:
            self._context.unreadable(key, UnreadableMessage(f"not a member: {error!r}"))
        return None

    def _heard(self) -> Iterable[str]:
        """The groups in which somebody here hears of presence: one for each place is enough."""
        topics, multiplexer = self._groups.topics, self._context.multiplexer
        # In a cluster there are more places than nodes.
        most = math.inf if multiplexer.cluster else len(multiplexer.nodes)
        places: set[Hashable] = set()
        for mailbox in self._mailboxes.hooked:
            if mailbox.hooks is None or not mailbox.hooks.presence:
                continue
            for membership in mailbox.memberships or ():
                if isinstance(membership, Topic) and topics.get(membership.name) is membership:
                    place = multiplexer.place_of(membership.name)
                    if place not in places:
                        places.add(place)
                        yield membership.name
            if len(places) >= most:
                return

    # -- Part ---------------------------------------------------------------------------------

    def started(self) -> None:
        self._leases.start()

    def lost(self, loss: LinkLost) -> None:
        self._leases.cut_off()

    def clear(self) -> None:
        self._leases.clear()

    async def close(self, timeout: float) -> None:
        await self._leases.close(timeout)

    def abandon(self) -> None:
        self._leases.abandon()

    def counts(self) -> Mapping[str, int]:
        return {
            "presence_members": self.rosters.members(),
            "presence_connections": self.rosters.connections(),
        }
