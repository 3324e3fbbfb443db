"""The subscribing side of one server: the registry at work over a link."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from .callbacks import CALLBACK_ERRORS
from .exceptions import ConnectionLost
from .link import Link, LinkOptions, describe
from .logs import LimitedLog, origin
from .registry import Entry, Listener, Registry
from .stats import Counters
from .topology import Node, Topology
from .wire import Frame, Wire, pack

__all__ = ["ServerLost", "Subscriber", "Subscribers", "Subscription"]

logger = logging.getLogger("mpx_channels.multiplexer")


class ServerLost(ConnectionLost):
    """The subscribing connection to one of several servers broke; ``server`` is its node."""

    def __init__(self, server: Node, cause: Exception) -> None:
        super().__init__(f"{server}: {describe(cause)}")
        self.server = server
        self.__cause__ = cause


class Subscription(Listener, Protocol):
    """A listener that wants to know of the link, too."""

    def disconnected(self, error: Exception, subscriber: Subscriber, /) -> None:
        """This subscriber's link broke; all that came over it was delivered."""


class Subscriber:
    """Carries every subscription of a process to one server, over one connection.

    ``alone`` says that there is no other server: errors need not say which one.
    """

    def __init__(
        self,
        node: Node,
        options: LinkOptions,
        counters: Counters,
        *,
        linger: float,
        alone: bool = True,
    ) -> None:
        self.alone = alone
        self.registry = Registry(linger)
        self.link = Link(node, self, options, "subscribing")
        self.subscriptions: set[Subscription] = set()
        self.up = asyncio.Event()
        self.counters = counters
        self.log = LimitedLog(logger)
        self._patience = options.connect_timeout
        # The fence whose PING leaves with this turn, and all that nobody was told of yet.
        self._fence: asyncio.Future[None] | None = None
        self._fences: set[asyncio.Future[None]] = set()
        # What was published before this moment (`time.monotonic`) has come.
        self._caught_up = 0.0
        self._wire: Wire | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flush_soon: asyncio.Handle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._loop = asyncio.get_running_loop()
        # Handles of a loop that ended without a stop() would keep us waiting for ever.
        self._flush_soon = self._linger_timer = self._fence = None
        self._fences.clear()
        self.up = asyncio.Event()
        self.link.start()

    async def stop(self) -> None:
        """Close the connection; what is wanted stays wanted."""
        await self.link.stop()
        for handle in (self._flush_soon, self._linger_timer):
            if handle is not None:
                handle.cancel()
        self._flush_soon = self._linger_timer = None
        self._loop = None
        self.log.flush()
        self.up.set()  # whoever waits for a connection looks again, and sees the stop

    def now(self) -> float:
        """The loop's clock, in seconds; before the start there is nothing to time."""
        return self._loop.time() if self._loop is not None else 0.0

    def changed(self) -> None:
        """The registry has changed: look at it once in this turn of the loop."""
        if self._flush_soon is None and self._loop is not None:
            self._flush_soon = self._loop.call_soon(self._flush)

    def tell_late_joiners(self) -> None:
        """Tell those who joined an active name of its activation."""
        for entry, listener in self.registry.late_joiners():
            listener.activated(entry)

    def fence(self, published: float) -> asyncio.Future[None] | None:
        """Done once all that has been published on this server by now was delivered here.

        Redis writes to a connection in the order in which things happen: what was published
        comes before the answer to a later PING. One PING is for all who ask in a turn of the loop.
        Done as well when the link breaks, and after ``connect_timeout`` seconds. None if there is
        nothing to wait for: without a link, or if the moment of which it is asked (`published`, by
        `time.monotonic`) is before another fence, or longer ago than a fence waits.
        """
        loop = self._loop
        if self._wire is None or loop is None or published < self._caught_up:
            return None
        if published < time.monotonic() - self._patience:
            return None
        if self._fence is None or self._fence.done():
            self._fence = fence = loop.create_future()
            self._fences.add(fence)
            timer = loop.call_later(self._patience, self._end_fence, fence)
            fence.add_done_callback(lambda _: timer.cancel())
            self.changed()
        return self._fence

    def _write_fence(self, wire: Wire) -> None:
        fence, self._fence = self._fence, None
        if fence is not None and not fence.done():
            self.registry.ping(functools.partial(self._fence_passed, fence, time.monotonic()))
            self.counters.commands_out += 1
            wire.write(pack(b"PING"))

    def _fence_passed(self, fence: asyncio.Future[None], written: float) -> None:
        self._caught_up = written
        self._end_fence(fence)

    def _end_fence(self, fence: asyncio.Future[None]) -> None:
        self._fences.discard(fence)
        if not fence.done():
            fence.set_result(None)

    def _flush(self) -> None:
        self._flush_soon = None
        self.tell_late_joiners()
        wire = self._wire
        if wire is None or wire.paused:
            return
        commands = self.registry.commands(self.now())
        if commands:
            wire.write(b"".join([pack(*command.words) for command in commands]))
            self.counters.commands_out += len(commands)
        self._write_fence(wire)
        due = self.registry.next_due()
        if due is not None and self._linger_timer is None and self._loop is not None:
            self._linger_timer = self._loop.call_at(due, self._linger_over)

    def _linger_over(self) -> None:
        self._linger_timer = None
        self.changed()

    # -- LinkHandler --------------------------------------------------------------------------

    def link_up(self, wire: Wire) -> None:
        self._wire = wire
        self.up.set()
        self._flush()

    def link_down(self, error: Exception) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self.counters.bytes_in += wire.bytes_in
            self.counters.bytes_out += wire.bytes_out
        self.up.clear()
        self.registry.disconnect()
        for fence in tuple(self._fences):
            self._end_fence(fence)
        if not self.alone:
            error = ServerLost(self.link.node, error)
        for subscription in tuple(self.subscriptions):
            subscription.disconnected(error, self)

    def writable(self) -> None:
        self.changed()

    def send_ping(self, wire: Wire) -> None:
        self.registry.ping()
        self.counters.commands_out += 1
        wire.write(pack(b"PING"))

    def frames_received(self, frames: Sequence[Frame]) -> None:
        channels = self.registry.channels
        messages = deliveries = 0
        for frame in frames:
            # RESP2 pushes are lists, RESP3 ones a subclass of list.
            if not isinstance(frame, list):
                self._reply(frame)
                continue
            kind = frame[0]
            if kind == b"message":
                entry = channels.get(frame[1])
                data = frame[2]
                name = entry.text if entry is not None else ""
            elif kind == b"pmessage":
                entry = self.registry.patterns.get(frame[1])
                name = frame[2].decode("utf-8", "surrogateescape")
                data = frame[3]
            else:
                self._control(frame)
                continue
            messages += 1
            ears = entry.snapshot or entry.ears() if entry is not None else ()
            if entry is None or not ears:
                self.counters.dropped_no_listener += 1
                continue
            for listener in ears:
                # A callback of this very message may have removed the next listener.
                if listener in entry.listeners:
                    try:
                        listener.deliver(name, data)
                    except CALLBACK_ERRORS as error:
                        self._callback_raised("on_message", name, error)
                    deliveries += 1
        self.counters.messages_in += messages
        self.counters.deliveries += deliveries

    def _control(self, frame: list[Frame]) -> None:
        """Take a confirmation, or a PONG as a subscribed RESP2 connection gets it."""
        if frame[0] == b"pong":
            self.registry.pong()
        elif len(frame) == 3 and isinstance(frame[1], bytes):
            entry = self.registry.confirm(frame[0], frame[1])
            if entry is not None:
                self._tell_activation(entry)
            elif self.registry.dirty:
                self.changed()
        else:
            self._unreadable(frame)

    def _tell_activation(self, entry: Entry) -> None:
        for listener in entry.untold():
            listener.activated(entry)

    def _reply(self, frame: Frame) -> None:
        """Take what is no push: the PONG of an idle or RESP3 connection, or an error."""
        if isinstance(frame, Exception):
            for entry in self.registry.refuse(frame):
                self.log.error(
                    "refused",
                    "%s refused to subscribe to %r: %s",
                    self.link.node,
                    entry.text,
                    frame,
                )
                for listener in entry.ears():
                    listener.refused(entry)
            self.changed()
        elif frame == b"PONG":
            self.registry.pong()
        else:
            self._unreadable(frame)

    def _unreadable(self, frame: Frame) -> None:
        self.counters.dropped_unreadable += 1
        self.log.warning("unreadable", "%s sent what we cannot read: %.100r", self.link.node, frame)

    def _callback_raised(self, which: str, name: str, error: BaseException) -> None:
        self.counters.callback_errors += 1
        self.log.error(
            origin(error),
            "An %s callback raised on %r of %s: %s",
            which,
            name,
            self.link.node,
            repr(error),
            exc_info=error,
        )


class Subscribers:
    """The subscribers of all servers, and which of them has a name."""

    def __init__(
        self, topology: Topology, options: LinkOptions, counters: Counters, *, linger: float
    ) -> None:
        self.counters = counters
        self._topology = topology
        alone = len(topology.servers) == 1
        self._by_server = {
            server: Subscriber(server, options, counters, linger=linger, alone=alone)
            for server in topology.servers
        }
        self.all = tuple(self._by_server.values())
        # For what is about no server, such as callbacks.
        self.log = self.all[0].log
        # The one that has every name, if there is but one: nobody needs to look for it then.
        self.only = self.all[0] if alone else None

    def of(self, name: bytes) -> Subscriber:
        """The one that has a channel's name."""
        return self.only or self._by_server[self._topology.server_of(name)]

    def of_node(self, node: Node) -> Subscriber:
        """The one that has the names of a node."""
        return self._by_server[self._topology.server(node)]
