"""How a cluster is found, and how one lets go of it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from mpx_channels.multiplexer import MultiplexerStopped, NotConnected
from mpx_channels.multiplexer.cluster import pace, scout
from mpx_channels.multiplexer.cluster.agreement import Agreement
from mpx_channels.multiplexer.cluster.multiplexer import ClusterMultiplexer
from tests.clusters import Cluster, slot_of
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.proxy import Proxy, free_port

from .conftest import New
from .traffic import Traffic

Start = Callable[..., Awaitable[Traffic]]


@pytest.fixture
def lonely() -> Iterator[Cluster]:
    """One master, which has all slots."""
    with Cluster(masters=1) as running:
        yield running


def nowhere() -> str:
    return f"redis://127.0.0.1:{free_port()}"


async def test_all_seeds_but_one_are_wrong(
    cluster: Cluster, new: New, restartable_server: RestartableServer
) -> None:
    restartable_server.start()  # which is no cluster
    mpx = new([nowhere(), restartable_server.url, nowhere(), cluster.seeds[2]])
    await mpx.start()
    await mpx.wait_connected(30)
    assert {str(node) for node in mpx.nodes} == set(cluster.seeds)
    assert await mpx.publish("any", b"x") == 0


async def test_nodes_that_are_slow_get_more_time_at_each_attempt(
    cluster: Cluster, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scout, "PATIENCE", 0.0001)
    mpx = new(cluster.seeds)
    await mpx.start()
    await eventually(lambda: "no answer in 0.000" in str(mpx.last_error))
    await mpx.wait_connected(30)
    assert mpx.last_error is None


async def test_the_first_seed_is_away_and_has_the_password(server: object, new: New) -> None:
    with Cluster(password="secret") as running:
        first = nowhere().replace("://", "://:secret@")
        mpx = new([first, f"redis://127.0.0.1:{running.nodes[1].port}"])
        await mpx.start()
        await mpx.wait_connected(30)
        assert await mpx.publish("any", b"x") == 0
        await mpx.stop()


async def test_all_seeds_are_wrong(new: New, restartable_server: RestartableServer) -> None:
    restartable_server.start()
    away = nowhere()
    mpx = new([away, restartable_server.url], backlog_timeout=0.3)
    await mpx.start()
    await eventually(lambda: mpx.last_error)
    with pytest.raises(NotConnected, match=r"no node of the cluster took this in 0\.3 s") as one:
        await mpx.publish("any", b"x")
    with pytest.raises(NotConnected) as other:
        await mpx.wait_connected(0.5)
    for raised in (one, other):
        why = f"{restartable_server.url} is no node of a cluster, or refuses to say"
        assert why in str(raised.value)
        assert away in str(raised.value)
    with pytest.raises(ValueError, match="node must be one of"):
        mpx.command(b"PING", node=mpx.node)


async def test_nodes_are_reached_at_other_addresses_than_they_announce(
    cluster: Cluster, new: New
) -> None:
    proxies = {node.announced: Proxy("127.0.0.1", node.port) for node in cluster.nodes}
    for proxy in proxies.values():
        await proxy.accept()

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        host, port = re.fullmatch(r"redis://(.*):(\d+)", proxies[address[1]].url).groups()  # type: ignore[union-attr]
        return host, int(port)

    try:
        first = next(iter(proxies.values()))
        mpx = new([first.url], address_remap=remap)
        await mpx.start()
        await mpx.wait_connected(30)
        assert {str(node) for node in mpx.nodes} == {proxy.url for proxy in proxies.values()}
        for number in range(20):
            assert await mpx.publish(str(number), b"x") == 0
        assert all(proxy.accepted >= 2 for proxy in proxies.values())
        await mpx.stop()
    finally:
        for proxy in proxies.values():
            await proxy.__aexit__()


class Breakable:
    """An `address_remap` that changes nothing, and raises while it is broken."""

    broken = False

    def __call__(self, address: tuple[str, int]) -> tuple[str, int]:
        if self.broken:
            raise LookupError("who is that?")
        return address


async def test_a_remap_that_raises_is_said_and_tried_again(cluster: Cluster, new: New) -> None:
    remap = Breakable()
    remap.broken = True
    mpx = new(cluster, address_remap=remap)
    await mpx.start()
    await eventually(lambda: mpx.last_error)
    with pytest.raises(NotConnected, match="who is that"):
        await mpx.wait_connected(0.5)
    remap.broken = False
    await mpx.wait_connected(30)


@pytest.mark.parametrize(
    "returned", [None, "10.0.0.1:6379", ("10.0.0.1",), (None, 1), ("10.0.0.1", 0), {}], ids=repr
)
async def test_what_is_no_address_is_said(cluster: Cluster, new: New, returned: Any) -> None:
    mpx = new(cluster, address_remap=lambda address: returned)
    await mpx.start()
    await eventually(lambda: mpx.last_error)
    says = rf"address_remap returned {re.escape(repr(returned))} for .*, and not \(host, port\)"
    with pytest.raises(NotConnected, match=says):
        await mpx.wait_connected(0.5)


async def test_addresses_of_other_types(cluster: Cluster, new: New) -> None:
    mpx = new(cluster, address_remap=lambda address: [address[0], str(address[1])])
    await mpx.start()
    await mpx.wait_connected(30)
    assert {str(node) for node in mpx.nodes} == set(cluster.seeds)
    assert await mpx.publish("any", b"x") == 0


async def test_a_remap_that_raises_of_a_slot_on_its_way(cluster: Cluster, new: New) -> None:
    """ASK names a node: the command fails, and the connection that it came over stays."""
    remap = Breakable()
    mpx = new(cluster, address_remap=remap)
    await mpx.start()
    await mpx.wait_connected(30)
    key = b"on-its-way"
    source = cluster.master_of(key)
    target = next(node for node in cluster.masters if node is not source)
    steps = cluster.migrating(slot_of(key), target)
    for step in steps:
        if step == "migrating":
            break
    try:
        remap.broken = True
        with pytest.raises(NotConnected, match="address_remap raised LookupError"):
            await mpx.command(b"GET", key)
        assert mpx.stats().reconnects == 0
        remap.broken = False
        assert await mpx.command(b"GET", key) is None
    finally:
        list(steps)
        cluster.migrate_slot(slot_of(key), source)


async def test_a_cluster_of_one(lonely: Cluster, traffic: Start) -> None:
    running: Traffic = await traffic(lonely, ["a", "b"])
    raw = running.receiver.new_channel_subscription(lambda name, data: None, classic=True)
    raw.add("raw")
    await raw.wait_for_activation("raw")
    assert await running.sender.publish_soon("raw", b"x", classic=True) == 1
    lonely.restart(lonely.nodes[0])
    await running.end()
    assert running.told == {"a", "b"}
    assert (await running.receiver.healthy(PATIENCE)).ok


async def test_it_can_be_started_again(cluster: Cluster, new: New) -> None:
    mpx = new(cluster)
    got: list[bytes] = []
    subscription = mpx.new_channel_subscription(lambda name, data: got.append(data))
    subscription.add("name")
    mpx.probe_over("probe")
    for number in range(3):
        await mpx.start()
        await asyncio.wait_for(subscription.wait_for_activation("name"), 30)
        assert await mpx.publish("name", b"%d" % number) == 1
        await eventually(lambda number=number: got[-1:] == [b"%d" % number])
        assert (await mpx.healthy(PATIENCE)).ok
        await mpx.stop()
        assert not mpx.running
        with pytest.raises(MultiplexerStopped):
            await mpx.publish("name", b"x")
        with pytest.raises(MultiplexerStopped):
            await mpx.wait_connected(1)


async def test_before_it_is_started(cluster: Cluster, new: New) -> None:
    mpx = new(cluster)
    with pytest.raises(MultiplexerStopped, match=r"await start\(\) first"):
        await mpx.publish("name", b"x")
    await mpx.stop()


async def test_stop_does_not_wait_for_what_waits(new: New) -> None:
    """For a node that says who has which slots."""
    mpx = new([nowhere()], backlog_timeout=60.0)
    await mpx.start()
    waiting = [mpx.publish_soon("name", b"x") for _ in range(3)]
    cancelled = mpx.publish_soon("name", b"x")
    cancelled.cancel()
    connecting = asyncio.create_task(mpx.wait_connected())
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        await mpx.stop()
        for each in waiting:
            with pytest.raises(MultiplexerStopped):
                await each
        with pytest.raises(MultiplexerStopped):
            await connecting


async def test_stop_while_a_master_is_stopped(own_cluster: Cluster, new: New) -> None:
    mpx = new(own_cluster, connect_timeout=PATIENCE)
    await mpx.start()
    await mpx.wait_connected(PATIENCE)
    node = own_cluster.nodes[0]
    node.freeze()
    try:
        waiting = mpx.publish_soon(own_cluster.key_at(own_cluster.nodes[1]), b"x")
        frozen = next(name for name in map(str, range(99)) if str(mpx.node_of(name)) == node.url)
        unanswered = mpx.publish_soon(frozen, b"x")
        started = time.monotonic()
        await mpx.stop()
        # What it promises is a second; here the point is that it is no timeout of ours.
        assert time.monotonic() - started < PATIENCE
        await waiting
        assert unanswered.exception() is not None
    finally:
        node.thaw()


def test_a_loop_that_was_closed(cluster: Cluster) -> None:
    """Without a stop."""
    mpx = ClusterMultiplexer(cluster.seeds)

    async def use() -> None:
        await mpx.start()
        subscription = mpx.new_channel_subscription(lambda name, data: None)
        subscription.add("name")
        await asyncio.wait_for(subscription.wait_for_activation("name"), 30)
        assert await mpx.publish("name", b"x") == 1

    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()
    mpx.abandon()
    assert not mpx.running
    with pytest.raises(MultiplexerStopped):
        mpx.publish_soon("name", b"x")
    for node in cluster.nodes:
        with node.client() as client:
            assert not [each for each in client.client_list() if each["flags"] == "P"]


def test_a_loop_that_ends_without_a_stop(cluster: Cluster) -> None:
    """`asyncio.run` cancels what runs, and the next loop may start it."""
    mpx = ClusterMultiplexer(cluster.seeds)
    subscription = mpx.new_channel_subscription()
    subscription.add("name")

    async def life() -> None:
        await mpx.start()
        await asyncio.wait_for(subscription.wait_for_activation("name"), 30)
        assert await mpx.publish("name", b"x") == 1

    for _ in range(3):
        asyncio.run(life())
        assert not mpx.running


async def test_another_number_is_noted(cluster: Cluster, new: New) -> None:
    def agreement(value: str) -> Agreement:
        return Agreement("agreed", value, what="the number", todo="choose one")

    one, other = new(cluster, agreement=agreement("1")), new(cluster, agreement=agreement("2"))
    await one.start()
    assert await one.publish("name", b"x") == 0
    early = other.new_channel_subscription(lambda name, data: None)
    early.add("early")
    await other.start()
    why = r"the number is 2 here and 1 in other processes .*'agreed'.*choose one"
    waiting = asyncio.create_task(early.wait_for_activation("early"))
    with pytest.raises(Exception, match=why):
        await asyncio.wait_for(other.publish("name", b"x"), 30)
    with pytest.raises(Exception, match=why):
        await asyncio.wait_for(waiting, 30)
    with pytest.raises(Exception, match=why):
        await other.publish("name", b"x")
    with pytest.raises(NotConnected, match=why):
        await other.wait_connected()
    late = other.new_channel_subscription(lambda name, data: None)
    late.add("late")
    with pytest.raises(Exception, match=why):
        await asyncio.wait_for(late.wait_for_activation("late"), 30)
    for name in ("early", "late"):
        assert (await one.numsub(name)[0])[:2] == [name.encode(), 0]
    await other.stop()
    await one.stop()
    # Whoever has changed it starts anew.
    cluster.master_of("agreed").ask("DEL", "agreed")
    await other.start()
    await asyncio.wait_for(late.wait_for_activation("late"), 30)
    cluster.master_of("agreed").ask("DEL", "agreed")


async def test_a_number_that_got_lost_is_noted_again(
    cluster: Cluster, new: New, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else whoever comes then could have another one."""
    monkeypatch.setattr(pace, "EVERY", 0.05)
    mpx = new(cluster, agreement=Agreement("kept", "1", what="the number", todo="choose one"))
    await mpx.start()
    await mpx.wait_connected(30)
    master = cluster.master_of("kept")
    master.ask("DEL", "kept")
    await eventually(lambda: master.ask("GET", "kept") == b"1")
    # Who was there before goes on, whatever others have noted meanwhile.
    master.ask("SET", "kept", "2")
    await eventually(lambda: "do not hear this one: the number is 1 here and 2" in caplog.text)
    assert await mpx.publish("name", b"x") == 0
    await mpx.stop()
    master.ask("DEL", "kept")


async def test_the_log_names_the_masters_once(
    cluster: Cluster, new: New, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mpx_channels.multiplexer")
    mpx = new(cluster)
    await mpx.start()
    await mpx.wait_connected(30)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert said == [f"The cluster's 3 masters: {', '.join(sorted(cluster.seeds))}"]
