"""Who is behind reads the history, a page at a time: into the midst of traffic, or when full."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from mpx_channels.layer import Mailbox, MpxChannelLayer, Recovery
from tests.conftest import eventually
from tests.inside import hub_of, names_of, topic_of
from tests.layer.conftest import MakeLayer
from tests.over import Outside

from .histories import GAP, HISTORY, got, nothing_more, send


@pytest.fixture
def layer(make_layer: MakeLayer) -> MpxChannelLayer:
    return make_layer(history=HISTORY)


@pytest.fixture
def sender(make_layer: MakeLayer) -> MpxChannelLayer:
    return make_layer(history=HISTORY)


async def test_while_others_send(layer: MpxChannelLayer, sender: MpxChannelLayer) -> None:
    """Members with all kinds of positions, in the midst of traffic."""
    first = await send(sender, "room-1", *range(100))
    sending = True

    async def traffic() -> int:
        n = 100
        while sending or n < 400:
            await send(sender, "room-1", *range(n, n + 3))
            n += 3
            await asyncio.sleep(0)
        return n

    async def member(start: int) -> tuple[int, Mailbox]:
        mailbox = await layer.open_channel()
        mailbox.capacity = 10_000
        recovery = await layer.group_add("room-1", mailbox.channel, since=first[start])
        assert recovery is not None
        assert recovery.recovered
        return start, mailbox

    running = asyncio.create_task(traffic())
    members = []
    for start in range(0, 100, 5):
        members.append(asyncio.create_task(member(start)))
        await asyncio.sleep(0.001)
    joined = await asyncio.gather(*members)
    sending = False
    total = await running
    await send(sender, "room-1", total)
    for start, mailbox in joined:
        assert await got(mailbox, total - start) == list(range(start + 1, total + 1))
        await nothing_more(mailbox) if start == 0 else None
    # Who has read the last one out of the history before it came is a member like others with the
    # next.
    await send(sender, "room-1", total + 1)
    for _, mailbox in joined:
        assert await got(mailbox, 1) == [total + 1]
    track: Any = topic_of(layer, "room-1").track
    assert track.behind == {}
    assert track.pages == {}


async def test_pages_are_read_as_the_consumer_reads(
    layer: MpxChannelLayer, sender: MpxChannelLayer
) -> None:
    sent = await send(sender, "room-1", *range(500))
    mailbox = await layer.open_channel()
    await layer.group_add("room-1", mailbox.channel, since=sent[0])
    await layer.group_add("lobby", mailbox.channel)
    assert await got(mailbox, 1) == [1]
    assert len(mailbox) <= 101
    for n in range(110):  # what has its own place in the mailbox, has all of it
        await sender.group_send("lobby", {"type": "x", "n": -n - 1})
    await eventually(lambda: layer.stats().drops["full"])  # type: ignore[union-attr]
    events: list[int] = []
    while not events or events[-1] != 499:
        events += await got(mailbox, 1)
    assert [n for n in events if n > 0] == list(range(2, 500))
    others = [n for n in events if n < 0]
    assert others[:100] == list(range(-1, -101, -1))


async def test_pages_are_shared(
    layer: MpxChannelLayer, sender: MpxChannelLayer, client: redis.Redis
) -> None:
    sent = await send(sender, "room-1", *range(300))
    mailboxes = [await layer.open_channel() for _ in range(50)]
    await layer.group_add("room-1", mailboxes[0].channel)
    client.config_resetstat()
    adding = [layer.group_add("room-1", each.channel, since=sent[0]) for each in mailboxes]
    await asyncio.gather(*adding)
    for events in await asyncio.gather(*[got(mailbox, 299) for mailbox in mailboxes]):
        assert events == list(range(1, 300))
    calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]  # type: ignore[index]
    assert calls <= 6


@pytest.mark.everywhere
async def test_an_overflow_is_refilled(layer: MpxChannelLayer, sender: MpxChannelLayer) -> None:
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("room-1", mailbox.channel)
    await send(sender, "room-1", *range(450))
    await eventually(lambda: layer.stats().messages_in >= 450)  # type: ignore[union-attr]
    events = await got(mailbox, 451)
    place = next(i for i, event in enumerate(events) if isinstance(event, tuple))
    assert events.pop(place) == ("overflow", ["room-1"], True, 0)
    assert place >= 100
    assert events == list(range(450))
    await send(sender, "room-1", 450)
    assert await got(mailbox, 1) == [450]
    assert layer.stats().drops["full"] == 0  # type: ignore[union-attr]


async def test_an_overflow_that_the_history_has_not(
    layer: MpxChannelLayer, sender: MpxChannelLayer
) -> None:
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("short-1", mailbox.channel)
    await send(sender, "short-1", *range(300))
    await eventually(lambda: layer.stats().messages_in >= 300)  # type: ignore[union-attr]
    events: list[Any] = []
    while not events or events[-1] != 299:
        events += await got(mailbox, 1)
    (overflow,) = [event for event in events if isinstance(event, tuple)]
    assert overflow[:3] == ("overflow", ["short-1"], False)
    taken = [event for event in events if not isinstance(event, tuple)]
    assert overflow[3] == 300 - len(taken)
    assert taken == [*range(events.index(overflow)), *range(290, 300)]
    assert taken[-10:] == list(range(290, 300))


@pytest.mark.classic
@pytest.mark.parametrize("wildcard", [False, True])
async def test_a_slow_reader_gets_what_the_history_has(
    make_layer: MakeLayer, wildcard: bool
) -> None:
    """Messages wait for longer than ``expiry``, and ``ttl``."""
    layer = make_layer(history={"*": {"size": 1000, "ttl": 0.2}}, expiry=0.2)
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("room", mailbox.channel)
    if wildcard:
        await layer.group_pattern_add("ro*", mailbox.channel)
    for n in range(8):
        await send(layer, "room", n)
        await asyncio.sleep(0.1)
    assert await got(mailbox, 8) == list(range(8))


async def test_an_overflow_without_history(layer: MpxChannelLayer, sender: MpxChannelLayer) -> None:
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("lobby", mailbox.channel)
    await layer.group_add("hall", mailbox.channel)
    for group in ("lobby", "hall"):
        await send(sender, group, *range(200))
    await eventually(lambda: layer.stats().messages_in >= 400)  # type: ignore[union-attr]
    drops = layer.stats().drops["full"]  # type: ignore[union-attr]
    events = await got(mailbox, 400 - drops + 1)
    (gap,) = [event for event in events if isinstance(event, tuple)]
    assert gap == ("overflow", ["lobby", "hall"], False, drops)
    await nothing_more(mailbox)


@pytest.mark.everywhere
async def test_a_flushed_server(
    layer: MpxChannelLayer, sender: MpxChannelLayer, outside: Outside
) -> None:
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("room-1", mailbox.channel)
    await send(sender, "room-1", 0, 1)
    assert await got(mailbox, 2) == [0, 1]
    outside.flushall()
    await send(sender, "room-1", 2, 3)
    assert await got(mailbox, 3) == [("flushed", ["room-1"], False, None), 2, 3]
    await nothing_more(mailbox)


async def test_a_hole_is_filled(
    layer: MpxChannelLayer, sender: MpxChannelLayer, outside: Outside
) -> None:
    """Messages that did not come live, for whatever reason."""
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("room-1", mailbox.channel)
    await send(sender, "room-1", 0)
    assert await got(mailbox, 1) == [0]
    hub: Any = hub_of(layer)
    topic = topic_of(layer, "room-1")
    receive, hub.history.received = hub.history.received, lambda *a: None
    await send(sender, "room-1", 1, 2)
    await eventually(lambda: hub.counters.messages_in >= 3)
    hub.history.received = receive
    await send(sender, "room-1", 3)
    assert await got(mailbox, 3) == [1, 2, 3]
    # What comes twice is told apart.
    stream, _, _, _ = names_of(layer).history("room-1")
    ((_, entry),) = outside.at(stream).xrevrange(stream, count=1)  # type: ignore[misc]
    (data,) = entry.values()
    outside.publish_as_layers(topic.name, data)
    await send(sender, "room-1", 4)
    assert await got(mailbox, 1) == [4]


async def test_leaving_while_behind(layer: MpxChannelLayer, sender: MpxChannelLayer) -> None:
    sent = await send(sender, "room-1", *range(300))
    mailbox = await layer.open_channel()
    await layer.group_add("room-1", mailbox.channel, since=sent[0])
    await got(mailbox, 10)
    await layer.group_discard("room-1", mailbox.channel)
    assert mailbox.capacity == 100
    await layer.group_add("room-1", mailbox.channel, since=sent[297])
    while await got(mailbox, 1) != [298]:
        pass
    assert await got(mailbox, 1) == [299]


# -- who asks again ---------------------------------------------------------------------------


async def ask_in_vain(layer: MpxChannelLayer, mailbox: Mailbox, patience: float) -> None:
    asking = asyncio.create_task(layer.group_add("room-1", mailbox.channel, since="garbage"))
    await asyncio.sleep(patience)
    asking.cancel()
    await asyncio.wait((asking,))


@pytest.mark.parametrize("at_once", [1, 3])
async def test_a_member_that_asks_in_vain_misses_nothing(
    layer: MpxChannelLayer, sender: MpxChannelLayer, at_once: int
) -> None:
    """It is a member, whatever its position is: in the midst of traffic, and cancelled as well."""
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("room-1", mailbox.channel)
    read: list[Any] = []

    async def traffic() -> None:
        for n in range(0, 1200, 3):
            await send(sender, "room-1", n, n + 1, n + 2)

    async def reader() -> None:
        while not read or read[-1] != 1199:
            read.extend(await got(mailbox, 1))

    tasks = [asyncio.create_task(traffic()), asyncio.create_task(reader())]
    turn = 0
    while not tasks[0].done():
        turn += 1
        await asyncio.gather(
            *[ask_in_vain(layer, mailbox, turn % 5 / 2000) for _ in range(at_once)]
        )
    await asyncio.gather(*tasks)
    assert read == list(range(1200))
    assert mailbox.channel in topic_of(layer, "room-1").members


async def test_asking_in_vain_ends_no_replay(
    layer: MpxChannelLayer, sender: MpxChannelLayer
) -> None:
    sent = await send(sender, "room-1", *range(300))
    mailbox = await layer.open_channel(hooks=GAP)
    channel = mailbox.channel
    good, wrong = await asyncio.gather(
        layer.group_add("room-1", channel, since=sent[9]),
        layer.group_add("room-1", channel, since="x"),
    )
    assert (good, wrong) == (Recovery(True, 290, sent[-1]), Recovery(False, 0, sent[-1], "invalid"))
    assert await got(mailbox, 50) == list(range(10, 60))
    await layer.group_add("room-1", channel, since="x")
    await ask_in_vain(layer, mailbox, 0)
    assert await got(mailbox, 240) == list(range(60, 300))
    # Twice at once: each message comes once.
    await asyncio.gather(*[layer.group_add("room-1", channel, since=sent[9]) for _ in range(2)])
    assert await got(mailbox, 290) == list(range(10, 300))
    await nothing_more(mailbox)


async def test_a_join_that_is_cancelled_leaves_another_one_alone(
    layer: MpxChannelLayer, sender: MpxChannelLayer
) -> None:
    sent = await send(sender, "room-1", *range(3))
    mailbox = await layer.open_channel()
    joins = [
        asyncio.create_task(layer.group_add("room-1", mailbox.channel, since=sent[0]))
        for _ in range(3)
    ]
    await eventually(lambda: hub_of(layer).groups.topics)
    await asyncio.sleep(0)
    joins[0].cancel()
    assert await joins[1] == Recovery(True, 2, sent[-1])
    joins[2].cancel()
    await asyncio.wait(joins)
    await send(sender, "room-1", 3)
    assert await got(mailbox, 3) == [1, 2, 3]
