"""Presence when processes are killed, links break, and servers lose what they had."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import redis

from mpx_channels.layer import CommandRefused, MpxChannelLayer, NotConnected
from mpx_channels.presence.scripts import CHUNK
from mpx_channels.presence.values import PresenceCount
from tests.conftest import RestartableServer, eventually
from tests.layer.conftest import MakeLayer
from tests.proxy import Proxy
from tests.sentinels import Sentinels

from .histories import HISTORY
from .presences import QUICK, change, listener, members, next_of, process
from .test_history_servers import Failover


async def counted(layer: MpxChannelLayer, members: int, connections: int) -> None:
    """Return when so many are in the room."""
    async with asyncio.timeout(30):
        while await layer.presence_count("room") != PresenceCount(members, connections):
            pass


async def all_there(layer: MpxChannelLayer, expected: set[str], group: str = "room") -> None:
    """Return when these are in the group, and no others."""
    async with asyncio.timeout(30):
        while set(await members(layer, group)) != expected:
            pass
        everybody = PresenceCount(len(expected), len(expected))
        while await layer.presence_count(group) != everybody:
            pass


# -- processes ------------------------------------------------------------------------------------


async def test_a_killed_process(make_layer: MakeLayer, redis_url: str, prefix: str) -> None:
    config = {"hosts": [redis_url], "prefix": prefix, **QUICK}
    # One holds members, too; the other only hears of them.
    one, two = make_layer(**QUICK), make_layer(**QUICK)
    channel = await one.new_channel()
    await one.presence_join("room", channel, "ann")
    heard = [await listener(one), await listener(two)]
    async with process(json.dumps(config), json.dumps(["ann", "bob", "carl"])) as other:
        for each in heard:
            assert await next_of(each) == change(3, {"bob": {}, "carl": {}})
        assert await two.presence_count("room") == PresenceCount(3, 4)
        other.kill()
        for each in heard:
            assert await next_of(each) == change(1, left={"bob": "crashed", "carl": "crashed"})
        assert await two.presence_count("room") == PresenceCount(1, 1)
        assert await members(two) == {"ann": {}}
        # It is told once, and forgotten.
        await asyncio.sleep(1.2 * QUICK["presence_lease"])
        assert [each.unread for each in heard] == [0, 0]


async def test_a_killed_process_that_only_a_listener_outlives(
    make_layer: MakeLayer, redis_url: str, prefix: str, client: redis.Redis
) -> None:
    patient = QUICK | {"presence_lease": 4.0}  # so many take a slow machine a while
    layer = make_layer(**patient)
    hears = await listener(layer)
    config = {"hosts": [redis_url], "prefix": prefix, **patient}
    ids = [f"user-{number}" for number in range(1200)]
    async with process(json.dumps(config), json.dumps(ids)) as other:
        while (await next_of(hears))["members"] < 1200:
            pass
        other.kill()
        left: dict[str, str] = {}
        number = 1200
        while number:
            event = await next_of(hears)
            if event["members"] > number:
                left = {}  # it had been taken for dead before, as it was slow, and was back
            left |= event["left"]
            number = event["members"]
        # While there were more than 500, events had no names: those of the first go at least.
        assert 200 <= len(left) <= 1201 - CHUNK
        assert set(left.values()) == {"crashed"}
    dead = [key for key in client.scan_iter(f"{prefix}:[uzlvoked]:*") if b":e:" not in key]
    assert dead == []


async def test_whoever_reads_sees_no_dead(
    make_layer: MakeLayer, redis_url: str, prefix: str
) -> None:
    """Nobody was there to notice, and who comes later does not wait."""
    config = {"hosts": [redis_url], "prefix": prefix, **QUICK}
    async with process(json.dumps(config), json.dumps(["ann", "bob"])) as other:
        other.kill()
        await other.wait()
        await asyncio.sleep(QUICK["presence_lease"])
    for _ in range(2):
        layer = make_layer(**QUICK)
        assert await layer.presence_count("room") == PresenceCount(0, 0)
        assert await members(layer) == {}


async def test_a_process_that_ends_well(make_layer: MakeLayer, redis_url: str, prefix: str) -> None:
    """As in a deployment: its members linger, and who finds another one has not left."""
    layer = make_layer(**QUICK)
    hears, channel = await listener(layer), await layer.new_channel()
    config = {"hosts": [redis_url], "prefix": prefix, "presence_linger": 2}
    async with process(json.dumps(config), json.dumps(["ann", "bob"])) as other:
        assert await next_of(hears) == change(2, {"ann": {}, "bob": {}})
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write(b"\n")
        assert await other.stdout.readline() == b"closed\n"
        assert await layer.presence_count("room") == PresenceCount(2, 0)
        await layer.presence_join("room", channel, "ann")
        await other.wait()
    assert await next_of(hears) == change(1, left={"bob": "timeout"})
    assert await layer.presence_count("room") == PresenceCount(1, 1)


async def test_who_lingers_leaves_though_its_process_was_killed(
    make_layer: MakeLayer, redis_url: str, prefix: str
) -> None:
    layer = make_layer(presence_lease=3)
    hears = await listener(layer)
    config = {"hosts": [redis_url], "prefix": prefix, "presence_linger": 0.5}
    async with process(json.dumps(config), json.dumps(["ann"])) as other:
        await other.communicate(b"\n")
    assert await next_of(hears) == change(1, {"ann": {}})
    assert await next_of(hears) == change(0, left={"ann": "timeout"})


# -- links ----------------------------------------------------------------------------------------


async def test_a_link_that_comes_back(
    make_layer: MakeLayer, proxy: Proxy, layer: MpxChannelLayer
) -> None:
    cut_off = make_layer(hosts=[proxy.url], max_backoff=0.05)
    hears, at_home = await listener(cut_off), await listener(layer)
    mailboxes = [await cut_off.open_channel() for _ in range(3)]
    await cut_off.presence_join("room", mailboxes[0].channel, "ann")
    await cut_off.presence_join("room", mailboxes[1].channel, "bob")
    for each in (hears, at_home):
        assert await next_of(each) == change(1, {"ann": {}})
        assert await next_of(each) == change(2, {"bob": {}})
    for _ in range(3):
        proxy.cut()
        await cut_off.connect()
    proxy.refuse()
    proxy.cut()
    # What happens meanwhile is told afterwards.
    joining = asyncio.ensure_future(cut_off.presence_join("room", mailboxes[2].channel, "carl"))
    leaving = asyncio.ensure_future(cut_off.presence_leave("room", mailboxes[0].channel, "ann"))
    await asyncio.sleep(0.1)
    assert await layer.presence_count("room") == PresenceCount(2, 2)
    await proxy.accept()
    await asyncio.gather(joining, leaving)
    await all_there(layer, {"bob", "carl"})
    assert await next_of(at_home) == change(2, {"carl": {}}, {"ann": "left"})
    assert not at_home.unread


async def test_a_join_that_redis_never_got(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url], backlog_timeout=0.2, max_backoff=0.05)
    mailbox = await layer.open_channel()
    proxy.refuse()
    proxy.cut()
    with pytest.raises(NotConnected):
        await layer.presence_join("room", mailbox.channel, "ann")
    stats = layer.stats()
    assert stats is not None
    assert stats.presence_connections == 0
    assert not mailbox.memberships
    await proxy.accept()
    await layer.connect()
    await layer.presence_join("room", mailbox.channel, "bob")
    await all_there(layer, {"bob"})


async def test_who_was_cut_off_for_too_long_comes_back(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(**QUICK)
    cut_off = make_layer(hosts=[proxy.url], max_backoff=0.05, **QUICK)
    hears = await listener(layer)
    mailbox = await cut_off.open_channel()
    await cut_off.presence_join("room", mailbox.channel, "ann", {"name": "Ann"})
    assert await next_of(hears) == change(1, {"ann": {"name": "Ann"}})
    proxy.refuse()
    proxy.cut()
    assert await next_of(hears) == change(0, left={"ann": "crashed"})
    await proxy.accept()
    assert await next_of(hears) == change(1, {"ann": {"name": "Ann"}})
    await all_there(layer, {"ann"})


async def test_a_server_that_was_away_is_no_crash(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """It stood still for longer than the lease, for all."""
    restartable_server.start()
    config = {"hosts": [restartable_server.url], "connect_timeout": 0.5, "ping_interval": 0.3}
    one, two = [make_layer(**config, **QUICK) for _ in range(2)]
    heard = [await listener(one), await listener(two)]
    for layer, id in ((one, "ann"), (two, "bob")):
        await layer.presence_join("room", await layer.new_channel(), id)
    for each in heard:
        assert await next_of(each) == change(1, {"ann": {}})
        assert await next_of(each) == change(2, {"bob": {}})
    restartable_server.freeze()
    await asyncio.sleep(1.2 * QUICK["presence_lease"])
    restartable_server.thaw()
    await one.connect(30)
    await two.connect(30)
    await asyncio.sleep(1.2 * QUICK["presence_lease"])
    await all_there(one, {"ann", "bob"})
    assert [each.unread for each in heard] == [0, 0]


async def test_who_was_late_itself_calls_nobody_dead(
    make_layer: MakeLayer, client: redis.Redis, prefix: str
) -> None:
    """A machine that slept: no connection broke, and all leases have expired."""
    one, two = make_layer(**QUICK), make_layer(**QUICK)
    heard = [await listener(one), await listener(two)]
    for layer, id in ((one, "ann"), (two, "bob")):
        await layer.presence_join("room", await layer.new_channel(), id)
    for each in heard:
        assert await next_of(each) == change(1, {"ann": {}})
        assert await next_of(each) == change(2, {"bob": {}})
    leases = f"{prefix}:e:"
    processes = [process for process in client.zrange(leases, 0, -1) if process]
    assert len(processes) == 2
    for _ in range(5):
        client.zadd(leases, dict.fromkeys(processes, 1))
        await eventually(lambda: min(client.zscore(leases, each) for each in processes) > 1)
    assert [each.unread for each in heard] == [0, 0]


# -- what a server loses --------------------------------------------------------------------------


async def test_flushall(make_layer: MakeLayer, restartable_server: RestartableServer) -> None:
    restartable_server.start()
    one, two = [make_layer(hosts=[restartable_server.url], **QUICK) for _ in range(2)]
    hears = await listener(one)
    for layer, ids in ((one, ("ann", "bob")), (two, ("ann", "carl"))):
        channel = await layer.new_channel()
        for id in ids:
            await layer.presence_join("room", channel, id)
    for event in ({"ann": {}}, {"bob": {}}, {"carl": {}}):
        assert (await next_of(hears))["joined"] == event
    with restartable_server.client() as client:
        client.flushall()
        await counted(one, 3, 4)
        assert set(await members(one)) == {"ann", "bob", "carl"}
        client.flushall()
        # Whoever writes next notices at once.
        await one.presence_join("room", await one.new_channel(), "dora")
        await counted(one, 4, 5)
    # Nobody is told that somebody joined who was told of before; of them, there are numbers.
    joined: dict[str, Any] = {}
    while (event := await next_of(hears))["members"] < 4:
        joined |= event["joined"]
    assert joined | event["joined"] == {"dora": {}}


@pytest.mark.parametrize("kind", list("uzlvoekd"))
async def test_evicted(make_layer: MakeLayer, client: redis.Redis, prefix: str, kind: str) -> None:
    """Full servers throw away what they like."""
    # Who lingers still does when the keys are deleted.
    one, two = make_layer(**QUICK | {"presence_linger": 1.0}), make_layer(**QUICK)
    for layer, ids in ((one, ("ann", "bob")), (two, ("carl", "dora"))):
        channel = await layer.new_channel()
        for id in ids:
            await layer.presence_join("room", channel, id)
    ends = await one.open_channel()
    await one.presence_join("room", ends.channel, "fred")
    one.close_channel(ends)
    while (await one.presence_count("room")).connections == 5:
        pass
    client.delete(*client.scan_iter(f"{prefix}:{kind}:*"))
    await one.presence_join("room", await one.new_channel(), "eve")
    await all_there(two, {"ann", "bob", "carl", "dora", "eve"})
    await asyncio.sleep(QUICK["presence_lease"] / 2)  # they have renewed it, and looked, meanwhile
    await all_there(two, {"ann", "bob", "carl", "dora", "eve"})


async def test_a_server_without_memory(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], **QUICK)
    first, second = await layer.open_channel(), await layer.open_channel()
    await layer.presence_join("room", first.channel, "ann")
    with restartable_server.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(CommandRefused, match=r"(?i)oom|maxmemory|memory"):
            await layer.presence_join("another", second.channel, "bob")
        assert not second.memberships
        client.config_set("maxmemory", 0)
    await layer.presence_join("another", second.channel, "bob")
    await all_there(layer, {"bob"}, "another")
    await all_there(layer, {"ann"})


async def test_a_failover_that_lost_the_last_writes(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    replica = RestartableServer()
    replica.start()
    try:
        with restartable_server.client() as client:
            client.config_set("repl-diskless-sync-delay", 0)
        with replica.client() as client:
            client.replicaof("127.0.0.1", str(restartable_server.port))
        async with Proxy("127.0.0.1", restartable_server.port) as proxy:
            failover = Failover(restartable_server, replica, proxy)
            layer = make_layer(hosts=[proxy.url])
            hears = await listener(layer)
            channel = await layer.new_channel()
            for id in ("ann", "bob"):
                await layer.presence_join("room", channel, id)
            await failover.replicated()
            failover.part()
            await layer.presence_join("room", channel, "carl")
            await layer.presence_leave("room", channel, "ann")
            for expected in (
                change(1, {"ann": {}}),
                change(2, {"bob": {}}),
                change(3, {"carl": {}}),
                change(2, left={"ann": "left"}),
            ):
                assert await next_of(hears) == expected
            failover.switch()
            await eventually(lambda: layer.stats().multiplexer.reconnects)  # type: ignore[union-attr]
            # Who was told to be gone lingers once more, as nobody knows why it is there.
            await counted(layer, 3, 2)
            assert set(await members(layer)) == {"ann", "bob", "carl"}
            assert not hears.unread
    finally:
        replica.kill()


async def test_sentinel(make_layer: MakeLayer) -> None:
    with Sentinels() as sentinels:
        # Both have a lease for as long as that may take.
        one, two = [make_layer(hosts=[sentinels.host], presence_lease=12) for _ in range(2)]
        hears = await listener(two)
        await one.presence_join("room", await one.new_channel(), "ann")
        await two.presence_join("room", await two.new_channel(), "bob")
        assert await next_of(hears) == change(1, {"ann": {}})
        assert await next_of(hears) == change(2, {"bob": {}})
        await asyncio.to_thread(sentinels.failover)
        while not hears.unread:  # it has not subscribed anew
            await one.group_send("room", {"type": "again"})
            await asyncio.sleep(0.01)
        await one.presence_join("room", await one.new_channel(), "carl")
        while (event := await hears.get())["type"] == "again":
            pass
        assert event["joined"] == {"carl": {}}
        await all_there(two, {"ann", "bob", "carl"})
        assert not hears.unread


# -- other ways to have groups --------------------------------------------------------------------


async def test_several_hosts(
    make_layer: MakeLayer, redis_url: str, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    hosts = [redis_url, restartable_server.url]
    one, two = [make_layer(hosts=hosts, **QUICK) for _ in range(2)]
    groups = [f"room-{number}" for number in range(20)]
    mailbox = await one.open_channel()
    for group in groups:
        await one.presence_join(group, mailbox.channel, "ann", {"in": group})
    for group in groups:
        assert await members(two, group) == {"ann": {"in": group}}
    with restartable_server.client() as client:
        assert client.dbsize() > 0
    one.close_channel(mailbox)
    for group in groups:
        async with asyncio.timeout(30):
            while await two.presence_count(group) != PresenceCount(0, 0):
                pass


async def test_groups_with_a_history(make_layer: MakeLayer) -> None:
    """Events are among the messages, in their order, and are not kept."""
    layer, other = make_layer(history=HISTORY), make_layer(history=HISTORY)
    hears = await listener(other, "room-1")
    channel = await layer.new_channel()
    for number in range(10):
        await layer.group_send("room-1", {"type": "chat", "n": number})
        await layer.presence_join("room-1", channel, f"user-{number}")
    for number in range(10):
        message: dict[str, Any] = await hears.get()
        assert (message["type"], message["n"]) == ("chat", number)
        assert await next_of(hears, "room-1") == change(number + 1, {f"user-{number}": {}})
    history = await other.group_history("room-1")
    assert [message["n"] for message in history.messages] == list(range(10))
