"""Raw channels, patterns, wildcard groups; `subscribe` for code that is no consumer."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from mpx_channels.layer import ForeignChannel, MpxChannelLayer
from mpx_channels.multiplexer import NotConnected, SubscriptionRefused
from tests.conftest import RestartableServer, eventually
from tests.proxy import Proxy

from .conftest import MakeLayer

MARK = {"type": "mark"}


async def unread(layer: MpxChannelLayer, channel: str) -> list[Any]:
    """All that has arrived on a channel, once what was sent before must have arrived."""
    await layer.send(channel, MARK)
    messages = []
    while (message := await layer.receive(channel)) != MARK:
        messages.append(message)
    return messages


def of(group: str, number: Any = 1, *, tagged: bool = True) -> dict[str, Any]:
    """What a channel gets of a message to a group."""
    return {"type": "x", "n": number} | ({"mpx_group": group} if tagged else {})


# -- raw channels and patterns --------------------------------------------------------------------


async def test_raw_channels(layer: MpxChannelLayer, client: Any, prefix: str) -> None:
    one, two = await layer.new_channel(), await layer.new_channel()
    await layer.channel_add(f"{prefix}/ü", one)
    await layer.channel_add(f"{prefix}/ü", two)
    assert client.publish(f"{prefix}/ü", b"\x00\xff") == 1
    event = {"type": "channel.message", "channel": f"{prefix}/ü", "data": b"\x00\xff"}
    assert await unread(layer, one) == await unread(layer, two) == [event]
    await layer.channel_discard(f"{prefix}/ü", one)
    client.publish(f"{prefix}/ü", b"")
    assert await unread(layer, one) == []
    assert await unread(layer, two) == [{**event, "data": b""}]


async def test_raw_patterns(layer: MpxChannelLayer, client: Any, prefix: str) -> None:
    channel = await layer.new_channel()
    await layer.pattern_add(f"{prefix}.?", channel)
    await layer.pattern_add(f"{prefix}.*", channel)
    await layer.pattern_add(f"{prefix}.*", channel)
    client.publish(f"{prefix}.a", "1")
    client.publish(f"{prefix}.long", "2")
    heard = [(e["pattern"], e["channel"], e["data"]) for e in await unread(layer, channel)]
    assert sorted(heard) == sorted(
        [
            (f"{prefix}.?", f"{prefix}.a", b"1"),
            (f"{prefix}.*", f"{prefix}.a", b"1"),
            (f"{prefix}.*", f"{prefix}.long", b"2"),
        ]
    )
    await layer.pattern_discard(f"{prefix}.*", channel)
    client.publish(f"{prefix}.b", "3")
    assert [e["pattern"] for e in await unread(layer, channel)] == [f"{prefix}.?"]


async def test_raw_events_are_ones_own(layer: MpxChannelLayer, client: Any, prefix: str) -> None:
    one, two = await layer.new_channel(), await layer.new_channel()
    for channel in (one, two):
        await layer.channel_add(f"{prefix}/x", channel)
    client.publish(f"{prefix}/x", "1")
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
    make_layer: MakeLayer, client: Any, prefix: str
) -> None:
    layer = make_layer(capacity=5)
    channel = await layer.new_channel()
    await layer.channel_add(f"{prefix}/x", channel)
    for number in range(20):
        client.publish(f"{prefix}/x", str(number))
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
    restartable_server.start()
    with restartable_server.client() as admin:
        admin.execute_command(
            "ACL", "SETUSER", "app", "on", ">secret", "resetchannels", "&asgi:*", "+@all"
        )
    url = restartable_server.url.replace("redis://", "redis://app:secret@")
    layer = make_layer(hosts=[url], prefix="asgi")
    channel = await layer.new_channel()
    with pytest.raises(SubscriptionRefused, match="secrets"):
        await layer.channel_add("secrets", channel)
    with pytest.raises(SubscriptionRefused, match="secret-"):
        await layer.pattern_add("secret-*", channel)
    await layer.channel_add("asgi:fine", channel)
    stats = layer.stats()
    assert (stats.raw_channels, stats.patterns) == (1, 0)


# -- wildcard groups ------------------------------------------------------------------------------


async def test_a_wildcard_hears_every_group_that_matches(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    channel = await layer.new_channel()
    await layer.group_pattern_add("room-*", channel)
    for sender in (layer, other_layer):
        for group in ("room-1", "room-", "roam-1", "room-x.y"):
            await sender.group_send(group, {"type": "x", "n": 1})
        assert await unread(layer, channel) == [of("room-1"), of("room-"), of("room-x.y")]
    await layer.group_pattern_discard("room-*", channel)
    await layer.group_send("room-1", {"type": "x"})
    assert await unread(layer, channel) == []


@pytest.mark.parametrize(
    ("pattern", "hears"),
    [
        ("*", {"room-1", "room-2", "hall", "r"}),
        ("room-?", {"room-1", "room-2"}),
        ("room-[13]", {"room-1"}),
        ("room-[^1]", {"room-2"}),
        ("[a-m]*", {"hall"}),
        (r"room\-1", {"room-1"}),
        ("hall", {"hall"}),
    ],
)
async def test_the_syntax_is_that_of_redis(
    layer: MpxChannelLayer, pattern: str, hears: set[str]
) -> None:
    channel = await layer.new_channel()
    await layer.group_pattern_add(pattern, channel)
    for group in ("room-1", "room-2", "hall", "r"):
        await layer.group_send(group, {"type": "x", "n": 1})
    assert {event["mpx_group"] for event in await unread(layer, channel)} == hears


@pytest.mark.parametrize("pattern", ["", None, 7, "two words", "a:b", "ü*", "x" * 100, b"a*"])
async def test_patterns_are_checked(layer: MpxChannelLayer, pattern: Any) -> None:
    channel = await layer.new_channel()
    for call in (layer.group_pattern_add, layer.group_pattern_discard):
        with pytest.raises(TypeError, match="group pattern must be"):
            await call(pattern, channel)
    assert layer.stats().patterns == 0


async def test_once_however_often_it_matches(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    """Members, members by one pattern, by two, and by both: each gets each message once."""
    members = {}
    for kinds in range(1, 8):
        members[kinds] = channel = await layer.new_channel()
        if kinds & 1:
            await layer.group_add("room-1", channel)
        if kinds & 2:
            await layer.group_pattern_add("room-*", channel)
        if kinds & 4:
            await layer.group_pattern_add("*-1", channel)
    elsewhere = await other_layer.new_channel()
    await other_layer.group_pattern_add("ro*", elsewhere)
    # The same message twice in a row is two messages; so are two of other groups.
    for group in ("room-1", "room-1", "room-2", "hall-1", "room-1"):
        await other_layer.group_send(group, {"type": "x", "n": 1})
    once = {
        "room-1": [1, 2, 3, 4, 5, 6, 7],
        "room-2": [2, 3, 6, 7],
        "hall-1": [4, 5, 6, 7],
    }
    for kinds, channel in members.items():
        assert await unread(layer, channel) == [
            of(group, tagged=kinds != 1)
            for group in ("room-1", "room-1", "room-2", "hall-1", "room-1")
            if kinds in once[group]
        ]
    assert len(await unread(other_layer, elsewhere)) == 4


async def test_each_gets_an_event_of_its_own(layer: MpxChannelLayer) -> None:
    one, two, member = [await layer.new_channel() for _ in range(3)]
    await layer.group_pattern_add("room-*", one)
    await layer.group_pattern_add("*-1", two)
    await layer.group_add("room-1", member)
    await layer.group_send("room-1", {"type": "x", "list": [1]})
    for channel in (one, two, member):
        event = await layer.receive(channel)
        assert event.pop("list") == [1]
        event["type"] = "changed"
    assert await unread(layer, one) == []


async def test_the_group_that_is_named_is_ours_to_name(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_pattern_add("*", channel)
    await layer.group_send("room", {"type": "x", "mpx_group": "a lie"})
    assert await unread(layer, channel) == [{"type": "x", "mpx_group": "room"}]


async def test_exclusion_holds_for_wildcards(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    one, two, both = [await layer.new_channel() for _ in range(3)]
    await layer.group_pattern_add("room-*", one)
    await layer.group_pattern_add("room-*", two)
    await layer.group_add("room-1", both)
    await layer.group_pattern_add("room-?", both)
    await other_layer.group_send("room-1", {"type": "x", "n": 1}, exclude=[two, both])
    assert [await unread(layer, channel) for channel in (one, two, both)] == [
        [of("room-1")],
        [],
        [],
    ]


@pytest.mark.parametrize("swap", [("a*", "ab*"), ("ab*", "a*"), ("a*", "a*")])
async def test_the_same_message_after_a_change_of_patterns(
    layer: MpxChannelLayer, swap: tuple[str, str]
) -> None:
    """It looks like the one before, and no pattern of the one before hears it: still another."""
    channel = await layer.new_channel()
    before, after = swap
    for _ in range(3):
        await layer.group_pattern_add(before, channel)
        await layer.group_send("abc", {"type": "x", "n": 1})
        assert await unread(layer, channel) == [of("abc")]
        await layer.group_pattern_discard(before, channel)
        # Redis keeps sending for a while what nobody here listens to any more.
        await layer.group_send("abc", {"type": "x", "n": 1})
        await layer.group_pattern_add(after, channel)
        await layer.group_send("abc", {"type": "x", "n": 1})
        assert await unread(layer, channel) == [of("abc")]
        await layer.group_pattern_discard(after, channel)


async def test_the_same_message_to_a_group_left_and_heard_by_pattern(
    layer: MpxChannelLayer,
) -> None:
    channel = await layer.new_channel()
    bystander = await layer.new_channel()
    await layer.group_pattern_add("other-*", bystander)
    for _ in range(3):
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "x", "n": 1})
        assert await unread(layer, channel) == [of("room", tagged=False)]
        await layer.group_discard("room", channel)
        await layer.group_pattern_add("ro*", channel)
        await layer.group_send("room", {"type": "x", "n": 1})
        assert await unread(layer, channel) == [of("room")]
        await layer.group_pattern_discard("ro*", channel)


async def test_joining_and_leaving_in_a_flood(
    make_layer: MakeLayer, other_layer: MpxChannelLayer
) -> None:
    """Who stays hears all, once, in order; who comes and goes hears no message twice."""
    layer = make_layer(capacity=10_000)
    stays, comes_and_goes = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room-1", stays)
    await layer.group_pattern_add("room-*", stays)
    done = False

    async def flood() -> int:
        number = 0
        while not done:
            sends = [
                other_layer.group_send("room-1", {"type": "x", "n": number + k}) for k in range(50)
            ]
            await asyncio.gather(*sends)
            number += 50
        return number

    flooding = asyncio.create_task(flood())
    for _ in range(30):
        await layer.group_pattern_add("room-*", comes_and_goes)
        await layer.group_add("room-1", comes_and_goes)
        await layer.group_pattern_add("*-1", comes_and_goes)
        await layer.group_pattern_discard("room-*", comes_and_goes)
        await layer.group_discard("room-1", comes_and_goes)
        await layer.group_pattern_discard("*-1", comes_and_goes)
    done = True
    total = await flooding
    assert [event["n"] for event in await unread(layer, stays)] == list(range(total))
    heard = [event["n"] for event in await unread(layer, comes_and_goes)]
    assert heard == sorted(set(heard))
    assert layer.stats().drops["full"] == 0


@pytest.mark.parametrize("wild", ["a*", "a?b", "[a]", "a\\", "a[b-c]*?", "*"])
async def test_a_prefix_of_glob_characters(make_layer: MakeLayer, prefix: str, wild: str) -> None:
    """Patterns are taken literally where they are not the user's."""
    layer = make_layer(prefix=f"{prefix}{wild}")
    near = [make_layer(prefix=f"{prefix}{other}") for other in ("a", "ab", "axb", "a1", "abx", "")]
    channel = await layer.new_channel()
    await layer.group_pattern_add("room-*", channel)
    for other in near:
        await other.group_send("room-1", {"type": "x", "n": 2})
    await layer.group_send("room-1", {"type": "x", "n": 1})
    assert await unread(layer, channel) == [of("room-1")]


