"""Presence in a cluster: it goes along with its slot, and outlives its master and its processes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.presence.values import PresenceCount
from tests.clusters import Cluster, Node, slot_of
from tests.inside import names_of
from tests.layer.conftest import MakeLayer

from .presences import QUICK, change, listener, members, next_of, process
from .test_presence_faults import all_there


@pytest.fixture
def config(own_cluster: Cluster) -> dict[str, Any]:
    return {"hosts": own_cluster.seeds, "cluster": True, **QUICK}


@pytest.fixture
def layers(
    make_layer: MakeLayer, config: dict[str, Any]
) -> tuple[MpxChannelLayer, MpxChannelLayer]:
    return make_layer(**config), make_layer(**config)


def master_of(cluster: Cluster, layer: MpxChannelLayer) -> tuple[Node, int]:
    """Of the room, and its slot."""
    slot = slot_of(names_of(layer).group("room"))
    return cluster.master_of(slot), slot


async def test_a_slot_moves(
    make_layer: MakeLayer, config: dict[str, Any], own_cluster: Cluster
) -> None:
    patient = {**config, "presence_lease": 60.0}  # nobody is to be taken for dead
    one, two = make_layer(**patient), make_layer(**patient)
    heard = await listener(one)
    channel = await two.new_channel()
    await two.presence_join("room", channel, "ann")
    assert await next_of(heard) == change(1, {"ann": {}})
    master, slot = master_of(own_cluster, one)
    to = next(node for node in own_cluster.masters if node is not master)
    await asyncio.to_thread(own_cluster.migrate_slot, slot, to)
    await two.presence_join("room", await two.new_channel(), "bob")
    await all_there(one, {"ann", "bob"})
    await two.presence_leave("room", channel, "ann")
    await all_there(one, {"bob"})
    # Nobody was told that somebody left who had not.
    left = {}
    async with asyncio.timeout(30):
        while "ann" not in left:
            left |= (await next_of(heard))["left"]
    assert left == {"ann": "left"}


async def test_a_master_is_killed(
    layers: tuple[MpxChannelLayer, MpxChannelLayer], own_cluster: Cluster
) -> None:
    one, two = layers
    for id in ("ann", "bob"):
        await two.presence_join("room", await two.new_channel(), id)
    master, _ = master_of(own_cluster, one)
    replica = own_cluster.replica_of(master)
    own_cluster.kill(master)
    await asyncio.to_thread(own_cluster.wait_promoted, replica)
    await all_there(one, {"ann", "bob"})
    await two.presence_join("room", await two.new_channel(), "carl")
    await all_there(one, {"ann", "bob", "carl"})


async def test_a_process_is_killed(
    layers: tuple[MpxChannelLayer, MpxChannelLayer], config: dict[str, Any], prefix: str
) -> None:
    one, _ = layers
    heard = await listener(one)
    told = json.dumps({**config, "prefix": prefix}), json.dumps(["ann", "bob"])
    async with process(*told) as other:
        assert await next_of(heard) == change(2, {"ann": {}, "bob": {}})
        other.kill()
        assert await next_of(heard) == change(0, left={"ann": "crashed", "bob": "crashed"})
    assert await members(one) == {}
    assert await one.presence_count("room") == PresenceCount(0, 0)
