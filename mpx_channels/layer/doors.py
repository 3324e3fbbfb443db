"""Closing doors: the WebSockets of a group, and those of a process."""

from __future__ import annotations

from time import monotonic

from mpx_channels.messages.closings import closing
from mpx_channels.messages.envelope import OURS

from .messaging import MessagingLayer

__all__ = ["DoorsLayer"]


class DoorsLayer(MessagingLayer):
    """Who has to go, and who is not let in."""

    async def group_close(self, group: str, code: int = 4000, reason: str = "") -> int:
        """Close every WebSocket in a group, after the messages before; of consumers of ours alone.

        Returns how many processes were told; with 0, nobody of the group is connected. A process
        whose link to Redis is broken at the moment is not told, and is not counted. A consumer
        with a method ``mpx_close`` gets the event before it is closed, and is not if that returns
        False. `code` is one from 4000 to 4999 or of RFC 6455, `reason` has 123 bytes at most.
        Raises `TypeError` and `ValueError` for what is neither, and as `group_send`.
        """
        name = self._group_name(group)
        data = self.wrapping.wrap(name, closing(code, reason), {OURS: True})
        try:
            return await self._hubs.run(lambda hub: hub.groups.send_counted(name, data))
        finally:  # it may have been sent
            self._published_at[name] = monotonic()

    def require_closing(self, group: str, code: int, reason: str) -> None:
        """Raise `TypeError` or `ValueError` for what `group_close` would not take."""
        self.require_valid_group_name(group)
        closing(code, reason)

    async def turned_away(self, *, drained: bool) -> None:
        """Count a consumer that was not let in, for ``max_consumers`` or since we are drained."""
        counters = (await self._hubs.open()).counters
        if drained:
            counters.drained += 1
        else:
            counters.refused += 1
