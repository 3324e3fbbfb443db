"""`mpx status`."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import Any

import pytest

from mpx_channels.diagnostics.columns import COLUMNS, Line, fit, rate, span, total_line
from mpx_channels.diagnostics.snapshot import Rates
from mpx_channels.layer import ProcessStats
from tests.conftest import RestartableServer

from .conftest import PATIENCE, MakeProject, Project
from .schemas import check


def row(text: str, worker: Any) -> str:
    """The worker's line in the table."""
    (line,) = [line for line in text.splitlines() if re.search(rf" {worker.pid} ", line)]
    return line


# -- what it shows --------------------------------------------------------------------------------


def test_all_processes_are_in_the_table(project: Project) -> None:
    first = project.worker(groups={"room-1": 2, "room-2": 1}, send="room-2", quiet=True)
    second = project.worker(groups={"room-1": 1}, promise="answer")
    told = project.json("status")
    check("status", told)
    by_pid = {each["pid"]: each for each in told["processes"]}
    assert set(by_pid) == {first.pid, second.pid}
    assert by_pid[first.pid]["consumers"] == 3
    assert by_pid[first.pid]["messages_out_per_second"] > 1
    assert by_pid[first.pid]["messages_in_per_second"] > 1
    assert by_pid[second.pid]["promises"] == 1
    assert by_pid[second.pid]["uptime"] > 0
    assert told["groups"] == {"room-1": 3, "room-2": 1}
    assert told["servers"] == [project.config["hosts"][0]]
    done = project.run("status")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f" {first.pid} " in done.stdout
    assert "\x1b" not in done.stdout
    for column in COLUMNS:
        assert column.head in done.stdout
    assert f"{project.config['prefix']} on {project.config['hosts'][0]}: 2\n" in done.stdout
    (total,) = [line for line in done.stdout.splitlines() if line.startswith("total")]
    assert total.split()[1] == "4"


def test_who_is_present(project: Project) -> None:
    project.worker(groups={"room-1": 3, "room-2": 1}, present=2)
    told = project.json("status")
    check("status", told)
    assert [each["present"] for each in told["processes"]] == [2]
    assert (told["groups"], told["present"]) == ({"room-1": 3, "room-2": 1}, {"room-1": 2})
    shown = project.run("status").stdout
    assert re.search(r"group +consumers +present\nroom-1 +3 +2\nroom-2 +1 +0\n", shown), shown


def test_nobody_is_there(project: Project) -> None:
    told = project.json("status")
    check("status", told)
    assert (told["processes"], told["groups"], told["queues"]) == ([], {}, {})
    done = project.run("status")
    assert done.returncode == 0
    assert "No process uses the prefix" in done.stdout


def test_one_process_has_no_total(project: Project) -> None:
    project.worker()
    assert "total" not in project.run("status").stdout


def test_queues_and_the_number_of_groups(project: Project, client: Any, prefix: str) -> None:
    project.worker(groups={"room-1": 2, "room-2": 1})
    client.rpush(f"{prefix}:q:thumbnails", b"one", b"two", b"three")
    assert project.json("status")["queues"] == {"thumbnails": 3}
    told = project.json("status", "--groups", "1")
    assert told["groups"] == {"room-1": 2}
    done = project.run("status", "--groups", "0")
    assert re.search(r"^thumbnails +3$", done.stdout, re.MULTILINE)
    assert "room-1" not in done.stdout
    client.delete(f"{prefix}:q:thumbnails")


def test_drops_by_cause(project: Project, client: Any, prefix: str) -> None:
    worker = project.worker(groups={"room-1": 1})
    client.publish(f"{prefix}:g:room-1", b"rubbish")
    client.publish(f"{prefix}:g:room-1", b"rubbish")
    (process,) = project.json("status")["processes"]
    assert process["drops"]["unreadable"] == process["dropped"] == 2
    done = project.run("status")
    assert re.search(rf"^unreadable +2 +\S+ {worker.pid}: 2$", done.stdout, re.MULTILINE)


