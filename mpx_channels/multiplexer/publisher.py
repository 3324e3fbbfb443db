"""The commanding side of a node: pipelined PUBLISH and other commands over one connection."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from .exceptions import (
    BacklogFull,
    CommandRefused,
    ConnectionLost,
    MultiplexerStopped,
    NotConnected,
)
from .link import Link, LinkOptions, describe
from .logs import LimitedLog
from .stats import Counters
from .topology import Node, Topology
from .wire import Frame, Wire, pack

__all__ = ["LONGEST_BLOCK", "Publisher", "Publishers"]

logger = logging.getLogger("mpx_channels.multiplexer")

# So many commands go out before the end of the turn: the server works while we pack the rest.
WRITE_AT_ONCE = 64
# Seconds; more silence than this after a blocking command, and the connection counts as dead.
LONGEST_BLOCK = 10.0
# How long `stop` waits for answers (seconds): a server that is well answers in milliseconds.
LAST_ANSWERS = 0.5


class Publisher:
    """Sends commands of any number of tasks over one connection, and hands out their replies.

    What is submitted in one turn of the loop leaves in one write, in order; replies come in the
    same order. A command that was written when the link breaks fails with `ConnectionLost`: it
    may have run, so it is never sent twice. One that was not written waits for the next
    connection, for at most ``backlog_timeout`` seconds and behind at most ``max_backlog`` others.
    """

    def __init__(
        self,
        node: Node,
        options: LinkOptions,
        counters: Counters,
        *,
        max_backlog: int,
        backlog_timeout: float,
        label: str = "publishing",
        longest_command: float = 0.0,
    ) -> None:
        self.link = Link(node, self, options, label)
        self._log = LimitedLog(logger)
        self._counters = counters
        self._max_backlog = max_backlog
        self._backlog_timeout = backlog_timeout
        self._reply_timeout = options.connect_timeout + longest_command
        self._wire: Wire | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Not written yet: the command, who waits, and when it must have been written.
        self._backlog: deque[tuple[bytes, asyncio.Future[Frame], float]] = deque()
        self._backlog_timer: asyncio.TimerHandle | None = None
        # To be written at the end of this turn.
        self._batch: list[bytes] = []
        # Written, in order; None stands for a PING of ours.
        self._unanswered: deque[asyncio.Future[Frame] | None] = deque()
        self._answered = 0
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many commands wait for a connection."""
        return len(self._backlog)

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._loop = asyncio.get_running_loop()
        # What a loop that ended without a stop() has left.
        self._backlog_timer = self._watchdog = None
        self._backlog.clear()
        self.link.start()

    async def stop(self) -> None:
        """Let out what was submitted, wait shortly for the answers, and close."""
        if self._wire is not None and self._loop is not None:
            self._write_batch()
            waiting = [future for future in self._unanswered if future is not None]
            if waiting:
                await asyncio.wait(waiting, timeout=LAST_ANSWERS)
        await self.link.stop()
        for timer in (self._backlog_timer, self._watchdog):
            if timer is not None:
                timer.cancel()
        self._backlog_timer = self._watchdog = None
        self._loop = None
        self._log.flush()
        while self._backlog:
            _, future, _ = self._backlog.popleft()
            _fail(future, MultiplexerStopped("the multiplexer was stopped before this was sent"))

    def submit(self, command: bytes) -> asyncio.Future[Frame]:
        """Send a packed command; the future gets its reply, as Redis sent it.

        It fails with `CommandRefused`, `ConnectionLost`, `NotConnected` or `MultiplexerStopped`;
        raises `BacklogFull`, and `MultiplexerStopped` when not running. Cancelling the future
        takes back a command that was not written yet.
        """
        loop = self._loop
        if loop is None:
            raise MultiplexerStopped("the multiplexer is not running: await start() first")
        future: asyncio.Future[Frame] = loop.create_future()
        wire = self._wire
        if wire is not None and not wire.paused:
            batch = self._batch
            if not batch:
                loop.call_soon(self._write_batch)
            batch.append(command)
            self._unanswered.append(future)
            if len(batch) >= WRITE_AT_ONCE:
                self._write_batch()
        else:
            self._wait_for_link(loop, command, future)
        return future

    def _write_batch(self) -> None:
        wire, batch = self._wire, self._batch
        if not batch or wire is None or wire.closed.done():
            return
        wire.write(b"".join(batch))
        self._counters.commands_out += len(batch)
        batch.clear()
        if self._watchdog is None and self._loop is not None:
            self._watchdog = self._loop.call_later(self._reply_timeout, self._watch, self._answered)

    def _take_back_batch(self) -> None:
        """What was not written before the link broke has its chance with the next one."""
        if self._batch and self._loop is not None:
            due = self._loop.time() + self._backlog_timeout
            for command in reversed(self._batch):
                future = self._unanswered.pop()
                if future is not None and not future.done():
                    self._backlog.appendleft((command, future, due))
            if self._backlog and self._backlog_timer is None:
                self._backlog_timer = self._loop.call_at(due, self._expire_backlog)
        self._batch.clear()

    def _wait_for_link(
        self, loop: asyncio.AbstractEventLoop, command: bytes, future: asyncio.Future[Frame]
    ) -> None:
        if len(self._backlog) >= self._max_backlog:
            self._counters.dropped_backlog_full += 1
            raise BacklogFull(
                f"{len(self._backlog)} commands wait for {self.link.node} already{self._cause()}"
            )
        self._backlog.append((command, future, loop.time() + self._backlog_timeout))
        if self._backlog_timer is None:
            self._backlog_timer = loop.call_later(self._backlog_timeout, self._expire_backlog)

    def _expire_backlog(self) -> None:
        self._backlog_timer = None
        loop = self._loop
        if loop is None:
            return
        now = loop.time()
        while self._backlog and self._backlog[0][2] <= now:
            _, future, _ = self._backlog.popleft()
            if not future.done():
                self._counters.dropped_backlog_timeout += 1
                _fail(
                    future,
                    NotConnected(
                        f"no connection to {self.link.node} in {self._backlog_timeout} s"
                        f"{self._cause()}"
                    ),
                )
        if self._backlog:
            self._backlog_timer = loop.call_at(self._backlog[0][2], self._expire_backlog)

    def _cause(self) -> str:
        error = self.link.last_error
        return f": {describe(error)}" if error is not None else ""

    def _watch(self, answered: int) -> None:
        """A server that answers nothing for the reply timeout is taken for dead."""
        self._watchdog = None
        if not self._unanswered or self._loop is None or self._wire is None:
            return
        if answered == self._answered:
            self._wire.abort(ConnectionLost(f"no reply in {self._reply_timeout} s"))
        else:
            self._watchdog = self._loop.call_later(self._reply_timeout, self._watch, self._answered)

    # -- LinkHandler --------------------------------------------------------------------------

    def link_up(self, wire: Wire) -> None:
        self._wire = wire
        self.writable()

    def link_down(self, error: Exception) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self._counters.bytes_in += wire.bytes_in
            self._counters.bytes_out += wire.bytes_out
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._take_back_batch()
        lost, self._unanswered = self._unanswered, deque()
        for future in lost:
            if future is not None:
                _fail(
                    future,
                    ConnectionLost(
                        f"the connection to {self.link.node} broke before the answer came, "
                        f"the command may have run: {describe(error)}"
                    ),
                )

    def writable(self) -> None:
        while self._backlog and self._wire is not None and not self._wire.paused:
            command, future, _ = self._backlog.popleft()
            if not future.done():
                self._batch.append(command)
                self._unanswered.append(future)
                if len(self._batch) >= WRITE_AT_ONCE:
                    self._write_batch()
        self._write_batch()

    def send_ping(self, wire: Wire) -> None:
        self._write_batch()  # these count as unanswered already, so they must go first
        self._unanswered.append(None)
        self._counters.commands_out += 1
        wire.write(pack(b"PING"))

    def frames_received(self, frames: Sequence[Frame]) -> int:
        unanswered = self._unanswered
        self._answered += len(frames)
        for frame in frames:
            if not unanswered:
                self._counters.dropped_unreadable += 1
                self._log.warning("", "%s answered unasked: %.100r", self.link.node, frame)
                continue
            future = unanswered.popleft()
            if future is None or future.done():
                continue
            if isinstance(frame, Exception):
                refusal = CommandRefused(f"{self.link.node} refused the command: {frame}")
                refusal.__cause__ = frame
                future.set_exception(refusal)
            else:
                future.set_result(frame)
        return len(frames)


