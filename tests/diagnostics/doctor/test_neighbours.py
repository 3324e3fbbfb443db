"""`mpx doctor`: encryption keys, other processes, other prefixes, channels_redis on the server."""

from __future__ import annotations

import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis

from mpx_channels.diagnostics.doctor import neighbours
from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.layer import MpxChannelLayer
from tests.conftest import PATIENCE, RestartableServer

from ..conftest import MakeProject, Project
from ..schemas import check
from .examine import examine, of, one, worst

KEYS = ["a passphrase that is long enough"]


def texts(rows: list[object]) -> str:
    return "\n".join(row.finding.found for row in of(rows, "neighbours"))  # type: ignore[arg-type]


# -- encryption ------------------------------------------------------------------------------------


async def test_no_keys(redis_url: str) -> None:
    assert one(await examine({"hosts": [redis_url]}, "encryption"), "encryption")[0] == Level.INFO


@pytest.mark.parametrize(
    ("keys", "weak"),
    [
        (KEYS, ()),
        ([*KEYS, "another one that is long enough"], ()),
        (["short"], (0,)),
        ([*KEYS, b"short"], (1,)),
        (["django-insecure-" + "x" * 50], (0,)),
    ],
)
async def test_keys(redis_url: str, keys: list[str | bytes], weak: tuple[int, ...]) -> None:
    config = {"hosts": [redis_url], "symmetric_encryption_keys": keys}
    rows = of(await examine(config, "encryption"), "encryption")
    assert rows[0].finding.level == Level.OK
    assert [row.finding.level for row in rows[1:]] == [Level.WARNING] * len(weak)
    for row, number in zip(rows[1:], weak, strict=True):
        assert row.finding.found.startswith(f"symmetric_encryption_keys[{number}] ")
    said = str([row.as_json() for row in rows])
    assert "short'" not in said
    assert "long enough" not in said


def test_a_process_with_other_keys(make_project: MakeProject) -> None:
    worker = make_project(symmetric_encryption_keys=["of another process, long"]).worker()
    rows = make_project(symmetric_encryption_keys=KEYS).json("doctor")["checks"]
    (row,) = [row for row in rows if row["id"] == "processes"]
    assert row["level"] == "warning"
    assert f"pid {worker.pid}" in row["found"]
    assert "other encryption keys" in row["why"]


def test_a_process_that_met_what_it_cannot_read(
    make_project: MakeProject, project: Project, prefix: str, client: redis.Redis
) -> None:
    worker = project.worker(groups={"room": 1})
    assert client.publish(f"{prefix}:g:room", b"not ours") == 1
    rows = project.json("doctor")["checks"]
    (row,) = [row for row in rows if row["id"] == "processes"]
    assert row["level"] == "warning"
    assert f"pid {worker.pid} (1)" in row["found"]


def test_a_process_that_hangs(project: Project) -> None:
    worker = project.worker()
    rows = project.json("doctor")["checks"]
    assert [row["found"] for row in rows if row["id"] == "processes"] == [
        "1 process of this prefix, all answer"
    ]
    os.kill(worker.pid, signal.SIGSTOP)
    done = project.run("doctor", "--strict")
    assert done.returncode == 1
    assert "did not answer" in done.stdout


def test_a_process_that_redis_refuses(
    make_project: MakeProject, restartable_server: RestartableServer
) -> None:
    """The doctor names it, and so does status: how many names, and why."""
    url = restartable_server.start_with_user("allchannels", "+@all", "~*")
    project = make_project(hosts=[url], prefix="asgi")
    worker = project.worker(groups={"room-1": 1, "room-2": 1})
    with restartable_server.client() as admin:
        others = ["&asgi:p:*", "&asgi:c:*", "&asgi:r:*", "&asgi:g:mpx*"]
        admin.execute_command("ACL", "SETUSER", "app", "resetchannels", *others)
    wait_until(lambda: refused(project) == [2])
    (row,) = [row for row in project.json("doctor", code=1)["checks"] if row["id"] == "processes"]
    assert row["level"] == "problem"
    assert f"pid {worker.pid} (2); No permissions" in row["found"]
    status = project.run("status")
    assert re.search(rf"^\S+ {worker.pid} +2 +No permissions", status.stdout, re.MULTILINE)


def refused(project: Project) -> list[int]:
    told = project.json("status")
    check("status", told)
    return [process["names_refused"] for process in told["processes"]]


def wait_until(predicate: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not predicate():
        assert time.monotonic() < deadline


# -- neighbours ------------------------------------------------------------------------------------


@pytest.fixture
def other(client: redis.Redis) -> Iterator[str]:
    """A prefix for others, cleared afterwards."""
    name = f"other-{uuid.uuid4().hex[:8]}"
    yield name
    if keys := client.keys(f"{name}*"):
        client.delete(*keys)


async def test_other_prefixes(redis_url: str, prefix: str, other: str) -> None:
    layers = [MpxChannelLayer(hosts=[redis_url], prefix=each) for each in (prefix, other)]
    for layer in layers:
        await layer.connect()
    rows = await examine({"hosts": [redis_url], "prefix": prefix}, "neighbours")
    assert worst(rows, "neighbours") == Level.INFO
    assert f"{other!r} (1 process)" in texts(rows)
    assert f"{prefix!r}" not in texts(rows)
    for layer in layers:
        await layer.close()


@pytest.mark.parametrize("pubsub", [False, True])
async def test_channels_redis(redis_url: str, prefix: str, other: str, pubsub: bool) -> None:
    core = pytest.importorskip("channels_redis.core")
    class_ = (
        pytest.importorskip("channels_redis.pubsub").RedisPubSubChannelLayer
        if pubsub
        else core.RedisChannelLayer
    )
    layer = class_(hosts=[redis_url], prefix=other)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, {"type": "unread"})
    config = {"hosts": [redis_url], "prefix": prefix}
    rows = await examine(config, "neighbours")
    what = "processes that use channels_redis now" if pubsub else "keys of channels_redis"
    with_others = [line for line in texts(rows).splitlines() if line.startswith(what)]
    assert len(with_others) == 1
    unit = "channels" if pubsub else "keys"
    assert f"{other!r} (2 {unit})" in with_others[0]
    assert worst(rows, "neighbours") == Level.INFO
    # The same prefix is a mistake.
    rows = await examine({**config, "prefix": other}, "neighbours")
    (row,) = [row for row in of(rows, "neighbours") if row.finding.level == Level.WARNING]
    assert row.finding.found.startswith(f"{what} with this prefix")
    await (layer.flush() if pubsub else layer.close_pools())


async def test_a_server_with_many_keys(
    redis_url: str, prefix: str, other: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "STEPS", 3)
    monkeypatch.setattr(neighbours, "KEYS_PER_STEP", 10)
    with client.pipeline() as pipeline:
        for number in range(500):
            pipeline.set(f"{other}{number}", "")
        pipeline.execute()
    rows = await examine({"hosts": [redis_url], "prefix": prefix}, "neighbours")
    assert "only some 30 of its keys were looked at" in texts(rows)
