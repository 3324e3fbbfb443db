"""Programs that run beside a test, and a WebSocket client: just enough to talk to them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from tests.conftest import PATIENCE


class Program:
    """A process and its lines. Killed at the end of the block if it still runs."""

    def __init__(self, *command: str | Path, cwd: Path | None = None, env: dict[str, str]) -> None:
        self._command = command
        self._cwd = cwd
        self._env = env
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, cwd=self._cwd, env=self._env, stdin=pipe, stdout=pipe, stderr=pipe
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        # Reads what is left, too: a pipe with something in it would keep its transport open.
        await self.process.communicate()

    async def line(self) -> str:
        """What it prints next."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            pytest.fail(f"it ended:\n{(await self.process.stderr.read()).decode()}")
        return line.decode().rstrip("\n")

    def type(self, line: str) -> None:
        """Give it a line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def end_of_input(self) -> None:
        """Press Ctrl-D."""
        assert self.process.stdin is not None
        self.process.stdin.write_eof()

    async def listens(self, port: int) -> None:
        """Return when it takes connections."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    if self.process.returncode is not None:
                        await self.line()
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return

    async def aside(self, function: Callable[..., Any], *arguments: object) -> Any:
        """The result of a function that blocks, while the program is read from."""
        return await asyncio.to_thread(function, *arguments)

    async def interrupt(self, *, after: str | None = None) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        await self.ends(after=after)

    async def ends(self, *, after: str | None = None) -> None:
        """It ends by itself, in order, and has complained of nothing but `after`."""
        async with asyncio.timeout(PATIENCE):
            _, errors = await self.process.communicate()
        complaints = errors.decode().splitlines()
        assert [line for line in complaints if after is None or after not in line] == []
        assert self.process.returncode == 0


class WebSocket:
    """A client of text frames (RFC 6455). The server keeps its answers short of 64 KiB."""

    def __init__(self, host: str, port: int, path: str = "/") -> None:
        self._address = (host, port)
        self._path = path

    async def __aenter__(self) -> Self:
        host, port = self._address
        self._reader, self._writer = await asyncio.open_connection(host, port)
        key = base64.b64encode(os.urandom(16)).decode()
        request = [
            f"GET {self._path} HTTP/1.1",
            f"Host: {host}:{port}",
            f"Origin: http://{host}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        ]
        self._writer.write("\r\n".join([*request, "", ""]).encode())
        async with asyncio.timeout(PATIENCE):
            answer = await self._reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, text: str) -> None:
        data = text.encode()
        assert len(data) < 126
        # A mask of zeros is a mask.
        self._writer.write(bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data)
        await self._writer.drain()

    async def receive(self) -> str:
        async with asyncio.timeout(PATIENCE):
            opcode, length = await self._reader.readexactly(2)
            assert opcode == 0x81, f"not a text frame: {opcode:#x}"
            if length == 126:
                length = int.from_bytes(await self._reader.readexactly(2), "big")
            return (await self._reader.readexactly(length)).decode()
