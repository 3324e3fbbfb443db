"""Histories when servers fail over or answers are lost, on several hosts, and encrypted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mpx_channels.layer import CommandRefused, Recovery
from tests.conftest import RestartableServer, eventually
from tests.inside import (
    hub_of,
    lead_to,
    names_of,
    put_back_clock,
)
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy

from .histories import GAP, HISTORY, all_known, away, got, nothing_more, numbers, send

# -- a server that takes another's place ------------------------------------------------------


class Failover:
    """A master and its replica, behind a proxy that leads to one of them."""

    def __init__(self, master: RestartableServer, replica: RestartableServer, proxy: Proxy) -> None:
        self.master = master
        self.replica = replica
        self.proxy = proxy

    async def replicated(self) -> None:
        """What the master has, the replica has."""
        with self.master.client() as master, self.replica.client() as replica:

            def same() -> bool:
                here, there = master.info("replication"), replica.info("replication")
                return (
                    there["master_link_status"] == "up"
                    and there["slave_repl_offset"] == here["master_repl_offset"]
                    and replica.dbsize() == master.dbsize()
                )

            await eventually(same)

    def part(self) -> None:
        """From now on, what the master gets is lost."""
        with self.replica.client() as client:
            client.replicaof("no", "one")

    def switch(self) -> None:
        """The replica is the master now."""
        lead_to(self.proxy, "127.0.0.1", self.replica.port)
        self.proxy.cut()


@pytest.fixture
async def failover(restartable_server: RestartableServer) -> AsyncIterator[Failover]:
    restartable_server.start()
    replica = RestartableServer()
    replica.start()
    try:
        with restartable_server.client() as client:
            client.config_set("repl-diskless-sync-delay", 0)
        with replica.client() as client:
            client.replicaof("127.0.0.1", str(restartable_server.port))
        async with Proxy("127.0.0.1", restartable_server.port) as proxy:
            yield Failover(restartable_server, replica, proxy)
    finally:
        replica.kill()


async def test_a_failover_with_writes_that_were_lost(
    make_layer: MakeLayer, failover: Failover
) -> None:
    layer = make_layer(hosts=[failover.proxy.url], history=HISTORY)
    mailbox, other = [await layer.open_channel(hooks=GAP) for _ in range(2)]
    await layer.group_add("room-1", mailbox.channel)
    await layer.group_add("room-2", other.channel)
    sent = await send(layer, "room-1", *range(5))
    await send(layer, "room-2", 0)
    await failover.replicated()
    failover.part()
    lost = await send(layer, "room-1", 5, 6)
    assert await got(mailbox, 7) == list(range(7))
    assert await got(other, 1) == [0]
    failover.switch()
    # Before anything is published: nobody can know whether something was lost.
    assert await got(mailbox, 1) == [("failover", ["room-1"], False, None)]
    assert await got(other, 1) == [("failover", ["room-2"], False, None)]
    joined = [await layer.open_channel() for _ in range(3)]
    recovery = await layer.group_add("room-1", joined[0].channel, since=sent[1])
    assert recovery is not None
    assert (recovery.recovered, recovery.replayed, recovery.reason) == (False, 3, "failover")
    assert await got(joined[0], 3) == [2, 3, 4]
    for position in (sent[4], lost[1]):
        recovery = await layer.group_add("room-1", joined[1].channel, since=position)
        assert recovery is not None
        assert (recovery.recovered, recovery.replayed, recovery.reason) == (False, 0, "failover")
    # The offsets of what was lost are given out again, in another epoch.
    again = await send(layer, "room-1", 7, 8)
    history = await layer.group_history("room-1", since=lost[1])
    assert (numbers(history), history.complete) == ([7, 8], False)
    assert [str(p)[17:] for p in again] == [str(p)[17:] for p in lost]
    for each in (mailbox, joined[0], joined[1]):
        assert await got(each, 2) == [7, 8]
        await nothing_more(each)
    recovery = await layer.group_add("room-1", joined[2].channel, since=sent[2])
    assert recovery is not None
    assert (recovery.recovered, recovery.replayed, recovery.reason) == (False, 4, "failover")
    assert await got(joined[2], 4) == [3, 4, 7, 8]
    assert await layer.group_add("room-1", joined[2].channel, since=again[0]) == Recovery(
        True, 1, again[1]
    )


async def test_a_replica_that_is_promoted_under_our_connections(
    make_layer: MakeLayer, failover: Failover
) -> None:
    """It could not say which server it is when they began."""
    layer = make_layer(hosts=[failover.proxy.url], history=HISTORY)
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("room-1", mailbox.channel)
    sent = await send(layer, "room-1", *range(5))
    assert await got(mailbox, 5) == list(range(5))
    await failover.replicated()
    failover.switch()
    await eventually(lambda: layer.stats().multiplexer.reconnects)  # type: ignore[union-attr]
    with pytest.raises(CommandRefused, match=r"(?i)read only"):
        await layer.group_send("room-1", {"type": "x", "n": 5})
    failover.part()
    assert await got(mailbox, 1) == [("failover", ["room-1"], False, None)]
    recovery = await layer.group_add("room-1", mailbox.channel, since=sent[2])
    assert recovery is not None
    assert (recovery.recovered, recovery.replayed, recovery.reason) == (False, 2, "failover")


async def test_a_server_without_memory_is_known(
    make_layer: MakeLayer, restartable_server: RestartableServer, prefix: str
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], history=HISTORY)
    await send(layer, "room-1", 0)
    with restartable_server.client() as client:
        client.set(f"{prefix}:s:", "another one")
        client.config_set("maxmemory", 1)
        client.client_kill_filter(_type="normal", skipme=True)
        own = client.info("replication")["master_replid"].encode()  # type: ignore[index]
        await eventually(lambda: client.get(f"{prefix}:s:") == own)


async def test_positions_from_before_many_failovers(
    make_layer: MakeLayer, outside: Outside
) -> None:
    """Whoever comes back after a night in which the server was restarted, again and again."""
    layer = make_layer(history=HISTORY)
    _, _, _, server = names_of(layer).history("room-1")
    sent: list[str | None] = []
    for n in range(20):
        sent += await send(layer, "room-1", n)
        _, _, of_the_node = outside.at(server).get(server).partition(b" ")  # type: ignore[union-attr]
        outside.at(server).set(server, b"server-%d %b" % (n, of_the_node))
    for n in range(20):
        mailbox = await layer.open_channel()
        recovery = await layer.group_add("room-1", mailbox.channel, since=sent[n])
        replayed, reason = (19 - n, "failover") if n >= 4 else (0, "epoch")
        assert recovery is not None
        assert (recovery.recovered, recovery.replayed, recovery.reason) == (False, replayed, reason)
        assert await got(mailbox, replayed) == list(range(n + 1, 20))[:replayed]
    assert numbers(await layer.group_history("room-1", since=sent[9])) == list(range(10, 20))


async def test_a_key_is_known_across_a_failover(make_layer: MakeLayer, failover: Failover) -> None:
    layer = make_layer(hosts=[failover.proxy.url], history=HISTORY)
    first = await layer.group_send("room-1", {"type": "x"}, idempotency_key="a")
    await failover.replicated()
    failover.part()
    failover.switch()
    await eventually(lambda: layer.stats().multiplexer.reconnects)  # type: ignore[union-attr]
    assert await layer.group_send("room-1", {"type": "x"}, idempotency_key="a") == first


async def test_a_server_that_was_restarted_empty(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], history=HISTORY)
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("room-1", mailbox.channel)
    await send(layer, "room-1", 0)
    assert await got(mailbox, 1) == [0]
    restartable_server.kill()
    restartable_server.start()
    assert await got(mailbox, 1) == [("epoch", ["room-1"], False, None)]
    await send(layer, "room-1", 1)
    assert await got(mailbox, 1) == [1]


# -- all that it works with -------------------------------------------------------------------


async def test_encryption(make_layer: MakeLayer, proxy: Proxy) -> None:
    config = {"history": HISTORY, "symmetric_encryption_keys": ["secret"]}
    layer, sender = make_layer(hosts=[proxy.url], **config), make_layer(**config)
    mailbox = await layer.open_channel(hooks=GAP)
    sent = await send(sender, "room-1", 0, 1, 2)
    assert await layer.group_add("room-1", mailbox.channel, since=sent[0]) == Recovery(
        True, 2, sent[-1]
    )
    await send(sender, "room-1", 3)
    assert await got(mailbox, 3) == [1, 2, 3]
    async with away(layer, proxy):
        await send(sender, "room-1", 4, 5)
    assert await got(mailbox, 3) == [("reconnect", ["room-1"], True, 0), 4, 5]
    assert numbers(await sender.group_history("room-1", sent[0])) == [1, 2, 3, 4, 5]


async def test_old_messages_of_a_history_can_be_decrypted(make_layer: MakeLayer) -> None:
    """Their time is checked against the history's, not against ``expiry``."""
    layer = make_layer(
        history={"*": {"size": 10, "ttl": 3600}}, symmetric_encryption_keys=["secret"], expiry=1
    )
    put_back_clock(layer, 600)
    sent = await send(layer, "room", 0, 1)
    put_back_clock(layer, 0)
    mailbox = await layer.open_channel()
    await layer.group_add("room", mailbox.channel, since=sent[0])
    assert await got(mailbox, 1) == [1]


