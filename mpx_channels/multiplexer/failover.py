"""Hears from a Sentinel that a service has another master, and sends connections there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from .closed_loops import forget_task
from .exceptions import NotConnected
from .link import Link, LinkOptions
from .logs import LimitedLog
from .packing import pack
from .sentinel import AnySentinel, SentinelNode
from .wire import Frame, Wire

__all__ = ["FailoverWatch"]

logger = logging.getLogger("mpx_channels.multiplexer")

# Seconds between attempts to reach a Sentinel grow up to this: without one, all still works.
MAX_BACKOFF = 5.0

Address = tuple[str, int]


class FailoverWatch:
    """Ends connections to a master that is none any more, in the moment of the failover.

    By itself the old master ends them when Sentinel demotes it. That may be ten seconds later, or,
    if no Sentinel reaches it, never: until then whoever stays with it hears nobody who went.
    """

    def __init__(self, links: Sequence[Link], options: LinkOptions) -> None:
        self._links = links
        node = links[0].node
        assert isinstance(node, SentinelNode)
        self._node = node
        options = replace(options, max_backoff=max(options.max_backoff, MAX_BACKOFF))
        self._sentinel = AnySentinel(node)
        self.link = Link(self._sentinel, self, options, "watching")
        self._asking: asyncio.Task[None] | None = None
        self._log = LimitedLog(logger)

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self.link.start()

    async def stop(self) -> None:
        """Watch no more."""
        asking = self._asking
        await self.link.stop()
        if asking is not None:
            await asyncio.wait([asking])
        self._log.flush()

    def abandon(self) -> None:
        """The event loop was closed under us."""
        if self._asking is not None:
            forget_task(self._asking)
        self.link.abandon()

    def _master_is(self, address: Address, sentinel: Address | None = None) -> None:
        """`sentinel`: the one that told of it by itself."""
        for link in self._links:
            assert isinstance(link.node, SentinelNode)
            if sentinel is not None:
                link.node.hear(address, sentinel)
            else:
                link.node.master = address
            wire = link.wire
            if wire is not None and link.node.address(wire.connection) != address:
                wire.abort(link.node.moved())

    async def _ask(self) -> None:
        """What was the news while nobody listened."""
        try:
            self._master_is(await self._node.master_address())
        except NotConnected as error:
            self._log.debug("ask", "Cannot ask for the master of %s: %s", self._node, str(error))

    # -- LinkHandler --------------------------------------------------------------------------

    def link_up(self, wire: Wire) -> None:
        wire.write(pack(b"SUBSCRIBE", b"+switch-master"))

    def link_down(self, error: Exception) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def writable(self) -> None:
        pass

    def send_ping(self, wire: Wire) -> None:
        wire.write(pack(b"PING"))

    def frames_received(self, frames: Sequence[Frame]) -> int:
        for frame in frames:
            match frame:
                case [b"message", _, bytes(text)]:
                    # <service> <old host> <old port> <new host> <new port>
                    words = text.decode(errors="replace").split(" ")
                    wire = self.link.wire
                    if len(words) == 5 and words[0] == self._node.master_name and wire is not None:
                        sentinel = self._sentinel.address(wire.connection)
                        self._master_is((words[3], int(words[4])), sentinel)
                case [b"subscribe", *_]:
                    loop = asyncio.get_running_loop()
                    self._asking = loop.create_task(self._ask(), name="mpx-ask-sentinels")
                case Exception():
                    self._log.warning(
                        "refused", "A Sentinel of %s refused: %s", self._node, str(frame)
                    )
        return len(frames)
