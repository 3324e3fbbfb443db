"""`manage.py mpx` as a user runs it: a process of its own, in a pipe or on a terminal.

Most of them start warm (see `tests.warm`). Of each kind, one test at least asks for `cold_project`:
whether it says what it should, refuses, is interrupted, terminated, or has nobody to write to.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.warm import Process, Warm, start_cold

ROOT = Path(__file__).resolve().parents[2]
MANAGE = str(ROOT / "manage.py")
# Long enough for a loaded machine; a test that passes never waits so long.
PATIENCE = 30.0

Config = dict[str, Any]
# What starts Python: `tests.warm` has both.
Start = Callable[..., Any]


class Project:
    """A project with a channel layer, and what one does with it in a shell."""

    def __init__(self, config: Config, start: Start) -> None:
        self.layers: dict[str, Any] = {
            "default": {"BACKEND": "mpx_channels.layer.MpxChannelLayer", "CONFIG": config}
        }
        # Folders that Python looks into before all others.
        self.python_path: list[str] = []
        self._start_python = start
        self._running: list[Process] = []
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

    def run(
        self, *arguments: str, input: Any = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `manage.py mpx ARGUMENTS` in pipes, to its end."""
        return ended(self.start(*arguments, **options), input)

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run it with ``--json``, and return what it printed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    def start(self, *arguments: str, **options: Any) -> Process:
        """Start it in pipes; it is ended with the test."""
        return self.python(MANAGE, "mpx", *arguments, **options)

    def terminal(self, *arguments: str, **options: Any) -> Terminal:
        """Start it on a terminal; it is ended with the test."""
        return self.python_on_terminal(MANAGE, "mpx", *arguments, **options)

    def worker(self, **told: Any) -> Worker:
        """Start a worker process (see `tests.diagnostics.worker`), and wait until it is ready."""
        return Worker(self.python("-m", "tests.diagnostics.worker", json.dumps(told)))

    def python(
        self, *arguments: str, variables: dict[str, str] | None = None, **options: Any
    ) -> Process:
        """Start ``python ARGUMENTS`` in pipes, with `variables` in its environment besides."""
        environment = self.environment | (variables or {})
        process: Process = self._start_python(list(arguments), env=environment, **options)
        self._running.append(process)
        return process

    def python_on_terminal(
        self,
        *arguments: str,
        columns: int = 160,
        rows: int = 40,
        variables: dict[str, str] | None = None,
    ) -> Terminal:
        """Start ``python ARGUMENTS`` on a terminal."""
        size = {"COLUMNS": str(columns), "LINES": str(rows)}
        environment = self.environment | size | (variables or {})
        start = partial(self._start_python, list(arguments), env=environment)
        terminal = Terminal(start, columns, rows)
        self._terminals.append(terminal)
        return terminal

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()
        for terminal in self._terminals:
            terminal.close()


def ended(process: Process, input: Any = None) -> subprocess.CompletedProcess[str]:
    """What a program has said, when it has come to its end."""
    output, errors = process.communicate(input, timeout=PATIENCE)
    assert process.returncode is not None
    return subprocess.CompletedProcess([], process.returncode, output, errors)


class Worker:
    """A worker process."""

    def __init__(self, process: Process) -> None:
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

    def __init__(self, start: Callable[..., Process], columns: int, rows: int) -> None:
        import pyte  # not where only what has to do with Redis is tested

        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # What the terminal's settings are before a program changes them.
        self.first_attributes = self.attributes
        try:
            self._process = start(terminal=theirs)
        finally:
            os.close(theirs)
        self.pid = self._process.pid

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
        # A picture comes in pieces, and half of one shows what never was.
        while select.select([self._fd], [], [], seconds)[0]:
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # Linux' end of a terminal
                data = b""
            if not data:
                return False
            self.output += data
            self._stream.feed(data)
            seconds = 0.02
        return True

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
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self.wait()
        os.close(self._fd)


MakeProject = Callable[..., Project]


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make_project(redis_url: str, prefix: str, warm: Warm) -> Iterator[MakeProject]:
    """Makes projects whose layer has this CONFIG, by default on the session's server."""
    projects: list[Project] = []

    def make(start: Start = warm.start, **config: Any) -> Project:
        project = Project({"hosts": [redis_url], "prefix": prefix, **config}, start)
        projects.append(project)
        return project

    yield make
    for project in projects:
        project.close()


@pytest.fixture
def project(make_project: MakeProject) -> Project:
    """A project on the session's server."""
    return make_project()


@pytest.fixture
def cold_project(make_project: MakeProject) -> Project:
    """The same, with programs that start as users start them."""
    return make_project(start_cold)
