"""`mpx status`."""

from __future__ import annotations

import os
import signal

from .conftest import Project
from .schemas import check


def test_all_processes_are_in_the_table(project: Project) -> None:
    first = project.worker(groups={"room-1": 2, "room-2": 1}, send="room-2")
    second = project.worker(groups={"room-1": 1}, promise="answer")
    told = project.json("status")
    check("status", told)
    by_pid = {each["pid"]: each for each in told["processes"]}
    assert set(by_pid) == {first.pid, second.pid}
    assert by_pid[first.pid]["consumers"] == 3
    assert by_pid[first.pid]["messages_out_per_second"] > 1
    assert by_pid[second.pid]["promises"] == 1
    assert told["groups"] == {"room-1": 3, "room-2": 1}
    done = project.run("status")
    assert done.returncode == 0, done.stderr
    assert f" {first.pid} " in done.stdout
    assert "\x1b" not in done.stdout


def test_a_silent_process_is_listed(project: Project) -> None:
    worker = project.worker()
    os.kill(worker.pid, signal.SIGSTOP)
    done = project.run("status")
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if str(worker.pid) in line]
    assert "silent" in line
