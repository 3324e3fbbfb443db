"""Python programs that start in no time: forked from a process that has imported all they need.

Most of what a short program takes is Python's, Django's and Channels' start. Here that happens
once. What a program sees is what it would see otherwise: its own arguments, environment, folder,
standard streams or terminal, the signals' defaults, and the interpreter's own way to end. What it
does not see, and what some tests must therefore start as users do (`cold`), is an empty
interpreter: an environment variable that Python reads when it starts has no effect, and neither
has what the program would import first.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, Self

__all__ = ["Process", "Warm", "start_cold"]

ROOT = Path(__file__).resolve().parents[1]
# How pids and exit statuses are told.
NUMBER = struct.Struct("i")

# By the number of a standard stream: a file instead of the pipe, or None for a closed one.
Redirected = dict[int, str | None]

# What must not be among it is whatever starts a thread, opens a file or reads the settings. Of
# Daphne that is its server, which makes an event loop, but not what that imports.
IMPORTED = [
    "channels.layers",
    "channels.generic.websocket",
    "daphne.http_protocol",
    "daphne.ws_protocol",
    "django.contrib.staticfiles.apps",
    "django.core.management.commands.runserver",
    "django.core.serializers.json",
    "django.db.models",
    "django.http",
    "django.template.backends.django",
    "django.urls",
    "mpx_channels.apps",
    "mpx_channels.checks",
    "mpx_channels.diagnostics.listen",
    "mpx_channels.diagnostics.send",
    "mpx_channels.diagnostics.status",
    "mpx_channels.diagnostics.top",
    "mpx_channels.management.commands.mpx",
    "rich.live",
    "rich.progress",
    "rich.table",
    "twisted.internet.asyncioreactor",
    "twisted.internet.endpoints",
]


class Process:
    """A program that runs, used as `subprocess.Popen` is."""

    def __init__(self, told: socket.socket, *files: IO[Any] | None) -> None:
        self.returncode: int | None = None
        self.stdin, self.stdout, self.stderr = files
        self._told = told
        self.pid: int = hear(told)

    def poll(self) -> int | None:
        """The exit status, if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, or the negative number of the signal that ended it."""
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self.returncode = hear(self._told)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired([f"process {self.pid}"], timeout or 0) from None
            self._told.close()
        return self.returncode

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write `input`, read to the end of both outputs, and wait for its end."""
        outputs = [Reading(file) for file in (self.stdout, self.stderr)]
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                if input:
                    self.stdin.write(input)
        for output in outputs:
            output.join(timeout)
            if output.is_alive():
                raise subprocess.TimeoutExpired([f"process {self.pid}"], timeout or 0)
        self.wait(timeout)
        return outputs[0].read, outputs[1].read

    def send_signal(self, number: int) -> None:
        """Send it, if the program has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended in this moment
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Reading(threading.Thread):
    """Reads a file to its end, if there is one."""

    def __init__(self, file: IO[Any] | None) -> None:
        super().__init__(daemon=True)
        self.read: Any = None
        self._file = file
        self.start()

    def run(self) -> None:
        if self._file is not None and not self._file.closed:
            with self._file:
                self.read = self._file.read()


class Warm:
    """The process that others are forked from; at the end of the block it is gone."""

    def __enter__(self) -> Self:
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "tests.warm", str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno()],
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._requests.shutdown(socket.SHUT_RDWR)
        self._requests.close()
        self._process.wait()

    def start(
        self,
        arguments: list[str],
        *,
        env: dict[str, str],
        cwd: Path = ROOT,
        terminal: int | None = None,
        text: bool = True,
        redirected: Redirected | None = None,
    ) -> Process:
        """Start ``python ARGUMENTS``, in pipes or on a terminal.

        The arguments are a file's, or ``-m`` and a module's, or ``-c`` and code's.
        """
        told, theirs = socket.socketpair()
        request = {
            "arguments": arguments,
            "environment": env,
            "folder": str(cwd),
            "on_terminal": terminal is not None,
            "redirected": list((redirected or {}).items()),
        }
        told.sendall(json.dumps(request).encode() + b"\n")
        files: list[IO[Any] | None] = [None] * 3
        if terminal is not None:
            given = [os.dup(terminal) for _ in range(3)]
        else:
            given = []
            for number in range(3):
                reader, writer = os.pipe()
                ours, other = (writer, reader) if number == 0 else (reader, writer)
                mode = "w" if number == 0 else "r"
                files[number] = open(ours, mode) if text else open(ours, mode + "b")  # noqa: SIM115
                given.append(other)
        with theirs:
            socket.send_fds(self._requests, [b"!"], [*given, theirs.fileno()])
        for descriptor in given:
            os.close(descriptor)
        return Process(told, *files)


def start_cold(
    arguments: list[str],
    *,
    env: dict[str, str],
    cwd: Path = ROOT,
    terminal: int | None = None,
    text: bool = True,
    redirected: Redirected | None = None,
) -> subprocess.Popen[Any]:
    """As `Warm.start`, but as everybody starts a program."""
    command = [sys.executable, *arguments]
    if redirected:
        places = [f"{n}>>{shlex.quote(p)}" if p else f"{n}>&-" for n, p in redirected.items()]
        command = ["sh", "-c", f'exec "$@" {" ".join(places)}', "sh", *command]
    if terminal is None:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=env, cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe, text=text
        )
    # Not by Popen's preexec_fn: a fork of a process with threads, such as pytest-xdist's.
    take = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-I", "-S", "-c", take, *command]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    return subprocess.Popen(command, env=env, cwd=cwd, **streams)


# -- in the process that is forked from ------------------------------------------------------------


def say(told: socket.socket, number: int) -> None:
    told.sendall(NUMBER.pack(number))


def hear(told: socket.socket) -> int:
    (number,) = NUMBER.unpack(told.recv(NUMBER.size, socket.MSG_WAITALL))
    return int(number)


def serve(requests: socket.socket) -> list[str]:
    """Fork for every request; returns in the programs only, with their arguments."""
    while True:
        _, descriptors, _, _ = socket.recv_fds(requests, 1, 4)
        with contextlib.suppress(ChildProcessError):  # there is none any more
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not descriptors:
            os._exit(0)
        # A fork for each, which waits for the program and tells its end.
        if not os.fork():
            requests.close()
            told = socket.socket(fileno=descriptors.pop())
            with told.makefile() as lines:
                request = json.loads(lines.readline())
            if not (pid := os.fork()):
                told.close()
                arguments: list[str] = request.pop("arguments")
                become(descriptors, **request)
                return arguments
            for descriptor in (0, 1, 2, *descriptors):
                os.close(descriptor)
            say(told, pid)
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(OSError):  # nobody is interested any more
                say(told, os.waitstatus_to_exitcode(status))
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def become(
    descriptors: list[int],
    environment: dict[str, str],
    folder: str,
    on_terminal: bool,
    redirected: list[tuple[int, str | None]],
) -> None:
    """Be as a Python that has just been started so."""
    if on_terminal:
        os.login_tty(os.dup(descriptors[0]))
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for number, place in redirected:
        os.close(number)
        if place is not None:
            assert os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT) == number
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = open_stream(number, getattr(sys, f"__{name}__"))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def open_stream(number: int, before: Any) -> IO[str] | None:
    """A standard stream as Python opens it, if there is one."""
    try:
        os.fstat(number)
    except OSError:
        return None
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    unbuffered = bool(number and os.environ.get("PYTHONUNBUFFERED"))
    raw = open(number, "wb" if number else "rb", 0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(
        raw,
        codecs.lookup(encoding).name if encoding else before.encoding,
        before.errors if number == 2 or not encoding else errors or "strict",
        line_buffering=number == 2 or raw.isatty(),
        write_through=unbuffered,
    )


def run(arguments: list[str]) -> None:
    """Run the program in this process, as the last that it does."""
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path[0] = ""
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


def main() -> None:
    """Import, and be forked from."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    for name in IMPORTED:
        with contextlib.suppress(ImportError):  # not installed: it is not needed here, then
            importlib.import_module(name)
    # Their memory is not written to, and so not copied.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for pytest
    run(serve(requests))


if __name__ == "__main__":
    main()
