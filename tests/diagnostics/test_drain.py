"""`mpx drain` and `mpx undrain`."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from typing import Any

import pytest

from mpx_channels.diagnostics.drain import Target
from mpx_channels.diagnostics.subcommand import INTERRUPTED
from mpx_channels.layer import Draining, MpxChannelLayer
from tests.conftest import RestartableServer
from tests.inside import hub_of
from tests.proxy import Proxy

from .conftest import Project, Worker, ended
from .schemas import check

HOST = socket.gethostname()


def drained(project: Project, **told: Any) -> Worker:
    return Worker(project.python("-m", "tests.diagnostics.drained", json.dumps(told)))


def state(told: Any, pid: int) -> tuple[str, int, int]:
    (process,) = [each for each in told["processes"] if each["pid"] == pid]
    return process["state"], process["total"], process["left"]


def test_all_of_this_host(cold_project: Project) -> None:
    project = cold_project
    some, none = drained(project, consumers=5), project.worker()
    done = project.run("drain", "--over", "0.5", "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["process", "is", "connections", "left"]
    assert [HOST, str(some.pid), "drained", "5", "0"] in rows
    assert [HOST, str(none.pid), "drained", "0", "0"] in rows
    assert [some.read() for _ in range(5)] == [{"closed": 1012}] * 5
    status = project.json("status")
    assert [each["draining"] for each in status["processes"]] == [True, True]
    assert sum(each["drained"] for each in status["processes"]) == 5
    assert project.run("status").stdout.count("draining") == 2
    told = project.json("undrain")
    check("undrain", told)
    assert state(told, some.pid) == ("open", 0, 0)
    assert [each["draining"] for each in project.json("status")["processes"]] == [False, False]


@pytest.mark.parametrize("named", ["pid", "host", "id"])
def test_one_of_them(project: Project, named: str) -> None:
    one, other = drained(project, consumers=2), drained(project, consumers=2)
    name = {"pid": str(one.pid), "host": f"{HOST}:{one.pid}", "id": one.process_id}[named]
    told = project.json("drain", name, "--over", "600")
    check("drain", told)
    assert state(told, one.pid) in [("draining", 2, 2), ("draining", 2, 1)]
    assert len(told["processes"]) == 1
    assert one.read() == {"closed": 1012}
    assert project.json("undrain", name)["processes"][0]["state"] == "open"
    assert not any(each["draining"] for each in project.json("status")["processes"])
    assert {each["pid"]: each["consumers"] for each in project.json("status")["processes"]} == {
        one.pid: 1,
        other.pid: 2,
    }


def test_who_does_not_exist(project: Project) -> None:
    worker = project.worker()
    for arguments, text in (
        (["drain", "1"], "no process '1' uses this layer on"),
        (["undrain", "elsewhere:1"], "no process 'elsewhere:1'"),
        (["drain", "--host", "elsewhere"], "no process on 'elsewhere' uses this layer"),
        # Of a variable that is not set: this host is not meant.
        (["drain", "--host", ""], "no process on '' uses this layer"),
    ):
        done = project.run(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert text in done.stderr
        assert f"there are: {HOST}:{worker.pid}" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    for over in ("0", "-1", "soon"):
        done = project.run("drain", "--over", over)
        assert done.returncode == 2
        assert "above 0" in done.stderr


def test_it_waits_for_the_last_one(project: Project) -> None:
    worker = drained(project, consumers=3, stays=1)
    waiting = project.start("drain", "--over", "0.1", "--wait", "--json")
    assert [worker.read() for _ in range(2)] == [{"closed": 1012}] * 2
    assert waiting.poll() is None
    assert worker.process.stdin is not None
    worker.process.stdin.write("\n")
    worker.process.stdin.flush()
    done = ended(waiting)
    assert done.returncode == 0
    assert state(json.loads(done.stdout), worker.pid) == ("drained", 3, 0)


def test_a_process_that_ends_meanwhile(project: Project) -> None:
    worker = drained(project, consumers=3, stays=1)
    waiting = project.start("drain", "--over", "0.1", "--wait", "--json")
    assert [worker.read() for _ in range(2)] == [{"closed": 1012}] * 2
    worker.process.kill()
    done = ended(waiting)
    assert done.returncode == 0
    assert state(json.loads(done.stdout), worker.pid) == ("ended", 3, 0)


async def test_a_connection_that_breaks_ends_no_process(
    redis_url: str, proxy: Proxy, prefix: str
) -> None:
    """Its own, or ours: who waits would stop it with all its sockets."""
    drained, looking = (
        MpxChannelLayer(hosts=[url], prefix=prefix) for url in (proxy.url, redis_url)
    )
    nowhere = MpxChannelLayer(hosts=["redis://127.0.0.1:1"], prefix=prefix, connect_timeout=0.1)
    for layer in (drained, looking):
        await layer.connect()
    process_id = drained.process_id or ""
    target = Target(HOST, 1, [process_id], Draining(True, 2, 1))
    proxy.refuse()
    proxy.cut()
    while await looking.draining(process_id) is not None:
        pass
    for layer in (looking, nowhere):
        await target.look(layer)
        assert (target.ended, target.over, target.word) == (False, False, "silent")
    assert target.misses == 2
    await proxy.accept()
    while await looking.draining(process_id) is None:
        pass
    await target.look(looking)
    assert (target.ended, target.misses) == (False, 0)
    await drained.close()
    target.state = Draining(True, 2, 1)
    while not target.over:
        await target.look(looking)
    assert target.word == "ended"
    for layer in (looking, nowhere):
        await layer.close()


async def test_a_process_whose_host_is_away(
    redis_url: str, restartable_server: RestartableServer, prefix: str
) -> None:
    """It cannot be asked, and the others are all the same."""
    restartable_server.start()

    async def on(host: str) -> MpxChannelLayer:
        """A process whose inbox is there: that goes by its random id."""
        while True:
            hosts = [redis_url, restartable_server.url]
            layer = MpxChannelLayer(hosts=hosts, prefix=prefix, backlog_timeout=0.1)
            await layer.connect()
            hub = hub_of(layer)
            if str(hub.multiplexer.node_of(hub.inbox.name)) == host:
                return layer
            await layer.close()

    looking, there = await on(redis_url), await on(redis_url)
    away = await on(restartable_server.url)
    restartable_server.kill()
    targets = [Target(HOST, 1, [layer.process_id or ""]) for layer in (away, there)]
    await asyncio.gather(*(target.ask(looking.undrain_process) for target in targets))
    assert [target.word for target in targets] == ["silent", "open"]
    assert targets[0].silence.startswith(f"{HOST} 1 does not answer (no connection to redis://")
    for layer in (looking, there, away):
        await layer.close()


def test_a_process_that_does_not_answer(project: Project) -> None:
    worker, other = drained(project, consumers=1), drained(project, consumers=1)
    worker.process.send_signal(signal.SIGSTOP)
    done = project.run("drain", "--over", "0.1", "--wait", "--json")
    assert done.returncode == 1
    assert f"{worker.pid} does not answer: it may not be drained" in done.stderr
    told = json.loads(done.stdout)
    assert state(told, worker.pid) == ("silent", 0, 0)
    assert state(told, other.pid) == ("drained", 1, 0)


def test_on_a_terminal(cold_project: Project) -> None:
    """A bar; Ctrl-C ends the command, and not the drain."""
    worker = drained(cold_project, consumers=3, stays=1)
    terminal = cold_project.terminal("drain", "--over", "0.1", "--wait")
    terminal.wait_for("2 of 3 connections have gone")
    terminal.press("\x03")
    assert terminal.wait() == INTERRUPTED
    assert terminal.attributes == terminal.first_attributes
    assert cold_project.json("status")["processes"][0]["draining"]
    terminal = cold_project.terminal("drain", "--over", "0.1", "--wait")
    terminal.wait_for("connections have gone")
    assert worker.process.stdin is not None
    worker.process.stdin.write("\n")
    worker.process.stdin.flush()
    assert terminal.wait() == 0
    assert "drained" in terminal.text
