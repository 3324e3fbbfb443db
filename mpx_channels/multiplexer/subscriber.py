"""The subscribing side of one server: the registry at work over a link."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from redis.backoff import EqualJitterBackoff

from .callbacks import CALLBACK_ERRORS
from .counters import EngineCounters
from .exceptions import ConnectionLost, LinkLost, describe
from .flow import Flow
from .link import Link, LinkOptions
from .logs import LimitedLog, origin
from .refusals import is_transient
from .registry import Entry, Listener, Registry
from .topology import Node, Topology
from .wire import Frame, Wire, pack

__all__ = ["LinkListener", "Subscriber", "Subscribers"]

logger = logging.getLogger("mpx_channels.multiplexer")

# Seconds between attempts to subscribe to what an ACL forbids grow from one to the other: somebody
# has to change it, and Redis logs each.
FORBIDDEN_BACKOFF = (0.1, 5.0)
# Before a server is called silent it is looked at so often again, at this interval (seconds): what
# came while the event loop was busy, or lies behind a flood, has to be read first.
LOOKS = 3
LOOK_EVERY = 0.01


class LinkListener(Listener, Protocol):
    """A listener that wants to know of the link, too."""

    def disconnected(self, loss: LinkLost, subscriber: Subscriber, /) -> None:
        """This subscriber's link broke; all that came over it was delivered."""


