"""What a channel missed is replayed to it: since a position, and after a reconnect."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from mpx_channels.history.store import Store
from mpx_channels.layer import Mailbox, MpxChannelLayer, NotConnected, Recovery
from tests.conftest import eventually
from tests.inside import hooks_of, hub_of, looks_of, names_of, topic_of
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy

from .histories import GAP, HISTORY, all_known, away, got, nothing_more, send


@pytest.fixture
def layer(make_layer: MakeLayer) -> MpxChannelLayer:
    return make_layer(history=HISTORY)


@pytest.fixture
def sender(make_layer: MakeLayer) -> MpxChannelLayer:
    return make_layer(history=HISTORY)


@pytest.mark.everywhere
async def test_since(layer: MpxChannelLayer, sender: MpxChannelLayer) -> None:
    sent = await send(sender, "room-1", *range(250))
    mailbox = await layer.open_channel()
    recovery = await layer.group_add("room-1", mailbox.channel, since=sent[9])
    assert recovery == Recovery(True, 240, sent[-1])
    await send(sender, "room-1", *range(250, 260))
    assert await got(mailbox, 250) == list(range(10, 260))
    await send(sender, "room-1", 260, 261)
    assert await got(mailbox, 2) == [260, 261]
    await nothing_more(mailbox)
    assert mailbox.capacity == 100
    stats = layer.stats()
    assert stats is not None
    assert (stats.recoveries, stats.failed_recoveries) == (1, 0)
    assert 240 <= stats.replayed <= 250
    assert sum(stats.drops.values()) == 0


async def test_since_the_newest(layer: MpxChannelLayer, sender: MpxChannelLayer) -> None:
    (sent,) = await send(sender, "room-1", 0)
    mailbox = await layer.open_channel()
    assert await layer.group_add("room-1", mailbox.channel, since=sent) == Recovery(True, 0, sent)
    await send(sender, "room-1", 1, 2)
    assert await got(mailbox, 2) == [1, 2]
    assert layer.stats().replayed == 0  # type: ignore[union-attr]


async def test_nobody_waits_without_end_for_where_a_group_stands(
    make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages may arrive while the connection for commands is away."""

    async def look(*asked: object) -> object:
        raise NotConnected("still away")

    layer = make_layer(history=HISTORY, connect_timeout=0.2)
    mailbox = await layer.open_channel()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "look", look)
        with pytest.raises(NotConnected, match=r"did not say in 0.2 s how far"):
            await layer.group_add("room-1", mailbox.channel, since="")
        assert not mailbox.memberships
    recovery = await layer.group_add("room-1", mailbox.channel, since="")
    assert (recovery.recovered, recovery.reason) == (False, "invalid")


@pytest.mark.everywhere
async def test_why_it_is_not_recovered(make_layer: MakeLayer, outside: Outside) -> None:
    layer = make_layer(history=HISTORY, recovery_limit=20)
    short = await send(layer, "short-1", *range(12))
    room = await send(layer, "room-1", *range(30))

    async def join(group: str, since: Any) -> tuple[Recovery, Mailbox]:
        mailbox = await layer.open_channel()
        recovery = await layer.group_add(group, mailbox.channel, since=since)
        assert recovery is not None
        return recovery, mailbox

    assert (await join("short-1", short[1]))[0] == Recovery(True, 10, short[-1])
    recovery, mailbox = await join("short-1", short[0])
    assert recovery == Recovery(False, 0, short[-1], "trimmed")
    await send(layer, "short-1", 12)
    assert await got(mailbox, 1) == [12]
    assert (await join("room-1", room[9]))[0] == Recovery(True, 20, room[-1])
    assert (await join("room-1", room[8]))[0] == Recovery(False, 0, room[-1], "limit")
    beyond = f"{(room[0] or '')[:16]}-31"
    assert (await join("room-1", beyond))[0] == Recovery(False, 0, room[-1], "invalid")
    assert (await join("room-1", short[0]))[0] == Recovery(False, 0, room[-1], "epoch")
    stream, _, _, _ = names_of(layer).history("room-1")
    outside.at(stream).delete(stream)  # as when its time has come
    assert (await join("room-1", room[20]))[0] == Recovery(False, 0, room[-1], "expired")
    assert (await join("room-1", room[-1]))[0] == Recovery(True, 0, room[-1])
    assert (await join("lobby", room[0]))[0] == Recovery(False, 0, None, "no_history")
    outside.flushall()
    assert (await join("room-1", room[-1]))[0].reason == "epoch"


@pytest.mark.everywhere
async def test_for_another_process(layer: MpxChannelLayer, sender: MpxChannelLayer) -> None:
    sent = await send(sender, "room-1", *range(5))
    mailbox = await layer.open_channel()
    recovery = await sender.group_add("room-1", mailbox.channel, since=sent[1])
    assert recovery == Recovery(True, 3, sent[-1])
    assert await got(mailbox, 3) == [2, 3, 4]
    wrong = await sender.group_add("room-2", mailbox.channel, since={1: 2})
    assert wrong is not None
    assert wrong.reason == "invalid"
    none = await sender.group_add("lobby", mailbox.channel, since=sent[0])
    assert none == Recovery(False, 0, None, "no_history")


