"""scripts/demo, lint, test and soak: what they say when they cannot run, and what they do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
TOOLS = ["sh", "cat", "chmod", "cksum", "cp", "dirname", "grep", "id", "mkdir", "rm"]

each_script = pytest.mark.parametrize("script", ["demo", "lint", "test", "soak"])


class Checkout:
    """A copy of the scripts, on a machine that has what the test says and no more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path, tool
            (self.bin / tool).symlink_to(path)
        self.add("chromium", "exit 1")  # or else scripts/test may install it
        self.add("redis-server", "exit 1")  # and so
        self.add("nginx", "exit 1")
        shutil.copytree(SCRIPTS, folder / "scripts")
        (folder / "pyproject.toml").write_text("[project]\n")

    def add(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        """The exit status, the output, and the lines of the error output."""
        done = subprocess.run(
            [self.folder / "scripts" / script, *arguments],
            cwd="/",
            env={"PATH": str(self.bin), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr.splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def python_where(statement: str) -> str:
    """A Python that answers ``-c CODE`` as if `statement` had been run first."""
    return f"""shift; exec '{sys.executable}' -c "import sys; {statement}; $1" """


OLD = python_where("sys.version_info = (3, 9, 2)")
WITHOUT_VENV = python_where("sys.modules['ensurepip'] = None")
BROKEN_SHIM = "echo 'command not found' >&2; exit 127"

# Does what scripts/test asks for but install and check: it writes that into calls.txt.
FAKE = f"""
case "$*" in
-c*) exec '{sys.executable}' "$@" ;;
*_run.py* | *_checks.py*) exec '{sys.executable}' "$@" ;;
*'-m venv'*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
*'-m pip --version'*) ;;
*'-m pip'*) echo "$*" >>calls.txt; exit "${{PIP_STATUS:-0}}" ;;
*) echo "$*" >>calls.txt ;;
esac
"""
LINT = [
    "-m mypy",
    "-m ruff check",
    "-m ruff format --check",
    "-m sphinx -W -q docs docs/_build/html",
    "scripts/_contracts.py",
]
INSTALL = "-m pip install -qq --disable-pip-version-check -e .[dev]"


@each_script
@pytest.mark.parametrize("environment", [{}, {"PYTHON": "python3"}])
def test_a_python_that_is_too_old_is_named(
    checkout: Checkout, script: str, environment: dict[str, str]
) -> None:
    checkout.add("python3", OLD)
    checkout.add("python3.13", BROKEN_SHIM)
    status, _, errors = checkout.run(script, **environment)
    assert status != 0
    assert len(errors) == 1
    assert "needs Python 3.11 or newer, but python3 is Python 3.9" in errors[0]


@each_script
@pytest.mark.parametrize("python", [None, BROKEN_SHIM, "echo Hello"])
def test_no_python_at_all_is_said(checkout: Checkout, script: str, python: str | None) -> None:
    if python is not None:
        checkout.add("python3", python)
    status, _, errors = checkout.run(script)
    assert status != 0
    assert len(errors) == 1
    assert "needs Python 3.11 or newer" in errors[0]


@each_script
def test_a_missing_venv_module_is_said(checkout: Checkout, script: str) -> None:
    checkout.add("python3", WITHOUT_VENV)
    status, _, errors = checkout.run(script)
    assert status != 0
    assert len(errors) == 1
    assert "python3 has no working venv module" in errors[0]
    assert "apt install python3-venv" in errors[0]


def test_a_newer_python_on_the_path_is_used_if_it_runs(checkout: Checkout) -> None:
    checkout.add("python3", OLD)
    checkout.add("python3.14", BROKEN_SHIM)
    checkout.add("python3.12", FAKE)
    status, output, errors = checkout.run("test")
    assert (status, errors) == (0, [])
    assert "python3.12" in output


def test_the_demo_says_what_it_can_be_asked_for(checkout: Checkout) -> None:
    status, _, errors = checkout.run("demo", "--clusters")
    assert status == 2
    assert len(errors) == 1
    assert errors[0].endswith("scripts/demo [--cluster]")


def calls(checkout: Checkout) -> list[str]:
    """What was called since the last time, sorted: some of it goes on at once."""
    file = checkout.folder / "calls.txt"
    called = sorted(file.read_text().splitlines())
    file.unlink()
    return called


def test_the_second_run_installs_nothing(checkout: Checkout) -> None:
    checkout.add("python3", FAKE)
    assert checkout.run("test", "-k", "some")[0] == 0
    assert calls(checkout) == [INSTALL, "-m pytest -k some"]

    assert checkout.run("test", "-k", "some")[:2] == (0, "")
    assert calls(checkout) == ["-m pytest -k some"]

    (checkout.folder / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert checkout.run("test", "-k", "some")[0] == 0
    assert calls(checkout) == [INSTALL, "-m pytest -k some"]


def test_lint_is_beside_the_whole_suite_and_alone(checkout: Checkout) -> None:
    checkout.add("python3", FAKE)
    assert checkout.run("lint")[0] == 0
    assert calls(checkout) == sorted([INSTALL, *LINT])
    assert checkout.run("test")[::2] == (0, [])
    assert calls(checkout) == sorted([*LINT, "scripts/_suite.py"])


def test_a_failed_install_is_tried_again(checkout: Checkout) -> None:
    checkout.add("python3", FAKE)
    status, _, errors = checkout.run("test", PIP_STATUS="1")
    assert status != 0
    assert len(errors) == 1
    assert "installation failed" in errors[0]
    assert calls(checkout) == [INSTALL]

    assert checkout.run("test", "-k", "some")[0] == 0
    assert calls(checkout) == [INSTALL, "-m pytest -k some"]


@pytest.mark.parametrize("script", ["lint", "test"])
def test_a_failed_check_fails_the_whole(checkout: Checkout, script: str) -> None:
    bad = "*mypy*) echo 'error: 1 is no str'; exit 1 ;;\n*'-m pip --v'*)"
    checkout.add("python3", FAKE.replace("*'-m pip --version'*)", bad))
    status, output, errors = checkout.run(script)
    assert status == 1
    assert "error: 1 is no str" in output
    assert errors[-1].endswith("found something, see above: mypy")
    assert ("scripts/_suite.py" in calls(checkout)) is (script == "test")


def test_failed_tests_fail_the_whole(checkout: Checkout) -> None:
    checkout.add(
        "python3", FAKE.replace("*'-m pip --v", "*pytest* | *_suite.py*) exit 5 ;;\n*'-m pip --v")
    )
    assert checkout.run("test")[0] == 5
    assert checkout.run("test", "-k", "some")[0] == 5


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], "--minutes 10"),
        (["--json"], "--minutes 10 --json"),
        (["--minutes", "3"], "--minutes 3"),
        (["--case", "cut", "--seed", "7"], "--case cut --seed 7"),
        (["--list"], "--list"),
    ],
)
def test_a_soak_takes_ten_minutes_unless_told(
    checkout: Checkout, given: list[str], passed: str
) -> None:
    checkout.add("python3", FAKE)
    assert checkout.run("soak", *given)[0] == 0
    calls = (checkout.folder / "calls.txt").read_text().splitlines()
    assert calls == [INSTALL, f"-m tests.faults {passed}"]


