"""Wildcard groups: every message to every group that matches, once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually
from tests.inside import names_of
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy

from .test_raw import MARK, unread

pytestmark = pytest.mark.classic


def of(group: str, number: Any = 1, *, tagged: bool = True) -> dict[str, Any]:
    """What a channel gets of a message to a group."""
    return {"type": "x", "n": number} | ({"mpx_group": group} if tagged else {})


@pytest.mark.everywhere
async def test_a_wildcard_hears_every_group_that_matches(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    channel = await layer.new_channel()
    await layer.group_pattern_add("room-*", channel)
    for sender in (layer, other_layer):
        for group in ("room-1", "room-", "roam-1", "room-x.y"):
            await sender.group_send(group, {"type": "x", "n": 1})
        got = await unread(layer, channel, by=sender)
        assert got == [of("room-1"), of("room-"), of("room-x.y")]
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


@pytest.mark.everywhere
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
        assert await unread(layer, channel, by=other_layer) == [
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


async def test_exclusion_holds_for_wildcards_alone(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    one, two = await layer.new_channel(), await layer.new_channel()
    for channel in (one, two):
        await layer.group_pattern_add("room-*", channel)
        await layer.group_pattern_add("*-1", channel)
    await other_layer.group_send("room-1", {"type": "x", "n": 1}, exclude=[two])
    assert await unread(layer, one, by=other_layer) == [of("room-1")]
    assert await unread(layer, two, by=other_layer) == []


async def test_exclusion_holds_for_wildcards_and_members(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    one, two, both = [await layer.new_channel() for _ in range(3)]
    await layer.group_pattern_add("room-*", one)
    await layer.group_pattern_add("room-*", two)
    await layer.group_add("room-1", both)
    await layer.group_pattern_add("room-?", both)
    await other_layer.group_send("room-1", {"type": "x", "n": 1}, exclude=[two, both])
    assert [await unread(layer, channel, by=other_layer) for channel in (one, two, both)] == [
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
        assert await unread(layer, channel) == []
        await layer.group_pattern_add(after, channel)
        await layer.group_send("abc", {"type": "x", "n": 1})
        assert await unread(layer, channel) == [of("abc")]
        await layer.group_pattern_discard(after, channel)


async def test_the_same_message_around_a_confirmation(
    make_layer: MakeLayer, other_layer: MpxChannelLayer, proxy: Proxy
) -> None:
    """One comes while a pattern is on its way to Redis, the next when Redis has it."""
    layer = make_layer(hosts=[proxy.url])
    channel = await layer.new_channel()
    await layer.group_pattern_add("a*", channel)
    proxy.to_server.freeze()
    joining = asyncio.create_task(layer.group_pattern_add("*c", channel))
    await eventually(lambda: layer.stats().patterns == 2)
    await other_layer.group_send("abc", {"type": "x", "n": 1})
    assert await layer.receive(channel) == of("abc")
    await layer.group_pattern_discard("a*", channel)
    proxy.to_server.thaw()
    await joining
    await other_layer.group_send("abc", {"type": "x", "n": 1})
    await other_layer.send(channel, MARK)
    assert await layer.receive(channel) == of("abc")


async def test_a_pattern_added_while_copies_are_held_back(
    make_layer: MakeLayer, other_layer: MpxChannelLayer
) -> None:
    """A message fills a mailbox; its other copy comes when somebody has added a pattern."""
    layer = make_layer(capacity=2)
    member, newcomer = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("tea", member)
    await layer.group_pattern_add("t*", member)
    for pattern in ("a*", "b*", "c*"):
        await other_layer.group_send_many([("tea", {"type": "x", "n": n}) for n in (1, 2)])
        await eventually(lambda: layer.stats().unread == 2)
        adding = asyncio.create_task(layer.group_pattern_add(pattern, newcomer))
        await asyncio.sleep(0)
        assert await unread(layer, member, by=other_layer) == [of("tea", 1), of("tea", 2)]
        await adding


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
    assert [event["n"] for event in await unread(layer, stays, by=other_layer)] == list(
        range(total)
    )
    heard = [event["n"] for event in await unread(layer, comes_and_goes, by=other_layer)]
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


async def test_foreign_bytes_kill_no_wildcard(layer: MpxChannelLayer, outside: Outside) -> None:
    channel, member = await layer.new_channel(), await layer.new_channel()
    await layer.group_pattern_add("room-*", channel)
    await layer.group_pattern_add("*-1", channel)
    await layer.group_add("room-2", member)
    for data in (b"", b"hello", b"\xc1\x01\x00\x00\x93", b"\xc1\x01\x00\x01\xc1"):
        for group in ("room-1", "room-2"):
            outside.publish_as_layers(names_of(layer).group(group), data)
    await layer.group_send("room-1", {"type": "x", "n": 1})
    assert await unread(layer, channel) == [of("room-1")]
    assert layer.stats().drops["unreadable"] > 0
    assert layer.stats().multiplexer.callback_errors == 0