async def test_a_layer_whose_prefix_begins_with_ours(make_layer: MakeLayer, prefix: str) -> None:
    """Its names match our patterns' ``*``, but they are not of ours."""
    ours, theirs = make_layer(), make_layer(prefix=f"{prefix}:g")
    channel, their_channel = await ours.new_channel(), await theirs.new_channel()
    await ours.group_pattern_add("*", channel)
    await theirs.group_add("room", their_channel)
    await theirs.group_send("room", {"type": "x"})
    await theirs.send(their_channel, {"type": "x"})
    assert len(await unread(theirs, their_channel)) == 2
    assert await unread(ours, channel) == []


async def test_foreign_bytes_kill_no_wildcard(
    layer: MpxChannelLayer, client: Any, prefix: str
) -> None:
    channel, member = await layer.new_channel(), await layer.new_channel()
    await layer.group_pattern_add("room-*", channel)
    await layer.group_pattern_add("*-1", channel)
    await layer.group_add("room-2", member)
    for data in (b"", b"hello", b"\xc1\x01\x00\x00\x93", b"\xc1\x01\x00\x01\xc1"):
        for group in ("room-1", "room-2"):
            client.publish(f"{prefix}:g:{group}", data)
    await layer.group_send("room-1", {"type": "x", "n": 1})
    assert await unread(layer, channel) == [of("room-1")]
    assert layer.stats().drops["unreadable"] > 0
    assert layer.stats().multiplexer.callback_errors == 0