FAMILY = """
import subprocess, sys
child = "import time; print('up', flush=True); time.sleep(600)"
subprocess.run([sys.executable, "-c", child])
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("ignored", [True, False], ids=["background", "foreground"])
def test_a_signal_ends_a_command_and_its_children(signum: signal.Signals, ignored: bool) -> None:
    # A shell script's & starts a command with INT ignored.
    trap = "trap '' INT" if ignored else ":"
    start = ["sh", "-c", trap + '; exec "$@"', "sh"]
    with subprocess.Popen(
        [*start, sys.executable, SCRIPTS / "_run.py", sys.executable, "-c", FAMILY],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.kill(process.pid, signum)
        # The end of the output is when the last who could write to it is gone.
        assert process.stdout.read() == b""
        assert process.wait(timeout=60) == 128 + signum


def test_an_exit_status_is_handed_on() -> None:
    run = [sys.executable, SCRIPTS / "_run.py", "sh", "-c"]
    assert subprocess.run([*run, "exit 3"], check=False).returncode == 3
    assert subprocess.run([*run, "kill -KILL $$"], check=False).returncode == 128 + 9


# -- the demo --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "before"),
    [
        ({}, ""),
        ({"REDIS_URL": "redis://here:6379/1?a=b&c=d"}, "REDIS_URL='redis://here:6379/1?a=b&c=d' "),
        ({"REDIS_URL": "redis://:secret@here"}, "REDIS_URL=... "),
        ({"MPX_EMBEDDED_DIR": "/tmp/a b"}, "MPX_EMBEDDED_DIR='/tmp/a b' "),
    ],
)
def test_the_demo_says_how_to_look_inside(environment: dict[str, str], before: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import _demo; print(_demo.look_inside())"],
        cwd=SCRIPTS,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == f"{before}.venv/bin/python manage.py mpx top\n"
    assert (SCRIPTS.parent / "manage.py").exists()


FLAKY = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_some(number):
    log = Path(__file__).with_name(f"{{number}}.txt")
    log.open("a").write("x")
    assert len(log.read_text()) > {failures}
"""


@pytest.mark.parametrize(
    ("tests", "failures", "status", "runs"),
    [(1, 1, 0, 2), (3, 2, 0, 3), (1, 9, 1, 3), (4, 2, 1, 2)],
)
def test_few_tests_that_fail_twice_are_run_by_themselves(
    tmp_path: Path, tests: int, failures: int, status: int, runs: int
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(FLAKY.format(tests=tests, failures=failures))
    done = subprocess.run(
        [sys.executable, SCRIPTS / "_suite.py", "-p", "no:django", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_XDIST_AUTO_NUM_WORKERS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert [len((tmp_path / f"{each}.txt").read_text()) for each in range(tests)] == [runs] * tests
    assert ("by themselves" in done.stdout) is (runs == 3)
