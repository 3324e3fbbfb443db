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
    """Closing the consumers of a group or a process, and refusing new ones."""

    async def group_close(self, group: str, code: int = 4000, reason: str = "") -> int:
        """Close every WebSocket of our consumers in a group, after the messages sent before.

        Returns how many processes were told; 0 means that nobody in the group is connected. A
        process whose link to Redis is broken at the moment is not told, and not counted. If a
        consumer has a method ``mpx_close``, it gets the event first, and the socket stays open if
        it returns False. `code` is from 4000 to 4999 or a code of RFC 6455; `reason` has at most
        123 bytes. Raises `TypeError` and `ValueError` for other values, and as `group_send`.
        """
        name = self._group_name(group)
        data = self.wrapping.wrap(name, closing(code, reason), {OURS: True})
        try:
            return await self._hubs.run(lambda hub: hub.group_close(name, data))
        finally:  # it may have been sent
            self._published_at[name] = monotonic()

    def require_closing(self, group: str, code: int, reason: str) -> None:
        """Raise `TypeError` or `ValueError` for what `group_close` does not accept."""
        self.require_valid_group_name(group)
        closing(code, reason)

    async def turned_away(self, *, drained: bool) -> None:
        """Count a consumer that was refused because of ``max_consumers`` or a drain."""
        counters = (await self._hubs.open()).counters
        if drained:
            counters.drained += 1
        else:
            counters.refused += 1

    # -- the whole process --------------------------------------------------------------------

    async def drain(self, over: float = 30.0) -> None:
        """Close all our consumers in this process one by one, on all event loops and layers.

        From now on `mpx_channels.health.ready` reports the process as not ready, and a new
        WebSocket is accepted and at once closed with 1012. The open ones are closed one after the
        other, spread evenly over ``over`` seconds, with 1012 and "service restart". A consumer with
        a method ``mpx_drain`` gets the event instead, in the first half of that time; if it has not
        closed by the end, it is closed then. Event streams over HTTP are ended in their turn; other
        responses are left to finish by themselves.

        Returns when the last one has closed, or when `undrain` is called. Cancelling the call ends
        the wait, not the drain. Raises `ValueError` if `over` is not a number of seconds, and
        `RuntimeError` in a handler of a consumer, which would wait for its own end: there, call
        it by ``self.start_task(layer.drain())``.
        """
        await doors.drain(over)

    def undrain(self) -> None:
        """End the drain: the process is ready again, and keeps its consumers. Thread-safe."""
        doors.undrain()

    async def drain_process(self, process_id: str, over: float = 30.0) -> Draining | None:
        """Have another process begin to drain; None if no process has that id any more.

        ``process_id`` comes from `fleet_stats`, from any event loop of that process. The drain goes
        on without this process; `draining` returns its progress. Raises as `drain`,
        `RequestTimeout` if it does not answer in a second, `RequestFailed` if it cannot, and as
        `Multiplexer.publish`.
        """
        require_over(over)
        return await self._ask_doors(process_id, {"do": "drain", "over": over})

    async def undrain_process(self, process_id: str) -> Draining | None:
        """Have another process end its drain; else as `drain_process`."""
        return await self._ask_doors(process_id, {"do": "undrain"})

    async def draining(self, process_id: str) -> Draining | None:
        """The progress of another process' drain; else as `drain_process`."""
        return await self._ask_doors(process_id, {"do": "draining"})

    async def _ask_doors(self, process_id: str, question: Message) -> Draining | None:
        async def ask(hub: Hub) -> Draining | None:
            await hub.inbox.ready()
            return await hub.drainer.ask(process_id, question)

        return await self._hubs.run(ask)
