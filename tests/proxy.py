"""A TCP proxy that does to connections what networks do: cut, freeze, delay and refuse them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import Callable
from typing import Self

__all__ = ["Direction", "Proxy", "free_port"]


def free_port() -> int:
    """A TCP port that nobody has now.

    Below those that the system gives to clients: a client that tries in vain to connect to one of
    them may be given that very port, and find itself connected to itself. Each process of
    pytest-xdist draws from its own, since a port that was drawn is still free for others.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = random.randrange(15_000 + worker, 30_000, workers)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Direction:
    """What goes one way through the proxy, over all its connections."""

    def __init__(self) -> None:
        # Everything that was let through, in the order of its coming.
        self.data = bytearray()
        # Seconds that each piece is held back.
        self.delay = 0.0
        # What each piece is changed into.
        self.rewrite: Callable[[bytes], bytes] | None = None
        self._open = asyncio.Event()
        self._open.set()

    @property
    def frozen(self) -> bool:
        return not self._open.is_set()

    def freeze(self) -> None:
        """Let nothing through any more; connections stay open and their senders' buffers fill."""
        self._open.clear()

    def thaw(self) -> None:
        """Let through what was held back, and what comes."""
        self._open.set()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._open.wait()
            if self.rewrite is not None:
                data = self.rewrite(data)
            self.data += data
            writer.write(data)
            await writer.drain()


class Proxy:
    """Stands before the server at `host` and `port`; connect to `url` instead.

    With `tls` it takes TLS connections, and talks plainly to the server.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.to_server = Direction()
        self.to_client = Direction()
        self.accepted = 0
        self.port = free_port()
        self._upstream = (host, port)
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self._ended = False
        self._serving: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

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

    def cut(self) -> None:
        """Break every connection, without a word to either side."""
        for writers in self._serving.values():
            for writer in writers:
                writer.transport.abort()

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
        self._serving[task] = writers = [writer]
        pumps: list[asyncio.Task[None]] = []
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
            writers.append(up_writer)
            pumps = [
                asyncio.create_task(self.to_server.pump(reader, up_writer)),
                asyncio.create_task(self.to_client.pump(up_reader, writer)),
            ]
            if not self._ended:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server is away: so are we
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in writers:
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            del self._serving[task]
