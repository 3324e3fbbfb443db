"""Who is in a group: a layer's methods for presence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpx_channels.presence.settings import require_id, require_info, require_limit
from mpx_channels.presence.values import Presence, PresenceCount

from .messaging import MessagingLayer

__all__ = ["PresentLayer"]


class PresentLayer(MessagingLayer):
    """Who is in a group, over all processes."""

    async def presence_join(
        self, group: str, channel: str, id: str, info: Mapping[str, Any] | None = None
    ) -> None:
        """Have `channel` be in a group as `id`, such as a user's key; returns once Redis knows.

        `info` (1 KiB at most) belongs to the id; the latest join sets it. Several channels with the
        same id are one member with several connections. Presence ends with the channel. It does not
        make the channel get the group's messages: use `group_add` for that.

        Raises `TypeError` and `ValueError` for invalid names, ids and infos, `PlainChannel`,
        `ForeignChannel` if the channel's process is gone, and as `Multiplexer.publish` if Redis
        does not accept it; the channel is not present then. If an answer is lost, the command is
        repeated.
        """
        self._group_name(group)
        known = require_info(info, self.wrapping.encode)
        inbox, capacity = self._require_inbox(channel), self.get_capacity(channel)
        require_id(id)
        await self._hubs.run(
            lambda hub: hub.join_presence(group, channel, inbox, capacity, id, known)
        )

    async def presence_leave(self, group: str, channel: str, id: str) -> None:
        """Take `channel` out of a group as `id`; does nothing if it is not in it.

        If that was the last connection, the id leaves at once, without lingering. Raises as
        `presence_join`; if Redis cannot be told now, it is told later.
        """
        self._group_name(group)
        inbox = self._inbox_name(channel)
        require_id(id)
        await self._hubs.run(lambda hub: hub.leave_presence(group, channel, inbox, id))

    async def presence(
        self, group: str, *, limit: int = 1000, after: str | None = None
    ) -> Presence:
        """Who is in a group: up to `limit` members, and the ``after`` for the next page.

        The order is stable. Members whose last connection ended less than ``presence_linger``
        seconds ago are still listed. Raises `ValueError` for a `limit` below 1 and for an `after`
        that cannot be from a page, and as `Multiplexer.publish`.
        """
        name = self._group_name(group)
        require_limit(limit)
        if after is not None and not isinstance(after, str):
            raise TypeError(f"after must be what `next` of a page said, not {after!r}")
        return await self._hubs.run(lambda hub: hub.presence.page(name, limit, after))

    async def presence_count(self, group: str) -> PresenceCount:
        """How many members and connections a group has; equally fast for groups of any size."""
        name = self._group_name(group)
        return await self._hubs.run(lambda hub: hub.presence.count(name))
