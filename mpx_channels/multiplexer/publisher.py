"""The commanding side of a node: pipelined PUBLISH and other commands over one connection."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from .backlog import Backlog, Waiting
from .callbacks import Heard, unheard
from .counters import EngineCounters
from .doubts import Doubts, PackedAgain
from .exceptions import (
    BacklogFull,
    CommandRefused,
    ConnectionLost,
    MultiplexerStopped,
    NotConnected,
    describe,
)
from .link import Link, LinkOptions
from .logs import LimitedLog
from .packing import pack, tail
from .refusals import explained
from .sent import OnRefusal, Sent
from .subscriber import Subscriber
from .topology import Node
from .wire import Frame, Wire

__all__ = ["LAST_ANSWERS", "OnRefusal", "Publisher", "Sent"]

logger = logging.getLogger("mpx_channels.multiplexer")

# So many commands go out before the end of the turn: the server works while we pack the rest.
WRITE_AT_ONCE = 64
# Bytes; more than that are several writes. When a link breaks, a write is lost as a whole.
LARGEST_WRITE = 262_144
# How long `stop` waits for answers (seconds): a server that is well answers in milliseconds.
LAST_ANSWERS = 0.5
# How often the watch over a silent server looks within the time that it has. A clock read at each
# write would be exact, and would cost every write what this costs nobody.
LOOKS = 32


class Publisher:
    """Sends commands of any number of tasks over one connection, and hands out their replies.

    What is submitted in one turn of the loop leaves in one write, in order; replies come in the
    same order. A command that was written when the link breaks fails with `ConnectionLost`: it
    may have run, so it is never sent twice. One that was not written, of which the kernel took
    nothing, waits for the next connection, for at most ``backlog_timeout`` seconds and behind at
    most ``max_backlog`` others. See `follow` for what else it waits for. Where there is a way to
    find out whether a command has run, that is done instead: see `Doubts`.

    ``on_refusal`` is for whoever knows of other nodes, and can send a command on; only with it
    are commands kept until they are answered.
    """

    def __init__(
        self,
        node: Node,
        options: LinkOptions,
        counters: EngineCounters,
        *,
        max_backlog: int,
        backlog_timeout: float,
        label: str = "publishing",
        longest_command: float = 0.0,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        self.link = Link(node, self, options, label)
        self._log = LimitedLog(logger)
        self._counters = counters
        self._max_backlog = max_backlog
        self._backlog_timeout = backlog_timeout
        self._reply_timeout = options.connect_timeout + longest_command
        self._wire: Wire | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_refusal = on_refusal
        # The commands that `on_refusal` may get.
        self._refusable: dict[asyncio.Future[Frame], bytes] = {}
        self._doubts = Doubts()
        # What must have been written when it is due.
        self._backlog = Backlog(self._not_sent, backlog_timeout)
        # To be written at the end of this turn; when, if it comes from the backlog.
        self._batch: list[bytes] = []
        self._batch_due: float | None = None
        # The last write, as long as the kernel has not taken all of it, and when it was due.
        self._stuck: list[bytes] = []
        self._stuck_due = 0.0
        # Written, in order; None stands for a command whose answer nobody waits for.
        self._unanswered: deque[asyncio.Future[Frame] | None] = deque()
        self._answered = 0
        self._watchdog: asyncio.TimerHandle | None = None
        # What each connection begins with.
        self._first: dict[bytes, Heard] = {}
        self._subscriber: Subscriber | None = None
        # A connection that is to be used when the subscriber has its names back, or after that.
        self._held: Wire | None = None
        self._release_timer: asyncio.TimerHandle | None = None
        self._link_was_lost = False

    @property
    def waiting(self) -> int:
        """How many commands wait for a connection."""
        return len(self._backlog) + len(self._doubts)

    def follow(self, subscriber: Subscriber) -> None:
        """After a reconnect, send nothing before this subscriber has its names back.

        When a server is back, whoever sends may be there before those who listen, and what has
        waited would go out to nobody. It waits for them for ``backlog_timeout`` seconds at most.
        """
        self._subscriber = subscriber
        subscriber.on_restored.append(self._subscriber_restored)

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._loop = asyncio.get_running_loop()
        # What a loop that ended without a stop() has left.
        self._watchdog = self._release_timer = self._held = None
        self._link_was_lost = False
        self._backlog = Backlog(self._not_sent, self._backlog_timeout)
        self._doubts = Doubts()
        self.link.start()

    async def stop(self, timeout: float = LAST_ANSWERS) -> None:
        """Let out what was submitted, wait so many seconds for the answers, and close."""
        self._release()
        if self._wire is not None and self._loop is not None:
            self._write_batch()
            waiting = [future for future in self._unanswered if future is not None]
            if waiting:
                await asyncio.wait(waiting, timeout=timeout)
        await self.link.stop()
        self._stop_timers()
        self._loop = None
        self._log.flush()
        for future in (*self._doubts.clear(), *[future for future, _ in self._backlog]):
            _fail(future, MultiplexerStopped("the multiplexer was stopped before this was sent"))
        self._backlog.close()
        self._backlog.clear()
        self._forget_done()

    def submit(self, command: bytes, again: PackedAgain | None = None) -> asyncio.Future[Frame]:
        """Send a packed command; the future gets its reply, as Redis sent it.

        It fails with `CommandRefused`, `ConnectionLost`, `NotConnected` or `MultiplexerStopped`;
        raises `BacklogFull`, and `MultiplexerStopped` when not running. Cancelling the future
        takes back a command that was not written yet. With ``again``, it gets the reply to what
        that makes instead of `ConnectionLost`.
        """
        loop = self._loop
        if loop is None:
            raise MultiplexerStopped("the multiplexer is not running: await start() first")
        future: asyncio.Future[Frame] = loop.create_future()
        if self._on_refusal is not None:
            self._refusable[future] = command
        if again is not None:
            self._doubts.watch(future, again)
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
            self._wait_for_link(command, future)
        return future

    def _sent(self, future: asyncio.Future[Frame], command: bytes) -> Sent:
        """What is not ours any more."""
        return Sent(future, command, *self._doubts.forget(future))

    def _forget_done(self) -> None:
        """Of commands that wait no more; those that are answered are forgotten with the answer."""
        for future in [each for each in self._refusable if each.done()]:
            del self._refusable[future]

    def begin_with(self, command: bytes, heard: Heard = unheard) -> None:
        """Send a command now, and on each connection to come before all else; raises as `submit`.

        What comes of it is ``heard`` each time.
        """
        if self._wire is not None or self._held is not None or self._loop is None:
            self.submit(command).add_done_callback(heard)
        self._first[command] = heard

    def _write_batch(self) -> None:
        wire, batch = self._wire or self._held, self._batch
        if not batch or wire is None or wire.closed.done():
            return
        self._counters.commands_out += len(batch)
        data = b"".join(batch)
        if len(data) > LARGEST_WRITE:
            self._write_in_pieces(wire, batch, memoryview(data))
        else:
            wire.write(data)
            if wire.paused:
                self._keep_stuck(batch.copy())
        batch.clear()
        if self._watchdog is None:
            self._watch_on(0)

    def _write_in_pieces(self, wire: Wire, batch: list[bytes], data: memoryview) -> None:
        first = size = 0
        for number, command in enumerate(batch, 1):
            size += len(command)
            if size >= LARGEST_WRITE or number == len(batch):
                wire.write(data[:size])
                if wire.paused:
                    self._keep_stuck(batch[first:number])
                    self._counters.commands_out -= len(batch) - number
                    self._take_back(batch[number:], self._batch_due)
                    return
                data, first, size = data[size:], number, 0

    def _keep_stuck(self, commands: list[bytes]) -> None:
        assert self._loop is not None
        self._stuck = commands
        self._stuck_due = self._batch_due or self._loop.time() + self._backlog_timeout

    def _take_back(self, commands: list[bytes], due: float | None) -> None:
        self._backlog.take_back(commands, self._unanswered, self._doubts, due)

    def _wait_for_link(self, command: bytes, future: asyncio.Future[Frame]) -> None:
        if len(self._backlog) >= self._max_backlog:
            self._counters.dropped_backlog_full += 1
            self._refusable.pop(future, None)
            future.cancel()  # whoever keeps something for its answer lets go of it
            raise BacklogFull(
                f"{len(self._backlog)} commands wait for {self.link.node} already{self._cause()}"
            )
        self._backlog.add(Waiting(future, command))

    def _not_sent(self, waiting: Waiting) -> None:
        """A command of the backlog is due."""
        if self._held is not None:
            # Rather go out to nobody than fail.
            self._backlog.add_first(waiting, 0.0)
            self._release()
        elif not waiting.future.done():
            self._counters.dropped_backlog_timeout += 1
            where = f"{self.link.node} in {self._backlog_timeout} s{self._cause()}"
            _fail(waiting.future, NotConnected(f"no connection to {where}"))

    def _cause(self) -> str:
        error = self.link.last_error
        return f": {describe(error)}" if error is not None else ""

    def _watch_on(self, looks: int) -> None:
        if self._loop is not None:
            pause = self._reply_timeout / LOOKS
            self._watchdog = self._loop.call_later(pause, self._watch, looks + 1, self._answered)

    def _watch(self, looks: int, answered: int) -> None:
        """A server that answers nothing for the reply timeout is taken for dead.

        `looks`: for how many looks the oldest command has waited, if nothing was answered since.
        """
        self._watchdog = None
        if not self._unanswered or self._wire is None:
            return
        if answered != self._answered:
            looks = 0
        if looks < LOOKS:
            self._watch_on(looks)
        else:
            self._wire.abort(ConnectionLost(f"no reply in {self._reply_timeout} s"))

    def _subscriber_restored(self) -> None:
        """It is back; other processes that lost the server, too, may take a moment longer."""
        if self._held is not None:
            self._release_in(self.link.spread)

    def _release_in(self, seconds: float) -> None:
        assert self._loop is not None
        if self._release_timer is not None:
            self._release_timer.cancel()
        self._release_timer = self._loop.call_later(seconds, self._release)

    def _release(self) -> None:
        """Use the connection that was held."""
        if self._release_timer is not None:
            self._release_timer.cancel()
            self._release_timer = None
        if self._held is not None:
            self._wire, self._held = self._held, None
            self.writable()

    def _stop_timers(self) -> None:
        for timer in (self._watchdog, self._release_timer):
            if timer is not None:
                timer.cancel()
        self._watchdog = self._release_timer = None

    # -- LinkHandler --------------------------------------------------------------------------

    def link_up(self, wire: Wire) -> None:
        self._held = wire
        for command, heard in self._first.items():
            answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(heard)
            self._batch.append(command)
            self._unanswered.append(answer)
        self._write_batch()
        subscriber = self._subscriber
        if subscriber is None or not self._link_was_lost or not subscriber.wanted:
            self._release()
        elif subscriber.restored:
            self._release_in(self.link.spread)
        else:
            self._release_in(self._backlog_timeout)

    def link_down(self, error: Exception) -> None:
        wire = self._wire or self._held
        self._wire = self._held = None
        self._link_was_lost = True
        self._stop_timers()
        # The later ones first: each goes before those that are there.
        batch, self._batch = self._batch, []
        self._take_back(batch, None)
        if wire is not None:
            self._counters.bytes_in += wire.bytes_in
            self._counters.bytes_out += wire.bytes_out
            self._take_back(tail(self._stuck, wire.untaken), self._stuck_due)
        self._stuck = []
        lost, self._unanswered = self._unanswered, deque()
        for future in self._doubts.lost(lost):
            lost_at = f"the connection to {self.link.node} broke before the answer came"
            future.set_exception(
                ConnectionLost(f"{lost_at}, the command may have run: {describe(error)}")
            )
        self._forget_done()

    def writable(self) -> None:
        self._stuck = []
        doubts, backlog = self._doubts, self._backlog
        while (doubts or backlog) and self._wire is not None and not self._wire.paused:
            if doubts:
                future, command = doubts.pop()
            else:
                (future, command), self._batch_due = backlog.pop_first()
            if not future.done():
                if self._on_refusal is not None:
                    self._refusable[future] = command
                self._batch.append(command)
                self._unanswered.append(future)
                if len(self._batch) >= WRITE_AT_ONCE:
                    self._write_batch()
        self._write_batch()
        self._batch_due = None
        self._forget_done()

    def send_ping(self, wire: Wire) -> None:
        # In its turn: what is in the batch counts as unanswered already.
        self._batch.append(pack(b"PING"))
        self._unanswered.append(None)
        self._write_batch()

    def frames_received(self, frames: Sequence[Frame]) -> int:
        unanswered, refusable = self._unanswered, self._refusable
        self._answered += len(frames)
        for frame in frames:
            if not unanswered:
                self._counters.dropped_unreadable += 1
                self._log.warning("", "%s answered unasked: %.100r", self.link.node, frame)
                continue
            future = unanswered.popleft()
            command = refusable.pop(future, None) if refusable and future is not None else None
            if future is None or future.done():
                continue
            if isinstance(frame, Exception):
                self._refused(future, command, frame)
            else:
                future.set_result(frame)
        return len(frames)

    def _refused(
        self, future: asyncio.Future[Frame], command: bytes | None, error: Exception
    ) -> None:
        """What becomes of an error instead of a reply."""
        take_over = self._on_refusal
        if take_over is not None and command is not None:
            sent = self._sent(future, command)
            if take_over(sent, error):
                return
        why = explained(error, clustered=take_over is not None)
        refusal = CommandRefused(f"{self.link.node} refused the command: {why}")
        refusal.__cause__ = error
        future.set_exception(refusal)


def _fail(future: asyncio.Future[Frame], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