class Publishers:
    """The publishers of all nodes, and those for commands that block, which start when needed."""

    def __init__(
        self,
        topology: Topology,
        options: LinkOptions,
        counters: Counters,
        *,
        max_backlog: int,
        backlog_timeout: float,
    ) -> None:
        def make(node: Node, options: LinkOptions, label: str, longest: float) -> Publisher:
            return Publisher(
                node,
                options,
                counters,
                max_backlog=max_backlog,
                backlog_timeout=backlog_timeout,
                label=label,
                longest_command=longest,
            )

        # While a command blocks, a PING behind it is not answered.
        patient = replace(options, ping_interval=max(options.ping_interval, LONGEST_BLOCK))
        self._by_node = {node: make(node, options, "publishing", 0) for node in topology.nodes}
        self._blocking_by_node = {
            node: make(node, patient, "blocking", LONGEST_BLOCK) for node in topology.nodes
        }
        self.all = tuple(self._by_node.values())
        self.blocking = tuple(self._blocking_by_node.values())
        self.only = self.all[0] if len(self.all) == 1 else None

    def of(self, node: Node | None) -> Publisher:
        """That of a node; raises `ValueError` for one that is not ours."""
        return self._by_node[self._which(node)]

    def at(self, topology: Topology, server: Node) -> list[Publisher]:
        """All that go to a server, by its first node."""
        return [
            each
            for each in (*self.all, *self.blocking)
            if topology.server(each.link.node) is server
        ]

    def blocking_of(self, node: Node | None) -> Publisher:
        """As `of`, for commands that block."""
        return self._blocking_by_node[self._which(node)]

    def _which(self, node: Node | None) -> Node:
        if node is None and self.only is not None:
            return self.only.link.node
        if node is None or node not in self._by_node:
            nodes = ", ".join(map(str, self._by_node))
            raise ValueError(f"node must be one of this multiplexer's nodes ({nodes}), not {node}")
        return node


def _fail(future: asyncio.Future[Frame], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
