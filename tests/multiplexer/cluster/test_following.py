"""Slots, masters and nodes come and go while numbers are sent: all follow, and are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from mpx_channels.multiplexer import ConnectionLost, commands
from mpx_channels.multiplexer.cluster import pace, topology
from mpx_channels.multiplexer.cluster.multiplexer import ClusterMultiplexer
from tests.clusters import Cluster, Node, slot_of
from tests.conftest import PATIENCE, eventually

from .conftest import New
from .traffic import Traffic

# Names of a few slots at each of three masters.
NAMES = [f"{{{number}}}name" for number in range(12)]

Start = Callable[..., Awaitable[Traffic]]


@pytest.fixture
def parted() -> Iterator[Cluster]:
    with Cluster(replicas=1, partitionable=True) as running:
        yield running


# Of traffic where all nodes answer: on a busy machine they may take their time.
PATIENT = {"connect_timeout": PATIENCE}


def another(cluster: Cluster, master: Node) -> Node:
    return next(node for node in cluster.masters if node is not master)


def clients(node: Node) -> int:
    """How many a node has, but for who asks, and other nodes."""
    with node.client() as client:
        kinds = [each["flags"] for each in client.client_list()]
    return kinds.count("P") + kinds.count("N") - 1


def names_at(cluster: Cluster, master: Node) -> set[str]:
    slots = set(cluster.slots_of(master))
    return {name for name in NAMES if slot_of(name) in slots}


async def test_a_slot_migrates_and_comes_back(cluster: Cluster, traffic: Start, how: str) -> None:
    running: Traffic = await traffic(cluster, NAMES, **PATIENT)
    slot = slot_of(NAMES[0])
    moving = {name for name in NAMES if slot_of(name) == slot}
    source = cluster.master_of(slot)
    target = another(cluster, source)
    for to in (target, source, target, source):
        steps = cluster.migrating(slot, to, how=how)
        while await asyncio.to_thread(next, steps, None) is not None:
            await running.more(2, [name for name in NAMES if name not in moving])
        await running.more()
    await running.end()
    assert running.told == moving
    assert not running.failures
    assert {running.activations[name] for name in NAMES if name not in moving} == {1}
    await asyncio.to_thread(cluster.wait_ok)


async def test_a_slot_of_many_names_migrates(cluster: Cluster, new: New, how: str) -> None:
    """They follow in a command for 512 of them."""
    mpx = new(cluster)
    lost: list[str] = []
    subscription = mpx.new_channel_subscription(
        lambda name, data: None,
        on_disconnect=lambda loss: lost.extend(loss.names),  # type: ignore[attr-defined]
    )
    names = [f"{{many}}{number}" for number in range(2000)]
    others = [f"{{other}}{number}" for number in range(10)]
    subscription.add(*names, *others)
    await mpx.start()
    await eventually(lambda: all(map(subscription.is_active, [*names, *others])))
    source = cluster.master_of(names[0])
    target = another(cluster, source)
    for to in (target, source):
        before = to.info("commandstats").get("cmdstat_ssubscribe", {"calls": 0})["calls"]
        await asyncio.to_thread(cluster.migrate_slot, slot_of(names[0]), to, how=how)
        await eventually(lambda to=to: str(mpx.node_of(names[0])) == to.url)
        await eventually(lambda: all(map(subscription.is_active, names)))
        assert to.info("commandstats")["cmdstat_ssubscribe"]["calls"] - before == 4
        assert sorted(lost) == sorted(names)
        lost.clear()
    await asyncio.to_thread(cluster.wait_ok)


async def test_whoever_is_asked_may_follow_later(
    cluster: Cluster, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question to a process, behind a slot that has moved, waits for it."""
    monkeypatch.setattr(topology, "LATELY", 1000.0)
    asking, asked = new(cluster), new(cluster)
    for mpx in (asking, asked):
        await mpx.start()
        await mpx.wait_connected(PATIENCE)
    assert await commands.publish_to_one(asking, "{one}", b"x") == 0
    source = cluster.master_of("{one}")
    target = another(cluster, source)
    await asyncio.to_thread(cluster.migrate_slot, slot_of("{one}"), target)
    await eventually(lambda: str(asking.node_of("{one}")) == target.url)
    # It is there, but has not heard of the move, or not done anything about it.
    before = asking.stats().commands_out
    sent = asyncio.create_task(commands.publish_to_one(asking, "{one}", b"x"))
    await eventually(lambda: asking.stats().commands_out > before + 20)
    assert not sent.done()
    subscription = asked.new_channel_subscription(lambda name, data: None)
    subscription.add("{one}")
    assert await asyncio.wait_for(sent, PATIENCE) == 1
    await asyncio.to_thread(cluster.migrate_slot, slot_of("{one}"), source)
    await asyncio.to_thread(cluster.wait_ok)


async def test_a_master_is_killed(own_cluster: Cluster, traffic: Start) -> None:
    running: Traffic = await traffic(own_cluster, NAMES)
    master = own_cluster.master_of(NAMES[0])
    there = names_at(own_cluster, master)
    replica = own_cluster.replica_of(master)
    own_cluster.kill(master)
    await asyncio.to_thread(own_cluster.wait_promoted, replica)
    await running.end()
    assert there <= running.told
    assert all(type(error) is ConnectionLost for error in running.failures)
    urls = {node.url for node in own_cluster.masters}
    assert {str(node) for node in running.sender.nodes} == urls


