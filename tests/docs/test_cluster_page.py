"""What the page of the cluster says: of names, to a program that knows nothing of ours, and of the
way there from one server.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import uuid
from pathlib import Path
from typing import Any

from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.channels.partitions import DEFAULT_PARTITIONS
from mpx_channels.layer import MpxChannelLayer
from tests.clusters import Cluster
from tests.conftest import PATIENCE, eventually, missing

from .conftest import Read
from .pages import PAGES, blocks


def test_the_page_s_names_are_the_layer_s(read: Read) -> None:
    names = ClusterNames("asgi", DEFAULT_PARTITIONS)
    redis_name = read("cluster.md")["redis_name"]
    for group in ("lobby", "room.1", "room.2", *(uuid.uuid4().hex for _ in range(100))):
        assert redis_name(group) == names.group(group)


async def test_redis_cli_publishes_to_a_group(cluster: Cluster) -> None:
    """The command of the page, at a port of the test's."""
    if shutil.which("redis-cli") is None:
        missing("redis-cli is not installed")
    (page,) = (page for page in PAGES if Path(page).name == "cluster.md")
    (command,) = (block.text for block in blocks(page) if "SPUBLISH" in block.text)
    layer = MpxChannelLayer(
        hosts=cluster.seeds, cluster=True, prefix="asgi", serializer_format="json"
    )
    channel = await layer.new_channel()
    await layer.group_add("lobby", channel)
    port = cluster.seeds[0].rpartition(":")[2]
    command = command.replace("redis-cli ", f"redis-cli -p {port} ")
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert output.strip() == b"1", output
    async with asyncio.timeout(PATIENCE):
        message = await layer.receive(channel)
    assert message == {"type": "chat.message", "text": "hello"}
    await layer.close()


class OneProcess:
    """A process of a step of the move: what it sends to, and where its consumer is."""

    def __init__(self, step: int, layers: dict[str, MpxChannelLayer], read: dict[str, Any]) -> None:
        self.step = step
        self.heard: list[int] = []
        self._layers = layers
        self._read = read
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        layer = self._layers["default" if self.step < 2 else "cluster"]
        channel = await layer.new_channel()
        await layer.group_add("room", channel)

        async def listen() -> None:
            while True:
                self.heard.append((await layer.receive(channel))["n"])

        self._reading = asyncio.create_task(listen())

    async def send(self, number: int) -> None:
        message = {"type": "x", "n": number}
        if self.step in (1, 2):
            self._read["get_channel_layer"] = self._layers.__getitem__
            await self._read["send_to_both"]("room", message)
        else:
            alias = "default" if self.step == 0 else "cluster"
            await self._layers[alias].group_send("room", message)

    async def stop(self) -> None:
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.gather(*(layer.close() for layer in self._layers.values()))


def test_moving_to_a_cluster_step_by_step(read: Read, redis_url: str, cluster: Cluster) -> None:
    """Two processes, replaced one by one; all that either of them sends, both hear once."""
    page = read("cluster.md")
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    numbers = itertools.count()

    async def started(step: int) -> OneProcess:
        layers = {
            "default": MpxChannelLayer(hosts=[redis_url], prefix=prefix),
            "cluster": MpxChannelLayer(hosts=cluster.seeds, cluster=True, prefix=prefix),
        }
        process = OneProcess(step, layers, page)
        await process.start()
        return process

    async def hears_all(processes: list[OneProcess]) -> None:
        sent = []
        for process in (*processes, *processes):
            sent.append(next(numbers))
            await process.send(sent[-1])
        for process in processes:
            await eventually(lambda process=process: len(process.heard) >= len(sent))
            assert sorted(process.heard) == sent, process.step
            process.heard.clear()

    async def main() -> None:
        processes = [await started(0), await started(0)]
        await hears_all(processes)
        for step in (1, 2, 3):
            for place in (0, 1):
                old, processes[place] = processes[place], await started(step)
                await old.stop()
                await hears_all(processes)
        for process in processes:
            await process.stop()

    asyncio.run(main())
