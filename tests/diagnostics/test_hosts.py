"""A layer on several servers, of which one is away."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from tests.conftest import RestartableServer

from .conftest import MakeProject, Project
from .schemas import check


@pytest.fixture
def project(
    make_project: MakeProject, redis_url: str, restartable_server: RestartableServer
) -> Project:
    """On the session's server and on one that can be killed."""
    restartable_server.start()
    return make_project(hosts=[redis_url, restartable_server.url])


def group_on(project: Project, host: int) -> str:
    """A group that is on the first or the second of two hosts, as channels_redis shards."""
    for number in range(100):
        name = f"{project.config['prefix']}:g:room-{number}"
        if (zlib.crc32(name.encode()) & 0xFFF) // 2048 == host:
            return f"room-{number}"
    raise AssertionError


def test_all_is_there(project: Project) -> None:
    rooms = [group_on(project, 0), group_on(project, 1)]
    worker = project.worker(groups=dict.fromkeys(rooms, 2))
    told = project.json("status")
    check("status", told)
    assert told["servers"] == project.config["hosts"]
    assert [each["pid"] for each in told["processes"]] == [worker.pid]
    assert told["groups"] == dict.fromkeys(rooms, 2)
    told = project.json("doctor")
    by_host = [each["node"] for each in told["checks"] if each["id"] == "reachable"]
    assert by_host == project.config["hosts"]


def test_one_is_away(project: Project, restartable_server: RestartableServer) -> None:
    here, there = group_on(project, 0), group_on(project, 1)
    restartable_server.kill()
    listening = project.start("listen", "--group", here, "--json", "--limit", "1")
    assert listening.stderr is not None
    warning = "Warning: going on without one of the servers: no connection to "
    assert warning + restartable_server.url in listening.stderr.readline()

    done = project.run("status")
    assert (done.returncode, done.stderr.count(warning)) == (1, 1)
    assert f"Not known (servers): no connection to {restartable_server.url}" in done.stdout
    done = project.run("send", here, '{"type": "hello"}')
    assert (done.returncode, done.stderr.count(warning)) == (0, 1)
    output, errors = listening.communicate()
    assert '"hello"' in output, errors
    done = project.run("send", there, '{"type": "hello"}')
    assert done.returncode == 1
    assert f"no connection to {restartable_server.url}" in done.stderr.splitlines()[-1]
    done = project.run("doctor")
    assert done.returncode == 1
    assert f"{restartable_server.url} cannot be reached" in done.stdout


def test_top_goes_on(project: Project, restartable_server: RestartableServer) -> None:
    room = group_on(project, 0)
    worker = project.worker(groups={room: 1})
    terminal = project.terminal("top")
    watching = project.start("top", "--json", "--interval", "0.2")
    assert watching.stdout is not None

    def until_servers(away: bool) -> dict[str, Any]:
        assert watching.stdout is not None
        for line in watching.stdout:
            told: dict[str, Any] = json.loads(line)
            check("status", told)
            if ("servers" in told["incomplete"]) is away:
                return told
        raise AssertionError

    until_servers(away=False)
    terminal.wait_for(str(worker.pid))
    restartable_server.kill()
    told = until_servers(away=True)
    assert f"no connection to {restartable_server.url}" in told["incomplete"]["servers"]
    assert worker.pid in [each["pid"] for each in told["processes"] if not each["silent"]]
    assert told["groups"] == {room: 1}
    text = terminal.wait_for(f"Not known (servers): no connection to {restartable_server.url}")
    assert "No answer" not in text
    assert str(worker.pid) in text
    restartable_server.start()
    until_servers(away=False)
    terminal.wait_for(lambda text: "Not known" not in text)
    terminal.press("q")
    assert terminal.wait() == 0


def test_top_begins_without_one(project: Project, restartable_server: RestartableServer) -> None:
    worker = project.worker(groups={group_on(project, 0): 1})
    restartable_server.kill()
    done = project.run("top", "--json", "--limit", "2", "--interval", "0.1")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        told = json.loads(line)
        assert restartable_server.url in told["incomplete"]["servers"]
        assert [each["pid"] for each in told["processes"]] == [worker.pid]
