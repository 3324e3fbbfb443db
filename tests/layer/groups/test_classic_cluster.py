"""With classic Pub/Sub in a cluster, messages of one group may come by way of two nodes.

A script, which keeps a message in a history, publishes at the node of the group's slot; all else
goes over the home of its process. What is on its way from node to node is held back here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from mpx_channels.layer import MpxChannelLayer
from tests.clusters import Cluster, Node
from tests.conftest import PATIENCE, eventually
from tests.inside import hub_of, mailbox_of, multiplexer_of, names_of
from tests.layer.conftest import MakeLayer

MESSAGE = {"type": "x"}


@pytest.fixture(scope="module")
def parted() -> Iterator[Cluster]:
    """Its nodes go on to believe in each other while nothing comes through."""
    with Cluster(partitionable=True, config={"cluster-node-timeout": 60_000}) as running:
        yield running


@pytest.fixture
def make(make_layer: MakeLayer, parted: Cluster) -> Callable[..., MpxChannelLayer]:
    config = {"hosts": parted.seeds, "cluster": True, "sharded_pubsub": False}
    return lambda **more: make_layer(**config, history={"room*": {"size": 10, "ttl": 60}}, **more)


def node_at(cluster: Cluster, port: int) -> Node:
    return next(node for node in cluster.nodes if node.announced == port)


async def connected_apart(layer: MpxChannelLayer, cluster: Cluster) -> tuple[str, Node, Node]:
    """A group whose node is not the layer's home, and both."""
    await layer.connect()
    multiplexer = multiplexer_of(layer)
    _, home = multiplexer.node.endpoint
    for number in range(100):
        group = f"room-{number}"
        _, port = multiplexer.node_of(names_of(layer).group(group)).endpoint
        if port != home:
            return group, node_at(cluster, port), node_at(cluster, home)
    raise AssertionError("all groups are at one node")


async def all_answered(layer: MpxChannelLayer) -> None:
    """A PING over each connection that is subscribed, and what its answer leads to."""
    await asyncio.gather(*multiplexer_of(layer).fences(time.monotonic()))
    for _ in range(10):
        await asyncio.sleep(0)


async def has_it_before_it_leaves(
    layer: MpxChannelLayer,
    cluster: Cluster,
    apart: tuple[str, Node, Node],
    channel: str,
    sender: MpxChannelLayer,
    leave: Callable[[], Awaitable[None]],
) -> None:
    """What is sent before the channel is to leave is on its way from node to node meanwhile."""
    group, node, home = apart
    cluster.partition(node, home)
    try:
        await sender.group_send(group, MESSAGE)
        leaving = asyncio.ensure_future(leave())
        if sender is not layer:
            await eventually(lambda: hub_of(layer).groups.leaving or leaving.done())
        await all_answered(layer)
        assert not leaving.done()
    finally:
        cluster.heal()
    async with asyncio.timeout(PATIENCE):
        await leaving
    assert len(mailbox_of(layer, channel)) == 1


@pytest.mark.parametrize("how", ["group", "wildcard"])
async def test_send_then_leave(
    make: Callable[..., MpxChannelLayer], parted: Cluster, how: str
) -> None:
    layer = make(connect_timeout=PATIENCE)
    apart = await connected_apart(layer, parted)
    channel, add, discard = await layer.new_channel(), layer.group_add, layer.group_discard
    name = apart[0]
    if how == "wildcard":
        name, add, discard = "room*", layer.group_pattern_add, layer.group_pattern_discard
    await add(name, channel)
    await has_it_before_it_leaves(
        layer, parted, apart, channel, layer, lambda: discard(name, channel)
    )


async def test_another_process_is_asked_to_leave(
    make: Callable[..., MpxChannelLayer], parted: Cluster
) -> None:
    layer = make(connect_timeout=PATIENCE)
    apart = await connected_apart(layer, parted)
    group, node, _ = apart
    while True:
        # One whose question comes through.
        other = make(connect_timeout=PATIENCE)
        await other.connect()
        if node_at(parted, multiplexer_of(other).node.endpoint[1]) is not node:
            break
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    await has_it_before_it_leaves(
        layer, parted, apart, channel, other, lambda: other.group_discard(group, channel)
    )


async def test_a_layer_that_is_closed_leaves(
    make: Callable[..., MpxChannelLayer], parted: Cluster
) -> None:
    layer = make(connect_timeout=600)
    group, node, home = await connected_apart(layer, parted)
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    parted.partition(node, home)
    try:
        await layer.group_send(group, MESSAGE)
        leaving = asyncio.ensure_future(layer.group_discard(group, channel))
        await all_answered(layer)
        async with asyncio.timeout(PATIENCE):
            await layer.close()
            await leaving
    finally:
        parted.heal()


async def test_a_close_comes_after_the_messages_before(
    make: Callable[..., MpxChannelLayer], parted: Cluster
) -> None:
    layer = make()
    group, node, home = await connected_apart(layer, parted)
    mailbox = await layer.open_channel()
    mailbox.closable = True
    await layer.group_add(group, mailbox.channel)
    parted.partition(node, home)
    try:
        await layer.group_send(group, MESSAGE)
        assert await layer.group_close(group) == 1
        await all_answered(layer)
        assert not len(mailbox)
    finally:
        parted.heal()
    async with asyncio.timeout(PATIENCE):
        got = [(await layer.receive(mailbox.channel))["type"] for _ in range(2)]
    assert got == ["x", "mpx.closing"]
