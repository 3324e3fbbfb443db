"""What the page of the cluster says of names: a program that knows nothing of ours publishes."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from pathlib import Path

from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.channels.partitions import DEFAULT_PARTITIONS
from mpx_channels.layer import MpxChannelLayer
from tests.clusters import Cluster
from tests.conftest import PATIENCE, missing

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
