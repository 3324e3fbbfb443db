"""The first messages of a process, sent before it knows the cluster."""

from __future__ import annotations

import asyncio

import pytest

from mpx_channels.layer import MpxChannelLayer
from tests.clusters import Cluster


@pytest.mark.parametrize("sharded", [True, False], ids=["sharded", "classic"])
async def test_they_keep_their_order(cluster: Cluster, prefix: str, sharded: bool) -> None:
    def layer() -> MpxChannelLayer:
        return MpxChannelLayer(
            hosts=cluster.seeds, cluster=True, sharded_pubsub=sharded, prefix=prefix
        )

    reader = layer()
    groups = ["a", "b", "c"]
    channels = [await reader.new_channel() for _ in groups]
    for group, channel in zip(groups, channels, strict=True):
        await reader.group_add(group, channel)
    for _ in range(3):
        fresh = layer()
        sends = []
        for number in range(20):
            for group in groups:
                sent = fresh.group_send(group, {"type": "x", "n": number})
                sends.append(asyncio.ensure_future(sent))
            await asyncio.sleep(0.001)
        await asyncio.gather(*sends)
        for channel in channels:
            async with asyncio.timeout(30):
                got = [(await reader.receive(channel))["n"] for _ in range(20)]
            assert got == list(range(20))
        await fresh.close()
    await reader.close()
