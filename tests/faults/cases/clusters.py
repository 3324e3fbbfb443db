"""What befalls a cluster, and how one changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.channels.partitions import DEFAULT_PARTITIONS
from tests.clusters import Cluster, Node, slot_of
from tests.faults.stage import Setup, Stage

from .registry import case

CLUSTER = Setup(cluster=True)
# Of plain channels, a replica that takes over may have lost some messages and have others still.
REPLICAS = Setup(cluster=True, replicas=1, queues=0)

NAMES = ClusterNames("faults", DEFAULT_PARTITIONS)


def cluster_of(stage: Stage) -> Cluster:
    assert stage.cluster is not None
    return stage.cluster


def slots(stage: Stage, groups: Iterable[str]) -> list[int]:
    """The slots of these groups, and of the plain channels."""
    names = [NAMES.group(group) for group in groups]
    names += [NAMES.queue(queue) for queue in stage.members.queues]
    return sorted({slot_of(name) for name in names})


def other(cluster: Cluster, master: Node) -> Node:
    return next(node for node in cluster.masters if node is not master)


async def move(stage: Stage, slot: int, to: Node, how: str) -> None:
    """Move a slot, with pauses between the steps, so that there is traffic in each."""
    steps = cluster_of(stage).migrating(slot, to, how=how)
    while True:
        if await asyncio.to_thread(next, steps, None) is None:
            return
        await asyncio.sleep(stage.random.choice([0.0, 0.02, 0.05]))


def nothing_kept_is_lost(stage: Stage) -> None:
    """The slot of a group moved, with all of its messages: nobody is told that some are gone."""
    told = [
        f"{group} at {receiver}: {notice.reason}"
        for receiver, to in stage.ledger.receivers.items()
        for group in stage.members.kept
        for notice in to.notices[group]
        if not notice.recovered
    ]
    assert not told, f"told to be lost: {told}"


@case(CLUSTER)
async def slot_moved(stage: Stage) -> None:
    """Slots of groups and plain channels move to another master and back, in each way there is."""
    cluster = cluster_of(stage)
    ways = ["setslot", *["migrateslots"] * cluster.has_migrateslots]
    moving = slots(stage, [*stage.members.groups[:3], *stage.members.kept[:3]])
    for turn in range(6 if stage.long else 2):
        for slot in moving:
            source = await asyncio.to_thread(cluster.master_of, slot)
            target = await asyncio.to_thread(other, cluster, source)
            for to in (target, source):
                await move(stage, slot, to, ways[turn % len(ways)])
    await stage.back()
    nothing_kept_is_lost(stage)
    await asyncio.to_thread(cluster.wait_ok)


@case(CLUSTER)
async def node_added(stage: Stage) -> None:
    """A node comes, has slots moved to it, and goes again."""
    cluster = cluster_of(stage)
    added = await asyncio.to_thread(cluster.add_node)
    stage.servers.append(added)
    moving = slots(stage, stage.members.groups)[::2]
    home = {slot: await asyncio.to_thread(cluster.master_of, slot) for slot in moving}
    for slot in moving:
        await move(stage, slot, added, "setslot")
    await stage.back()
    # Not the last one of them: who has lost that is a replica, which takes what is sent there.
    for slot in moving[1:]:
        await move(stage, slot, home[slot], "setslot")
    await stage.back()
    nothing_kept_is_lost(stage)
    for worker in stage.workers:
        await worker.ask("be_quiet", True)
    await asyncio.sleep(0.2)
    await asyncio.to_thread(cluster.remove_node, added)
    stage.servers.remove(added)
    await stage.back()
    for worker in stage.workers:
        await worker.ask("be_quiet", False)


@case(CLUSTER)
async def nodes_parted(stage: Stage) -> None:
    """The network between two masters is parted, and whole again: sharded channels lose nothing."""
    cluster = cluster_of(stage)
    one, another, *_ = await asyncio.to_thread(lambda: cluster.masters)
    before = [stage.gaps(worker) for worker in stage.workers]
    await asyncio.to_thread(cluster.partition, one, another)
    await asyncio.sleep(8.0 if stage.long else 3.0)
    await asyncio.to_thread(cluster.heal)
    await stage.back()
    assert [stage.gaps(worker) for worker in stage.workers] == before
    nothing_kept_is_lost(stage)
    await asyncio.to_thread(cluster.wait_ok)


@case(REPLICAS)
async def master_killed(stage: Stage) -> None:
    """A master is killed, its replica takes over, and it comes back as a replica of that."""
    cluster = cluster_of(stage)
    stage.ledger.failed_over = True
    for _ in range(3 if stage.long else 1):
        master = stage.random.choice(await asyncio.to_thread(lambda: cluster.masters))
        replica = await asyncio.to_thread(cluster.replica_of, master)
        await asyncio.to_thread(cluster.kill, master)
        await asyncio.to_thread(cluster.wait_promoted, replica)
        await stage.back()
        await asyncio.to_thread(cluster.restart, master)
        await asyncio.to_thread(cluster.wait_ok)