def test_a_silent_process_is_listed(project: Project) -> None:
    worker, other = project.worker(), project.worker()
    os.kill(worker.pid, signal.SIGSTOP)
    done = project.run("status")
    assert done.returncode == 1, done.stderr
    assert "silent" in row(done.stdout, worker)
    assert "silent" not in row(done.stdout, other)
    assert ": 2, 1 silent" in done.stdout
    told = project.json("status", code=1)
    check("status", told)
    assert [each["silent"] for each in told["processes"]] == [False, True]
    os.kill(worker.pid, signal.SIGCONT)
    assert project.run("status").returncode == 0


def test_a_process_that_was_killed_is_gone(project: Project) -> None:
    worker, other = project.worker(), project.worker()
    os.kill(worker.pid, signal.SIGKILL)
    worker.process.wait()
    assert [each["pid"] for each in project.json("status")["processes"]] == [other.pid]


# -- on a terminal --------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 160])
def test_on_a_terminal(project: Project, columns: int) -> None:
    workers = [project.worker(groups={f"group-{'x' * 90}": 1}) for _ in range(2)]
    terminal = project.terminal("status", columns=columns, rows=50)
    assert terminal.wait() == 0
    assert "…" not in terminal.text
    for worker in workers:
        assert re.search(r"\d+ ms|\d$", row(terminal.text, worker))
    assert ("All 0: " in terminal.text) is (columns == 80)
    assert terminal.text.count("x") == 90  # folded, not cut
    assert b"\x1b[" in terminal.output


def line(**known: Any) -> Line:
    process = ProcessStats(
        process_id="f" * 16, **{"host": "web-1", "pid": 4711, "at": 90061.0} | known
    )
    return Line(process, Rates(1234.5, 0.25))


def heads(width: int, *lines: Line) -> list[str]:
    return [column.head for column in fit(COLUMNS, lines, width).columns]


def test_columns_of_zeros_go_first() -> None:
    everything = [column.head for column in COLUMNS]
    assert heads(200, line()) == everything
    fitted = fit(COLUMNS, [line(promises=1, started=1.0, connected_since=1.0, round_trip=0.1)], 100)
    assert "patterns" in fitted.zero
    assert "promises" not in fitted.zero + fitted.left_out
    assert fitted.left_out == []
    narrow = heads(60, line(drops={"full": 3}, consumers=10))
    assert {"host", "pid", "uptime", "in/s", "out/s", "drops", "consumers"} <= set(narrow)


def test_hosts_are_shortened_and_digits_never() -> None:
    long = line(host="chat-deployment-with-a-long-name-6d5f7c9b8c-x2x4q", consumers=1_234_567)
    fitted = fit(COLUMNS, [long, long], 60)
    host, pid, *_ = fitted.rows[0]
    assert str(host).startswith("~")
    assert str(host).endswith("-x2x4q")
    assert pid == "4711"
    assert (
        sum(
            max(len(str(cell)), len(column.head))
            for cell, column in zip(fitted.rows[0], fitted.columns, strict=True)
        )
        + 2 * (len(fitted.columns) - 1)
        <= 60
    )


def test_totals() -> None:
    silent = Line(ProcessStats("e" * 16, silent=True), mark="silent")
    total = total_line([line(consumers=2, drops={"full": 1, "expired": 2}), line(gaps=1), silent])
    cells = {column.head: str(column.cell(total)) for column in COLUMNS}
    assert cells == {
        "host": "total", "pid": "", "uptime": "", "connected": "", "consumers": "2", "groups": "",
        "patterns": "0", "promises": "0", "present": "0", "in/s": "2,469", "out/s": "0.5",
        "drops": "3", "gaps": "1", "slow": "0", "refused": "0", "drained": "0",
        "reconnects": "0", "round trip": "",
    }  # fmt: skip


def test_numbers_and_times() -> None:
    assert [rate(value) for value in (0, 0.04, 0.25, 9.94, 9.96, 12.4, 1234.5)] == [
        "0", "0", "0.2", "9.9", "10", "12", "1,234",
    ]  # fmt: skip
    assert [span(value) for value in (None, 0, 59.9, 61, 3600, 90061)] == [
        "", "0s", "59s", "1m 1s", "1h 0m", "1d 1h",
    ]  # fmt: skip


