"""What a process sent to a group before one of its members leaves still arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from asgiref.sync import async_to_sync

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.layer.groups import published as published_module
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.inside import hub_of, mailbox_of, multiplexer_of, names_of, published_at
from tests.layer.conftest import MakeLayer
from tests.layer.test_sync import in_thread
from tests.proxy import Proxy

MESSAGE = {"type": "x"}


@pytest.fixture
def slow(proxy: Proxy) -> Proxy:
    """A proxy that holds back what comes from subscriptions, and not the answers to publishes."""
    proxy.to_client.delay_of = lambda data: 0.005 if b"message" in data else 0.0
    return proxy


def unread(layer: MpxChannelLayer, channel: str) -> int:
    """What is there now: who has left gets no more."""
    return len(mailbox_of(layer, channel))


def pings(proxy: Proxy) -> int:
    return proxy.to_server.data.count(b"PING")


async def member(layer: MpxChannelLayer, group: str = "room") -> str:
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    return channel


async def send(layer: MpxChannelLayer, group: str) -> None:
    await layer.group_send(group, MESSAGE)


async def send_many(layer: MpxChannelLayer, group: str) -> None:
    await layer.group_send_many([("other", MESSAGE), (group, MESSAGE)])


async def broadcast(layer: MpxChannelLayer, group: str) -> None:
    await layer.group_broadcast(group, "text")


async def sync_send(layer: MpxChannelLayer, group: str) -> None:
    await in_thread(layer.sync.group_send, group, MESSAGE)


async def in_a_call(layer: MpxChannelLayer, group: str) -> None:
    await in_thread(async_to_sync(layer.group_send), group, MESSAGE)


@pytest.mark.parametrize("how", [send, send_many, broadcast, sync_send, in_a_call])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_send_then_leave(
    make_layer: MakeLayer, slow: Proxy, how: Callable[..., Any], protocol: int
) -> None:
    layer = make_layer(hosts=[{"address": slow.url, "protocol": protocol}])
    for number in range(40):
        channel = await member(layer, f"room-{number % 3}")
        await how(layer, f"room-{number % 3}")
        await layer.group_discard(f"room-{number % 3}", channel)
        assert unread(layer, channel) == 1, number


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_five_hundred_at_a_time(redis_url: str, prefix: str, run: Callable[..., Any]) -> None:
    async def one(layer: MpxChannelLayer, number: int) -> int:
        channel = await member(layer)
        await layer.group_send("room", {"type": "x", "n": number})
        await layer.group_discard("room", channel)
        got = [await layer.receive(channel) for _ in range(unread(layer, channel))]
        return [event["n"] for event in got].count(number)

    async def rush() -> None:
        layer = MpxChannelLayer(hosts=[redis_url], prefix=prefix, capacity=1000)
        for _ in range(3):
            assert sum(await asyncio.gather(*[one(layer, n) for n in range(500)])) == 500
        await layer.close()

    run(rush())


@pytest.fixture
def second_server(restartable_server: RestartableServer) -> RestartableServer:
    restartable_server.start()
    return restartable_server


async def test_several_hosts(
    make_layer: MakeLayer, redis_url: str, second_server: RestartableServer
) -> None:
    async with Proxy("127.0.0.1", second_server.port) as proxy:
        proxy.to_client.delay_of = lambda data: 0.005 if b"message" in data else 0.0
        layer = make_layer(hosts=[redis_url, proxy.url])
        for number in range(40):
            channel = await member(layer, f"room-{number}")
            await layer.group_send(f"room-{number}", MESSAGE)
            await layer.group_discard(f"room-{number}", channel)
            assert unread(layer, channel) == 1, number


async def test_several_hosts_and_another_process(
    make_layer: MakeLayer, redis_url: str, second_server: RestartableServer
) -> None:
    """It asks over the one server, and what it sent comes over the other."""
    async with Proxy("127.0.0.1", second_server.port) as proxy:
        proxy.to_client.delay_of = lambda data: 0.005 if b"message" in data else 0.0

        def is_first(layer: MpxChannelLayer, name: str) -> bool:
            multiplexer = multiplexer_of(layer)
            return multiplexer.node_of(name) is multiplexer.node

        while True:
            layer = make_layer(hosts=[redis_url, proxy.url])
            await layer.new_channel()
            if is_first(layer, hub_of(layer).inbox.name):
                break
        name_of = names_of(layer).group
        groups = [f"g-{n}" for n in range(99) if not is_first(layer, name_of(f"g-{n}"))]
        other = make_layer(hosts=[redis_url, proxy.url])
        for group in groups[:20]:
            channel = await member(layer, group)
            await other.group_send(group, MESSAGE)
            await other.group_discard(group, channel)
            assert unread(layer, channel) == 1, group


async def test_wildcard_groups(
    make_layer: MakeLayer, redis_url: str, second_server: RestartableServer
) -> None:
    async with Proxy("127.0.0.1", second_server.port) as proxy:
        proxy.to_client.delay_of = lambda data: 0.005 if b"message" in data else 0.0
        layer = make_layer(hosts=[redis_url, proxy.url])
        for number in range(20):
            channel = await layer.new_channel()
            await layer.group_pattern_add("room-*", channel)
            await layer.group_send(f"room-{number}", MESSAGE)
            await layer.group_pattern_discard("room-*", channel)
            assert unread(layer, channel) == 1, number
        assert mailbox_of(layer, channel).wildcards == 0


async def test_in_order_and_no_more(layer: MpxChannelLayer) -> None:
    channel = await member(layer)
    for number in range(20):
        await layer.group_send("room", {"type": "x", "n": number})
    await layer.group_discard("room", channel)
    await layer.group_send("room", {"type": "too.late"})
    stays = await member(layer)
    await layer.group_send("room", {"type": "sentinel"})
    await layer.receive(stays)
    assert unread(layer, channel) == 20
    assert [(await layer.receive(channel))["n"] for _ in range(20)] == list(range(20))


async def test_without_a_publish_nothing_is_sent(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    await member(layer)
    channels = [await member(layer) for _ in range(100)]
    await layer.group_send("other", MESSAGE)
    before = bytes(proxy.to_server.data)
    for channel in channels:
        await layer.group_discard("room", channel)
    # Something that comes after whatever was sent.
    await layer.group_send("sentinel", MESSAGE)
    await eventually(lambda: b"sentinel" in proxy.to_server.data)
    assert b"PING" not in proxy.to_server.data
    assert before in proxy.to_server.data


async def test_one_ping_for_all(make_layer: MakeLayer, slow: Proxy) -> None:
    layer = make_layer(hosts=[slow.url], capacity=2000)
    stays = await member(layer)
    channels = [await member(layer) for _ in range(1000)]

    async def send_and_leave(channel: str) -> None:
        await layer.group_send("room", MESSAGE)
        await layer.group_discard("room", channel)

    await asyncio.gather(*map(send_and_leave, channels))
    assert {unread(layer, channel) for channel in channels} == {1000}
    assert unread(layer, stays) == 1000
    assert 1 <= pings(slow) <= 40  # one for each read of answers


async def test_what_a_fence_has_passed_needs_no_other(make_layer: MakeLayer, slow: Proxy) -> None:
    layer = make_layer(hosts=[slow.url])
    first, second = await member(layer), await member(layer)
    await layer.group_send("room", MESSAGE)
    await layer.group_discard("room", first)
    await layer.group_discard("room", second)
    assert (unread(layer, first), unread(layer, second), pings(slow)) == (1, 1, 1)


async def test_what_was_published_long_ago_needs_none(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    channel = await member(layer)
    await layer.group_send("room", MESSAGE)
    assert await layer.receive(channel)
    name = names_of(layer).group("room")
    published_at(layer)[name] -= layer.config.connect_timeout
    await layer.group_discard("room", channel)
    assert pings(proxy) == 0


async def test_more_groups_than_are_remembered(
    make_layer: MakeLayer, slow: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_module, "MANY", 4)
    layer = make_layer(hosts=[slow.url])
    channel = await member(layer)
    for number in range(4):
        await layer.group_send(f"old-{number}", MESSAGE)
    for name in published_at(layer):
        published_at(layer)[name] -= 2 * layer.config.connect_timeout
    await layer.group_send("room", MESSAGE)
    for number in range(10):
        await layer.group_send(f"new-{number}", MESSAGE)
    assert len(published_at(layer)) == 11
    await layer.group_discard("room", channel)
    assert unread(layer, channel) == 1


async def leaving_is_held_up(
    make_layer: MakeLayer, proxy: Proxy, **config: Any
) -> tuple[MpxChannelLayer, str, asyncio.Task[None]]:
    """A member that leaves while what it sent, and all behind that, does not come through."""
    layer = make_layer(hosts=[proxy.url], **config)
    channel = await member(layer)
    proxy.to_client.freeze_at = lambda data: b"message" in data
    await layer.group_send("room", MESSAGE)
    leaving = asyncio.create_task(layer.group_discard("room", channel))
    await eventually(lambda: pings(proxy) == 1)
    assert not leaving.done()
    assert unread(layer, channel) == 0
    return layer, channel, leaving


def members_of(layer: MpxChannelLayer) -> set[str]:
    hub = hub_of(layer)
    assert hub.groups.leaving == {}
    return {channel for topic in hub.groups.topics.values() for channel in topic.members}


async def test_it_waits_for_the_link(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer, channel, leaving = await leaving_is_held_up(make_layer, proxy)
    again = asyncio.create_task(layer.group_discard("room", channel))
    proxy.to_client.thaw()
    await asyncio.gather(leaving, again)
    assert unread(layer, channel) == 1
    assert members_of(layer) == set()


async def test_who_joins_again_meanwhile_stays(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer, channel, leaving = await leaving_is_held_up(make_layer, proxy)
    await layer.group_add("room", channel)
    proxy.to_client.thaw()
    await leaving
    assert members_of(layer) == {channel}
    await layer.group_send("room", MESSAGE)
    assert [await layer.receive(channel) for _ in range(2)] == [MESSAGE] * 2


async def test_leaving_again_after_that(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer, channel, leaving = await leaving_is_held_up(make_layer, proxy)
    await layer.group_add("room", channel)
    again = asyncio.create_task(layer.group_discard("room", channel))
    await asyncio.sleep(0)
    proxy.to_client.thaw()
    await asyncio.gather(leaving, again)
    assert members_of(layer) == set()


async def test_who_is_cancelled_leaves_at_once(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer, channel, leaving = await leaving_is_held_up(make_layer, proxy)
    other = asyncio.create_task(layer.group_discard("room", channel))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert members_of(layer) == set()
    # Others who wait for the same are not cancelled with it.
    proxy.to_client.thaw()
    await other
    assert unread(layer, channel) == 0


async def test_a_channel_that_ends_meanwhile(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer, channel, leaving = await leaving_is_held_up(make_layer, proxy)
    layer.close_channel(mailbox_of(layer, channel))
    # A successor of the same name has not left.
    stays = await member(layer)
    await layer.group_add("room", channel)
    proxy.to_client.thaw()
    await leaving
    assert members_of(layer) == {stays, channel}


async def test_a_link_that_breaks_ends_the_wait(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer, channel, leaving = await leaving_is_held_up(make_layer, proxy)
    proxy.cut()
    await asyncio.wait_for(leaving, PATIENCE)
    assert members_of(layer) == set()
    proxy.to_client.thaw()
    # The connection after that is in step with its answers.
    await member(layer)
    await layer.group_send("room", MESSAGE)
    await layer.group_discard("room", channel)


async def test_a_link_that_stays_silent_ends_it_in_time(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    layer, _channel, leaving = await leaving_is_held_up(make_layer, proxy, connect_timeout=0.3)
    await asyncio.wait_for(leaving, PATIENCE)
    assert members_of(layer) == set()
    proxy.to_client.thaw()


async def test_closing_the_layer_ends_it(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer, _channel, leaving = await leaving_is_held_up(make_layer, proxy)
    await layer.close()
    await asyncio.wait_for(leaving, PATIENCE)


async def test_without_a_link_nobody_waits(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    channel = await member(layer)
    await layer.group_send("room", MESSAGE)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: not hub_of(layer).inbox.live)
    leaving = layer.group_discard("room", channel)
    with pytest.raises(StopIteration):
        leaving.send(None)


async def test_where_ping_is_not_allowed(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    url = restartable_server.start_with_user("~*", "&*", "+@all", "-ping")
    layer = make_layer(hosts=[url], connect_timeout=600)
    for _ in range(3):
        channel = await member(layer)
        await layer.group_send("room", MESSAGE)
        await asyncio.wait_for(layer.group_discard("room", channel), PATIENCE)
        assert unread(layer, channel) == 1