class Subscriber:
    """Carries every subscription of an event loop to one server, over one connection.

    ``alone`` says that there is no other server: errors need not say which one.
    """

    def __init__(
        self,
        node: Node,
        options: LinkOptions,
        counters: EngineCounters,
        flow: Flow,
        *,
        linger: float,
        alone: bool = True,
    ) -> None:
        self.alone = alone
        # With jitter, as all processes of a site are refused in the same moment.
        first, longest = FORBIDDEN_BACKOFF
        forbidden = EqualJitterBackoff(cap=longest, base=first)
        put_off = EqualJitterBackoff(cap=options.max_backoff, base=options.min_backoff)
        self.registry = Registry(
            linger, forbidden_backoff=forbidden.compute, put_off_backoff=put_off.compute
        )
        self.link = Link(node, self, options, "subscribing")
        self.subscriptions: set[LinkListener] = set()
        self.up = asyncio.Event()
        self.counters = counters
        self.flow = flow
        self.log = LimitedLog(logger)
        self.on_lost: Callable[[LinkLost], object] = lambda loss: None
        # Called when all that was wanted before a connection came is confirmed, or refused.
        self.on_restored: list[Callable[[], object]] = []
        self._restoring: deque[Entry] = deque()
        # The fence whose PING leaves with this turn, and all that nobody was told of yet.
        self._fence: asyncio.Future[None] | None = None
        self._fences: set[asyncio.Future[None]] = set()
        # What was published before this moment (`time.monotonic`) has come.
        self._caught_up = 0.0
        self._wire: Wire | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flush_soon: asyncio.Handle | None = None
        # For whatever comes next: what the registry has due, or the end of our patience.
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0.0
        # Seconds without an answer to what is unanswered, and since when there was none.
        self._patience = options.connect_timeout
        self._waiting_since = 0.0
        # At the last look at a server that may be silent: since when we waited, the bytes read by
        # then, and how many looks in a row had found that we were not behind with reading.
        self._suspicion = (-1.0, 0, 0)

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._loop = asyncio.get_running_loop()
        # Handles of a loop that ended without a stop() would keep us waiting for ever.
        self._flush_soon = self._timer = self._fence = None
        self._fences.clear()
        self.up = asyncio.Event()
        self.link.start()

    async def stop(self) -> None:
        """Close the connection; what is wanted stays wanted."""
        await self.link.stop()
        for handle in (self._flush_soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._flush_soon = self._timer = None
        self._loop = None
        self.log.flush()
        self.up.set()  # whoever waits for a connection looks again, and sees the stop

    def now(self) -> float:
        """The loop's clock, in seconds; before the start there is nothing to time."""
        return self._loop.time() if self._loop is not None else 0.0

    @property
    def wanted(self) -> bool:
        """Whether there is any name to listen to."""
        return bool(self.registry.channels or self.registry.patterns)

    @property
    def restored(self) -> bool:
        """Whether it is connected, and has back what was wanted before that."""
        return self._wire is not None and not self._restoring

    def changed(self) -> None:
        """The registry has changed: look at it once in this turn of the loop."""
        if self._flush_soon is None and self._loop is not None:
            self._flush_soon = self._loop.call_soon(self._flush)

    def ask_again(self, entry: Entry) -> None:
        """Somebody waits for a name that Redis refused."""
        self.registry.ask_again(entry)
        self.changed()

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
        if wire is None:
            return
        now = self.now()
        if not wire.paused:
            self._write(wire, now)
            self._call_at(self.registry.next_due())
        if self.registry.unanswered:
            due = self._waiting_since + self._patience
            self._call_at(due if due > now else now + LOOK_EVERY)

    def _write(self, wire: Wire, now: float) -> None:
        waiting = self.registry.unanswered
        commands = self.registry.commands(now)
        if commands:
            if not waiting:
                self._waiting_since = now
            wire.write(b"".join([pack(*command.words) for command in commands]))
            self.counters.commands_out += len(commands)
        self._write_fence(wire)

    def _call_at(self, due: float | None) -> None:
        """Have `_time_over` called then; a call that comes earlier than needed does no harm."""
        if due is None or self._loop is None:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._time_over)
        self._timer_due = due

    def _time_over(self) -> None:
        self._timer = None
        if self._wire is not None and self._is_silent(self._wire):
            self._wire.abort(ConnectionLost(f"a command went unanswered for {self._patience} s"))
        else:
            self._flush()

    def _is_silent(self, wire: Wire) -> bool:
        """Whether the server has not answered for too long, whatever else it may have sent.

        That is how a connection looks of which one direction is dead. Every answer counts as a sign
        of life: the commands of a large resubscription are written at once, and answered one
        after the other. So time runs from the last answer, or from the first command after
        Redis had answered everything. What we have not read yet may be an answer, too.
        """
        since = self._waiting_since
        if not self.registry.unanswered or self.now() < since + self._patience:
            return False
        suspected_since, bytes_in, looks = self._suspicion
        looks = looks + 1 if suspected_since == since and not wire.behind(bytes_in) else 0
        self._suspicion = (since, wire.bytes_in, looks)
        return looks == LOOKS

    # -- LinkHandler --------------------------------------------------------------------------

    def link_up(self, wire: Wire) -> None:
        self._wire = wire
        self.up.set()
        tables = (self.registry.channels, self.registry.patterns)
        self._restoring = deque(entry for table in tables for entry in table.values())
        self._flush()
        self._look_restored()

    def _look_restored(self) -> None:
        """Answers come in the order of the names: each look gets a little further."""
        restoring = self._restoring
        while restoring:
            entry = restoring[0]
            if entry.listeners and entry.refusal is None and not entry.active:
                return
            restoring.popleft()
        for tell in self.on_restored:
            tell()

    def link_down(self, error: Exception) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self.counters.bytes_in += wire.bytes_in
            self.counters.bytes_out += wire.bytes_out
        self.up.clear()
        self.registry.disconnect()
        self._restoring.clear()
        for fence in tuple(self._fences):
            self._end_fence(fence)
        if self.alone:
            loss = LinkLost(describe(error))
        else:
            names = frozenset(entry.text for entry in self.registry.channels.values())
            loss = LinkLost(f"{self.link.node}: {describe(error)}", names)
        loss.__cause__ = error
        for subscription in tuple(self.subscriptions):
            subscription.disconnected(loss, self)
        self.on_lost(loss)

    def writable(self) -> None:
        self.changed()

    def send_ping(self, wire: Wire) -> None:
        if not self.registry.unanswered:
            self._waiting_since = self.now()
        self.registry.ping()
        self.counters.commands_out += 1
        wire.write(pack(b"PING"))
        self._call_at(self._waiting_since + self._patience)

    def frames_received(self, frames: Sequence[Frame]) -> int:
        flow = self.flow
        channels = self.registry.channels
        messages = deliveries = taken = 0
        for frame in frames:
            if flow.held:
                # Somebody's buffer is full now, and this may be for the same.
                flow.when_free(self._go_on)
                break
            taken += 1
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
            listeners = entry.snapshot or entry.listeners_now() if entry is not None else ()
            if entry is None or not listeners:
                self.counters.dropped_no_listener += 1
                continue
            for listener in listeners:
                # A callback of this very message may have removed the next listener.
                if listener in entry.listeners:
                    try:
                        listener.deliver(name, data)
                    except CALLBACK_ERRORS as error:
                        self._callback_raised("on_message", name, error)
                    deliveries += 1
        self.counters.messages_in += messages
        self.counters.deliveries += deliveries
        return taken

    def _go_on(self) -> None:
        if self._wire is not None:
            self._wire.go_on()

    def _control(self, frame: list[Frame]) -> None:
        """Take a confirmation, or a PONG as a subscribed RESP2 connection gets it."""
        self._waiting_since = self.now()
        if frame[0] == b"pong":
            self.registry.pong()
        elif len(frame) == 3 and isinstance(frame[1], bytes):
            entry = self.registry.confirm(frame[0], frame[1])
            if entry is not None:
                if entry.refusal is not None:
                    self._allowed(entry)
                self._tell_activation(entry)
            elif self.registry.dirty:
                self.changed()
            if self._restoring:
                self._look_restored()
        else:
            self._unreadable(frame)

    def _tell_activation(self, entry: Entry) -> None:
        for listener in entry.unnotified():
            listener.activated(entry)

    def _reply(self, frame: Frame) -> None:
        """Take what is no push: the PONG of an idle or RESP3 connection, or an error."""
        self._waiting_since = self.now()
        if isinstance(frame, Exception):
            self._refused(frame)
            self.changed()
            if self._restoring:
                self._look_restored()
        elif frame == b"PONG":
            self.registry.pong()
        else:
            self._unreadable(frame)

    def _refused(self, error: Exception) -> None:
        transient = is_transient(error)
        refused = self.registry.refuse(error, self.now(), transient=transient)
        if transient:
            # Whoever waits goes on waiting.
            if refused:
                self.log.warning(
                    "refused",
                    "%s put off subscribing to %d names, asking again: %s",
                    self.link.node,
                    len(refused),
                    error,
                )
            return
        for entry in refused:
            self.log.error(
                "refused",
                "%s refused to subscribe to %r, asking again now and then: %s",
                self.link.node,
                entry.text,
                error,
            )
            for listener in entry.listeners_now():
                listener.refused(entry)

    def _allowed(self, entry: Entry) -> None:
        self.log.info(
            "refused", "%s subscribed to %r, which it had refused", self.link.node, entry.text
        )
        self.registry.allowed(entry)
        self.changed()

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
        self, topology: Topology, options: LinkOptions, counters: EngineCounters, *, linger: float
    ) -> None:
        self.counters = counters
        # One for all: a buffer may be filled over any of the connections.
        self.flow = Flow()
        self._topology = topology
        alone = len(topology.servers) == 1
        self._by_server = {
            server: Subscriber(server, options, counters, self.flow, linger=linger, alone=alone)
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
