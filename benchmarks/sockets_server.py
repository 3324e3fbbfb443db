"""A server process of `benchmarks.sockets`, and how much CPU time it uses."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from .sockets_clients import BenchmarkFailed

# With the settings that a project gets without choosing any, but no access log. Uvicorn runs on
# uvloop if that is installed, and speaks WebSocket by `websockets`; Daphne runs on asyncio.
COMMANDS = {
    "uvicorn": ["uvicorn", "--log-level", "warning", "--port"],
    "daphne": ["daphne", "-v", "0", "-p"],
}


class Server:
    """A server and a stack in it."""

    def __init__(self, server: str, stack: str, url: str) -> None:
        self.stack = stack
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                *COMMANDS[server],
                str(self.port),
                "benchmarks.sockets_stacks:application",
            ],
            env=os.environ | {"BENCHMARK_STACK": stack, "BENCHMARK_REDIS": url},
            stdout=self._log,
            stderr=self._log,
            cwd=Path(__file__).parent.parent,
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def cpu(self) -> float:
        """Seconds of CPU time of all its threads, user and system.

        What /proc/PID/stat has in hundredths of a second, in nanoseconds: the clock that
        clock_getcpuclockid(3) gives for a process, on Linux.
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    async def ready(self) -> None:
        """Return once it accepts connections."""
        async with asyncio.timeout(30):
            while self._process.poll() is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
        raise BenchmarkFailed(f"the server of {self.stack!r} did not start\n{self.printed()}")

    async def settle(self) -> None:
        """Return once it has nothing to do any more."""
        async with asyncio.timeout(60):
            while True:
                before = self.cpu
                await asyncio.sleep(0.1)
                if self.cpu - before < 0.005:
                    return

    def printed(self) -> str:
        """What it has printed: nothing, when all is well."""
        self._log.seek(0)
        return self._log.read()
