"""`mpx top`, on a terminal and for machines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import RestartableServer

from .conftest import MakeProject, Project, Terminal
from .schemas import check

HIDDEN, SHOWN = b"\x1b[?25l", b"\x1b[?25h"
OTHER_SCREEN, FIRST_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"


@contextlib.contextmanager
def top(project: Project, *arguments: str, **size: int) -> Iterator[Terminal]:
    """It runs on a terminal; at the end of the block it has put the terminal back."""
    terminal = project.terminal("top", *arguments, **size)
    terminal.wait_for("q leave")
    assert terminal.attributes != terminal.first_attributes
    yield terminal
    assert_left_as_it_was(terminal)


def assert_left_as_it_was(terminal: Terminal) -> None:
    assert terminal.attributes == terminal.first_attributes
    assert terminal.output.count(OTHER_SCREEN) == terminal.output.count(FIRST_SCREEN) >= 1
    assert terminal.output.rindex(FIRST_SCREEN) > terminal.output.rindex(b"q leave")
    assert terminal.output.rindex(SHOWN) > terminal.output.rindex(HIDDEN)
    assert b"Traceback" not in terminal.output


def pids(text: str, workers: list[Any]) -> list[int]:
    """The workers' pids in the order of their lines."""
    found = re.findall(r"^\S+ +(\d+) ", text, re.MULTILINE)
    wanted = {worker.pid for worker in workers}
    return [int(pid) for pid in found if int(pid) in wanted]


def shows(workers: list[Any]) -> Callable[[str], bool]:
    return lambda text: pids(text, workers) == [worker.pid for worker in workers]


# -- on a terminal --------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 160])
def test_it_shows_the_processes_and_q_leaves(project: Project, columns: int) -> None:
    worker = project.worker(groups={"room-1": 3}, send="room-1", quiet=True)
    with top(project, columns=columns, rows=24) as terminal:
        terminal.wait_for(shows([worker]))
        # Processes tell of themselves, groups are counted in Redis: not in the same moment.
        text = terminal.wait_for(
            lambda text: "/s " in text and re.search(r"^room-1 +3$", text, re.MULTILINE)
        )
        assert f"{project.config['prefix']} on {project.config['hosts'][0]}" in text
        assert "1 process, 3 consumers" in text
        assert "…" not in text
        # The line of bars grows with every look.
        terminal.wait_for(lambda text: re.search(r"^in .*/s +\S{3,} peak", text, re.MULTILINE))
        terminal.press("q")
        assert terminal.wait() == 0


def test_bars_move_under_load(project: Project, client: Any, prefix: str) -> None:
    worker = project.worker(groups={"room-1": 1})
    with top(project, "--interval", "0.3", columns=120) as terminal:
        terminal.wait_for(lambda text: re.search(r"^in +0/s +▁▁+ peak 0/s", text, re.MULTILINE))
        for _ in range(5):
            client.publish(f"{prefix}:g:room-1", b"anything that comes from Redis")
        terminal.wait_for(lambda text: re.search(r"^in .*▁[^▁ ]", text, re.MULTILINE))
        own = re.compile(rf"^\S+ +{worker.pid} .*[▂-█]", re.MULTILINE)
        terminal.wait_for(own.search)
        terminal.press("q")
        assert terminal.wait() == 0


@pytest.mark.parametrize("how", ["key", "signal"])
def test_ctrl_c_leaves(project: Project, how: str) -> None:
    with top(project) as terminal:
        if how == "key":
            terminal.press("\x03")
        else:
            os.kill(terminal.pid, signal.SIGINT)
        assert terminal.wait() == 0


def test_sigterm_leaves_the_terminal_as_it_was(cold_project: Project) -> None:
    with top(cold_project) as terminal:
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM


def test_sorting(project: Project) -> None:
    small = project.worker(groups={"room-1": 1})
    large = project.worker(groups={"room-1": 3})
    with top(project, "--sort", "consumers") as terminal:
        terminal.wait_for(shows([large, small]))
        terminal.press("r")
        terminal.wait_for(shows([small, large]))
        terminal.wait_for("by consumers, smallest first")
        terminal.press("\x1b[C")
        terminal.wait_for("by groups, largest first")
        terminal.press("<<<<<")
        terminal.wait_for("by host, a-z")
        terminal.wait_for(shows(sorted([small, large], key=lambda worker: worker.pid)))
        terminal.press(">r")
        terminal.wait_for("by pid, z-a")
        terminal.wait_for(shows(sorted([small, large], key=lambda worker: -worker.pid)))
        terminal.press("Q")
        assert terminal.wait() == 0


def test_it_takes_the_size_that_the_terminal_has(project: Project) -> None:
    worker = project.worker()
    # Nothing but the signal has it drawn anew within a minute.
    with top(project, "--interval", "60", columns=160, rows=40) as terminal:
        terminal.wait_for(shows([worker]))
        assert "reconnects" in terminal.text
        for columns, rows in ((80, 20), (160, 30)):
            terminal.resize(columns, rows)
            terminal.wait_for(
                lambda text, rows=rows: (
                    "q leave" in terminal.screen.display[rows - 1]
                    and ("reconnects" in text) is (rows == 30)
                    and shows([worker])(text)
                )
            )
        terminal.press("q")
        assert terminal.wait() == 0


