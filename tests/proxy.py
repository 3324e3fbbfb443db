"""A TCP proxy that does to connections what networks do.

It cuts, half-closes, freezes, strands, delays and refuses them, in one direction or both, hands
their bytes on one by one, adds garbage, and spoils handshakes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import ssl
import struct
from collections.abc import Callable, Collection
from typing import Self

__all__ = ["Direction", "Proxy", "free_port", "without"]


# Not that of `random`, which tests set back to what it was.
_chance = random.SystemRandom()
_drawn: set[int] = set()


def free_port(*, bus: int = 0) -> int:
    """A TCP port that nobody has now, nor the one that is ``bus`` above it.

    Below those that the system gives to clients: a client that tries in vain to connect to one of
    them may be given that very port, and find itself connected to itself. Each process of
    pytest-xdist draws from its own, and none twice, since a port that was drawn is still free for
    others.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = _chance.randrange(15_000 + worker, 30_000, workers)
        ports = {port, port + bus}
        # The system's own begin at 32,768.
        if max(ports) < 32_768 and not ports & _drawn and all(map(_is_free, ports)):
            _drawn.update(ports)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# What Redis pushes of these kinds, of a name and something without line breaks.
_PUSHED = rb"\*3\r\n\$\d+\r\n(?:%b)\r\n\$\d+\r\n[^\r]*\r\n(?:\$\d+\r\n[^\r]*|:\d+)\r\n"


def without(*kinds: bytes) -> Callable[[bytes], bytes]:
    """For `Direction.rewrite`: what such pushes, ``b"message"`` say, are left out of."""
    pushed = re.compile(_PUSHED % b"|".join(kinds))
    return lambda piece: pushed.sub(b"", piece)


class Direction:
    """What goes one way through the proxy, over all its connections."""

    def __init__(self) -> None:
        # Everything that was let through, in the order of its coming.
        self.data = bytearray()
        # Whether `data` is kept: who runs for hours looks at none of it.
        self.keep = True
        # Seconds that each piece is held back.
        self.delay = 0.0
        # Bytes that are handed on at once, at most; 1: byte by byte.
        self.piece = 65536
        # As `delay`, by what is in a piece: the next ones of its connection wait behind it.
        self.delay_of: Callable[[bytes], float] | None = None
        # What stops a connection until the next `thaw`, by what is in a piece.
        self.freeze_at: Callable[[bytes], bool] | None = None
        # What each piece is changed into.
        self.rewrite: Callable[[bytes], bytes] | None = None
        self._open = asyncio.Event()
        self._thawed = asyncio.Event()
        self._open.set()

    @property
    def frozen(self) -> bool:
        return not self._open.is_set()

    def freeze(self) -> None:
        """Let nothing through any more; connections stay open and their senders' buffers fill."""
        self._open.clear()

    def thaw(self) -> None:
        """Let through what was held back, and what comes."""
        self.freeze_at = None
        self._open.set()
        self._thawed.set()

    async def pump(self, reader: asyncio.StreamReader, end: End) -> None:
        while data := await reader.read(65536):
            for start in range(0, len(data), self.piece):
                piece = data[start : start + self.piece]
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.delay_of is not None:
                    await asyncio.sleep(self.delay_of(piece))
                if self.freeze_at is not None and self.freeze_at(piece):
                    await self._thawed.wait()
                await self._open.wait()
                await end.open.wait()
                if end.lost:
                    return  # with what was held back
                if self.rewrite is not None:
                    piece = self.rewrite(piece)
                if self.keep:
                    self.data += piece
                end.writer.write(piece)
                await end.writer.drain()


