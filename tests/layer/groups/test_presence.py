"""Who is in a group, over several processes, and what its members are told of it."""

from __future__ import annotations

import asyncio

import pytest

from mpx_channels.layer import MpxChannelLayer, PlainChannel, UnserializableMessage
from mpx_channels.presence.values import PresenceCount
from tests.conftest import eventually
from tests.layer.conftest import MakeLayer
from tests.over import CLASSIC, Outside

from .presences import LISTENS, change, listener, members, next_of


@pytest.mark.everywhere
async def test_join_and_leave(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    hears = await listener(other_layer)
    channel = await layer.new_channel()
    assert await members(layer) == {}
    assert await layer.presence_count("room") == PresenceCount(0, 0)
    await layer.presence_join("room", channel, "ann", {"name": "Ann", "tags": ["a", 1]})
    await layer.presence_join("room", channel, "ann", {"name": "Anna"})
    for each in (layer, other_layer):
        assert await members(each) == {"ann": {"name": "Anna"}}
        assert await each.presence_count("room") == PresenceCount(1, 1)
    await layer.presence_join("room", channel, "bob")
    await layer.presence_leave("room", channel, "ann")
    await layer.presence_leave("room", channel, "ann")
    await layer.presence_leave("room", channel, "eve")
    assert await members(other_layer) == {"bob": {}}
    assert await next_of(hears) == change(1, {"ann": {"name": "Ann", "tags": ["a", 1]}})
    assert await next_of(hears) == change(2, {"bob": {}})
    assert await next_of(hears) == change(1, left={"ann": "left"})
    assert not hears.unread
    stats = layer.stats()
    assert stats is not None
    assert (stats.presence_members, stats.presence_connections) == (1, 1)


async def test_several_connections_are_one_member(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    hears = await listener(layer)
    first, second, third = [await layer.open_channel() for _ in range(3)]
    elsewhere = await other_layer.open_channel()
    for mailbox in (first, second, third):
        await layer.presence_join("room", mailbox.channel, "ann", {"tab": 1})
    await other_layer.presence_join("room", elsewhere.channel, "ann", {"tab": 2})
    assert await layer.presence_count("room") == PresenceCount(1, 4)
    assert await members(layer) == {"ann": {"tab": 2}}
    await layer.presence_leave("room", first.channel, "ann")
    layer.close_channel(second)
    await other_layer.presence_leave("room", elsewhere.channel, "ann")
    assert await layer.presence_count("room") == PresenceCount(1, 1)
    await layer.presence_leave("room", third.channel, "ann")
    assert await members(layer) == {}
    assert await next_of(hears) == change(1, {"ann": {"tab": 1}})
    assert await next_of(hears) == change(0, left={"ann": "left"})
    assert not hears.unread


async def test_who_ends_lingers(make_layer: MakeLayer) -> None:
    # For as long as a loaded machine may take to look at it.
    layer, other = make_layer(presence_linger=2), make_layer(presence_linger=2)
    hears = await listener(other)
    mailbox = await layer.open_channel()
    await layer.presence_join("room", mailbox.channel, "ann")
    assert await next_of(hears) == change(1, {"ann": {}})
    layer.close_channel(mailbox)
    # Of nobody who waits: it is on its way.
    while await other.presence_count("room") != PresenceCount(1, 0):
        assert not hears.unread
    assert await members(other) == {"ann": {}}
    assert await next_of(hears) == change(0, left={"ann": "timeout"})
    assert await members(other) == {}


async def test_who_lingers_leaves_in_time(make_layer: MakeLayer) -> None:
    """Seen to by the process that it was in, long before others would look."""
    layer = make_layer(presence_linger=0.2, presence_lease=600)
    hears = await listener(layer)
    mailbox = await layer.open_channel()
    await layer.presence_join("room", mailbox.channel, "ann")
    layer.close_channel(mailbox)
    assert await next_of(hears) == change(1, {"ann": {}})
    assert await next_of(hears) == change(0, left={"ann": "timeout"})


async def test_who_is_back_stays(make_layer: MakeLayer) -> None:
    layer = make_layer(presence_linger=2)
    hears = await listener(layer)
    for id in ("ann", "bob"):
        mailbox = await layer.open_channel()
        await layer.presence_join("room", mailbox.channel, id)
        layer.close_channel(mailbox)
    mailbox = await layer.open_channel()
    await layer.presence_join("room", mailbox.channel, "ann")
    assert await next_of(hears) == change(1, {"ann": {}})
    assert await next_of(hears) == change(2, {"bob": {}})
    assert await next_of(hears) == change(1, left={"bob": "timeout"})
    assert await layer.presence_count("room") == PresenceCount(1, 1)


async def test_a_reload_is_not_seen(make_layer: MakeLayer) -> None:
    """The second connection is another process', as in a deployment."""
    layer, other = make_layer(presence_linger=2), make_layer(presence_linger=2)
    hears = await listener(other)
    for _ in range(4):
        mailbox = await layer.open_channel()
        await layer.presence_join("room", mailbox.channel, "ann")
        layer.close_channel(mailbox)
        layer, other = other, layer
    assert await next_of(hears) == change(1, {"ann": {}})
    assert await next_of(hears) == change(0, left={"ann": "timeout"})
    assert not hears.unread


async def test_without_a_linger(make_layer: MakeLayer) -> None:
    layer = make_layer(presence_linger=0)
    hears = await listener(layer)
    mailbox = await layer.open_channel()
    await layer.presence_join("room", mailbox.channel, "ann")
    layer.close_channel(mailbox)
    assert await next_of(hears) == change(1, {"ann": {}})
    assert await next_of(hears) == change(0, left={"ann": "timeout"})


async def test_changes_of_one_moment_are_one_event(layer: MpxChannelLayer) -> None:
    hears = await listener(layer)
    channels = [await layer.new_channel() for _ in range(300)]
    ids = [f"user-{number}" for number in range(300)]
    await asyncio.gather(
        *(layer.presence_join("room", each, id) for each, id in zip(channels, ids, strict=True))
    )
    assert await next_of(hears) == change(300, {id: {} for id in ids})
    await asyncio.gather(
        *(layer.presence_leave("room", each, id) for each, id in zip(channels, ids, strict=True))
    )
    assert await next_of(hears) == change(0, left=dict.fromkeys(ids, "left"))
    assert not hears.unread


async def test_coming_and_going_in_one_moment_is_nothing(layer: MpxChannelLayer) -> None:
    hears = await listener(layer)
    channel = await layer.new_channel()
    join = layer.presence_join("room", channel, "ann")
    leave = layer.presence_leave("room", channel, "ann")
    await asyncio.gather(join, leave)
    await layer.presence_join("room", channel, "bob")
    assert await next_of(hears) == change(1, {"bob": {}})
    assert await members(layer) == {"bob": {}}


async def test_a_large_group_is_told_numbers(make_layer: MakeLayer) -> None:
    layer, other = make_layer(presence_events=3), make_layer(presence_events=3)
    hears = await listener(other)
    channel, loop = await layer.new_channel(), asyncio.get_running_loop()
    began = loop.time()
    for number in range(20):
        await layer.presence_join("room", channel, f"user-{number}")
    for number in range(3):
        assert await next_of(hears) == change(number + 1, {f"user-{number}": {}})
    seen = [await next_of(hears)]
    while seen[-1]["members"] < 20:
        seen.append(await next_of(hears))
    # A second after the last one, and without names.
    assert seen[-1] == change(20)
    assert len(seen) <= 1 + loop.time() - began
    began = loop.time()
    for number in range(18):
        await layer.presence_leave("room", channel, f"user-{number}")
    last = [await next_of(hears)]
    while last[-1]["members"] > 2:
        last.append(await next_of(hears))
    assert last[-1] == change(2, left={"user-17": "left"})
    assert len(last) <= 3 + loop.time() - began


async def test_pages(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    ids = [f"{number:05}" for number in range(2500)]
    await asyncio.gather(*(layer.presence_join("room", channel, id, {"n": int(id)}) for id in ids))
    seen: list[str] = []
    after, pages = None, 0
    while True:
        page = await other_layer.presence("room", limit=333, after=after)
        assert all(info == {"n": int(id)} for id, info in page.members.items())
        seen += page.members
        after, pages = page.next, pages + 1
        if after is None:
            break
        # Who joins and leaves meanwhile does not push the others to another page.
        await layer.presence_leave("room", channel, seen[-100])
        await layer.presence_join("room", channel, f"{seen[-100]}-new")
    assert [id for id in seen if "new" not in id] == ids
    assert pages == 8
    whole = await other_layer.presence("room", limit=2500)
    assert (len(whole.members), whole.next) == (2500, None)
    halves = [await other_layer.presence("room", limit=1250)]
    halves.append(await other_layer.presence("room", limit=1250, after=halves[0].next))
    assert [(len(half.members), half.next is None) for half in halves] == [
        (1250, False),
        (1250, True),
    ]
    some = await other_layer.presence("room", limit=1000)
    assert (len(some.members), some.next) == (1000, list(some.members)[-1])
    assert await other_layer.presence_count("room") == PresenceCount(2500, 2500)


async def test_in_the_order_of_the_messages(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, topology: str
) -> None:
    if topology == CLASSIC:
        pytest.skip("changes and messages come by way of different nodes (docs/cluster.md)")
    hears = await listener(other_layer)
    channel = await layer.new_channel()
    for number in range(20):
        await layer.group_send("room", {"type": "chat", "n": number})
        await layer.presence_join("room", channel, f"user-{number}")
    for number in range(20):
        assert await hears.get() == {"type": "chat", "n": number}
        assert await next_of(hears) == change(number + 1, {f"user-{number}": {}})


@pytest.mark.classic
async def test_who_does_not_ask_hears_nothing(layer: MpxChannelLayer) -> None:
    """Channels' own consumers would end by a type that they do not know."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    plain, by_pattern = await layer.open_channel(), await layer.open_channel(hooks=LISTENS)
    await layer.group_add("room", plain.channel)
    await layer.group_pattern_add("r*", by_pattern.channel)
    hears = await listener(layer)
    await layer.presence_join("room", channel, "ann")
    assert await next_of(hears) == change(1, {"ann": {}})
    await layer.group_send("room", {"type": "last"})
    assert await layer.receive(channel) == {"type": "last"}
    assert await plain.get() == {"type": "last"}
    assert await by_pattern.get() == {"type": "last", "mpx_group": "room"}
    stats = layer.stats()
    assert stats is not None
    assert sum(stats.drops.values()) == 0


async def test_a_full_mailbox(make_layer: MakeLayer) -> None:
    layer = make_layer(capacity=3)
    hears = await listener(layer)
    channel = await layer.new_channel()
    for number in range(20):
        await layer.presence_join("room", channel, f"user-{number}")
    await eventually(lambda: layer.stats().drops["full"] == 17)  # type: ignore[union-attr]
    for number in range(3):
        assert await next_of(hears) == change(number + 1, {f"user-{number}": {}})
    # The number tells that there was more.
    await layer.presence_leave("room", channel, "user-0")
    assert await next_of(hears) == change(19, left={"user-0": "left"})


async def test_everybody_gets_an_event_of_its_own(layer: MpxChannelLayer) -> None:
    first, second = await listener(layer), await listener(layer)
    channel = await layer.new_channel()
    await layer.presence_join("room", channel, "ann", {"name": "Ann"})
    event = await next_of(first)
    event["joined"]["ann"]["name"] = "changed"
    assert await next_of(second) == change(1, {"ann": {"name": "Ann"}})


async def test_a_channel_of_another_process(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    mailbox = await layer.open_channel()
    await other_layer.presence_join("room", mailbox.channel, "ann", {"by": "other"})
    assert await members(layer) == {"ann": {"by": "other"}}
    stats = layer.stats()
    assert stats is not None
    assert stats.presence_members == 1
    await other_layer.presence_leave("room", mailbox.channel, "ann")
    assert await members(layer) == {}
    layer.close_channel(mailbox)
    await other_layer.presence_leave("room", mailbox.channel, "ann")


async def test_sync(layer: MpxChannelLayer) -> None:
    def synchronous() -> None:
        channel = layer.sync.new_channel()
        layer.sync.presence_join("room", channel, "ann", {"name": "Ann"})
        page = layer.sync.presence("room", limit=5)
        assert (page.members, page.next) == ({"ann": {"name": "Ann"}}, None)
        assert layer.sync.presence_count("room") == PresenceCount(1, 1)
        layer.sync.presence_leave("room", channel, "ann")
        assert layer.sync.presence_count("room") == PresenceCount(0, 0)

    await asyncio.to_thread(synchronous)


async def test_what_is_refused(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    with pytest.raises(ValueError, match=r"takes 1,2\d\d bytes, over 1,024"):
        await layer.presence_join("room", channel, "ann", {"text": "x" * 1200})
    with pytest.raises(TypeError, match="must be a dict, or None, not 'Ann'"):
        await layer.presence_join("room", channel, "ann", "Ann")  # type: ignore[arg-type]
    with pytest.raises(UnserializableMessage, match="object"):
        await layer.presence_join("room", channel, "ann", {"a": [object()]})
    for wrong in ("", "x" * 257, "\ud800"):
        with pytest.raises(ValueError, match="the id of who is present must"):
            await layer.presence_join("room", channel, wrong)
    with pytest.raises(TypeError, match="must be a str, such as a user's key, not 7"):
        await layer.presence_join("room", channel, 7)  # type: ignore[arg-type]
    with pytest.raises(PlainChannel):
        await layer.presence_join("room", "plain", "ann")
    with pytest.raises(TypeError, match="Group name"):
        await layer.presence_join("no group", channel, "ann")
    for limit in (0, True, 1.5):
        with pytest.raises(ValueError, match="limit must be a whole number of members"):
            await layer.presence("room", limit=limit)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="after must be"):
        await layer.presence("room", after=5)  # type: ignore[arg-type]
    assert await members(layer) == {}


async def test_all_keys_expire(layer: MpxChannelLayer, outside: Outside, prefix: str) -> None:
    mailboxes = [await layer.open_channel() for _ in range(3)]
    for number, mailbox in enumerate(mailboxes):
        await layer.presence_join("room", mailbox.channel, f"user-{number}")
    layer.close_channel(mailboxes[0])
    while (await layer.presence_count("room")).connections == 3:
        pass
    keys = outside.keys(f"{prefix}:*") - {f"{prefix}:n:"}  # which a cluster has, and keeps
    assert {key.split(":")[1] for key in keys} == set("uzlvoked")
    assert all(0 < outside.at(key).ttl(key) <= 86_400 for key in keys)  # type: ignore[operator]
    for number, mailbox in enumerate(mailboxes[1:], 1):
        await layer.presence_leave("room", mailbox.channel, f"user-{number}")
    await eventually(lambda: len(outside.keys(f"{prefix}:u:*")) == 1)


async def test_flush(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, outside: Outside, prefix: str
) -> None:
    channel = await layer.new_channel()
    await layer.presence_join("room", channel, "ann")
    await other_layer.flush()
    assert await members(layer) == {}
    assert outside.keys(f"{prefix}:*") <= {f"{prefix}:n:"}  # in a cluster it stays
    await layer.presence_join("room", channel, "ann")
    assert await members(layer) == {"ann": {}}


async def test_encrypted(make_layer: MakeLayer, outside: Outside, prefix: str) -> None:
    layer = make_layer(symmetric_encryption_keys=["old", "new"])
    other = make_layer(symmetric_encryption_keys=["new", "old"])
    hears = await listener(other)
    one, two = await layer.new_channel(), await other.new_channel()
    await layer.presence_join("room", one, "ann", {"name": "Ann"})
    await other.presence_join("room", two, "ann", {"name": "Anna"})
    await other.presence_join("room", two, "bob", {"name": "Bob"})
    assert await layer.presence_count("room") == PresenceCount(2, 3)
    assert await members(layer) == {"ann": {"name": "Anna"}, "bob": {"name": "Bob"}}
    page = await layer.presence("room", limit=1)
    rest = await other.presence("room", after=page.next)
    assert {*page.members, *rest.members} == {"ann", "bob"}
    with pytest.raises(ValueError, match="after must be"):
        await layer.presence("room", after="ann")
    assert await next_of(hears) == change(1, {"ann": {"name": "Ann"}})
    assert await next_of(hears) == change(2, {"bob": {"name": "Bob"}})
    await layer.presence_leave("room", one, "ann")
    await other.presence_leave("room", two, "ann")
    assert await next_of(hears) == change(1, left={"ann": "left"})
    for key in outside.keys(f"{prefix}:*"):
        dumped = outside.at(key).dump(key)
        assert dumped is not None
        for secret in (b"ann", b"Ann", b"bob", b"Bob"):
            assert secret not in key.encode() + dumped
