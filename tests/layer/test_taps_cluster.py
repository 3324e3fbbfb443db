"""Taps in a cluster of sharded channels, of which there are no patterns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpx_channels.layer import (
    ForeignChannel,
    MpxChannelLayer,
    NotConnected,
    RequestFailed,
    SubscriptionRefused,
    Tap,
    TapEvent,
)
from mpx_channels.multiplexer.slots import slot_of
from tests.clusters import Cluster
from tests.conftest import PATIENCE, eventually
from tests.inside import followed_by, hub_of
from tests.proxy import free_port

from .conftest import MakeLayer

Make = Callable[..., MpxChannelLayer]


@pytest.fixture
def make(cluster: Cluster, make_layer: MakeLayer) -> Make:
    return lambda **config: make_layer(**{"hosts": cluster.seeds[:1], "cluster": True, **config})


async def take(tap: Tap, number: int = 1) -> list[Any]:
    """The next of what passes."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(tap) for _ in range(number)]


async def until_followed(tap: Tap, name: str) -> None:
    """Return once it listens to a name of Redis."""
    await eventually(lambda: any(name in each.names and each.active for each in followed_by(tap)))


def name_of(layer: MpxChannelLayer, group: str) -> str:
    return hub_of(layer).names.group(group)


async def test_what_is_there_and_what_comes(make: Make) -> None:
    layer, other = make(), make()
    channel = await other.new_channel()
    await other.group_add("room-1", channel)
    async with layer.tap(everything=True) as tap:
        await other.group_send("room-1", {"type": "chat"}, exclude=["specific.x!1"])
        await other.send(channel, {"type": "direct"})
        group, direct = await take(tap, 2)
        assert (group.kind, group.name, group.message) == ("group", "room-1", {"type": "chat"})
        assert group.exclude == ("specific.x!1",)
        assert (direct.kind, direct.name) == ("channel", channel)
        # A second at most, and it is there as well.
        await other.group_add("room-2", channel)
        waiting = await other.new_promise("answer", 2 * PATIENCE)
        await until_followed(tap, name_of(layer, "room-2"))
        await until_followed(tap, hub_of(layer).names.promise("answer"))
        await other.group_send("room-2", {"type": "chat"})
        assert await other.resolve("answer", 42) == 1
        assert await waiting == 42
        assert [each.name for each in await take(tap, 2)] == ["room-2", "answer"]


async def test_one_group_one_pattern_one_channel(make: Make) -> None:
    layer = make()
    first, second = await layer.new_channel(), await layer.new_channel()
    for group in ("x", "a-c", "a-b"):
        await layer.group_add(group, first)
    async with (
        layer.tap(groups=["a-b", "new"]) as one,
        layer.tap(group_patterns=["a-*"]) as some,
        layer.tap(local_channels=[second]) as mine,
    ):
        # Of a name that is known, nothing is missed: not even if nobody else is there.
        for group in ("x", "a-c", "a-b", "new"):
            await layer.group_send(group, {"type": group})
        await layer.send(first, {"type": "1"})
        await layer.send(second, {"type": "2"})
        assert {each.name for each in await take(one, 2)} == {"a-b", "new"}
        assert {each.name for each in await take(some, 2)} == {"a-b", "a-c"}
        assert [each.name for each in await take(mine)] == [second]


async def test_nobody_notices(make: Make) -> None:
    """It counts for nobody, not even in the process of the channels themselves."""
    layer, other = make(connect_timeout=60), make(connect_timeout=60)
    channel = await other.new_channel()
    await other.group_add("room", channel)
    await layer.group_add("room", await layer.new_channel())
    async with layer.tap(everything=True) as tap, layer.tap(groups=["room", "empty"]) as second:
        await until_followed(tap, name_of(layer, "empty"))
        async with asyncio.timeout(2 * PATIENCE):
            assert await other.group_send_counted("room", {"type": "a"}) == 2
            assert await other.group_send_counted("empty", {"type": "a"}) == 0
            # No answer is waited for that does not come.
            assert await other.resolve("nobody", 1) == 0
            waiting = await layer.new_promise("answer", 2 * PATIENCE)
            await until_followed(tap, hub_of(layer).names.promise("answer"))
            assert await other.resolve("answer", 1) == 1
            assert await waiting == 1
            with pytest.raises(ForeignChannel, match="no process has the channel"):
                await layer.group_add("room", f"specific.{'0' * 16}!1")
            gone = make()
            lost = await gone.new_channel()
            await until_followed(tap, hub_of(gone).names.inbox(str(gone.process_id)))
            await gone.close()
            with pytest.raises(RequestFailed, match="no process has the channel"):
                await layer.request(lost, {"type": "ask"}, timeout=60)
        stats = await other.fleet_stats()
        assert len(stats.processes) == 2
        assert {each.message["type"] for each in await take(second, 2)} == {"a"}


