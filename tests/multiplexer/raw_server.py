"""A server that shakes hands as Redis does, and then says exactly what the test wants."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from ..conftest import eventually


class RawServer:
    """Serves one client at a time; with `leave` it closes the connection after the handshake."""

    def __init__(self, *, leave: bool = False) -> None:
        self.received = bytearray()
        self.port = 0
        self.writer: asyncio.StreamWriter | None = None
        self.reading = asyncio.Event()
        self.reading.set()
        self._leave = leave
        self._listener: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def connected(self) -> bool:
        return self.writer is not None

    def send(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)

    async def end(self) -> None:
        """Close the connection in good order."""
        assert self.writer is not None
        self.writer.close()
        await eventually(lambda: not self.connected)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._listener is not None
        self._listener.close()
        self.reading.set()
        for writer in self._serving.values():
            writer.transport.abort()
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        greeted = 0
        try:
            while greeted < 2:  # the two CLIENT SETINFO of redis-py
                greeted += (await reader.readuntil(b"\nCLIENT\r\n")).endswith(b"\nCLIENT\r\n")
            await reader.readuntil(b"\nLIB-VER\r\n")
            await reader.readline()
            await reader.readline()
            writer.write(b"+OK\r\n+OK\r\n")
            self.writer = writer
            while not self._leave and (data := await reader.read(65536)):
                self.received += data
                await self.reading.wait()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writer = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del self._serving[task]