class End:
    """One end of one connection: what is written to it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.open = asyncio.Event()
        self.open.set()
        # Cut: what is still on its way to it never comes.
        self.lost = False

    def cut(self) -> None:
        self.lost = True
        self.open.set()
        self.writer.transport.abort()


def _is_among(ends: list[End], ports: Collection[int] | None) -> bool:
    """Whether a connection is one of those; None for all."""
    if ports is None:
        return True
    return len(ends) == 2 and ends[1].writer.get_extra_info("sockname")[1] in ports


class Proxy:
    """Stands before the server at `host` and `port`; connect to `url` instead.

    With `tls` it takes TLS connections, and talks plainly to the server.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.to_server = Direction()
        self.to_client = Direction()
        self.accepted = 0
        # What a new connection gets at once, instead of the server: garbage, and its end.
        self.greeting: bytes | None = None
        # A new connection is reset when so many bytes of the server's answers have come.
        self.reset_after: int | None = None
        self.port = free_port()
        self._upstream = (host, port)
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self._ended = False
        self._serving: dict[asyncio.Task[None], list[End]] = {}

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections stand."""
        return len(self._serving)

    async def accept(self) -> None:
        """Take connections (again, after `refuse`)."""
        self._listener = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls
        )

    def refuse(self) -> None:
        """Take no new connections; those that stand go on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def cut(self, ports: Collection[int] | None = None) -> None:
        """Break every connection, or those, without a word to either side.

        ``ports``: of our ends, as the server sees them.
        """
        for ends in self._serving.values():
            if _is_among(ends, ports):
                for end in ends:
                    end.cut()

    def half_close(self, *, client: bool) -> None:
        """Tell one side of every connection, the client or the server, that nothing more comes."""
        for end in self._ends(client):
            if end.writer.can_write_eof():
                end.writer.write_eof()

    def strand(self, *, client: bool, ports: Collection[int] | None = None) -> None:
        """Let nothing more reach one side of what stands; new connections go on as ever.

        As behind a firewall that has forgotten them. `cut` ends it, and drops what was held back.
        ``ports``: as for `cut`.
        """
        for ends in self._serving.values():
            if len(ends) == 2 and _is_among(ends, ports):
                ends[0 if client else 1].open.clear()

    def inject(self, data: bytes, *, client: bool) -> None:
        """Send one side of every connection what nobody wrote."""
        for end in self._ends(client):
            end.writer.write(data)

    def _ends(self, client: bool) -> list[End]:
        side = 0 if client else 1
        return [ends[side] for ends in self._serving.values() if len(ends) == 2]

    def freeze(self) -> None:
        """Let nothing through in either direction; new connections are taken and hang, too."""
        self.to_server.freeze()
        self.to_client.freeze()

    def thaw(self) -> None:
        self.to_server.thaw()
        self.to_client.thaw()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # Not by cancelling: asyncio would log the tasks of its server as failed.
        self._ended = True
        self.refuse()
        self.thaw()
        # What was accepted in the last moment is served in the next turns, and ends then.
        for _ in range(3):
            await asyncio.sleep(0)
        while self._serving:
            self.cut()
            await asyncio.wait(self._serving, timeout=0.1)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._serving[task] = ends = [End(writer)]
        pumps: list[asyncio.Task[None]] = []
        try:
            if self.greeting is not None:
                writer.write(self.greeting)
                return
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
            ends.append(End(up_writer))
            if self.reset_after is not None:
                await self._reset(self.reset_after, reader, up_reader, ends)
                return
            pumps = [
                asyncio.create_task(self.to_server.pump(reader, ends[1])),
                asyncio.create_task(self.to_client.pump(up_reader, ends[0])),
            ]
            if not self._ended:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is away: so are we
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in ends:
                end.writer.close()
                with contextlib.suppress(OSError):
                    await end.writer.wait_closed()
            del self._serving[task]

    async def _reset(
        self,
        count: int,
        reader: asyncio.StreamReader,
        up_reader: asyncio.StreamReader,
        ends: list[End],
    ) -> None:
        """Hand on so many bytes of the answers, and reset the connection."""
        client, server = ends
        upwards = asyncio.create_task(self.to_server.pump(reader, server))
        try:
            while count > 0 and (data := await up_reader.read(count)):
                client.writer.write(data)
                count -= len(data)
            await client.writer.drain()
        finally:
            upwards.cancel()
            await asyncio.gather(upwards, return_exceptions=True)
            sock = client.writer.get_extra_info("socket")
            # Nothing lingers: the client is sent a RST.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.cut()
