"""Presence where two things happen at once: joins that are given up, answers that are late, crashes
that are noticed halfway, and events that come while messages are replayed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import redis

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.presence.scripts import CHUNK
from mpx_channels.presence.values import PresenceCount
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.inside import hub_of, presence_store_of
from tests.layer.conftest import MakeLayer
from tests.proxy import Proxy

from .histories import HISTORY, away, send
from .presences import LISTENS, QUICK, change, listener, members, next_of


def connections(layer: MpxChannelLayer) -> int:
    stats = layer.stats()
    assert stats is not None
    return stats.presence_connections


# -- joins that are given up ----------------------------------------------------------------------


async def test_a_join_that_is_given_up_ends_nobodys_linger(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    """As by two reloads in a row: the second page is gone before Redis has answered."""
    layer, cut_off = make_layer(), make_layer(hosts=[proxy.url])
    hears = await listener(layer)
    ended = await layer.open_channel()
    await layer.presence_join("room", ended.channel, "ann")
    assert await next_of(hears) == change(1, {"ann": {}})
    layer.close_channel(ended)
    async with asyncio.timeout(30):
        while await layer.presence_count("room") != PresenceCount(1, 0):
            pass
    mailbox = await cut_off.open_channel()
    await cut_off.presence_count("room")
    proxy.freeze()
    joining = asyncio.ensure_future(cut_off.presence_join("room", mailbox.channel, "ann"))
    await eventually(lambda: connections(cut_off) == 1)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert connections(cut_off) == 0
    proxy.thaw()
    await cut_off.presence_join("room", mailbox.channel, "bob")
    assert await next_of(hears) == change(2, {"bob": {}})
    assert await layer.presence_count("room") == PresenceCount(2, 1)


async def test_of_two_joins_of_a_channel_one_is_given_up(
    make_layer: MakeLayer, proxy: Proxy, layer: MpxChannelLayer
) -> None:
    cut_off = make_layer(hosts=[proxy.url])
    mailbox = await cut_off.open_channel()
    await cut_off.presence_count("room")
    proxy.freeze()
    first, second = [
        asyncio.ensure_future(cut_off.presence_join("room", mailbox.channel, "ann", {"n": n}))
        for n in range(2)
    ]
    await eventually(lambda: connections(cut_off) == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    proxy.thaw()
    await second
    assert await layer.presence_count("room") == PresenceCount(1, 1)
    assert await members(layer) == {"ann": {"n": 1}}
    await cut_off.presence_leave("room", mailbox.channel, "ann")
    assert await layer.presence_count("room") == PresenceCount(0, 0)


async def test_the_latest_info_counts_though_an_answer_was_late(
    make_layer: MakeLayer, proxy: Proxy, layer: MpxChannelLayer
) -> None:
    cut_off = make_layer(hosts=[proxy.url])
    first, second = await cut_off.open_channel(), await cut_off.open_channel()
    await cut_off.presence_join("room", first.channel, "ann", {"n": 0})
    proxy.to_client.freeze()
    joining = asyncio.ensure_future(cut_off.presence_join("room", second.channel, "ann", {"n": 1}))
    async with asyncio.timeout(30):
        while await members(layer) != {"ann": {"n": 1}}:
            pass
    # What changes now is written behind that answer.
    cut_off.close_channel(first)
    await layer.presence_join("room", await layer.new_channel(), "ann", {"n": 2})
    proxy.thaw()
    await joining
    async with asyncio.timeout(30):
        while await layer.presence_count("room") != PresenceCount(1, 2):
            pass
    assert await members(layer) == {"ann": {"n": 2}}


async def test_what_redis_holds_is_what_we_think(layer: MpxChannelLayer) -> None:
    """Whatever happens at once; where it was not, all would be compared after each write."""
    chance = random.Random(7)
    mailboxes = [await layer.open_channel() for _ in range(5)]
    roster: Any = None
    for _ in range(100):
        changes = []
        for _ in range(chance.randrange(1, 8)):
            mailbox, id = chance.choice(mailboxes), f"user-{chance.randrange(6)}"
            if chance.random() < 0.6:
                changes.append(layer.presence_join("room", mailbox.channel, id))
            else:
                changes.append(layer.presence_leave("room", mailbox.channel, id))
        await asyncio.gather(*changes)
        found = hub_of(layer).presence.rosters.by_name
        if found:
            (roster,) = found.values()
            assert roster.held == len(roster.entries)
            assert set(roster.entries) == set(await members(layer))
    assert roster.number > 50


async def test_what_is_due_while_a_layer_closes(make_layer: MakeLayer, proxy: Proxy) -> None:
    """And that waits for Redis. Nothing is begun any more, nor left behind unawaited."""
    layer = make_layer(hosts=[proxy.url], presence_linger=0.2)
    mailbox = await layer.open_channel()
    await layer.presence_join("room", mailbox.channel, "ann")
    layer.close_channel(mailbox)
    while (await layer.presence_count("room")).connections:
        pass
    proxy.freeze()
    await layer.close()


# -- crashes --------------------------------------------------------------------------------------


async def test_who_was_cut_off_for_too_long_is_told_of_in_all_groups(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    """Also if what has waited for the connection is written before the lease is."""
    layer = make_layer(**QUICK)
    cut_off = make_layer(hosts=[proxy.url], max_backoff=0.05, backlog_timeout=60, **QUICK)
    mailbox, late = await cut_off.open_channel(), await cut_off.open_channel()
    groups = ("room-a", "room-b", "room-c")
    hear = {group: await listener(layer, group) for group in groups}
    for group in groups:
        await cut_off.presence_join(group, mailbox.channel, "ann")
        assert await next_of(hear[group], group) == change(1, {"ann": {}})
    proxy.refuse()
    proxy.cut()
    waiting = asyncio.ensure_future(cut_off.presence_join("room-b", late.channel, "bob"))
    for group in groups:
        assert await next_of(hear[group], group) == change(0, left={"ann": "crashed"})
    await proxy.accept()
    await waiting
    joined: dict[str, Any] = {}
    while joined.keys() != {"ann", "bob"}:
        joined |= (await next_of(hear["room-b"], "room-b"))["joined"]
    for group in ("room-a", "room-c"):
        assert await next_of(hear[group], group) == change(1, {"ann": {}})


async def test_who_was_taken_for_dead_in_one_group_is_back_in_it(
    make_layer: MakeLayer, client: redis.Redis, prefix: str
) -> None:
    """By somebody who read that group, while the process hung; its lease is there still."""
    # The only one that renews leases; the other one looks.
    layer, other = make_layer(presence_lease=6), make_layer(presence_lease=6)
    hears, channel = await listener(layer), await layer.new_channel()
    for group in ("room", "another"):
        await layer.presence_join(group, channel, "ann")
    assert await next_of(hears) == change(1, {"ann": {}})
    process = hub_of(layer).process_id
    while True:
        client.zadd(f"{prefix}:e:", {process: 1})
        if await other.presence_count("room") == PresenceCount(0, 0):
            break
    assert await next_of(hears) == change(0, left={"ann": "crashed"})
    assert await next_of(hears) == change(1, {"ann": {}})
    assert await members(other) == {"ann": {}}
    assert await members(other, "another") == {"ann": {}}


async def test_two_take_out_the_same_process(
    make_layer: MakeLayer, client: redis.Redis, prefix: str
) -> None:
    """Which only hung. The slower one does not give it a lease: it would think that all is well."""
    layer, other = make_layer(presence_lease=6), make_layer(presence_lease=6)
    hears, channel = await listener(layer), await layer.new_channel()
    await layer.presence_join("room", channel, "ann")
    assert await next_of(hears) == change(1, {"ann": {}})
    hub = hub_of(layer)
    name = hub.names.group("room")
    while True:
        client.zadd(f"{prefix}:e:", {hub.process_id: 1})
        if await other.presence_count("room") == PresenceCount(0, 0):
            break
    store = presence_store_of(other)
    await store.end(store.place_of(name), hub.process_id)
    await store.sweep(name, hub.process_id)
    assert await next_of(hears) == change(0, left={"ann": "crashed"})
    assert await next_of(hears) == change(1, {"ann": {}})
    assert await members(other) == {"ann": {}}


async def test_how_many_are_taken_out_in_one_go(
    make_layer: MakeLayer, client: redis.Redis, prefix: str
) -> None:
    """`CHUNK`, but for the few that Redis has in one place with the last of them."""
    layer, there = make_layer(), CHUNK + 40
    channel, hub, store = await layer.new_channel(), hub_of(layer), presence_store_of(layer)
    groups = [f"room-{number}" for number in range(8)]
    for group in groups:
        ids = [f"{group}-{number}" for number in range(there)]
        await asyncio.gather(*(layer.presence_join(group, channel, id) for id in ids))
        sums = hub.names.presence(group)[3]
        left = there
        while left == there:  # unless it has just renewed its lease
            client.zadd(f"{prefix}:e:", {hub.process_id: 1})
            swept = await store.sweep(hub.names.group(group), hub.process_id)
            left = int(client.hget(sums, "n") or 0)
        assert 0 < left <= 41
        assert swept.more


# -- one of several hosts -------------------------------------------------------------------------


async def test_a_host_that_is_away_costs_no_lease_on_the_others(
    make_layer: MakeLayer,
    redis_url: str,
    client: redis.Redis,
    prefix: str,
    restartable_server: RestartableServer,
) -> None:
    restartable_server.start()
    hosts = [redis_url, restartable_server.url]
    layer = make_layer(hosts=hosts, backlog_timeout=600, **QUICK)
    channel = await layer.new_channel()
    for number in range(40):
        await layer.presence_join(f"room-{number}", channel, "ann")
    here, leases = hub_of(layer), f"{prefix}:e:"
    with restartable_server.client() as there:
        assert there.zscore(leases, here.process_id)
    restartable_server.kill()
    seen: set[float | None] = set()
    async with asyncio.timeout(PATIENCE):
        while len(seen) < 5:
            await asyncio.sleep(0.01)
            seen.add(client.zscore(leases, here.process_id))
    assert None not in seen


# -- what a server loses --------------------------------------------------------------------------


async def test_after_a_flush_the_number_is_told(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """Whoever asked for the list in between has to know that there is more."""
    restartable_server.start()
    one, two = [make_layer(hosts=[restartable_server.url], **QUICK) for _ in range(2)]
    hears = await listener(one)
    for layer, id in ((one, "ann"), (two, "bob")):
        await layer.presence_join("room", await layer.new_channel(), id)
        assert id in (await next_of(hears))["joined"]
    with restartable_server.client() as client:
        client.flushall()
    while (event := await next_of(hears)) != change(2):
        assert event == change(1)
    assert set(await members(one)) == {"ann", "bob"}


async def test_after_a_flush_who_leaves_is_told_by_the_number(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """Redis does not know any more who that was, nor that there was anybody."""
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], presence_lease=3)
    hears, channel = await listener(layer), await layer.new_channel()
    await layer.presence_join("room", channel, "ann")
    assert await next_of(hears) == change(1, {"ann": {}})
    with restartable_server.client() as client:
        client.flushall()
    await layer.presence_leave("room", channel, "ann")
    while (event := await next_of(hears))["members"]:
        assert event == change(1)  # it was written anew before it left
    assert event in (change(0), change(0, left={"ann": "left"}))


async def test_after_a_flush_who_lingered_is_told_by_the_number(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], presence_linger=4, presence_lease=600)
    hears, mailbox = await listener(layer), await layer.open_channel()
    await layer.presence_join("room", mailbox.channel, "ann")
    assert await next_of(hears) == change(1, {"ann": {}})
    layer.close_channel(mailbox)
    while await layer.presence_count("room") != PresenceCount(1, 0):
        assert not hears.unread
    with restartable_server.client() as client:
        client.flushall()
    assert await next_of(hears) == change(0)
    assert await layer.presence_count("room") == PresenceCount(0, 0)


# -- groups with a history ------------------------------------------------------------------------


async def test_behind_what_is_replayed(make_layer: MakeLayer) -> None:
    layer, other = make_layer(history=HISTORY), make_layer(history=HISTORY)
    channel = await other.new_channel()
    sent = await send(other, "room-1", *range(250))
    hears = await layer.open_channel(hooks=LISTENS)
    await layer.group_add("room-1", hears.channel, since=sent[0])
    await other.presence_join("room-1", channel, "ann")
    await send(other, "room-1", 250)
    await other.presence_join("room-1", channel, "bob")
    # It has all come here before the first is read.
    delivered = hub_of(layer).counters
    await eventually(lambda: delivered.messages_in == 3)
    for number in range(1, 250):
        assert (await hears.get())["n"] == number
    assert await next_of(hears, "room-1") == change(1, {"ann": {}})
    assert (await hears.get())["n"] == 250
    assert await next_of(hears, "room-1") == change(2, {"bob": {}})


@pytest.mark.parametrize("later", [[], [3]])
@pytest.mark.parametrize("missed", [[], [1, 2]])
async def test_behind_what_was_missed(
    make_layer: MakeLayer, proxy: Proxy, missed: list[int], later: list[int]
) -> None:
    """An event that is here before it is known what the history has."""
    layer = make_layer(hosts=[proxy.url], history=HISTORY, max_backoff=0.05, backlog_timeout=60)
    other = make_layer(history=HISTORY)
    hears, channel = await listener(layer, "room-1"), await other.new_channel()
    await send(other, "room-1", 0)
    assert (await hears.get())["n"] == 0
    hub, name = hub_of(layer), hub_of(layer).names.group("room-1")
    proxy.to_server.freeze_at = lambda piece: b"EVAL" in piece
    async with away(layer, proxy):
        await send(other, "room-1", *missed)
    await eventually(lambda: hub.groups.topics[name].live)
    received = hub.counters.messages_in
    await other.presence_join("room-1", channel, "ann")
    await send(other, "room-1", *later)
    await eventually(lambda: hub.counters.messages_in == received + 1 + len(later))
    proxy.thaw()
    for number in missed:
        assert (await hears.get())["n"] == number
    assert await next_of(hears, "room-1") == change(1, {"ann": {}})
    await send(other, "room-1", 4)
    for number in (*later, 4):
        assert (await hears.get())["n"] == number


async def test_what_waits_for_a_replay_is_bounded(make_layer: MakeLayer) -> None:
    layer, other = make_layer(history=HISTORY, capacity=5), make_layer(history=HISTORY)
    channel = await other.new_channel()
    sent = await send(other, "room-1", 0, 1)
    hears = await layer.open_channel(hooks=LISTENS)
    await layer.group_add("room-1", hears.channel, since=sent[0])
    for number in range(20):
        await other.presence_join("room-1", channel, f"user-{number}")
    counters = hub_of(layer).counters
    await eventually(lambda: counters.messages_in == 20)
    assert (await hears.get())["n"] == 1
    told = 20 - counters.dropped_full
    assert 5 <= told < 10
    for number in range(told):
        event = await next_of(hears, "room-1")
        assert event == change(number + 1, {f"user-{number}": {}})
    assert not hears.unread
