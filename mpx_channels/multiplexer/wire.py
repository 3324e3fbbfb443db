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

from .exceptions import ConnectionLost

hiredis: ModuleType | None
try:
    import hiredis
except ImportError:
    hiredis = None

__all__ = ["HAS_HIREDIS", "Frame", "Wire", "WireHandler", "forget_task", "pack", "pack_publish"]

HAS_HIREDIS: bool = hiredis is not None

# A reply or push as the server sent it: bytes, int, None, a list of these, or an exception.
Frame = Any

# Frames handled before other tasks get a turn. A flood of small messages then holds the loop for
# about a millisecond at a time.
FRAMES_PER_TURN = 1000
# The same where each frame takes some twenty times as long.
STREAM_FRAMES_PER_TURN = 50

# SO_LINGER with no time to linger: the close of a socket discards what it has not sent.
DISCARD = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)

_NOTHING_YET = object()


def pack(*words: bytes) -> bytes:
    """A command in Redis' protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/).

    Ours, as it is one line: hiredis' takes twice as long for the usual command.
    """
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(w), w) for w in words])


def pack_publish(name: bytes, data: bytes) -> bytes:
    """A PUBLISH in Redis' protocol: the one command hot enough to be worth a template."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(data), data)


def forget_task(task: asyncio.Task[Any]) -> None:
    """Have asyncio not complain that a task of a closed loop never ended."""
    # A private flag of asyncio's, which it sets on tasks of its own for the same reason.
    task._log_destroy_pending = False  # type: ignore[attr-defined]


class WireHandler(Protocol):
    """Whoever reads a wire. Neither method may raise."""

    def frames_received(self, frames: Sequence[Frame], /) -> None:
        """Take a batch of frames, in Redis' order."""

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
        self._held = False
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
            # redis-py has no annotations here.
            await connection.connect()  # type: ignore[no-untyped-call]
            if check is not None:
                await check(connection)
            return cls(connection, handler, use_hiredis=use_hiredis)
        except GeneratorExit:
            raise  # the loop was closed, nothing can be awaited any more
        except BaseException:
            await connection.disconnect(nowait=True)
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
        await self.connection.disconnect(nowait=True)

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
        """The event loop was closed with this connection open: close the socket without its help.

        A transport closes its socket in a turn of the loop, of which there will be none. So its
        own last step is called here, by its private name. uvloop's transports close by themselves,
        though not in silence: there, close the layer first, or have `uvloop.run` do it.
        """
        self.dropped = True
        if self._stream_task is not None:
            forget_task(self._stream_task)
        transport: Any = self._transport
        tls = getattr(transport, "_ssl_protocol", None)
        if tls is not None:
            transport._closed = True
            transport = tls._transport
        last_step = getattr(transport, "_call_connection_lost", None)
        if last_step is not None:
            transport._closing = True
            with contextlib.suppress(RuntimeError):  # of a loop that is closed
                last_step(None)
        # redis-py's complain of what is still open, and so do asyncio's streams: so these last.
        self.connection._reader = self.connection._writer = None

    # -- in: asyncio.Protocol -----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.dropped:
            return  # uvloop reads on while it closes
        self.bytes_in += len(data)
        if self._reader is None:
            self._stream.data_received(data)
            return
        self._reader.feed(data)
        if not self._held:
            self._take_turn()

    def _take_turn(self) -> None:
        """Handle the frames that are complete, at most a turn's worth."""
        if self.closed.done():
            return
        if self._held:
            self._held = False
            self._transport.resume_reading()
        if not self._handle(FRAMES_PER_TURN):
            self._held = True
            self._transport.pause_reading()
            self._loop.call_soon(self._take_turn)

    def _handle(self, most: int) -> bool:
        """Handle up to `most` frames; return whether that were all."""
        gets = self._reader.gets
        frames: list[Frame] = []
        append = frames.append
        broken: Exception | None = None
        all_handled = True
        try:
            while (frame := gets()) is not _NOTHING_YET:
                append(frame)
                if len(frames) == most:
                    all_handled = False
                    break
        except Exception as error:
            broken = error
        if frames:
            self.handler.frames_received(frames)
        if broken is not None:
            self._end(ConnectionLost(f"the server broke the protocol: {broken}"))
            self._transport.abort()
        return all_handled

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
        try:
            # What arrived before the end still counts, and comes before the news of the end.
            while self._reader is not None and not self.closed.done():
                if self._handle(FRAMES_PER_TURN):
                    break
        finally:
            self._end(reason)

    def _end(self, reason: Exception) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
            self.paused = True  # and stays so: nothing more is to be written

    def pause_writing(self) -> None:
        self.paused = True
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()
        if not self.closed.done():
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
                except redis.exceptions.ResponseError as error:
                    frame = error
                self.handler.frames_received([frame])
                if count % STREAM_FRAMES_PER_TURN == 0:
                    await asyncio.sleep(0)
        except Exception as error:
            # Also what a parser raises when it reads nonsense, such as ValueError.
            self._lost(error)