async def test_what_nobody_hears_any_more_is_left(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpx_channels.layer.followed.EVERY", 0.05)
    layer, other = make(), make(unsubscribe_delay=0)
    channel = await other.new_channel()
    name = name_of(other, "room")
    await other.group_add("room", channel)
    # Two that hold no name for each other.
    async with layer.tap(everything=True) as tap, layer.tap(group_patterns=["*"]) as second:
        await until_followed(second, name)
        await other.group_discard("room", channel)
        for each in (tap, second):
            await eventually(lambda each=each: all(name not in f.names for f in followed_by(each)))


async def test_names_of_redis(make: Make, cluster: Cluster) -> None:
    """Classic and sharded ones."""
    layer = make()
    await layer.group_add("room", await layer.new_channel())
    name = name_of(layer, "room")
    async with (
        layer.tap(patterns=["news.*", f"{layer.prefix}:g:*"]) as some,
        layer.tap(channels=["news.1", name]) as exact,
    ):
        with cluster.client() as client:
            client.publish("news.1", b"one")
            client.execute_command(
                "SPUBLISH", name, b"two", target_nodes=client.get_node_from_key(name)
            )
        for tap in (some, exact):
            found = sorted((each.name, each.data) for each in await take(tap, 2))
            assert found == sorted([("news.1", b"one"), (name, b"two")])


async def test_a_slot_moves(own_cluster: Cluster, make_layer: MakeLayer) -> None:
    layer = make_layer(hosts=own_cluster.seeds[:1], cluster=True)
    await layer.group_add("room", await layer.new_channel())
    name = name_of(layer, "room")
    source = own_cluster.master_of(name)
    target = next(node for node in own_cluster.masters if node is not source)
    async with layer.tap(everything=True) as tap:
        await asyncio.to_thread(own_cluster.migrate_slot, slot_of(name.encode()), target)
        events = await take(tap, 2)
        assert [each.event for each in events if isinstance(each, TapEvent)] == [
            "disconnected",
            "connected",
        ]
        await until_followed(tap, name)
        await layer.group_send("room", {"type": "chat"})
        (message,) = await take(tap)
        assert message.name == "room"
        stats = layer.stats()
        assert stats is not None
        assert stats.multiplexer.slots_moved == 1


@pytest.fixture
def lasting_cluster(server: object) -> Iterator[Cluster]:
    """Three masters without replicas, that go on when one of them is dead."""
    with Cluster(config={"cluster-require-full-coverage": "no"}) as running:
        yield running


async def test_a_master_is_away(lasting_cluster: Cluster, make_layer: MakeLayer) -> None:
    layer = make_layer(hosts=lasting_cluster.seeds, cluster=True)
    await layer.connect()
    await layer.group_add("room", await layer.new_channel())
    names = name_of(layer, "room"), hub_of(layer).inbox.name
    here = {lasting_cluster.master_of(name) for name in names}
    away = next(each for each in lasting_cluster.masters if each not in here)
    lasting_cluster.kill(away)
    multiplexer = hub_of(layer).multiplexer
    await eventually(lambda: not all(map(multiplexer.is_up, multiplexer.nodes)))
    async with layer.tap(everything=True) as tap:
        (event,) = await take(tap)
        assert event.event == "disconnected"
        assert away.url in event.reason
        await layer.group_send("room", {"type": "chat"})
        (message,) = await take(tap)
        assert message.name == "room"


async def test_what_is_not_allowed(cluster: Cluster, make: Make) -> None:
    for node in cluster.masters:
        node.ask(
            "ACL", "SETUSER", "tap", "on", ">secret", "+@all", "~*", "&*", "-pubsub|shardchannels"
        )
    try:
        layer = make(hosts=[cluster.seeds[0].replace("://", "://tap:secret@")])
        with pytest.raises(SubscriptionRefused, match="shardchannels"):
            await layer.tap(everything=True).__aenter__()
        async with layer.tap(groups=["room"]) as tap:
            await layer.group_send("room", {"type": "chat"})
            assert [each.name for each in await take(tap)] == ["room"]
    finally:
        for node in cluster.masters:
            node.ask("ACL", "DELUSER", "tap")


async def test_no_cluster(make_layer: MakeLayer) -> None:
    urls = [f"redis://127.0.0.1:{free_port()}" for _ in range(2)]
    layer = make_layer(hosts=urls, cluster=True, connect_timeout=0.5)
    with pytest.raises(NotConnected):
        await layer.connect(0.1)
    await eventually(lambda: hub_of(layer).multiplexer.last_error)
    with pytest.raises(NotConnected) as caught:
        await layer.tap(everything=True).__aenter__()
    for url in urls:
        # As the one that was asked, with the reason.
        assert f"{url}: Error 111" in str(caught.value)
