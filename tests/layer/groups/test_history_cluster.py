"""Histories in a cluster: a move loses nothing; a replica that took over may have lost some."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer
from tests.clusters import Cluster, Node, one_by_one, slot_of
from tests.conftest import PATIENCE, eventually
from tests.inside import names_of
from tests.layer.conftest import MakeLayer

from .histories import GAP, HISTORY, all_known, got, send

ROOM = "room-1"


@pytest.fixture(params=["setslot", "migrateslots"])
def how(request: pytest.FixtureRequest, own_cluster: Cluster) -> str:
    """Each way to migrate a slot that the servers know."""
    if request.param == "migrateslots" and not own_cluster.has_migrateslots:
        pytest.skip("these servers know no CLUSTER MIGRATESLOTS")
    return str(request.param)


@pytest.fixture
def layers(make_layer: MakeLayer, own_cluster: Cluster) -> tuple[MpxChannelLayer, MpxChannelLayer]:
    """Two processes: one that is in the room, and one that sends."""
    config = {"cluster": True, "history": HISTORY, "backlog_timeout": PATIENCE}
    here, sender = (make_layer(hosts=own_cluster.seeds, **config) for _ in range(2))
    return here, sender


def master_of(cluster: Cluster, layer: MpxChannelLayer) -> tuple[Node, int]:
    slot = slot_of(names_of(layer).group(ROOM))
    return cluster.master_of(slot), slot


def another(cluster: Cluster, master: Node) -> Node:
    return next(node for node in cluster.masters if node is not master)


async def failover(cluster: Cluster, master: Node) -> Node:
    """Kill a master; return the one that takes its place."""
    replica = cluster.replica_of(master)
    cluster.kill(master)
    await asyncio.to_thread(cluster.wait_promoted, replica)
    return replica


async def reasons_until_told(mailbox: Any) -> list[tuple[str, bool]]:
    """What gaps say until one of them is not recovered."""
    told: list[tuple[str, bool]] = []
    while not told or told[-1][1]:
        (event,) = await got(mailbox, 1)
        told.append((event[0], event[2]))
    return told


async def test_a_slot_that_moves_loses_nothing(
    own_cluster: Cluster, layers: tuple[MpxChannelLayer, MpxChannelLayer], how: str
) -> None:
    """There and back, under traffic, again and again."""
    here, sender = layers
    mailbox = await here.open_channel(hooks=GAP)
    await here.group_add(ROOM, mailbox.channel)
    sent = await send(sender, ROOM, 0)
    source, slot = master_of(own_cluster, here)
    target, number = another(own_cluster, source), 1
    for to in (target, source, target, source):
        async for _ in one_by_one(own_cluster.migrating(slot, to, how=how)):
            sending = asyncio.create_task(send(sender, ROOM, number))
            number += 1
            await asyncio.wait([sending], timeout=0.05)  # it may have to wait for the keys
        sent += await send(sender, ROOM, number)
        number += 1
    heard: list[Any] = []
    while number - 1 not in heard:
        heard += await got(mailbox, 1)
    numbers = [each for each in heard if isinstance(each, int)]
    assert numbers == list(range(number))
    gaps = [each for each in heard if not isinstance(each, int)]
    assert all(recovered for _, _, recovered, _ in gaps), gaps
    # One epoch, and whoever comes from before finds all of it.
    assert len({position.partition("-")[0] for position in sent}) == 1
    later = await here.open_channel(hooks=GAP)
    recovery = await here.group_add(ROOM, later.channel, since=sent[0])
    assert recovery is not None
    assert recovery.recovered
    assert await got(later, number - 1) == list(range(1, number))


async def test_a_quiet_group_moves_and_is_not_told_of_a_failover(
    own_cluster: Cluster, layers: tuple[MpxChannelLayer, MpxChannelLayer], how: str
) -> None:
    here, sender = layers
    mailbox = await here.open_channel(hooks=GAP)
    await here.group_add(ROOM, mailbox.channel)
    (first,) = await send(sender, ROOM, 0)
    assert await got(mailbox, 1) == [0]
    source, slot = master_of(own_cluster, here)
    target = another(own_cluster, source)
    for number, to in enumerate((target, source, target), 1):
        await asyncio.to_thread(own_cluster.migrate_slot, slot, to, how=how)
        await eventually(lambda: all_known(here))
        (position,) = await send(sender, ROOM, number)
        assert position.partition("-")[0] == first.partition("-")[0]
        heard: list[Any] = []
        while number not in heard:
            heard += await got(mailbox, 1)
        assert all(each == number or each[2] for each in heard), heard


@pytest.mark.parametrize("moves", [0, 1, 2])
async def test_a_failover_is_told_also_after_a_move(
    own_cluster: Cluster,
    layers: tuple[MpxChannelLayer, MpxChannelLayer],
    how: str,
    moves: int,
) -> None:
    if not moves and how == "migrateslots":
        pytest.skip("there is nothing to migrate")
    here, sender = layers
    mailbox = await here.open_channel(hooks=GAP)
    await here.group_add(ROOM, mailbox.channel)
    (first,) = await send(sender, ROOM, 0)
    assert await got(mailbox, 1) == [0]
    source, slot = master_of(own_cluster, here)
    target = another(own_cluster, source)
    for to in (target, source)[:moves]:
        await asyncio.to_thread(own_cluster.migrate_slot, slot, to, how=how)
    if moves:
        heard: list[Any] = []
        (position,) = await send(sender, ROOM, 1)
        assert position.partition("-")[0] == first.partition("-")[0]
        while 1 not in heard:
            heard += await got(mailbox, 1)
    await asyncio.to_thread(own_cluster.wait_ok)
    master, _ = master_of(own_cluster, here)
    await failover(own_cluster, master)
    assert (await reasons_until_told(mailbox))[-1] == ("failover", False)
    (position,) = await send(sender, ROOM, 2)
    assert position.partition("-")[0] != first.partition("-")[0]
    later = await here.open_channel()
    recovery = await here.group_add(ROOM, later.channel, since=first)
    assert recovery is not None
    assert (recovery.recovered, recovery.reason) == (False, "failover")


async def test_a_failover_before_anybody_has_looked_after_a_move(
    make_layer: MakeLayer, own_cluster: Cluster
) -> None:
    """The process that sends is led on with its command, and has not asked which server that is."""
    config = {"cluster": True, "history": HISTORY, "backlog_timeout": PATIENCE}
    sender = make_layer(hosts=own_cluster.seeds, **config)
    (first,) = await send(sender, ROOM, 0)
    source, slot = master_of(own_cluster, sender)
    target = another(own_cluster, source)
    await asyncio.to_thread(own_cluster.migrate_slot, slot, target)
    (second,) = await send(sender, ROOM, 1)
    assert second.partition("-")[0] == first.partition("-")[0]
    # As the server that the command came to has it, and without a connection that begins anew.
    _, _, _, key = names_of(sender).history(ROOM)
    assert target.ask("GET", key).split()[1].decode() == target.id
    await failover(own_cluster, target)
    later = make_layer(hosts=own_cluster.seeds, **config)
    mailbox = await later.open_channel()
    recovery = await later.group_add(ROOM, mailbox.channel, since=second)
    assert recovery is not None
    assert (recovery.recovered, recovery.reason) == (False, "failover")


async def test_a_manual_failover_and_back(
    own_cluster: Cluster, layers: tuple[MpxChannelLayer, MpxChannelLayer]
) -> None:
    """Whoever takes over was a replica: that nothing is missing is known to nobody."""
    here, sender = layers
    mailbox = await here.open_channel(hooks=GAP)
    await here.group_add(ROOM, mailbox.channel)
    await send(sender, ROOM, 0)
    assert await got(mailbox, 1) == [0]
    master, _ = master_of(own_cluster, here)
    replica = own_cluster.replica_of(master)
    for number, to in enumerate((replica, master), 1):
        await asyncio.to_thread(own_cluster.wait_ok)
        await asyncio.to_thread(own_cluster.failover, to)
        assert (await reasons_until_told(mailbox))[-1] == ("failover", False)
        await send(sender, ROOM, number)
        heard: list[Any] = []
        while number not in heard:
            heard += await got(mailbox, 1)


async def test_of_other_groups_nothing_is_told(
    own_cluster: Cluster, layers: tuple[MpxChannelLayer, MpxChannelLayer]
) -> None:
    """A master is killed: those whose slots it had hear of it, and no others."""
    here, sender = layers
    rooms = [f"room-{number}" for number in range(1, 30)]
    mailbox = await here.open_channel(hooks=GAP)
    for room in rooms:
        await here.group_add(room, mailbox.channel)
        await send(sender, room, 0)
    assert await got(mailbox, len(rooms)) == [0] * len(rooms)
    master, _ = master_of(own_cluster, here)
    slots = set(own_cluster.slots_of(master))
    there = {room for room in rooms if slot_of(names_of(here).group(room)) in slots}
    assert there
    assert there != set(rooms)
    await failover(own_cluster, master)
    told: set[str] = set()
    while told != there:
        (event,) = await got(mailbox, 1)
        assert set(event[1]) <= there
        if not event[2]:
            assert event[0] == "failover"
            told |= set(event[1])


async def test_servers_that_do_not_name_their_shards(
    own_cluster: Cluster, make_layer: MakeLayer
) -> None:
    """Before Redis 7.2; and where CLUSTER is forbidden, a move counts as a failover, to be safe."""
    for node in own_cluster.nodes:
        known = b"MYSHARDID" in b" ".join(node.ask("CLUSTER", "HELP"))
        rules = ["on", ">x", "~*", "&*", "+@all", *["-cluster|myshardid"] * known]
        node.ask("ACL", "SETUSER", "old", *rules)
        node.ask("ACL", "SETUSER", "blind", *rules, "-cluster|myid")
    epochs: dict[str, list[str]] = {"old": [], "blind": []}
    layers = {
        user: make_layer(
            hosts=[url.replace("://", f"://{user}:x@") for url in own_cluster.seeds],
            cluster=True,
            history=HISTORY,
            backlog_timeout=PATIENCE,
            prefix=user,
        )
        for user in epochs
    }

    async def note() -> None:
        for user, layer in layers.items():
            (position,) = await send(layer, ROOM, 0)
            epochs[user].append(position.partition("-")[0])

    await note()
    for layer in layers.values():
        source, slot = master_of(own_cluster, layer)
        target = another(own_cluster, source)
        await asyncio.to_thread(own_cluster.migrate_slot, slot, target)
    await note()
    assert epochs["old"][0] == epochs["old"][1]
    assert epochs["blind"][0] != epochs["blind"][1]
    await asyncio.to_thread(own_cluster.wait_ok)
    for master in {master_of(own_cluster, layer)[0] for layer in layers.values()}:
        await failover(own_cluster, master)
    await note()
    for seen in epochs.values():
        assert seen[2] != seen[1]
