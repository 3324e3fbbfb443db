"""Real `runworker` processes on plain channels, killed and restarted under load."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.layer import conftest as layers
from tests.warm import Process, Warm

# Those of tests/layer.
MakeLayer = layers.MakeLayer
prefix, make_layer, layer = layers.prefix, layers.make_layer, layers.layer

PROJECT = """
import asyncio, json, os, time
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["mpx_channels", "channels"],
    ASGI_APPLICATION="worker_project.application",
    CHANNEL_LAYERS={"default": {
        "BACKEND": "mpx_channels.layer.MpxChannelLayer",
        "CONFIG": {**json.loads(os.environ["CONFIG"]), "prefix": os.environ["PREFIX"]},
    }},
)
import django
django.setup()
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from mpx_channels.consumers import MpxConsumerMixin

LOG = os.open(os.environ["LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

class Worker(SyncConsumer):
    def work(self, event):
        os.write(LOG, b"begin %d\\n" % event["n"])
        time.sleep(0.002)
        os.write(LOG, b"end %d\\n" % event["n"])

class FastWorker(MpxConsumerMixin, AsyncConsumer):
    async def work(self, event):
        os.write(LOG, b"end %d\\n" % event["n"])

    async def fail(self, event):
        raise RuntimeError("on purpose")

    async def hang(self, event):
        os.write(LOG, b"hangs\\n")
        await asyncio.Event().wait()

    async def wait(self, event):
        os.write(LOG, b"waits\\n")
        while not os.path.exists(event["path"]):
            await asyncio.sleep(0.01)
        os.write(LOG, b"end %d\\n" % event["n"])

    async def ask(self, event):
        await self.reply(event, event["n"] + 1)

application = ProtocolTypeRouter({
    "channel": ChannelNameRouter({"jobs": Worker.as_asgi(), "fast": FastWorker.as_asgi()}),
})

def main():
    from django.core.management import execute_from_command_line
    execute_from_command_line(["manage.py", "runworker", "jobs", "fast"])
"""


class Workers:
    """`runworker` processes of one project."""

    def __init__(self, warm: Warm, folder: Path, config: str, prefix: str) -> None:
        self.log = folder / "log"
        self.log.touch()
        (folder / "worker_project.py").write_text(PROJECT)
        self._folder = folder
        self._environment = {**os.environ, "CONFIG": config, "PREFIX": prefix, "LOG": str(self.log)}
        self._warm = warm
        self.processes: list[Process] = []

    def start(self) -> Process:
        process = self._warm.start(
            ["-c", "import worker_project as w; w.main()"],
            env=self._environment,
            cwd=self._folder,
            redirected=dict.fromkeys((1, 2), str(self._folder / "output")),
        )
        self.processes.append(process)
        return process

    def lines(self, word: str) -> list[int]:
        # The last line may still be on its way.
        written = self.log.read_text().rpartition("\n")[0]
        return [int(line.split()[1]) for line in written.splitlines() if line.startswith(word)]

    async def stop(self, process: Process, signum: int) -> None:
        process.send_signal(signum)
        await asyncio.to_thread(process.communicate)
        self.processes.remove(process)


@pytest.fixture
async def workers(
    warm: Warm, tmp_path: Path, layer_json: str, prefix: str
) -> AsyncIterator[Workers]:
    running = Workers(warm, tmp_path, layer_json, prefix)
    yield running
    for process in list(running.processes):
        await running.stop(process, signal.SIGKILL)


async def test_killed_and_restarted_under_load(make_layer: MakeLayer, workers: Workers) -> None:
    layer = make_layer(capacity=100_000)
    first, _ = workers.start(), workers.start()
    sent = 0

    async def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            await layer.send("jobs", {"type": "work", "n": sent})
            sent += 1

    await send(200)
    await eventually(lambda: len(workers.lines("end")) > 20)
    kills = 0
    victim = first
    for _ in range(3):
        sending = asyncio.create_task(send(150))
        seen = len(workers.lines("end"))
        await eventually(lambda seen=seen: len(workers.lines("end")) > seen + 20)
        await workers.stop(victim, signal.SIGKILL)
        kills += 1
        victim = workers.start()
        await sending
    await send(1)
    # The last one is taken last by somebody; give up only when nothing moves any more.
    await eventually(lambda: sent - len(workers.lines("end")) <= kills, 30)
    await eventually(lambda: sent - 1 in workers.lines("end"))
    begun = Counter(workers.lines("begin"))
    assert max(begun.values()) == 1, "a message was handled twice"
    assert sent - len(begun) <= 0 + kills, "more was lost than what was being handled"
    assert sent - len(workers.lines("end")) <= kills


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("channel", ["jobs", "fast"])
async def test_told_to_end_it_loses_nothing(
    make_layer: MakeLayer, workers: Workers, signum: int, channel: str
) -> None:
    layer = make_layer(capacity=100_000)
    for number in range(2000):
        await layer.send(channel, {"type": "work", "n": number})
    for _ in range(4):
        process = workers.start()
        seen = len(workers.lines("end"))
        await eventually(lambda seen=seen: len(workers.lines("end")) > seen + 5)
        await workers.stop(process, signum)
        assert process.returncode == 0
    # Each that was begun has ended; the others wait.
    done = workers.lines("end")
    assert done == sorted(set(done))
    if channel == "jobs":
        assert workers.lines("begin") == done
    left = (await layer.fleet_stats()).queues.get(channel, 0)
    assert len(done) + left == 2000


async def test_told_twice_it_ends_at_once(layer: MpxChannelLayer, workers: Workers) -> None:
    process = workers.start()
    await layer.send("fast", {"type": "hang"})
    await eventually(lambda: workers.log.read_text() == "hangs\n")

    def told_again() -> bool:
        # Two signals may become one before the process looks.
        process.send_signal(signal.SIGTERM)
        return process.poll() is not None

    await eventually(told_again)
    await workers.stop(process, signal.SIGTERM)


async def test_what_redis_refuses_ends_it_with_an_error(
    warm: Warm, tmp_path: Path, restartable_server: RestartableServer, prefix: str
) -> None:
    url = restartable_server.start_with_user("allkeys", "allchannels", "+@all", "-blpop")
    process = Workers(warm, tmp_path, json.dumps({"hosts": [url]}), prefix).start()
    await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    assert process.returncode == 1
    said = (tmp_path / "output").read_text()
    assert "plain channels cannot be read" in said
    assert "never retrieved" not in said


async def test_what_redis_refuses_for_one_channel_ends_all(
    make_layer: MakeLayer,
    warm: Warm,
    tmp_path: Path,
    restartable_server: RestartableServer,
    prefix: str,
) -> None:
    url = restartable_server.start_with_user("allkeys", "allchannels", "+@all")
    layer = make_layer(hosts=[url])
    workers = Workers(warm, tmp_path, json.dumps({"hosts": [url]}), prefix)
    process = workers.start()
    go = tmp_path / "go"
    await layer.send("fast", {"type": "wait", "path": str(go), "n": 1})
    await eventually(lambda: workers.log.read_text() == "waits\n")
    with restartable_server.client() as admin:
        keys = (f"~{prefix}:q:fast", f"~{prefix}:w:*")
        admin.execute_command("ACL", "SETUSER", "app", "resetkeys", *keys)
        await eventually(lambda: "errorstat_NOPERM" in admin.info("errorstats"))
    # What is in hand is finished, and then it ends.
    assert process.poll() is None
    go.touch()
    await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    assert process.returncode == 1
    assert workers.lines("end") == [1]
    await layer.close()


@pytest.mark.everywhere
async def test_a_failing_consumer_is_made_anew(layer: MpxChannelLayer, workers: Workers) -> None:
    workers.start()
    await layer.send("fast", {"type": "work", "n": 1})
    await layer.send("fast", {"type": "fail"})
    await layer.send("fast", {"no": "type"})
    await layer.send("fast", {"type": "work", "n": 2})
    await eventually(lambda: workers.lines("end") == [1, 2])
    assert await layer.request("fast", {"type": "ask", "n": 41}) == 42


def test_the_command_is_ours() -> None:
    from django.core.management import load_command_class

    command: Any = load_command_class("mpx_channels", "runworker")
    assert command.worker_class.__name__ == "MpxWorker"
