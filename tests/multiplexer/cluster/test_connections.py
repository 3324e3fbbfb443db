"""How many connections there are, and how much it takes to have all names back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.multiplexer.registry import SHARDED
from tests.clusters import Cluster, Node
from tests.conftest import PATIENCE, eventually
from tests.inside import multiplexer_of, subscribers_of

GROUPS = 10_000
PARTITIONS = 128


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """Three masters for this module alone."""
    with Cluster() as running:
        yield running


def connections(node: Node, name: str) -> Counter[str]:
    """Those of a client name, by their flags: P of what subscribes."""
    with node.client() as client:
        return Counter(each["flags"] for each in client.client_list() if each["name"] == name)


def subscribes(node: Node) -> int:
    return int(node.info("commandstats").get("cmdstat_ssubscribe", {"calls": 0})["calls"])


def layer_of(cluster: Cluster, name: str) -> MpxChannelLayer:
    return MpxChannelLayer(
        hosts=[{"address": url, "client_name": name} for url in cluster.seeds],
        cluster=True,
        prefix=name,
        partitions=PARTITIONS,
        capacity=2 * GROUPS,
        connect_timeout=PATIENCE,
        backlog_timeout=PATIENCE,
    )


async def test_two_to_each_master_whatever_there_is(own: Cluster) -> None:
    """Groups, plain channels that are read and written, requests, wildcards of raw channels."""
    layer = layer_of(own, "two")
    try:
        channel = await layer.new_channel()
        await asyncio.gather(*[layer.group_add(f"group-{n}", channel) for n in range(300)])
        readers = [asyncio.create_task(layer.receive(f"plain-{n}")) for n in range(30)]
        for number in range(30):
            await layer.send(f"plain-{number}", {"type": "x"})
        await asyncio.gather(*readers)
        readers = [asyncio.create_task(layer.receive(f"plain-{n}")) for n in range(30)]
        await layer.group_send("group-0", {"type": "x"})
        await layer.receive(channel)
        assert (await layer.healthy(PATIENCE)).ok
        await eventually(lambda: all(connections(node, "two").total() == 2 for node in own.nodes))
        assert all(connections(node, "two")["P"] == 1 for node in own.nodes)
        for reader in readers:
            reader.cancel()
    finally:
        await layer.close()
    await eventually(lambda: not any(connections(node, "two") for node in own.nodes))


async def test_ten_thousand_groups_come_back(own: Cluster) -> None:
    """A command for each partition and 512 names, and one for the inbox, the probe and so on."""
    layer = layer_of(own, "many")
    try:
        channel = await layer.new_channel()
        for start in range(0, GROUPS, 1000):
            names = [f"group-{n}" for n in range(start, start + 1000)]
            await asyncio.gather(*[layer.group_add(name, channel) for name in names])
        for node in own.nodes:
            node.ask("CONFIG", "RESETSTAT")
            node.ask("CLIENT", "KILL", "TYPE", "pubsub")
        registries = [each.registry for each in subscribers_of(multiplexer_of(layer)).all]

        def confirmed() -> int:
            return sum(registry.confirmed(SHARDED) for registry in registries)

        await eventually(lambda: confirmed() < GROUPS)
        wanted = sum(registry.wanted(SHARDED) for registry in registries)
        assert wanted > GROUPS
        await eventually(lambda: confirmed() == wanted)
        # As many as there are slots with names: each partition's, the inbox's, the probes'.
        assert sum(map(subscribes, own.nodes)) <= PARTITIONS + 5
        for number in range(0, GROUPS, 1000):
            await layer.group_send(f"group-{number}", {"type": "x", "n": number})

        async def numbers() -> set[int]:
            events = [await layer.receive(channel) for _ in range(GROUPS // 1000)]
            return {event["n"] for event in events if event["type"] == "x"}

        assert await asyncio.wait_for(numbers(), 30) == set(range(0, GROUPS, 1000))
    finally:
        await layer.close()


async def test_classic_pubsub_has_one_link_for_all_names(own: Cluster) -> None:
    """And still two connections to each master: whichever may be the home next."""
    hosts = [{"address": url, "client_name": "classic"} for url in own.seeds]
    layer = MpxChannelLayer(hosts=hosts, cluster=True, prefix="classic", sharded_pubsub=False)
    try:
        channel = await layer.new_channel()
        await asyncio.gather(*[layer.group_add(f"group-{n}", channel) for n in range(300)])
        home = str(multiplexer_of(layer).node)
        for node in own.nodes:
            await eventually(lambda node=node: connections(node, "classic").total() == 2)
            assert connections(node, "classic")["P"] == (node.url == home)
    finally:
        await layer.close()
