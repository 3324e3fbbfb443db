"""The subscribing side of one server: the registry at work over a link."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from redis.backoff import EqualJitterBackoff

from .callbacks import CALLBACK_ERRORS
from .counters import EngineCounters
from .entries import Kind
from .exceptions import ConnectionLost, LinkLost, describe
from .fences import Fences
from .flow import Flow
from .link import Link, LinkOptions
from .logs import LimitedLog, origin
from .packing import pack
from .refused_names import RefusedNames
from .registry import Entry, Listener, Registry
from .silence import Silence
from .topology import Node
from .wire import Frame, Wire

__all__ = ["LinkListener", "Subscriber"]

logger = logging.getLogger("mpx_channels.multiplexer")

# Seconds between attempts to subscribe to what an ACL forbids: somebody has to change it, and Redis
# logs each. With jitter, as all processes of a site are refused in the same moment.
FORBIDDEN_BACKOFF = EqualJitterBackoff(cap=5.0, base=0.1)


class LinkListener(Protocol):
    """Whoever wants to know of the link, whatever it listens to."""

    def disconnected(self, loss: LinkLost, subscriber: Subscriber, /) -> None:
        """This subscriber's link broke; all that came over it was delivered."""


class Subscriber:
    """Carries every subscription of an event loop to one server, over one connection.

    ``subscriptions`` are those of all servers, as any of them may listen here. ``alone`` says that
    there is no other server: errors need not say which one.
    """

    def __init__(
        self,
        node: Node,
        options: LinkOptions,
        counters: EngineCounters,
        flow: Flow,
        subscriptions: Collection[LinkListener],
        *,
        linger: float,
    ) -> None:
        self.alone = True
        put_off = EqualJitterBackoff(cap=options.max_backoff, base=options.min_backoff)
        self.registry = Registry(
            linger, forbidden_backoff=FORBIDDEN_BACKOFF.compute, put_off_backoff=put_off.compute
        )
        self.link = Link(node, self, options, "subscribing")
        self.subscriptions = subscriptions
        self.up = asyncio.Event()
        self.counters = counters
        self.flow = flow
        # That came from this server, over all connections.
        self.messages_in = 0
        self.log = LimitedLog(logger)
        self._refused = RefusedNames(self.registry, node, self.log)
        # Called when the server says that names are another's, or takes them away.
        self.on_moved: Callable[[], object] = lambda: None
        self._refused.on_moved = lambda: self.on_moved()
        self.on_lost: Callable[[LinkLost], object] = lambda loss: None
        # Called when all that was wanted before a connection came is confirmed, or refused.
        self.on_restored: list[Callable[[], object]] = []
        self._restoring: deque[Entry] = deque()
        self._wire: Wire | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flush_soon: asyncio.Handle | None = None
        # For whatever comes next: what the registry has due, or the end of our patience.
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0.0
        self._silence = Silence(options.connect_timeout)
        self.fences = Fences(self.registry, options.connect_timeout)

    @property
    def node(self) -> Node:
        """The server."""
        return self.link.node

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._begin()
        self.link.start()

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        # Handles of a loop that ended without a stop() would keep us waiting for ever.
        self._flush_soon = self._timer = None
        self.fences.forget()
        self.up = asyncio.Event()

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
        return any(self.registry.tables)

    @property
    def restored(self) -> bool:
        """Whether it is connected, and has back what was wanted before that."""
        return self._wire is not None and not self._restoring

    def changed(self) -> None:
        """The registry has changed: look at it once in this turn of the loop."""
        if self._flush_soon is None and self._loop is not None:
            self._flush_soon = self._loop.call_soon(self._flush)

    def add(self, kind: Kind, name: bytes, listener: Listener, text: str | None = None) -> Entry:
        """As `Registry.add`; the entry is ours from here on."""
        entry = self.registry.add(kind, name, listener, text)
        entry.keeper = self
        self.changed()
        return entry

    def remove(self, entry: Entry, listener: Listener, *, at_once: bool = False) -> None:
        """As `Registry.remove`, now."""
        self.registry.remove(entry, listener, self.now(), at_once=at_once)
        self.changed()

    def ask_again(self, entry: Entry) -> None:
        """Somebody waits for a name that Redis refused."""
        self.registry.ask_again(entry)
        self.changed()

    def notify_late_joiners(self) -> None:
        """Notify those who joined an active name of its activation."""
        for entry, listener in self.registry.late_joiners():
            listener.activated(entry)

    def fence(self, published: float) -> asyncio.Future[None] | None:
        """As `Fences.ask`; None as well without a link, where there is nothing to wait for."""
        if self._wire is None:
            return None
        fence = self.fences.ask(published)
        if fence is not None:
            self.changed()
        return fence

    def give_up_deaf(self, reason: ConnectionLost) -> None:
        """Have the connection made anew, as it delivers nothing."""
        if self._wire is not None:
            self.counters.probe_reconnects += 1
            self._wire.abort(reason)

    def _flush(self) -> None:
        self._flush_soon = None
        self.notify_late_joiners()
        wire = self._wire
        if wire is None:
            return
        now = self.now()
        if not wire.paused:
            self._write(wire, now)
            self._call_at(self.registry.next_due())
        if self.registry.unanswered:
            self._call_at(self._silence.next_look(now))

    def _write(self, wire: Wire, now: float) -> None:
        if not self.registry.unanswered:
            # From here on we wait, if anything is written: commands, or a PING alone.
            self._silence.broken(now)
        commands = self.registry.commands(now)
        if commands:
            wire.write(b"".join([pack(*command.words) for command in commands]))
            self.counters.commands_out += len(commands)
        if self.fences.ping():
            self.counters.commands_out += 1
            wire.write(pack(b"PING"))

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
        wire = self._wire
        if (
            wire is not None
            and self.registry.unanswered
            and self._silence.lasts_too_long(wire, self.now())
        ):
            seconds = self._silence.patience
            wire.abort(ConnectionLost(f"a command went unanswered for {seconds} s"))
        else:
            self._flush()

    # -- LinkHandler --------------------------------------------------------------------------

    def link_up(self, wire: Wire) -> None:
        self._wire = wire
        self.up.set()
        tables = self.registry.tables
        self._restoring = deque(entry for table in tables for entry in table.values())
        self._flush()
        self._look_restored()

    def _look_restored(self) -> None:
        """Answers come in the order of the names: each look gets a little further."""
        restoring = self._restoring
        while restoring:
            entry = restoring[0]
            waits = entry.wanted and entry.refusal is None and not entry.active
            if waits and entry.keeper is self:
                return
            restoring.popleft()
        for callback in self.on_restored:
            callback()

    def link_down(self, error: Exception) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self.counters.bytes_in += wire.bytes_in
            self.counters.bytes_out += wire.bytes_out
        self.up.clear()
        self.registry.disconnect()
        self._restoring.clear()
        self.fences.end_all()
        if self.alone:
            loss = LinkLost(describe(error))
        else:
            tables = (self.registry.channels, self.registry.shards)
            names = frozenset(entry.text for table in tables for entry in table.values())
            loss = LinkLost(
                f"{self.link.node}: {describe(error)}",
                names,
                patterns=bool(self.registry.patterns),
            )
        loss.__cause__ = error
        self.tell_lost(loss)

    def taken_from(self) -> None:
        """Some of its names are another's now."""
        self.changed()
        if self._restoring:
            self._look_restored()

    def tell_lost(self, loss: LinkLost) -> None:
        """What these names hear from here on, they hear anew."""
        for subscription in tuple(self.subscriptions):
            subscription.disconnected(loss, self)
        self.on_lost(loss)

    def _taken_away(self) -> None:
        """The server has unsubscribed names by itself, as their slot is another's."""
        taken, self.registry.taken = self.registry.taken, []
        self.registry.put_off(taken, self.now())
        self.changed()
        names = frozenset(entry.text for entry in taken)
        self.tell_lost(LinkLost(f"{self.node} has unsubscribed them by itself", names))
        self.on_moved()

    def writable(self) -> None:
        self.changed()

    def send_ping(self, wire: Wire) -> None:
        if not self.registry.unanswered:
            self._silence.broken(self.now())
        self.registry.ping()
        self.counters.commands_out += 1
        wire.write(pack(b"PING"))
        self._call_at(self._silence.ends)

    def frames_received(self, frames: Sequence[Frame]) -> int:
        flow = self.flow
        channels, shards = self.registry.channels, self.registry.shards
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
            elif kind == b"smessage":
                entry = shards.get(frame[1])
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
            listener = entry.listener if entry is not None else None
            if listener is not None:  # the only one
                try:
                    listener.deliver(name, data)
                except CALLBACK_ERRORS as error:
                    self._callback_raised("on_message", name, error)
                deliveries += 1
            elif entry is not None and entry.several is not None:
                deliveries += self._deliver_to_several(entry, name, data)
            else:
                self.counters.dropped_no_listener += 1
        if taken > messages:  # the others are answers
            self._silence.broken(self.now())
            if self.registry.taken:
                self._taken_away()
        self.messages_in += messages
        self.counters.deliveries += deliveries
        return taken

    def _deliver_to_several(self, entry: Entry, name: str, data: bytes) -> int:
        deliveries = 0
        for listener in entry.listeners:
            # A callback of this very message may have removed the next listener.
            if listener in entry:
                try:
                    listener.deliver(name, data)
                except CALLBACK_ERRORS as error:
                    self._callback_raised("on_message", name, error)
                deliveries += 1
        return deliveries

    def _go_on(self) -> None:
        if self._wire is not None:
            self._wire.go_on()

    def _control(self, frame: list[Frame]) -> None:
        """Take a confirmation, or a PONG as a subscribed RESP2 connection gets it."""
        if frame[0] == b"pong":
            self.registry.pong()
        elif len(frame) == 3 and isinstance(frame[1], bytes):
            entry = self.registry.confirm(frame[0], frame[1])
            if entry is not None:
                if entry.refusal is not None:
                    self._refused.allow(entry)
                    self.changed()
                self._notify(entry)
            elif self.registry.dirty:
                self.changed()
            if self._restoring:
                self._look_restored()
        else:
            self._unreadable(frame)

    def _notify(self, entry: Entry) -> None:
        for listener in entry.not_notified():
            listener.activated(entry)

    def _reply(self, frame: Frame) -> None:
        """Take what is no push: the PONG of an idle or RESP3 connection, or an error."""
        if isinstance(frame, Exception):
            self._refused.refuse(frame, self.now())
            self.changed()
            if self._restoring:
                self._look_restored()
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