async def test_exclude(make_layer: MakeLayer) -> None:
    layer = make_layer(history=HISTORY)
    mailboxes = [await layer.open_channel() for _ in range(2)]
    await layer.group_add("room-1", mailboxes[0].channel)
    first = (await send(layer, "room-1", 0))[0]
    exclude = [mailboxes[0].channel]
    await layer.group_send("room-1", {"type": "x", "n": 1}, exclude=exclude)
    await layer.group_send("room-1", {"type": "x", "n": 2}, exclude=[mailboxes[1].channel])
    await send(layer, "room-1", 3)
    assert await got(mailboxes[0], 3) == [0, 2, 3]
    await layer.group_add("room-1", mailboxes[1].channel, since=first)
    assert await got(mailboxes[1], 2) == [1, 3]


async def test_wildcards(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer, sender = make_layer(hosts=[proxy.url], history=HISTORY), make_layer(history=HISTORY)
    both, wild = [await layer.open_channel(hooks=GAP) for _ in range(2)]
    for mailbox in (both, wild):
        await layer.group_pattern_add("room-*", mailbox.channel)
    sent = await send(sender, "room-1", 0)
    event = await wild.get()
    assert event == {"type": "x", "n": 0, "mpx_group": "room-1", "mpx_position": sent[0]}
    assert await got(both, 1) == [0]
    await send(sender, "room-1", 1)
    assert await got(both, 1) == [1]
    # Replayed what it may have had: it is asked for. From then on each comes once.
    await layer.group_add("room-1", both.channel, since=sent[0])
    await send(sender, "room-1", 2, 2)
    assert await got(both, 3) == [1, 2, 2]
    assert await got(wild, 3) == [1, 2, 2]
    async with away(layer, proxy):
        await send(sender, "room-1", 3)
    assert await got(wild, 1) == [("reconnect", ["room-*"], False, None)]
    assert await got(both, 3) == [
        ("reconnect", ["room-*"], False, None),
        ("reconnect", ["room-1"], True, 0),
        3,
    ]
    await send(sender, "room-1", 4)
    for mailbox in (both, wild):
        assert await got(mailbox, 1) == [4]
        await nothing_more(mailbox)


@pytest.fixture
def second_server(server: object) -> Iterator[RestartableServer]:
    second = RestartableServer()
    second.start()
    yield second
    second.kill()


async def test_several_hosts(
    make_layer: MakeLayer, redis_url: str, second_server: RestartableServer
) -> None:
    """Only those on the server that was away missed something."""
    config = {"hosts": [redis_url, second_server.url], "history": HISTORY}
    layer, sender = make_layer(**config), make_layer(**config)
    mailbox = await layer.open_channel(hooks=GAP)
    groups = [f"room-{n}" for n in range(20)]
    await asyncio.gather(*[layer.group_add(group, mailbox.channel) for group in groups])
    sent = {group: (await send(sender, group, 0))[0] for group in groups}
    assert await got(mailbox, 20) == [0] * 20
    await eventually(lambda: all_known(layer))
    hub = hub_of(layer)
    second = hub.multiplexer.nodes[1]
    there = {g for g in groups if hub.multiplexer.node_of(names_of(layer).group(g)) is second}
    assert 0 < len(there) < 20
    with second_server.client() as client:
        client.client_kill_filter(_type="pubsub", skipme=True)
        assert await layer.group_send_many([(g, {"type": "x", "n": 1}) for g in groups])
    for group in groups:
        joined = await layer.open_channel()
        recovery = await layer.group_add(group, joined.channel, since=sent[group])
        assert recovery is not None
        assert (recovery.recovered, recovery.replayed) == (True, 1)
    events: list[Any] = []
    while events.count(1) < 20:
        events += await got(mailbox, 1)
    for event in events:
        if event != 1:
            assert event[0] == "reconnect"
            assert set(event[1]) <= there
            assert event[2] is True
    await nothing_more(mailbox)
