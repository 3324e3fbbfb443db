"""The example on an embedded cluster, as ``./scripts/demo --cluster`` runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from channels.testing import WebsocketCommunicator

from mpx_channels import embedded
from tests.conftest import eventually, missing

from .conftest import ROOT, Join, Open
from .sockets import heard, message, use_layer

ROOMS = ("tea", "a.b", "coffee", "milk", "sugar", "cake")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """The folder and the URLs of an embedded cluster."""
    folder = tmp_path_factory.mktemp("embedded")
    url = f"embedded+cluster://{folder}"
    try:
        embedded.check(url)
    except embedded.EmbeddedUnavailable as error:
        missing(str(error))
    yield folder / "cluster", embedded.start_cluster(url)
    embedded.stop(url)
    assert embedded.wait_stopped(url)


@pytest.fixture
def clustered(settings: Any, nodes: tuple[Path, list[str]]) -> Path:
    """The example on it, with the settings that the demo has."""
    folder, _ = nodes
    script = "import json; from example_project import settings; print(json.dumps(settings.%s))"
    printed = subprocess.run(
        [sys.executable, "-c", script % 'CHANNEL_LAYERS["default"]["CONFIG"]'],
        cwd=ROOT,
        env={**os.environ, "REDIS_CLUSTER": "1", "REDIS_URL": ""},
        capture_output=True,
        check=True,
    ).stdout
    config = json.loads(printed)
    assert config["hosts"] == ["embedded+cluster://"]
    use_layer(settings, **{**config, "hosts": [f"embedded+cluster://{folder.parent}"]})
    return folder


async def says(speaker: WebsocketCommunicator, listener: WebsocketCommunicator, text: str) -> None:
    await speaker.send_json_to({"text": text})
    assert await heard(listener) == message("Ann", text)
    assert await heard(speaker) == message("Ann", text)


def said_in(frame: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages in a frame: one that is new, or what a page gets that has missed some."""
    return [frame] if frame["type"] == "message" else frame.get("messages", [])


async def insists(speaker: WebsocketCommunicator, said: dict[str, Any]) -> None:
    """Say it as a page does, again while nothing comes, until the speaker hears it."""
    frame: dict[str, Any] = {"type": ""}
    await speaker.send_json_to({"text": said["text"], "key": said["key"]})
    while said not in said_in(frame):
        if await speaker.receive_nothing(0.5):
            await speaker.send_json_to({"text": said["text"], "key": said["key"]})
        else:
            frame = await heard(speaker)


async def test_rooms_and_mentions(clustered: Path, open_socket: Open, join: Join) -> None:
    watcher = await open_socket("/ws/mentions/", "Ben")
    assert await heard(watcher) == {"type": "entered"}
    for room in ROOMS:
        ann, ben = await join(room, "Ann"), await join(room, "Ben")
        await says(ann, ben, f"@Ben, {room}?")
        assert (await heard(watcher))["room"] == room


async def test_a_node_is_killed(clustered: Path, nodes: tuple[Path, list[str]], join: Join) -> None:
    """Rooms that are elsewhere go on; its own go on when it is back."""
    _, urls = nodes
    pairs = {room: (await join(room, "Ann"), await join(room, "Ben")) for room in ROOMS}
    for room, (ann, ben) in pairs.items():
        await says(ann, ben, f"in {room}")

    for url in urls:
        with redis.Redis.from_url(url) as client:
            assert client.dbsize(), "some room has its history on each node"

    pid = int((clustered / "1/valkey.pid").read_text())
    os.kill(pid, signal.SIGKILL)

    def is_back() -> bool:
        try:
            with redis.Redis.from_url(urls[0]) as client:
                info: dict[str, str] = client.execute_command("CLUSTER INFO")
                return info["cluster_state"] == "ok"
        except redis.RedisError:
            return False

    await eventually(is_back)
    assert int((clustered / "1/valkey.pid").read_text()) != pid
    for room, (ann, ben) in pairs.items():
        said = message("Ann", f"again in {room}", uuid4().hex)
        await insists(ann, said)
        while said not in said_in(await heard(ben)):
            pass  # that Redis is away, and is back