# -- for any code ---------------------------------------------------------------------------------


async def test_subscribe(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, client: Any, prefix: str
) -> None:
    async with layer.subscribe(
        groups=["hall"],
        group_patterns=["room-*"],
        channels=[f"{prefix}/raw"],
        patterns=[f"{prefix}/p*"],
    ) as events:
        await other_layer.group_send("hall", {"type": "x", "n": 1})
        await other_layer.group_send("room-1", {"type": "x", "n": 2})
        await other_layer.send(events.channel_name, {"type": "direct"})
        client.publish(f"{prefix}/raw", "3")
        client.publish(f"{prefix}/p4", "4")
        await other_layer.group_send("hall", {"type": "stop"})
        got = []
        async for event in events:
            if event["type"] == "stop":
                break
            got.append((event["type"], event.get("mpx_group"), event.get("data")))
        assert got == [
            ("x", "hall", None),
            ("x", "room-1", None),
            ("direct", None, None),
            ("channel.message", None, b"3"),
            ("pattern.message", None, b"4"),
        ]
        await other_layer.group_send("hall", {"type": "x"}, exclude=[events.channel_name])
        assert await unread(layer, events.channel_name) == []
    stats = layer.stats()
    assert (stats.channels, stats.groups, stats.patterns, stats.raw_channels) == (0, 0, 0, 0)