async def test_a_reconnect(make_layer: MakeLayer, sender: MpxChannelLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url], history=HISTORY)
    mailbox, untouched, plain = [await layer.open_channel(hooks=GAP) for _ in range(3)]
    for group in ("room-1", "room-2", "room-3", "lobby"):
        await layer.group_add(group, mailbox.channel)
    await layer.group_add("room-2", untouched.channel)
    await layer.group_add("lobby", plain.channel)
    await send(sender, "room-1", 0)
    assert await got(mailbox, 1) == [0]
    await eventually(lambda: all_known(layer))
    async with away(layer, proxy):
        await send(sender, "room-1", *range(1, 150))
        await send(sender, "room-3", 1000)
    assert await got(mailbox, 2) == [
        ("reconnect", ["lobby"], False, None),
        ("reconnect", ["room-1", "room-3"], True, 0),
    ]
    await send(sender, "room-1", 150)
    events = await got(mailbox, 151)
    events.remove(1000)
    assert events == list(range(1, 151))
    assert await got(plain, 1) == [("reconnect", ["lobby"], False, None)]
    for each in (mailbox, untouched, plain):
        await nothing_more(each)


@pytest.mark.everywhere(classic=True)
async def test_a_broken_link_is_healed(
    layer: MpxChannelLayer, sender: MpxChannelLayer, outside: Outside
) -> None:
    mailboxes = [await layer.open_channel(hooks=GAP) for _ in range(6)]
    groups = [f"room-{number}" for number in range(6)]  # of several nodes, in a cluster
    for group, mailbox in zip(groups, mailboxes, strict=True):
        await layer.group_add(group, mailbox.channel)
    for number in range(100):
        if number == 50:
            outside.cut()
        await asyncio.gather(*[send(sender, group, number) for group in groups])
    for mailbox in mailboxes:
        events: list[Any] = []
        while not events or events[-1] != 99:
            events += await got(mailbox, 1)
        assert [event for event in events if isinstance(event, int)] == list(range(100))
        assert all(each[2] for each in events if isinstance(each, tuple)), "not all was recovered"


async def test_a_reconnect_with_too_much_missed(
    make_layer: MakeLayer, sender: MpxChannelLayer, proxy: Proxy
) -> None:
    layer = make_layer(hosts=[proxy.url], history=HISTORY, recovery_limit=50)
    mailbox = await layer.open_channel(hooks=GAP)
    groups = ["room-1", "short-1"]
    for group in groups:
        await layer.group_add(group, mailbox.channel)
        await send(sender, group, 0)
    assert await got(mailbox, 2) == [0, 0]
    async with away(layer, proxy):
        await send(sender, "room-1", *range(1, 52))
        await send(sender, "short-1", *range(1, 12))
    gaps = await got(mailbox, 2)
    assert sorted(gaps) == [
        ("limit", ["room-1"], False, None),
        ("trimmed", ["short-1"], False, None),
    ]
    await send(sender, "room-1", 52)
    await send(sender, "short-1", 12)
    assert await got(mailbox, 2) == [52, 12]


async def test_who_hears_nothing_gets_what_was_missed(
    make_layer: MakeLayer, sender: MpxChannelLayer, proxy: Proxy
) -> None:
    """Consumers of Channels, which have no handler for gaps."""
    layer = make_layer(hosts=[proxy.url], history=HISTORY)
    channel = await layer.new_channel()
    await layer.group_add("room-1", channel)
    await eventually(lambda: all_known(layer))
    async with away(layer, proxy):
        await send(sender, "room-1", *range(5))
    for n in range(5):
        assert (await layer.receive(channel))["n"] == n


async def test_many_groups_are_looked_at_in_batches(
    make_layer: MakeLayer, sender: MpxChannelLayer, proxy: Proxy, client: redis.Redis
) -> None:
    layer = make_layer(hosts=[proxy.url], history=HISTORY)
    mailbox = await layer.open_channel(hooks=GAP)
    mailbox.capacity = 10_000
    groups = [f"room-{n}" for n in range(2000)]
    await asyncio.gather(*[layer.group_add(group, mailbox.channel) for group in groups])
    await eventually(lambda: all_known(layer))
    for _ in range(2):
        async with away(layer, proxy):
            client.config_resetstat()
        tracks = [topic.track for topic in hub_of(layer).groups.topics.values()]  # type: ignore
        await eventually(lambda tracks=tracks: not any(track.lost for track in tracks))  # type: ignore
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]  # type: ignore[index]
        assert calls <= 20
        await nothing_more(mailbox)


