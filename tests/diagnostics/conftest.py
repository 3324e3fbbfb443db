"""`manage.py mpx` as a user runs it: a process of its own, in a pipe or on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyte
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Long enough for a loaded machine; a test that passes never waits so long.
PATIENCE = 30.0

Config = dict[str, Any]


class Project:
    """A project with a channel layer, and what one does with it in a shell."""

    def __init__(self, config: Config) -> None:
        self.layers: dict[str, Any] = {
            "default": {"BACKEND": "mpx_channels.layer.MpxChannelLayer", "CONFIG": config}
        }
        # Folders that Python looks into before all others.
        self.python_path: list[str] = []
        self._running: list[subprocess.Popen[str]] = []
        self._terminals: list[Terminal] = []

    @property
    def config(self) -> Config:
        """The CONFIG of the layer "default"."""
        config: Config = self.layers["default"]["CONFIG"]
        return config

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if key not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM")
        }
        return kept | {
            "DJANGO_SETTINGS_MODULE": "tests.diagnostics.settings",
            "MPX_CHANNEL_LAYERS": json.dumps(self.layers),
            "PYTHONPATH": os.pathsep.join([*self.python_path, str(ROOT)]),
            "PYTHONWARNINGS": "error",
            "TERM": "xterm-256color",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), "mpx", *arguments]

    def run(self, *arguments: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run `manage.py mpx ARGUMENTS` in pipes, to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run it with ``--json``, and return what it printed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it in pipes; it is ended with the test."""
        return self._start(self.command(*arguments))

    def terminal(self, *arguments: str, columns: int = 160, rows: int = 40) -> Terminal:
        """Start it on a terminal; it is ended with the test."""
        terminal = Terminal(self.command(*arguments), self.environment, columns, rows)
        self._terminals.append(terminal)
        return terminal

    def worker(self, **told: Any) -> Worker:
        """Start a worker process (see `tests.diagnostics.worker`), and wait until it is ready."""
        command = [sys.executable, "-m", "tests.diagnostics.worker", json.dumps(told)]
        return Worker(self._start(command))

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running.append(process)
        return process

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()
        for terminal in self._terminals:
            terminal.close()


class Worker:
    """A worker process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        while "channels" not in (ready := self.read()):
            pass  # what came meanwhile
        self.channels: list[str] = ready["channels"]
        self.pid: int = ready["pid"]
        self.process_id: str = ready["process_id"]

    def read(self) -> Any:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            pytest.fail(f"the worker ended: {errors}")
        return json.loads(line)

    def stop(self) -> None:
        """End it as it would end by itself."""
        _, errors = self.process.communicate("", timeout=PATIENCE)
        assert (self.process.returncode, errors) == (0, "")


class Terminal:
    """A program in a pseudo-terminal, and what its screen shows."""

    def __init__(
        self, command: list[str], environment: dict[str, str], columns: int, rows: int
    ) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        self.pid, self._fd = pty.fork()
        size = struct.pack("HHHH", rows, columns, 0, 0)
        if not self.pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.chdir(ROOT)
            os.execvpe(
                command[0], command, environment | {"COLUMNS": str(columns), "LINES": str(rows)}
            )
        self._code: int | None = None

    @property
    def text(self) -> str:
        """What the screen shows now."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    @property
    def attributes(self) -> list[Any]:
        """The terminal's settings, as of termios."""
        return termios.tcgetattr(self._fd)

    def resize(self, columns: int, rows: int) -> None:
        """Give it another size; the kernel sends SIGWINCH."""
        self.screen.resize(rows, columns)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Type; ``"\\x03"`` is Ctrl-C."""
        os.write(self._fd, keys.encode())

    def read(self, seconds: float) -> bool:
        """Take what comes within `seconds`; False when the program has ended."""
        ready, _, _ = select.select([self._fd], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # Linux' end of a terminal
            data = b""
        self.output += data
        self._stream.feed(data)
        return bool(data)

    def wait_for(self, condition: str | Callable[[str], object]) -> str:
        """Read until the screen shows a text, or fulfils a condition; returns the screen."""
        fulfilled = condition if callable(condition) else lambda text: condition in text
        deadline = time.monotonic() + PATIENCE
        while not fulfilled(self.text):
            if time.monotonic() > deadline or not self.read(0.1):
                pytest.fail(f"the screen never showed {condition!r}:\n{self.text}")
        return self.text

    def wait(self) -> int:
        """Read to the program's end; returns its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self.read(0.1):
            if time.monotonic() > deadline:
                pytest.fail(f"the program did not end:\n{self.text}")
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self._fd)


MakeProject = Callable[..., Project]


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make_project(redis_url: str, prefix: str) -> Iterator[MakeProject]:
    """Makes projects whose layer has this CONFIG, by default on the session's server."""
    projects: list[Project] = []

    def make(**config: Any) -> Project:
        project = Project({"hosts": [redis_url], "prefix": prefix, **config})
        projects.append(project)
        return project

    yield make
    for project in projects:
        project.close()


@pytest.fixture
def project(make_project: MakeProject) -> Project:
    """A project on the session's server."""
    return make_project()
