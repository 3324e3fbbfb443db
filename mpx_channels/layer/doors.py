"""Closing doors: the WebSockets of a group, and those of a process."""

from __future__ import annotations

from time import monotonic

from mpx_channels.loops.doors import Draining, doors, require_over
from mpx_channels.messages.closings import closing
from mpx_channels.messages.codec import Message
from mpx_channels.messages.envelope import OURS

from .hub import Hub
from .presence import PresentLayer

__all__ = ["DoorsLayer"]


class DoorsLayer(PresentLayer):
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

    # -- the whole process --------------------------------------------------------------------

    async def drain(self, over: float = 30.0) -> None:
        """Close all consumers of ours in this process one by one, on all event loops and layers.

        From now on `mpx_channels.health.ready` says that it is not ready, and a new WebSocket is
        accepted and closed with 1012 at once. Those that are open are closed one after the other,
        evenly over so many seconds, with 1012 and "service restart"; a consumer with a method
        ``mpx_drain`` gets the event instead, in the first half of that time, and is closed at the
        end if it did not. Event streams over HTTP end in their turn, other responses are left to
        end by themselves.

        Returns when the last has gone, or when `undrain` was called. Cancelling the call ends the
        waiting, not the drain. Raises `ValueError` if `over` is no number of seconds.
        """
        await doors.drain(over)

    def undrain(self) -> None:
        """End the drain: the process is ready again, and keeps its consumers. Thread-safe."""
        doors.undrain()

    async def drain_process(self, process_id: str, over: float = 30.0) -> Draining | None:
        """Have another process begin to drain; None if there is none of that id any more.

        ``process_id`` is one of `fleet_stats`, of any event loop of that process. It goes on
        without us: `draining` tells how far it has come. Raises as `drain`, `RequestTimeout` if it
        does not answer in a second, `RequestFailed` if it cannot, and as `Multiplexer.publish`.
        """
        require_over(over)
        return await self._ask_doors(process_id, {"do": "drain", "over": over})

    async def undrain_process(self, process_id: str) -> Draining | None:
        """Have another process take its drain back; else as `drain_process`."""
        return await self._ask_doors(process_id, {"do": "undrain"})

    async def draining(self, process_id: str) -> Draining | None:
        """How far the drain of another process has come; else as `drain_process`."""
        return await self._ask_doors(process_id, {"do": "draining"})

    async def _ask_doors(self, process_id: str, question: Message) -> Draining | None:
        async def ask(hub: Hub) -> Draining | None:
            await hub.inbox.ready()
            return await hub.drainer.ask(process_id, question)

        return await self._hubs.run(ask)