@pytest.mark.parametrize("late", [True, False])
async def test_a_link_that_breaks_right_after_a_join(
    make_layer: MakeLayer, sender: MpxChannelLayer, proxy: Proxy, late: bool
) -> None:
    """Before the first message has come, which is sent as soon as the channel is a member."""
    layer = make_layer(hosts=[proxy.url], history=HISTORY)
    for turn in range(10):
        group = f"room-{turn}"
        mailbox = await layer.open_channel(hooks=GAP)
        await send(sender, group, -1)
        await layer.group_add(group, mailbox.channel)
        proxy.to_client.delay_of = lambda data: 0.05 if late and b"message" in data else 0.0
        await send(sender, group, 0, 1)
        proxy.cut()
        proxy.to_client.delay_of = lambda data: 0.0
        await send(sender, group, 2)
        events: list[Any] = []
        while not events or events[-1] != 2:
            events += await got(mailbox, 1)
        assert [n for n in events if not isinstance(n, tuple)] == [0, 1, 2]
        assert all(event[2] for event in events if isinstance(event, tuple))
        layer.close_channel(mailbox)


async def test_a_consumer_hears_of_gaps(make_layer: MakeLayer) -> None:
    """Of those that it has a handler for."""
    from mpx_channels.generic.websocket import AsyncWebsocketConsumer

    class Consumer(AsyncWebsocketConsumer):
        async def mpx_gap(self, event: Any) -> None:
            pass

    assert hooks_of(Consumer()).gap == ("mpx.gap",)
    assert hooks_of(AsyncWebsocketConsumer()) is None


async def test_a_link_that_breaks_again_and_again(
    make_layer: MakeLayer, sender: MpxChannelLayer, proxy: Proxy
) -> None:
    """While all groups are sent to: nothing is lost, doubled or out of order."""
    layer = make_layer(hosts=[proxy.url], history=HISTORY, recovery_limit=1000)
    groups = [f"room-{n}" for n in range(20)]
    mailboxes = {group: await layer.open_channel(hooks=GAP) for group in groups}
    for group, mailbox in mailboxes.items():
        await layer.group_add(group, mailbox.channel)
    await eventually(lambda: all_known(layer))

    async def traffic() -> None:
        for n in range(200):
            await sender.group_send_many([(g, {"type": "x", "n": n}) for g in groups])
            if n % 40 == 20:
                proxy.cut()
            await asyncio.sleep(0.001)

    sending = asyncio.create_task(traffic())
    for mailbox in mailboxes.values():
        numbers: list[Any] = []
        while not numbers or numbers[-1] != 199:
            (event,) = await got(mailbox, 1)
            if isinstance(event, tuple):
                assert event[2], event
            else:
                numbers.append(event)
        assert numbers == list(range(200))
    await sending
    assert layer.stats().multiplexer.reconnects >= 1  # type: ignore[union-attr]


async def test_a_link_that_breaks_again_before_it_is_known_what_was_missed(
    make_layer: MakeLayer, sender: MpxChannelLayer, proxy: Proxy
) -> None:
    layer = make_layer(hosts=[proxy.url], history=HISTORY)
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("room-1", mailbox.channel)
    await send(sender, "room-1", 0)
    assert await got(mailbox, 1) == [0]
    hub: Any = hub_of(layer)
    looks, topic = looks_of(layer), topic_of(layer, "room-1")
    later: list[Any] = []
    look, looks.at = looks.at, later.append
    for n in (1, 3):
        async with away(layer, proxy):
            await send(sender, "room-1", *range(n, 2))
        await eventually(lambda: topic.live)
        before = hub.counters.messages_in
        await send(sender, "room-1", n + 1)
        await eventually(lambda before=before: hub.counters.messages_in > before)
    # The last message followed upon the one before, but not all others had come.
    looks.at = look
    look(later.pop())
    assert await got(mailbox, 4) == [("reconnect", ["room-1"], True, 0), 1, 2, 4]
    await send(sender, "room-1", 5)
    assert await got(mailbox, 1) == [5]
    await nothing_more(mailbox)


async def test_what_was_sent_before_leaving_arrives(make_layer: MakeLayer, proxy: Proxy) -> None:
    """As without a history."""
    proxy.to_client.delay_of = lambda data: 0.005 if b"message" in data else 0.0
    layer = make_layer(hosts=[proxy.url], history=HISTORY)
    mailbox = await layer.open_channel()
    for n in range(10):
        await layer.group_add("room-1", mailbox.channel)
        await layer.group_send("room-1", {"type": "x", "n": n})
        await layer.group_discard("room-1", mailbox.channel)
        assert len(mailbox) == 1
        assert await got(mailbox, 1) == [n]
    await layer.group_add("room-1", mailbox.channel)
    await send(layer, "room-1", 10, 11)
    await layer.group_discard("room-1", mailbox.channel)
    assert len(mailbox) == 2


async def test_without_histories_nobody_keeps_track(make_layer: MakeLayer) -> None:
    layer = make_layer()
    mailbox = await layer.open_channel()
    await layer.group_add("room-1", mailbox.channel)
    assert hub_of(layer).groups.histories is None
    assert topic_of(layer, "room-1").track is None
