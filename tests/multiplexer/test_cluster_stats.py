"""What is counted, and what is well, in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from mpx_channels.metrics.collector import _by_address
from mpx_channels.multiplexer.cluster.multiplexer import ClusterMultiplexer
from mpx_channels.multiplexer.slots import slot_of
from tests.clusters import SLOTS, Cluster, one_by_one
from tests.conftest import PATIENCE, eventually
from tests.proxy import free_port

from .recorder import Recorder

New = Callable[..., ClusterMultiplexer]


@pytest.fixture
async def new() -> AsyncIterator[New]:
    """Makes multiplexers that are stopped after the test."""
    made = []

    def make(*urls: str, **options: object) -> ClusterMultiplexer:
        made.append(ClusterMultiplexer(list(urls), **options))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


@pytest.mark.parametrize("sharded", [True, False])
async def test_a_life_in_numbers(cluster: Cluster, new: New, sharded: bool) -> None:
    mpx = new(cluster.seeds[0], sharded=sharded)
    stats = mpx.stats()
    assert (stats.connected, stats.connected_since, stats.names_wanted) == (False, None, 0)
    (node,) = stats.nodes
    assert (node.address, node.connected) == (f"the cluster of {cluster.seeds[0]}", False)
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    names = [f"name-{number}" for number in range(20)]
    sub.add(*names)
    raw = mpx.new_channel_subscription(*recorder.callbacks, classic=True)
    raw.add("raw")
    patterns = [mpx.new_pattern_subscription(each, *recorder.callbacks) for each in ("b*", "c*")]
    stats = mpx.stats()
    assert (stats.names_wanted, stats.names_confirmed, stats.patterns) == (21, 0, 2)
    await mpx.start()
    for name in names:
        await sub.wait_for_activation(name)
    await raw.wait_for_activation("raw")
    for pattern in patterns:
        await pattern.wait_for_activation()
    await mpx.wait_connected(PATIENCE)
    stats = mpx.stats()
    assert stats.connected
    assert (stats.names_wanted, stats.names_confirmed) == (21, 21)
    assert (stats.patterns, stats.listeners) == (2, 23)
    assert {each.address for each in stats.nodes} == set(cluster.seeds)
    assert all(each.connected and each.publishing for each in stats.nodes)
    assert (stats.slots_moved, stats.redirections, stats.reconnects) == (0, 0, 0)


async def test_slots_that_move_and_nodes_that_go(own_cluster: Cluster, new: New) -> None:
    mpx = new(own_cluster.seeds[0], backlog_timeout=PATIENCE)
    await mpx.start()
    await mpx.wait_connected(PATIENCE)
    sub = mpx.new_channel_subscription()
    source = own_cluster.master_of("name")
    stays = own_cluster.key_at(source)
    sub.add("name", stays)
    for name in ("name", stays):
        await sub.wait_for_activation(name)
    other = next(each for each in own_cluster.masters if each is not source)
    steps = own_cluster.migrating(slot_of(b"name"), other)
    async for _ in one_by_one(steps):
        # ASK, while it is on its way, and MOVED.
        await mpx.command(b"GET", b"name")
    await eventually(lambda: mpx.stats().slots_moved == 1)
    assert mpx.stats().redirections >= 1

    source.ask("CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: mpx.stats().reconnects == 1)
    await mpx.wait_connected(PATIENCE)
    await asyncio.to_thread(own_cluster.remove_node, source)
    await eventually(lambda: source.url not in {each.address for each in mpx.stats().nodes})
    # What it had counted stays; and its series ends.
    assert mpx.stats().reconnects >= 1
    assert _by_address(mpx.stats().nodes) == dict.fromkeys(
        (each.url for each in own_cluster.masters), True
    )


async def test_a_slot_of_a_probe_moves_while_somebody_asks(own_cluster: Cluster, new: New) -> None:
    mpx = new(own_cluster.seeds[0])
    mpx.probe_over("alive")
    await mpx.start()
    await mpx.wait_connected(10)
    source, other = own_cluster.masters[:2]
    # Its name at a node has the smallest number whose slot is there.
    theirs = own_cluster.slots_of(source)
    slot = next(each for number in range(SLOTS) if (each := slot_of(b"%d" % number)) in theirs)
    moving = asyncio.create_task(asyncio.to_thread(own_cluster.migrate_slot, slot, other))
    while not moving.done():
        health = await mpx.healthy(PATIENCE)
        assert health.ok, health.reason
    await moving
    await eventually(lambda: mpx.stats().slots_moved == 1)
    assert (await mpx.healthy(PATIENCE)).ok


async def test_nobody_says_who_the_masters_are(new: New) -> None:
    urls = [f"redis://127.0.0.1:{free_port()}" for _ in range(2)]
    mpx = new(*urls, connect_timeout=0.5)
    mpx.probe_over("alive")
    await mpx.start()
    await eventually(lambda: mpx.last_error)
    health = await mpx.healthy(0.5)
    assert not health.ok
    (node,) = mpx.stats().nodes
    for url in urls:
        assert f"{url}: Error 111" in (health.reason or "")
        assert f"{url}: Error 111" in (node.last_error or "")
    assert not mpx.stats().connected


async def test_slots_without_a_master_are_not_healthy(own_cluster: Cluster, new: New) -> None:
    slot = slot_of(b"name")

    def nobody_has_it() -> bool:
        # Whoever has forgotten it hears of it again, as long as its master has not.
        having = [
            node
            for node in own_cluster.nodes
            if any(slot in row.slots for row in node.table().values())
        ]
        for node in sorted(having, key=lambda node: slot not in node.table()[node.id].slots):
            node.ask("CLUSTER", "DELSLOTS", slot)
        return not having

    await asyncio.to_thread(own_cluster.wait, nobody_has_it)
    await asyncio.sleep(0.3)  # what its master had said before may be on its way
    await asyncio.to_thread(own_cluster.wait, nobody_has_it)
    mpx = new(own_cluster.seeds[0])
    mpx.probe_over("alive")
    sub = mpx.new_channel_subscription()
    sub.add("name")
    await mpx.start()
    await mpx.wait_connected(PATIENCE)
    health = await mpx.healthy(PATIENCE)
    assert (health.ok, health.reason) == (
        False,
        f"slots of the cluster of {own_cluster.seeds[0]} have no master",
    )
    stats = mpx.stats()
    assert not stats.connected
    assert stats.nodes[-1].address == f"the cluster of {own_cluster.seeds[0]}"