async def test_a_manual_failover(own_cluster: Cluster, traffic: Start) -> None:
    """The master that was takes SPUBLISH as before, until we hear of it."""
    running: Traffic = await traffic(own_cluster, NAMES, **PATIENT)
    master = own_cluster.master_of(NAMES[0])
    there = names_at(own_cluster, master)
    replica = own_cluster.replica_of(master)
    for to, gone in ((replica, master), (master, replica)):
        await asyncio.to_thread(own_cluster.wait_ok)
        await asyncio.to_thread(own_cluster.failover, to)
        await running.more()
        for mpx in (running.sender, running.receiver):
            await eventually(lambda mpx=mpx, to=to: str(mpx.node_of(NAMES[0])) == to.url)
        await eventually(lambda gone=gone: clients(gone) == 0)
        followed = dict(running.sent)
    await running.end(excused=followed)
    assert running.told == there
    assert not running.failures


async def test_who_only_sends_hears_of_a_demotion(
    own_cluster: Cluster, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "EVERY", 0.5)
    sender = new(own_cluster)
    await sender.start()
    assert await sender.publish(NAMES[0], b"x") == 0
    master = own_cluster.master_of(NAMES[0])
    replica = own_cluster.replica_of(master)
    await asyncio.to_thread(own_cluster.failover, replica)
    await eventually(lambda: str(sender.node_of(NAMES[0])) == replica.url)
    before = replica.info("commandstats").get("cmdstat_spublish", {"calls": 0})["calls"]
    await sender.publish(NAMES[0], b"x")
    assert replica.info("commandstats")["cmdstat_spublish"]["calls"] == before + 1


async def test_a_master_is_stopped_and_wakes(own_cluster: Cluster, traffic: Start) -> None:
    running: Traffic = await traffic(own_cluster, NAMES)
    master = own_cluster.master_of(NAMES[0])
    there = names_at(own_cluster, master)
    replica = own_cluster.replica_of(master)
    own_cluster.freeze(master)
    await asyncio.to_thread(own_cluster.wait_promoted, replica)
    await running.more()
    own_cluster.thaw(master)
    await asyncio.to_thread(own_cluster.wait_ok)
    await running.end()
    assert there <= running.told
    await eventually(lambda: clients(master) == 0)


async def test_a_node_is_added_and_removed(own_cluster: Cluster, traffic: Start) -> None:
    running: Traffic = await traffic(own_cluster, NAMES, **PATIENT)
    slots = [slot_of(name) for name in NAMES[:6]]
    added = await asyncio.to_thread(own_cluster.add_node)
    for slot in slots:
        await asyncio.to_thread(own_cluster.migrate_slot, slot, added)
    await running.more()
    for mpx in (running.sender, running.receiver):
        await eventually(lambda mpx=mpx: len(mpx.nodes) == 4)
    assert running.told == {name for name in NAMES if slot_of(name) in slots}
    for node in own_cluster.masters:
        await eventually(lambda node=node: clients(node) == 4)  # two of each
    await asyncio.to_thread(own_cluster.remove_node, added)
    # Who has lost its last slot is a replica, which takes SPUBLISH: until we hear of that.
    await running.end(excused=await all_followed(running, 3))
    assert not running.failures


async def all_followed(running: Traffic, masters: int) -> dict[str, int]:
    """Wait until all know so many masters; what was sent until then."""
    for mpx in (running.sender, running.receiver):
        await eventually(lambda mpx=mpx: len(mpx.nodes) == masters)
    return dict(running.sent)


async def test_a_node_that_was_removed_lives_on(own_cluster: Cluster, traffic: Start) -> None:
    """As a cluster of its own without slots, and it is the first of the seeds."""
    gone = own_cluster.nodes[0]
    running: Traffic = await traffic(own_cluster, NAMES, **PATIENT)
    await asyncio.to_thread(own_cluster.remove_node, gone, kill=False)
    await running.end(excused=await all_followed(running, 2))
    assert not running.failures
    await eventually(lambda: clients(gone) == 0)
    later = ClusterMultiplexer([gone.url, *own_cluster.seeds])
    await later.start()
    assert await later.publish(NAMES[0], b"%d" % running.sent[NAMES[0]]) == 1
    await later.stop()


async def test_all_of_it_is_down_and_comes_back(own_cluster: Cluster, traffic: Start) -> None:
    running: Traffic = await traffic(own_cluster, NAMES)

    def restart() -> None:
        for node in own_cluster.nodes:
            own_cluster.kill(node)
        for node in own_cluster.nodes:
            own_cluster.restart(node)

    await asyncio.to_thread(restart)
    await running.end()
    assert running.told == set(NAMES)


async def test_a_master_is_cut_off(parted: Cluster, traffic: Start) -> None:
    """It is reached by us all the time, and answers; the others promote its replica.

    What it has passed on to its replica meanwhile arrives there when the network is whole again,
    and is delivered once more: the servers do that.
    """
    running: Traffic = await traffic(parted, NAMES)
    master = parted.master_of(NAMES[0])
    replica = parted.replica_of(master)
    parted.isolate(master)
    await asyncio.to_thread(parted.wait_promoted, replica)
    await eventually(lambda: str(running.sender.node_of(NAMES[0])) == replica.url)
    await running.more()
    parted.heal()
    await asyncio.to_thread(parted.wait_ok)
    await running.end(echoes=True)


async def test_two_nodes_do_not_reach_each_other(parted: Cluster, traffic: Start) -> None:
    """The others reach both, so that nobody is taken for dead; we reach all."""
    running: Traffic = await traffic(parted, NAMES)
    parted.partition(*parted.masters[:2])
    await running.more(200)
    parted.heal()
    await running.end()
    assert not running.failures
    assert not running.told