async def test_subscribing_to_many_names(layer: MpxChannelLayer) -> None:
    async with layer.subscribe(groups=[f"group-{number}" for number in range(200)]) as events:
        await layer.group_send_many(
            [(f"group-{number}", {"type": "x", "n": number}) for number in range(0, 200, 2)]
        )
        assert [(await anext(events))["n"] for _ in range(100)] == list(range(0, 200, 2))


async def test_a_subscription_that_fails_leaves_nothing(layer: MpxChannelLayer) -> None:
    subscription = layer.subscribe(groups=["fine"], group_patterns=["not fine"])
    for _ in range(2):
        with pytest.raises(TypeError, match="group pattern"):
            async with subscription:
                pytest.fail("it was entered")
    assert (layer.stats().channels, layer.stats().groups) == (0, 0)
    with pytest.raises(RuntimeError, match="between 'async with' and its end"):
        await anext(subscription)


async def test_a_subscription_is_open_once(layer: MpxChannelLayer) -> None:
    subscription = layer.subscribe(groups=["room"])
    with pytest.raises(RuntimeError, match="between 'async with' and its end"):
        assert subscription.channel_name
    with pytest.raises(RuntimeError, match="between 'async with' and its end"):
        await anext(subscription)
    async with subscription:
        with pytest.raises(RuntimeError, match="open already"):
            await subscription.__aenter__()
    assert layer.stats().channels == 0
    async with subscription as events:
        await layer.group_send("room", {"type": "x"})
        assert await anext(events) == {"type": "x"}


async def test_the_end_of_a_subscription_ends_its_iterations(layer: MpxChannelLayer) -> None:
    got = []

    async def read(events: Any) -> None:
        async for event in events:
            got.append(event)

    async with layer.subscribe(groups=["room"]) as events:
        readers = [asyncio.create_task(read(events)) for _ in range(3)]
        await layer.group_send("room", {"type": "x"})
        await eventually(lambda: got)
    await asyncio.wait_for(asyncio.gather(*readers), 10)
    assert got == [{"type": "x"}]


async def test_a_cancelled_iteration_loses_nothing(layer: MpxChannelLayer) -> None:
    async with layer.subscribe(groups=["room"]) as events:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.01)
        await layer.group_send("room", {"type": "x"})
        assert await anext(events) == {"type": "x"}


async def test_from_sync_code(layer: MpxChannelLayer, make_layer: MakeLayer) -> None:
    sync_layer = make_layer()

    async def listen() -> Any:
        async with sync_layer.subscribe(groups=["room"], group_patterns=["roo*"]) as events:
            await sync_layer.group_send("ready", {"type": "x"})
            return await anext(events)

    async with layer.subscribe(groups=["ready"]) as ready:
        listening = asyncio.create_task(asyncio.to_thread(async_to_sync(listen)))
        await anext(ready)
        await layer.group_send("room", {"type": "x", "n": 1})
        assert await listening == of("room")


LISTENER = """
import asyncio, sys
from django.conf import settings
settings.configure()
from mpx_channels.layer import MpxChannelLayer

async def main(url, prefix):
    layer = MpxChannelLayer(hosts=[url], prefix=prefix)
    async with layer.subscribe(groups=["room-1"], group_patterns=["room-*", "*-1"]) as events:
        await layer.group_send("ready", {"type": "ready"})
        async for event in events:
            if event["type"] == "stop":
                break
            print(event["mpx_group"], event["n"], flush=True)
    await layer.close()

asyncio.run(main(*sys.argv[1:]), debug=True)
"""


async def test_from_a_process_of_its_own(
    layer: MpxChannelLayer, redis_url: str, prefix: str
) -> None:
    async with layer.subscribe(groups=["ready"]) as ready:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", LISTENER, redis_url, prefix,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await anext(ready)
    for group in ("room-1", "room-1", "room-2", "hall-1"):
        await layer.group_send(group, {"type": "x", "n": 1})
    await layer.group_send("room-1", {"type": "stop"})
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert output.decode().split("\n") == ["room-1 1", "room-1 1", "room-2 1", "hall-1 1", ""]
