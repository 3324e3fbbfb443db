"""Taps: seeing what passes, without anybody noticing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mpx_channels.layer import (
    ForeignChannel,
    MpxChannelLayer,
    PlainChannel,
    RequestFailed,
    SubscriptionRefused,
    Tap,
    TapEvent,
    Tapped,
)
from tests.conftest import RestartableServer, eventually
from tests.inside import names_of
from tests.over import Outside

from .conftest import MakeLayer

pytestmark = pytest.mark.classic


async def take(tap: Tap, number: int = 1) -> list[Any]:
    """The next of what passes."""
    async with asyncio.timeout(10):
        return [await anext(tap) for _ in range(number)]


async def test_everything_is_groups_channels_and_promises(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    channel = await other_layer.new_channel()
    async with layer.tap(everything=True) as tap:
        await other_layer.group_send("room-1", {"type": "chat"}, exclude=[channel])
        await other_layer.send(channel, {"type": "direct"})
        waiting = await other_layer.new_promise("answer", 10)
        assert await other_layer.resolve("answer", 42) == 1
        assert await waiting == 42
        assert await other_layer.group_size("room-1") == 0
        await other_layer.group_send("room-1", {"type": "end"})
        # What processes ask and answer each other is not among them.
        group, direct, promise, end = await take(tap, 4)
    assert end.message == {"type": "end"}
    assert isinstance(group, Tapped)
    assert (group.kind, group.name, group.message) == ("group", "room-1", {"type": "chat"})
    assert group.exclude == (channel,)
    assert (direct.kind, direct.name, direct.message) == ("channel", channel, {"type": "direct"})
    assert (promise.kind, promise.name, promise.message) == ("promise", "answer", {"value": 42})
    with pytest.raises(StopAsyncIteration):
        await anext(tap)


async def test_one_group_one_pattern_one_channel(layer: MpxChannelLayer) -> None:
    first, second = await layer.new_channel(), await layer.new_channel()
    async with (
        layer.tap(groups=["a-b"]) as one,
        layer.tap(group_patterns=["a-*"]) as some,
        layer.tap(local_channels=[second]) as mine,
        layer.tap(local_channels=[first.partition("!")[0] + "!"]) as ours,
    ):
        for group in ("x", "a-c", "a-b"):
            await layer.group_send(group, {"type": group})
        await layer.send(first, {"type": "1"})
        await layer.send(second, {"type": "2"})
        assert [each.name for each in await take(one)] == ["a-b"]
        assert [each.name for each in await take(some, 2)] == ["a-c", "a-b"]
        assert [each.name for each in await take(mine)] == [second]
        assert [each.name for each in await take(ours, 2)] == [first, second]


async def test_what_cannot_be_read_is_shown(
    make_layer: MakeLayer, outside: Outside, prefix: str
) -> None:
    encrypted = make_layer(symmetric_encryption_keys=["one"])
    other = make_layer(symmetric_encryption_keys=["two"])
    async with encrypted.tap(everything=True) as tap:
        await encrypted.group_send("room", {"type": "fine"})
        await other.group_send("room", {"type": "wrong.key"})
        names = names_of(encrypted)
        outside.publish_as_layers(names.group("room"), b"\xff foreign")
        outside.publish_as_layers(names.inbox("0123456789abcdef"), b"foreign, too")
        # Of a layer whose prefix begins with ours.
        outside.publish_as_layers(f"{prefix}:g:b:g:room", b"not ours")
        await encrypted.group_send("room", {"type": "end"})
        fine, wrong, foreign, inbox, end = await take(tap, 5)
    assert fine.message == {"type": "fine"}
    assert wrong.message is None
    assert "not in symmetric_encryption_keys" in wrong.error
    assert (foreign.data, foreign.kind) == (b"\xff foreign", "group")
    assert foreign.error
    assert (inbox.kind, inbox.name) == ("channel", "0123456789abcdef")
    assert end.message == {"type": "end"}


async def test_raw_channels_and_patterns(layer: MpxChannelLayer, outside: Outside) -> None:
    async with layer.tap(channels=["news[1]"], patterns=["weather.*"]) as tap:
        outside.publish("news1", b"a pattern would take it")
        outside.publish("news[1]", b"\x00\xff")
        outside.publish("weather.rome", b"sun")
        first, second = await take(tap, 2)
    assert (first.kind, first.name, first.data, first.message) == (
        "raw", "news[1]", b"\x00\xff", None
    )  # fmt: skip
    assert (second.name, second.data) == ("weather.rome", b"sun")


async def test_nobody_notices(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, make_layer: MakeLayer
) -> None:
    gone_layer = make_layer()
    gone = await gone_layer.new_channel()
    await gone_layer.close()
    channel = await other_layer.new_channel()
    await other_layer.group_add("room", channel)
    async with layer.tap(everything=True), layer.tap(groups=["room"], local_channels=[gone]):
        assert await other_layer.resolve("nobody-waits", 1) == 0
        with pytest.raises(RequestFailed, match="no process has the channel"):
            await other_layer.request(gone, {"type": "ask"})
        with pytest.raises(ForeignChannel, match="no process has the channel"):
            await other_layer.group_add("room", gone)
        assert await other_layer.group_size("room") == 1
        assert await other_layer.group_send_counted("empty", {"type": "n"}) == 0
        assert await other_layer.send_counted(gone, {"type": "n"}) == 0
        assert await other_layer.send_counted("jobs", {"type": "n"}) is None
        stats = await other_layer.fleet_stats()
        (watching,) = [p for p in stats.processes if p.process_id == layer.process_id]
        assert (watching.consumers, watching.groups, watching.patterns) == (0, 0, 0)
        assert await other_layer.group_send_counted("room", {"type": "hello"}) == 1
        assert await other_layer.receive(channel) == {"type": "hello"}
        assert await other_layer.send_counted(channel, {"type": "hello"}) == 1


async def test_plain_channels_are_peeked_into(layer: MpxChannelLayer) -> None:
    for number in range(100):
        await layer.send("jobs", {"type": "job", "number": number})
    seen = [each async for each in layer.peek("jobs")]
    assert [each.message["number"] for each in seen if each.message] == list(range(100))
    assert (seen[0].kind, seen[0].name) == ("queue", "jobs")
    assert seen[0].expires is not None
    assert await layer.receive("jobs") == {"type": "job", "number": 0}
    with pytest.raises(PlainChannel, match="peek"):
        layer.tap(local_channels=["jobs"])
    with pytest.raises(ValueError, match="tap"):
        [each async for each in layer.peek(await layer.new_channel())]


async def test_expired_messages_of_a_plain_channel_are_not_shown(make_layer: MakeLayer) -> None:
    short, long = make_layer(expiry=0.05), make_layer()
    await short.send("jobs", {"type": "old"})
    await long.send("jobs", {"type": "new"})
    seen: list[Any] = [{}, {}]
    async with asyncio.timeout(10):
        while len(seen) != 1:
            seen = [each.message async for each in long.peek("jobs")]
    assert seen == [{"type": "new"}]


async def test_what_others_put_into_a_plain_channel_is_shown(
    layer: MpxChannelLayer, outside: Outside
) -> None:
    await layer.send("jobs", {"type": "job"})
    queue = names_of(layer).queue("jobs")
    outside.at(queue).rpush(queue, b"foreign, and long enough", b"")
    first, *others = [each async for each in layer.peek("jobs")]
    assert first.message == {"type": "job"}
    assert [(each.data, each.message) for each in others] == [
        (b"foreign, and long enough", None),
        (b"", None),
    ]
    assert all(each.error and each.expires is None for each in others)


@pytest.mark.parametrize("limit", ["max_messages", "max_bytes"])
async def test_what_nobody_takes_is_dropped_and_counted(layer: MpxChannelLayer, limit: str) -> None:
    size = len(layer.wrapping.wrap("", {"type": "n", "n": 1}))
    most = {limit: 4 if limit == "max_messages" else 4 * size}
    async with layer.tap(groups=["flood"], **most) as tap:
        for number in range(10):
            await layer.group_send("flood", {"type": "n", "n": number})
        await eventually(lambda: tap.unread >= 4)
        await layer.group_add("flood", await layer.new_channel())  # a round trip later
        first = await take(tap, 5)
        await layer.group_send("flood", {"type": "last"})
        last = (await take(tap))[0]
    shown = [each.message["n"] for each in first if isinstance(each, Tapped) and each.message]
    (dropped,) = [each for each in first if isinstance(each, TapEvent)]
    assert shown == [0, 1, 2, 3]
    assert (dropped.event, dropped.messages) == ("dropped", 6)
    assert last.message == {"type": "last"}


async def test_the_link_breaks_and_is_back(
    restartable_server: RestartableServer, prefix: str
) -> None:
    restartable_server.start()
    layer = MpxChannelLayer(hosts=[restartable_server.url], prefix=prefix)
    try:
        async with layer.tap(everything=True) as tap:
            await layer.group_send("room", {"type": "before"})
            assert (await take(tap))[0].message == {"type": "before"}
            restartable_server.kill()
            (gone,) = await take(tap)
            assert (gone.event, bool(gone.reason)) == ("disconnected", True)
            restartable_server.start()
            assert (await take(tap))[0].event == "connected"
            await layer.group_send("room", {"type": "after"})
            assert (await take(tap))[0].message == {"type": "after"}
    finally:
        await layer.close()


async def test_a_user_who_may_not_have_patterns(
    restartable_server: RestartableServer, prefix: str
) -> None:
    restartable_server.start()
    with restartable_server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "plain", "on", ">secret", "resetchannels", f"&{prefix}:*",
            "allkeys", "allcommands",
        )  # fmt: skip
    url = restartable_server.url.replace("//", "//plain:secret@")
    layer = MpxChannelLayer(hosts=[url], prefix=prefix)
    try:
        async with layer.tap(groups=["room"]) as tap:
            await layer.group_send("room", {"type": "hello"})
            assert (await take(tap))[0].message == {"type": "hello"}
        with pytest.raises(SubscriptionRefused, match=f"'{prefix}:g:\\*'.*'{prefix}:r:\\*'"):
            await layer.tap(everything=True).__aenter__()
    finally:
        await layer.close()


async def test_wrong_arguments(layer: MpxChannelLayer) -> None:
    with pytest.raises(ValueError, match="needs something"):
        layer.tap()
    for wrong in ({"groups": ["a b"]}, {"group_patterns": ["a b"]}, {"channels": [""]}):
        with pytest.raises(TypeError):
            layer.tap(**wrong)
    tap = layer.tap(groups=["room"])
    async with tap:
        with pytest.raises(RuntimeError, match="another one"):
            await tap.__aenter__()


async def test_who_comes_and_goes(make_layer: MakeLayer) -> None:
    layer = make_layer(symmetric_encryption_keys=["secret"])
    channel = await layer.new_channel()
    async with layer.tap(everything=True) as tap, layer.tap(channels=["other"]):
        await layer.presence_join("room", channel, "ann", {"name": "Ann"})
        await layer.presence_leave("room", channel, "ann")
        joined, left = await take(tap, 2)
    assert (joined.kind, joined.name, joined.error) == ("group", "room", "")
    told = {"type": "mpx.presence", "group": "room"}
    assert joined.message == told | {"joined": {"ann": {"name": "Ann"}}, "left": {}, "members": 1}
    assert left.message == told | {"joined": {}, "left": {"ann": "left"}, "members": 0}
