"""`tests.warm`: programs that start from it end as others do."""

from __future__ import annotations

import os
import pty
import signal
from typing import Any

import pytest

from .warm import Warm, start_cold


@pytest.fixture(params=["warm", "cold"])
def start(request: pytest.FixtureRequest, warm: Warm) -> Any:
    return warm.start if request.param == "warm" else start_cold


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("import sys; sys.exit(3)", 3),
        ("1/0", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import atexit, os; atexit.register(os._exit, 4)", 4),
        ("import threading as t, time; t.Thread(target=time.sleep, args=(0.1,)).start()", 0),
    ],
)
def test_exit_status(start: Any, code: str, status: int) -> None:
    process = start(["-c", code], env=dict(os.environ))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert bool(errors) is ("1/0" in code or "SIGINT" in code)


def test_what_it_is_given(start: Any, tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        "print(__name__, sys.argv, os.getcwd(), os.environ['A'], sys.stdin.read(),\n"
        "      os.path.dirname(sys.path[0]), sys.stdout.encoding, sys.stdout.errors)\n"
    )
    variables = {**os.environ, "A": "é", "PYTHONIOENCODING": "latin-1:replace"}
    process = start([str(program), "x"], env=variables, cwd=tmp_path, text=False)
    output, errors = process.communicate(b"\xe9", timeout=30)
    assert (process.returncode, errors) == (0, b"")
    told = f"__main__ [{str(program)!r}, 'x'] {tmp_path} é é {tmp_path.parent} iso8859-1 replace\n"
    assert output.decode("latin-1") == told


def test_signals_from_outside(start: Any) -> None:
    code = "import time; print('up', flush=True); time.sleep(60)"
    process = start(["-c", code], env=dict(os.environ))
    assert process.stdout.readline() == "up\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert process.poll() == -signal.SIGINT


@pytest.mark.parametrize(
    ("number", "place", "told"),
    [(1, None, ("", "True False\n")), (2, None, ("False True\n", "")), (1, "/dev/null", ("", ""))],
)
def test_redirections(start: Any, number: int, place: Any, told: tuple[str, str]) -> None:
    code = (
        "import sys; told = sys.stdout is None, sys.stderr is None; "
        "print(*told, file=sys.stderr if told[0] else sys.stdout)"
    )
    process = start(["-c", code], env=dict(os.environ), redirected={number: place})
    assert process.communicate(timeout=30) == told


def test_a_terminal(start: Any) -> None:
    ours, theirs = pty.openpty()
    code = (
        "import os, sys, time; print(sys.stdin.isatty(), os.getsid(0) == os.getpid(), "
        "os.tcgetpgrp(0) == os.getpgrp()); time.sleep(60)"
    )
    process = start(["-c", code], env=dict(os.environ), terminal=theirs)
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        said = b""
        while not said.endswith(b"\n"):
            said += terminal.read(1000)
        assert said == b"True True True\r\n"
        os.write(ours, b"\x03")
        assert process.wait(30) == -signal.SIGINT