def test_suspended_and_back(cold_project: Project) -> None:
    with top(cold_project) as terminal:
        in_use = terminal.attributes
        terminal.press("\x1a")
        terminal.wait_for(lambda _: FIRST_SCREEN in terminal.output)
        terminal.wait_for(lambda _: terminal.attributes != in_use)
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.wait_for(lambda _: terminal.output.count(OTHER_SCREEN) == 2)
        terminal.press("q")
        assert terminal.wait() == 0


def test_silent_and_gone(project: Project) -> None:
    worker, other = project.worker(groups={"room-1": 3}), project.worker()
    with top(project, "--sort", "consumers") as terminal:
        terminal.wait_for(shows([worker, other]))
        os.kill(other.pid, signal.SIGSTOP)
        terminal.wait_for("1 silent")
        terminal.wait_for(shows([other, worker]))  # first
        os.kill(other.pid, signal.SIGCONT)
        terminal.wait_for(shows([worker, other]))
        assert "silent" not in terminal.text
        os.kill(other.pid, signal.SIGKILL)
        terminal.wait_for(lambda text: re.search(rf" {other.pid} +gone ", text))
        terminal.wait_for(shows([worker]))
        terminal.press("q")
        assert terminal.wait() == 0


def test_the_server_dies_and_comes_back(
    make_project: MakeProject, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    project = make_project(hosts=[restartable_server.url])
    worker = project.worker()
    with top(project) as terminal:
        terminal.wait_for(shows([worker]))
        restartable_server.kill()
        terminal.wait_for("No answer since")
        terminal.wait_for("Connect")
        assert pids(terminal.text, [worker]) == [worker.pid]
        terminal.press("r")
        terminal.wait_for("smallest first")
        restartable_server.start()
        terminal.wait_for(lambda text: "No answer" not in text and shows([worker])(text))
        terminal.wait_for(lambda text: re.search(rf" {worker.pid} +\d+s ", text))
        restartable_server.kill()
        terminal.wait_for("No answer since")
        terminal.press("q")
        assert terminal.wait() == 0


def test_the_terminal_goes_away(cold_project: Project) -> None:
    terminal = cold_project.terminal("top")
    terminal.wait_for("q leave")
    os.kill(terminal.pid, signal.SIGHUP)
    assert terminal.wait() == 128 + signal.SIGHUP


BROKEN = """
from django.core.management import execute_from_command_line
from mpx_channels.diagnostics.board import Board

def update(self, snapshot, now):
    raise RuntimeError("a mistake of ours")

Board.update = update
execute_from_command_line(["manage.py", "mpx", "top"])
"""


def test_a_mistake_of_ours_leaves_the_terminal_as_it_was(project: Project) -> None:
    terminal = project.python_on_terminal("-c", BROKEN)
    assert terminal.wait() == 1
    assert terminal.attributes == terminal.first_attributes
    assert terminal.output.count(OTHER_SCREEN) == terminal.output.count(FIRST_SCREEN) == 1
    assert terminal.output.rindex(b"a mistake of ours") > terminal.output.rindex(FIRST_SCREEN)


def test_a_limit_ends_it(project: Project) -> None:
    terminal = project.terminal("top", "--limit", "2", "--interval", "0.5")
    assert terminal.wait() == 0
    assert_left_as_it_was(terminal)


# -- for machines ---------------------------------------------------------------------------------


def test_json_is_an_object_a_line(project: Project) -> None:
    worker = project.worker(groups={"room-1": 1}, send="room-1", quiet=True)
    done = project.run("top", "--json", "--limit", "3", "--interval", "0.3")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    for told in lines:
        check("status", told)
        (process,) = told["processes"]
        assert process["pid"] == worker.pid
        assert process["messages_in_per_second"] > 0
    assert lines[0]["at"] < lines[1]["at"] < lines[2]["at"]


def test_json_ends_with_ctrl_c(project: Project) -> None:
    running = project.start("top", "--json", "--interval", "0.1")
    assert running.stdout is not None
    json.loads(running.stdout.readline())
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (0, "")


def test_json_goes_on_when_the_server_is_back(
    make_project: MakeProject, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    project = make_project(hosts=[restartable_server.url])
    running = project.start("top", "--json", "--interval", "0.2")
    assert running.stdout is not None
    assert running.stderr is not None
    json.loads(running.stdout.readline())
    restartable_server.kill()
    assert "onnect" in running.stderr.readline()
    restartable_server.start()
    while json.loads(running.stdout.readline())["servers"] != [restartable_server.url]:
        pass
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert (running.returncode, errors) == (0, "")


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs a terminal"),
        (["--json", "--interval", "0"], "--interval must be from 0.1 to 60 seconds, not 0"),
        (["--json", "--interval", "nan"], "--interval must be"),
        (["--json", "--limit", "0"], "--limit must be 1 or more"),
        (["--json", "--groups", "-1"], "--groups must be 0 or more"),
        (["--json", "--layer", "other"], "there is no layer 'other'"),
    ],
    ids=str,
)
def test_wrong_usage(project: Project, arguments: list[str], words: str) -> None:
    done = project.run("top", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert words in sentence


def test_unknown_column(cold_project: Project) -> None:
    done = cold_project.run("top", "--sort", "price")
    assert (done.returncode, done.stdout) == (2, "")
    assert "invalid choice: 'price'" in done.stderr


def test_no_server(make_project: MakeProject, restartable_server: RestartableServer) -> None:
    project = make_project(hosts=[restartable_server.url])
    terminal = project.terminal("top")
    assert terminal.wait() == 1
    assert OTHER_SCREEN not in terminal.output
    assert "no connection to" in terminal.text
    done = project.run("top", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