def test_rates_need_two_looks_and_a_clock() -> None:
    before = ProcessStats("a", at=10.0, messages_in=5)
    assert Rates.between(before, ProcessStats("a", at=12.0, messages_in=9)) == Rates(2.0, 0.0)
    assert Rates.between(before, ProcessStats("a", at=12.0, messages_in=1)) == Rates(0.0, 0.0)
    for after in (ProcessStats("a", silent=True), ProcessStats("a", at=10.0, messages_in=9)):
        assert Rates.between(before, after) is None


# -- failures -------------------------------------------------------------------------------------


def refused(done: Any, code: int) -> str:
    """One sentence on stderr, and nothing else; returns it."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    return str(sentence)


def test_no_server(make_project: MakeProject, restartable_server: RestartableServer) -> None:
    project = make_project(hosts=[restartable_server.url])
    for arguments in (["status"], ["status", "--json"]):
        assert "Connect" in refused(project.run(*arguments), 1)


def test_wrong_password(make_project: MakeProject, redis_url: str) -> None:
    project = make_project(hosts=[redis_url.replace("://", "://nobody:wrong@")])
    sentence = refused(project.run("status"), 1)
    assert "invalid username-password pair" in sentence
    assert ":wrong" not in sentence


def test_tls_to_a_port_that_speaks_none(make_project: MakeProject, redis_url: str) -> None:
    """It is silent: who waits for less than the look at why would only hear that."""
    project = make_project(hosts=[redis_url.replace("redis://", "rediss://")])
    assert "speaks no TLS: write redis://" in refused(project.run("status"), 1)


def test_wrong_alias(project: Project) -> None:
    assert "there is no layer 'other'" in refused(project.run("status", "--layer", "other"), 2)
    project.layers["other"] = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    sentence = refused(project.run("status", "--layer", "other"), 2)
    assert "channels.layers.InMemoryChannelLayer" in sentence


@pytest.mark.parametrize(
    "arguments", [["--groups", "-1"], ["--groups", "many"], ["--unknown"], ["unknown"]], ids=str
)
def test_wrong_usage(project: Project, arguments: list[str]) -> None:
    done = project.run("status", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_an_acl(make_project: MakeProject, redis_url: str, client: Any, prefix: str) -> None:
    client.acl_setuser(
        prefix,
        enabled=True,
        passwords=["+secret"],
        channels=[f"{prefix}:*"],
        commands=["-@all", "+subscribe", "+unsubscribe", "+publish", "+ping"],
    )
    try:
        project = make_project(hosts=[redis_url.replace("://", f"://{prefix}:secret@")])
        worker = project.worker()
        done = project.run("status")
        assert done.returncode == 0, done.stderr
        assert row(done.stdout, worker)
        assert "Not known (queues): " in done.stdout
        assert "scan" in done.stdout
        told = project.json("status")
        check("status", told)
        assert "scan" in told["incomplete"]["queues"]
        assert ":secret" not in json.dumps(told)
        client.execute_command("ACL", "SETUSER", prefix, "resetchannels", "&elsewhere:*")
        sentence = refused(project.run("status"), 1)
        assert "No permissions" in sentence
    finally:
        client.acl_deluser(prefix)


def test_the_server_dies_between_two_looks(
    make_project: MakeProject, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    project = make_project(hosts=[restartable_server.url], backlog_timeout=1)
    project.worker()
    running = project.start("status")
    with restartable_server.client() as client:
        # It has looked once: each question asks who is to answer it.
        deadline = time.monotonic() + PATIENCE
        while not any("numsub" in command for command in client.info("commandstats")):
            assert time.monotonic() < deadline, "it never looked"
            assert running.poll() is None, running.communicate()
    restartable_server.kill()
    output, errors = running.communicate(timeout=30)
    assert (running.returncode, output) == (1, "")
    (sentence,) = errors.splitlines()
    assert "onnect" in sentence
