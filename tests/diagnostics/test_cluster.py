"""`manage.py mpx` over a cluster."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.layer import MpxChannelLayer
from tests.clusters import Cluster
from tests.proxy import free_port

from .conftest import PATIENCE, MakeProject, Project
from .schemas import check

CHAT = '{"type": "chat.message", "text": "Hello"}'


@pytest.fixture
def make(cluster: Cluster, make_project: MakeProject) -> Callable[..., Project]:
    """Makes projects on the session's cluster."""
    return lambda **config: make_project(**{"hosts": cluster.seeds[:1], "cluster": True, **config})


@pytest.fixture
def project(make: Callable[..., Project]) -> Project:
    return make()


def listen(project: Project, *arguments: str) -> Any:
    """Start it, and return when it listens."""
    process = project.start("listen", "--json", *arguments)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("Listening to "), line + process.stderr.read()
    return process


def read(process: Any) -> Any:
    """Its next line."""
    told = json.loads(process.stdout.readline())
    check("listen", told)
    return told


def keys(cluster: Cluster, project: Project) -> set[bytes]:
    with cluster.client() as client:
        return set(client.keys(f"{project.config['prefix']}*", target_nodes=client.PRIMARIES))


def test_status_and_top(project: Project, cluster: Cluster) -> None:
    rooms = {f"room-{number}": number for number in range(1, 9)}
    workers = [project.worker(groups=rooms), project.worker(groups=rooms)]
    told = project.json("status")
    check("status", told)
    assert sorted(told["servers"]) == sorted(cluster.seeds)
    assert {each["pid"] for each in told["processes"]} == {each.pid for each in workers}
    assert told["groups"] == {room: 2 * size for room, size in rooms.items()}
    assert told["incomplete"] == {}
    done = project.run("top", "--json", "--limit", "2", "--interval", "0.1")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        check("status", json.loads(line))
    done = project.run("status")
    assert "The cluster has changed" not in done.stdout


def test_send_request_and_resolve(project: Project) -> None:
    worker = project.worker(groups={"room": 1}, promise="answer")
    listening = listen(project)
    # It knows what there is, and is nobody's receiver.
    assert project.json("send", "room", CHAT)["processes"] == 1
    assert project.json("send", "empty", CHAT)["processes"] == 0
    assert project.json("resolve", "answer", "1")["resolved"] == 1
    assert project.json("resolve", "nobody", "1", code=1)["resolved"] == 0
    channel = worker.channels[0]
    assert project.json("request", channel, '{"type": "ask"}')["answer"]["pid"] == worker.pid
    worker.stop()
    gone = project.run("request", channel, '{"type": "ask"}')
    assert (gone.returncode, "no process has the channel" in gone.stderr) == (1, True)
    seen = [read(listening) for _ in range(3)]
    assert {each["kind"] for each in seen} == {"group", "promise", "channel"}
    listening.send_signal(signal.SIGINT)
    _, errors = listening.communicate(timeout=PATIENCE)
    assert "what comes in its first second may be missed" in errors


@pytest.mark.parametrize("sharded", [True, False])
def test_listen_to_some(make: Callable[..., Project], sharded: bool) -> None:
    project = make(sharded_pubsub=sharded)
    worker = project.worker(groups={"room-1": 1, "lobby": 1})
    by_pattern = listen(project, "--pattern", "room-*", "--limit", "1")
    by_name = listen(project, "--group", "lobby", "--limit", "1")
    by_channel = listen(project, "--channel", worker.channels[0], "--limit", "1")
    for target in ("lobby", "room-1", worker.channels[0]):
        project.json("send", target, CHAT)
    assert read(by_pattern)["name"] == "room-1"
    assert read(by_name)["name"] == "lobby"
    assert read(by_channel)["name"] == worker.channels[0]
    for each in (by_pattern, by_name, by_channel):
        each.communicate(timeout=PATIENCE)
        assert each.returncode == 0


