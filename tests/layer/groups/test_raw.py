"""Raw channels and patterns, and what holds for all subscriptions."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from mpx_channels.layer import ForeignChannel, MpxChannelLayer
from mpx_channels.multiplexer import NotConnected, SubscriptionRefused
from tests.conftest import RestartableServer, eventually
from tests.inside import multiplexer_of
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy

MARK = {"type": "mark"}


async def unread(
    layer: MpxChannelLayer, channel: str, *, by: MpxChannelLayer | None = None
) -> list[Any]:
    """All that has arrived on a channel, once what was sent before, ``by`` whom, has."""
    multiplexer = multiplexer_of(layer)
    if multiplexer.sharded:
        # The mark may come over another link than the rest.
        await asyncio.gather(*multiplexer.fences(time.monotonic()))
    await (by or layer).send(channel, MARK)
    messages = []
    while (message := await layer.receive(channel)) != MARK:
        messages.append(message)
    return messages


@pytest.mark.everywhere(classic=True)
async def test_raw_channels(layer: MpxChannelLayer, outside: Outside, prefix: str) -> None:
    one, two = await layer.new_channel(), await layer.new_channel()
    await layer.channel_add(f"{prefix}/ü", one)
    await layer.channel_add(f"{prefix}/ü", two)
    assert outside.numsub(f"{prefix}/ü", classic=True) == 1
    outside.publish(f"{prefix}/ü", b"\x00\xff")
    event = {"type": "channel.message", "channel": f"{prefix}/ü", "data": b"\x00\xff"}
    assert await layer.receive(one) == await layer.receive(two) == event
    await layer.channel_discard(f"{prefix}/ü", one)
    outside.publish(f"{prefix}/ü", b"")
    assert await layer.receive(two) == {**event, "data": b""}
    assert await unread(layer, one) == await unread(layer, two) == []


@pytest.mark.everywhere
async def test_raw_patterns(layer: MpxChannelLayer, outside: Outside, prefix: str) -> None:
    channel = await layer.new_channel()
    await layer.pattern_add(f"{prefix}.?", channel)
    await layer.pattern_add(f"{prefix}.*", channel)
    await layer.pattern_add(f"{prefix}.*", channel)
    outside.publish(f"{prefix}.a", "1")
    outside.publish(f"{prefix}.long", "2")
    events = [await layer.receive(channel) for _ in range(3)]
    heard = [(event["pattern"], event["channel"], event["data"]) for event in events]
    assert sorted(heard) == sorted(
        [
            (f"{prefix}.?", f"{prefix}.a", b"1"),
            (f"{prefix}.*", f"{prefix}.a", b"1"),
            (f"{prefix}.*", f"{prefix}.long", b"2"),
        ]
    )
    await layer.pattern_discard(f"{prefix}.*", channel)
    outside.publish(f"{prefix}.b", "3")
    assert (await layer.receive(channel))["pattern"] == f"{prefix}.?"
    assert await unread(layer, channel) == []


async def test_raw_events_are_ones_own(
    layer: MpxChannelLayer, outside: Outside, prefix: str
) -> None:
    one, two = await layer.new_channel(), await layer.new_channel()
    for channel in (one, two):
        await layer.channel_add(f"{prefix}/x", channel)
    outside.publish(f"{prefix}/x", "1")
    (await layer.receive(one)).clear()
    assert (await layer.receive(two))["data"] == b"1"


async def test_raw_names_end_with_their_last_listener(
    make_layer: MakeLayer, client: Any, prefix: str
) -> None:
    layer = make_layer(unsubscribe_delay=0)
    one, two = await layer.new_channel(), await layer.new_channel()
    for channel in (one, two):
        await layer.channel_add(f"{prefix}/x", channel)
        await layer.pattern_add(f"{prefix}/*", channel)
    assert (layer.stats().raw_channels, layer.stats().patterns) == (1, 1)
    assert client.publish(f"{prefix}/x", "") == 2
    for channel in (one, two):
        await layer.channel_discard(f"{prefix}/x", channel)
        await layer.pattern_discard(f"{prefix}/*", channel)
    assert (layer.stats().raw_channels, layer.stats().patterns) == (0, 0)
    await eventually(lambda: client.publish(f"{prefix}/x", "") == 0)


async def test_a_flood_of_raw_messages_is_bounded(
    make_layer: MakeLayer, outside: Outside, prefix: str
) -> None:
    layer = make_layer(capacity=5)
    channel = await layer.new_channel()
    await layer.channel_add(f"{prefix}/x", channel)
    for number in range(20):
        outside.publish(f"{prefix}/x", str(number))
    await eventually(lambda: layer.stats().drops["full"] == 15)
    assert [(await layer.receive(channel))["data"] for _ in range(5)] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
    ]


async def test_raw_subscriptions_survive_a_broken_link(
    make_layer: MakeLayer, other_layer: MpxChannelLayer, proxy: Proxy, client: Any, prefix: str
) -> None:
    layer = make_layer(hosts=[proxy.url])
    channel = await layer.new_channel()
    await layer.channel_add(f"{prefix}/x", channel)
    await layer.pattern_add(f"{prefix}/*", channel)
    await layer.group_pattern_add("room-*", channel)
    proxy.cut()
    await eventually(lambda: layer.stats().multiplexer.reconnects)
    # Again, which waits for Redis to confirm again.
    await layer.channel_add(f"{prefix}/x", channel)
    await layer.pattern_add(f"{prefix}/*", channel)
    await layer.group_pattern_add("room-*", channel)
    client.publish(f"{prefix}/x", "1")
    await other_layer.group_send("room-1", {"type": "x", "n": 1})
    await other_layer.send(channel, MARK)
    heard = [await layer.receive(channel) for _ in range(4)][:3]
    assert sorted(event["type"] for event in heard) == ["channel.message", "pattern.message", "x"]


@pytest.mark.parametrize("name", ["", None, 7, b"bytes"])
async def test_raw_names_are_checked(layer: MpxChannelLayer, name: Any) -> None:
    channel = await layer.new_channel()
    for call in (
        layer.channel_add, layer.channel_discard, layer.pattern_add, layer.pattern_discard,
    ):  # fmt: skip
        with pytest.raises(TypeError, match="non-empty str"):
            await call(name, channel)


@pytest.mark.classic
async def test_the_channel_must_be_ours(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    foreign = await other_layer.new_channel()
    for call in (layer.channel_add, layer.pattern_add, layer.group_pattern_add):
        with pytest.raises(ForeignChannel):
            await call("name", foreign)
        with pytest.raises(TypeError, match="Channel name"):
            await call("name", "no spaces")
    for call in (layer.channel_discard, layer.pattern_discard, layer.group_pattern_discard):
        await call("name", foreign)
        with pytest.raises(TypeError, match="Channel name"):
            await call("name", "no spaces")


async def test_an_add_that_is_not_confirmed_is_none(
    make_layer: MakeLayer, restartable_server: RestartableServer, prefix: str
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], connect_timeout=0.4, max_backoff=0.02)
    channel = await layer.new_channel()
    await layer.channel_add("before", channel)
    restartable_server.kill()
    await eventually(lambda: not layer.stats().multiplexer.connected)
    for call in (layer.channel_add, layer.pattern_add, layer.group_pattern_add, layer.group_add):
        with pytest.raises(NotConnected, match="did not confirm"):
            await call("after", channel)
    # What was there before stays, also if it is asked for again.
    with pytest.raises(NotConnected):
        await layer.channel_add("before", channel)
    stats = layer.stats()
    assert (stats.raw_channels, stats.patterns, stats.groups) == (1, 0, 0)
    restartable_server.start()
    await layer.group_add("after", channel)
    with restartable_server.client() as client:
        assert client.publish("before", "1") == 1
    assert (await layer.receive(channel))["channel"] == "before"


async def test_what_an_acl_forbids_is_said(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    url = restartable_server.start_with_user("resetchannels", "&asgi:*", "+@all")
    layer = make_layer(hosts=[url], prefix="asgi")
    channel = await layer.new_channel()
    with pytest.raises(SubscriptionRefused, match="secrets"):
        await layer.channel_add("secrets", channel)
    with pytest.raises(SubscriptionRefused, match="secret-"):
        await layer.pattern_add("secret-*", channel)
    await layer.channel_add("asgi:fine", channel)
    stats = layer.stats()
    assert (stats.raw_channels, stats.patterns) == (1, 0)
