"""One open connection: frames in by the batch, bytes out. The only file inside redis-py's walls.

redis-py does what it is good at: addresses, TLS, authentication, the handshake. When its
``connect()`` returns, every command of the handshake has been answered, so nothing is in the air;
from then on this file is the transport's protocol and feeds what arrives straight to hiredis.
That leaves no task, no future and no await per message: `redis.asyncio.client.PubSub` spends 9 to
14 microseconds a message, this 0.6 to 1.

Private names used, of `redis.asyncio.Connection`: ``_writer`` (for its transport), ``_reader`` (for
an end that came early) and ``_parser`` (for its error classes). Checked with redis-py 5.2 to 8.1.
Without hiredis the bytes go on to redis-py's own stream and parser, one awaited frame at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from types import ModuleType
from typing import Any, Protocol, cast

import redis.exceptions
from redis.asyncio.connection import AbstractConnection

from .closed_loops import forget_task
from .cluster_errors import know_cluster_errors
from .exceptions import ConnectionLost

hiredis: ModuleType | None
try:
    import hiredis
except ImportError:
    hiredis = None

__all__ = [
    "HAS_HIREDIS",
    "Frame",
    "Wire",
    "WireHandler",
    "hang_up",
]

HAS_HIREDIS: bool = hiredis is not None

# A reply or push as the server sent it: bytes, int, None, a list of these, or an exception.
Frame = Any

# Frames handled before other tasks get a turn. A flood of small messages then holds the loop for
# about a millisecond at a time.
FRAMES_PER_TURN = 1000
# The same where each frame takes some twenty times as long.
STREAM_FRAMES_PER_TURN = 50
# Seconds that `close` gives readers who are waited for.
LAST_FRAMES = 0.5

# A read of so many bytes may have found the socket's buffer full, and left the server with more to
# send: the smallest of the usual ones takes twice as much.
LARGE_READ = 32 * 1024
# SO_LINGER with no time to linger: the close of a socket discards what it has not sent.
DISCARD = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)

_NOTHING_YET = object()


def hang_up(connection: AbstractConnection) -> None:
    """Close a connection of redis-py without waiting for the peer.

    Nothing is awaited, so it does for one whose event loop was closed, too: see `forget_task`.
    """
    writer = connection._writer
    # redis-py complains of what has one and is no more, and so do asyncio's streams.
    connection._reader = connection._writer = None
    if writer is not None:
        with contextlib.suppress(RuntimeError):  # of a loop that is closed
            writer.transport.abort()


class WireHandler(Protocol):
    """Whoever reads a wire. Neither method may raise."""

    def frames_received(self, frames: Sequence[Frame], /) -> int:
        """Take frames, in Redis' order, and return how many.

        Those that it leaves are handed in again at `Wire.go_on`; until all are taken the socket is
        not read.
        """

    def writable(self) -> None:
        """The peer reads again after `Wire.paused` was true."""


class Wire(asyncio.Protocol):
    """An established connection, made by `Wire.open`."""

    def __init__(
        self, connection: AbstractConnection, handler: WireHandler, *, use_hiredis: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        self.handler = handler
        # Done when the connection is gone; its result is the reason.
        self.closed: asyncio.Future[Exception] = loop.create_future()
        self.paused = False
        self.dropped = False
        self.bytes_in = 0
        self.bytes_out = 0
        # So many bytes of what was last written were certainly not taken by the kernel.
        self.untaken = 0
        self.connection = connection
        self._loop = loop
        # `_writer` is private to redis-py; there is no other way to the transport.
        writer = cast("asyncio.StreamWriter", connection._writer)
        self._transport = cast("asyncio.Transport", writer.transport)
        stream = cast("asyncio.StreamReader", connection._reader)
        if self._transport.is_closing() or stream.at_eof():
            # The stream was told already; we would never be.
            raise ConnectionLost("the server closed the connection after the handshake")
        # The stream's protocol stays behind us: `connection.disconnect()` waits on it.
        self._stream = cast("asyncio.StreamReaderProtocol", self._transport.get_protocol())
        # Frames wait for their turn in redis-py's stream.
        self._held = False
        self._last_read = 0
        # Complete, and not taken by the handler yet.
        self._frames: list[Frame] = []
        self._all_taken = asyncio.Event()
        # When to go on with what is still to be parsed.
        self._turn: asyncio.Handle | None = None
        self._reading = True
        # Why there comes nothing more; `closed` is done when all that came before was handed out.
        self._reason: Exception | None = None
        self._stream_task: asyncio.Task[None] | None = None
        if use_hiredis:
            assert hiredis is not None
            self._reader: Any = hiredis.Reader(
                replyError=connection._parser.parse_error, notEnoughData=_NOTHING_YET
            )
        else:
            self._reader = None
            self._stream_task = loop.create_task(self._read_stream(), name="mpx-read-stream")
        self._transport.set_protocol(self)
        self._tls = self._transport.get_extra_info("ssl_object") is not None
        # As soon as the kernel has not taken all of a write, the next one waits for that: whoever
        # has not written yet can still go elsewhere. Not 0, which TLS takes for always full.
        self._transport.set_write_buffer_limits(high=1)

    @classmethod
    async def open(
        cls,
        connection: AbstractConnection,
        handler: WireHandler,
        *,
        check: Callable[[AbstractConnection], Awaitable[None]] | None = None,
        use_hiredis: bool | None = None,
    ) -> Wire:
        """Connect, shake hands, check and take over.

        Raises what redis-py or `check` raise, and leaves no socket then.
        """
        if use_hiredis is None:
            use_hiredis = HAS_HIREDIS
        try:
            know_cluster_errors(connection._parser)
            # redis-py has no annotations here.
            await connection.connect()  # type: ignore[no-untyped-call]
            if check is not None:
                await check(connection)
            return cls(connection, handler, use_hiredis=use_hiredis)
        except BaseException:
            hang_up(connection)
            raise

    # -- out ----------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Hand bytes to the socket. What it does not take at once asyncio keeps, and `paused` is
        true until it has taken that, too.
        """
        self.bytes_out += len(data)
        self._transport.write(data)
        if self._transport.is_closing():
            # Broken before it took anything of this; `connection_lost` is to come.
            self.untaken += len(data)
            self.paused = True

    async def close(self) -> None:
        """Handle what has arrived, and close the connection. Harmless when it is closed."""
        self._lost(ConnectionLost("the connection was closed by us"))
        if self._stream_task is not None:
            self._stream_task.cancel()
        self._note_untaken()
        # Not in good order: a peer that does not read, or does not say goodbye in TLS, would keep
        # the transport open long after us. Nobody waits for what might still be unsent; what the
        # kernel has taken, it sends.
        self._transport.abort()
        if not self.closed.done():
            # What is held back then has had its time, and goes the way of what Redis still has.
            await asyncio.wait([self.closed], timeout=LAST_FRAMES)
            self._end(self._reason or ConnectionLost("the connection was closed by us"))
        hang_up(self.connection)

    def abort(self, reason: Exception) -> None:
        """Drop the connection at once, without waiting for the peer."""
        self._lost(reason)
        self._note_untaken()
        # Else the kernel would go on trying, and what was given up would arrive after what is
        # written to the next connection. It says goodbye with a reset, then. Only to TCP, and
        # not where the socket is closed already.
        with contextlib.suppress(OSError):
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DISCARD)
        self._transport.abort()

    def _note_untaken(self) -> None:
        """Before an abort, which empties the buffer. Of TLS, nobody knows what went into it."""
        if not self._tls and not self._transport.is_closing():
            self.untaken += self._transport.get_write_buffer_size()

    def drop(self) -> None:
        """The event loop was closed with this connection open; `forget_task` closes its socket."""
        self.dropped = True
        if self._stream_task is not None:
            forget_task(self._stream_task)
        hang_up(self.connection)

    def behind(self, bytes_in: int) -> bool:
        """Whether more has arrived than was handled, as far as one can tell from here.

        ``bytes_in``: what was read some turns of the event loop ago.
        """
        waiting = self._held or self.holding or self._turn is not None
        return waiting or (self.bytes_in != bytes_in and self._last_read >= LARGE_READ)

    # -- in: asyncio.Protocol -----------------------------------------------------------------

    @property
    def holding(self) -> bool:
        """Whether frames have come that the handler has not taken: the peer is not heard then."""
        return bool(self._frames)

    def data_received(self, data: bytes) -> None:
        if self.dropped or self._reason is not None:
            return  # uvloop reads on while it closes
        self.bytes_in += len(data)
        self._last_read = len(data)
        if self._reader is None:
            self._stream.data_received(data)
            return
        self._reader.feed(data)
        if self._turn is None and not self._frames:
            self._take_turn()
        else:
            # Not before: most often the turn comes first, and nothing is left then.
            self._reading = False
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Hand in what the handler has left."""
        if self.closed.done():
            return
        if self._reader is not None:
            self._take_turn()
        elif self._hand_out():
            self._all_taken.set()

    def _take_turn(self) -> None:
        """Hand out the frames that are complete, at most a turn's worth; after the end, all."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self.closed.done():
            return
        gets = self._reader.gets
        complete = False
        while not complete:
            frames = self._frames
            append = frames.append
            try:
                while len(frames) < FRAMES_PER_TURN:
                    if (frame := gets()) is _NOTHING_YET:
                        complete = True
                        break
                    append(frame)
            except Exception as error:
                complete = True
                self._no_more(ConnectionLost(f"the server broke the protocol: {error}"))
                self._transport.abort()
            if not self._hand_out():
                return  # until `go_on`
            if not (complete or self._reason):
                self._turn = self._loop.call_soon(self._take_turn)
                return
        if self._reason is not None:
            self._end(self._reason)
        elif not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _hand_out(self) -> bool:
        """Have the handler take frames; return whether it took all."""
        frames = self._frames
        if not frames:
            return True
        self._frames = []
        try:
            taken = self.handler.frames_received(frames)
        except Exception as error:
            self._end(error)
            self._transport.abort()
            raise
        if taken == len(frames):
            return True
        self._frames = frames[taken:]
        return False

    def eof_received(self) -> bool | None:
        if self._reader is None:
            return self._stream.eof_received()
        if not self._tls and self._transport.get_write_buffer_size():
            # A peer that leaves reads no more, and asyncio would write on to it.
            self._note_untaken()
            self._transport.abort()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.dropped:
            return
        # As an end, not as an error: after an error the stream gives out nothing that it has.
        self._stream.connection_lost(None)
        if self._reader is not None:
            self._lost(exc or ConnectionLost("the server closed the connection"))

    def _lost(self, reason: Exception) -> None:
        """What arrived before the end still counts, and comes before the news of the end."""
        if self._reason is not None:
            return
        self._no_more(reason)
        if self._reader is None:
            self._end(reason)
        elif not self._frames:
            self._take_turn()

    def _no_more(self, reason: Exception) -> None:
        if self._reason is None:
            self._reason = reason
            self.paused = True  # and stays so: nothing more is to be written

    def _end(self, reason: Exception) -> None:
        self._no_more(reason)
        if not self.closed.done():
            self.closed.set_result(reason)

    def pause_writing(self) -> None:
        self.paused = True
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()
        if self._reason is None:
            self.paused = False
            self.handler.writable()

    # -- in, without hiredis ------------------------------------------------------------------

    async def _read_stream(self) -> None:
        try:
            for count in itertools.count(1):
                try:
                    frame = await self.connection.read_response(
                        disconnect_on_error=False, push_request=True
                    )
                except (
                    redis.exceptions.ResponseError,
                    redis.exceptions.BusyLoadingError,  # to redis-py a ConnectionError
                ) as error:
                    frame = error
                self._frames.append(frame)
                if not self._hand_out():
                    self._all_taken.clear()
                    await self._all_taken.wait()
                if count % STREAM_FRAMES_PER_TURN == 0:
                    self._held = True
                    await asyncio.sleep(0)
                    self._held = False
        except Exception as error:
            # Also what a parser raises when it reads nonsense, such as ValueError.
            self._lost(error)