def test_history(make: Callable[..., Project]) -> None:
    project = make(history={"room": {"size": 10, "ttl": 60}})
    for number in range(3):
        project.json("send", "room", json.dumps({"type": "n", "n": number}))
    told = project.json("history", "room", "--limit", "2")
    check("history", told)
    assert [each["n"] for each in told["messages"]] == [1, 2]


def test_bench(make: Callable[..., Project], cluster: Cluster) -> None:
    project = make(prefix="test-cluster-bench")
    load = ("--clients", "3", "--groups", "3", "--seconds", "0.2")
    told = project.json("bench", *load)
    check("bench", told)
    (ours,) = told["results"]
    assert ours["lost"] == 0
    done = project.run("bench", *load, "--against", "channels_redis.core")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        0,
        "channels_redis.core cannot use a cluster, and is left out.",
    )
    done = project.run("bench", *load, "--against", "channels_redis")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        0,
        "channels_redis knows no cluster: it uses one node, which reaches all.",
    )
    assert {key for key in keys(cluster, project) if b":bench-" in key} == set()


def test_flush(project: Project, cluster: Cluster) -> None:
    layer = MpxChannelLayer(**project.config)
    try:
        for number in range(20):
            layer.sync.send(f"jobs-{number}", {"type": "job"})
        assert len(keys(cluster, project)) == 21
        assert project.json("status")["queues"] == {f"jobs-{n}": 1 for n in range(20)}
        layer.sync.flush()
        # What all processes have agreed upon stays.
        assert keys(cluster, project) == {f"{project.config['prefix']}:n:".encode()}
    finally:
        layer.sync.close()


def test_a_slot_moves(own_cluster: Cluster, make_project: MakeProject) -> None:
    project = make_project(hosts=own_cluster.seeds[:1], cluster=True)
    worker = project.worker(groups={"room": 1})
    watching = project.start("top", "--json", "--interval", "0.1")
    assert watching.stdout is not None
    source, target, *_ = own_cluster.masters
    own_cluster.migrate_slot(own_cluster.slots_of(source)[0], target)
    for line in watching.stdout:
        told = json.loads(line)
        check("status", told)
        if [each["slots_moved"] for each in told["processes"]] == [1]:
            break
    _, _, changes = project.run("status").stdout.partition("The cluster has changed")
    assert str(worker.pid) in changes


@pytest.fixture
def lasting_cluster(server: object) -> Iterator[Cluster]:
    """Three masters without replicas, that go on when one of them is dead."""
    with Cluster(config={"cluster-require-full-coverage": "no"}) as running:
        yield running


def test_a_master_is_away(lasting_cluster: Cluster, make_project: MakeProject) -> None:
    project = make_project(hosts=lasting_cluster.seeds, cluster=True)
    project.worker(groups={"room": 1})
    names = ClusterNames(project.config["prefix"], 128)
    # Without the number of partitions nobody begins.
    here = {lasting_cluster.master_of(each) for each in (names.group("room"), names.partitions)}
    dead = next(each for each in lasting_cluster.masters if each not in here)
    lasting_cluster.kill(dead)
    done = project.run("status")
    assert done.returncode == 1
    assert f"Not known (servers): no connection to {dead.url}" in done.stdout
    done = project.run("send", "room", CHAT)
    assert (done.returncode, "going on without one" in done.stderr) == (0, True), done.stderr
    done = project.run("doctor")
    assert done.returncode == 1
    assert f"{dead.url} cannot be reached" in done.stdout


def test_nobody_is_there(make: Callable[..., Project]) -> None:
    urls = [f"redis://127.0.0.1:{free_port()}" for _ in range(2)]
    project = make(hosts=urls)
    for arguments in (("status",), ("send", "room", CHAT), ("listen",), ("history", "room")):
        done = project.run(*arguments)
        assert done.returncode in (1, 2), arguments
        if arguments[0] != "history":  # which needs a setting first
            for url in urls:
                assert f"{url}: Error 111" in done.stderr, arguments
    done = project.run("doctor")
    assert done.returncode == 1
    for url in urls:
        assert f"{url} cannot be reached" in done.stdout
