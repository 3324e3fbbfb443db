"""Commands that a node sends away, or will not do for the moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mpx_channels.multiplexer import CommandRefused, Multiplexer, NotConnected
from mpx_channels.multiplexer.cluster import pace
from mpx_channels.multiplexer.cluster.multiplexer import ClusterMultiplexer
from mpx_channels.multiplexer.scripts import FrequentScript
from tests.clusters import Cluster, Node, slot_of
from tests.conftest import PATIENCE, eventually

from .conftest import New

APPEND = b"return redis.call('RPUSH', KEYS[1], ARGV[1])"
BOTH = b"return {redis.call('RPUSH', KEYS[1], ARGV[1]), redis.call('RPUSH', KEYS[2], ARGV[1])}"


def append(mpx: ClusterMultiplexer, key: str, value: int) -> asyncio.Future[Any]:
    return mpx.command(b"EVAL", APPEND, b"1", key.encode(), b"%d" % value)


def numbers(node: Node, key: str) -> list[int]:
    return [int(each) for each in node.ask("LRANGE", key, 0, -1)]


def two(cluster: Cluster, key: str) -> tuple[Node, Node]:
    """The master of a key, and another one."""
    source = cluster.master_of(key)
    return source, next(node for node in cluster.nodes if node is not source)


def misses(node: Node) -> int:
    """Calls of EVAL that were refused."""
    return int(node.info("commandstats").get("cmdstat_eval", {}).get("rejected_calls", 0))


async def test_moved(cluster: Cluster, new: New, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no name there does not hear of it, and is told by its next command."""
    monkeypatch.setattr(pace, "EVERY", 1000.0)
    rest, rests = pace.Pace.rest, []

    async def noted(self: pace.Pace, *, news: bool, well: bool) -> None:
        rests.append(well)
        await rest(self, news=news, well=well)

    monkeypatch.setattr(pace.Pace, "rest", noted)
    mpx = new(cluster)
    await mpx.start()
    await eventually(lambda: any(rests))  # until all connections stand it looks again and again
    source, target = two(cluster, "{m}")
    assert await append(mpx, "{m}", 0) == 1
    await asyncio.to_thread(cluster.migrate_slot, slot_of("{m}"), target, how=how)
    assert str(mpx.node_of("{m}")) == source.url
    answers = await asyncio.gather(*[append(mpx, "{m}", value) for value in range(1, 50)])
    assert answers == list(range(2, 51))
    assert str(mpx.node_of("{m}")) == target.url
    assert numbers(target, "{m}") == list(range(50))
    assert await mpx.publish("{m}", b"x") == 0
    target.ask("DEL", "{m}")
    await asyncio.to_thread(cluster.migrate_slot, slot_of("{m}"), source, how=how)
    cluster.wait_ok()


async def test_asked(cluster: Cluster, new: New) -> None:
    """A key that is not there any more, or not yet, is where the slot goes to."""
    mpx = new(cluster)
    await mpx.start()
    source, target = two(cluster, "{a}")
    await append(mpx, "{a}old", 0)
    value = 0
    for step in cluster.migrating(slot_of("{a}"), target):
        for _ in range(5):
            value += 1
            answers = [append(mpx, f"{{a}}{kind}", value) for kind in ("old", "new")]
            await asyncio.gather(*answers)
        if step == "migrating":
            assert numbers(source, "{a}old") == list(range(value + 1))
            with target.client() as client:
                client.execute_command("ASKING")
    assert numbers(target, "{a}old") == list(range(value + 1))
    # Those from before the migration came along.
    assert numbers(target, "{a}new") == list(range(1, value + 1))
    target.ask("DEL", "{a}old", "{a}new")
    await asyncio.to_thread(cluster.migrate_slot, slot_of("{a}"), source)
    cluster.wait_ok()


async def test_asked_for_a_node_without_slots(own_cluster: Cluster, new: New) -> None:
    """A connection to it comes and goes."""
    mpx = new(own_cluster)
    await mpx.start()
    source = own_cluster.master_of("{a}")
    added = await asyncio.to_thread(own_cluster.add_node)
    steps = own_cluster.migrating(slot_of("{a}"), added)
    while next(steps) != "migrating":
        pass
    await asyncio.gather(*[append(mpx, "{a}", value) for value in range(20)])
    assert str(mpx.node_of("{a}")) == source.url
    assert [str(node) for node in mpx.nodes].count(added.url) == 0
    for _ in steps:
        pass
    await append(mpx, "{a}", 20)
    await eventually(lambda: str(mpx.node_of("{a}")) == added.url)
    assert numbers(added, "{a}") == list(range(21))

    def ours() -> int:
        with added.client() as client:
            return sum(each["flags"] in "PN" for each in client.client_list())

    await eventually(lambda: ours() == 3)  # two, and who asks


async def test_asked_for_a_node_that_the_remap_does_not_know(
    own_cluster: Cluster, new: New
) -> None:
    """Whoever asked is told; the connection that said it stays."""
    ports = {node.announced for node in own_cluster.nodes}

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        if address[1] not in ports:
            raise LookupError("who is that?")
        return address

    mpx = new(own_cluster, address_remap=remap)
    await mpx.start()
    assert await append(mpx, "{a}old", 0) == 1
    added = await asyncio.to_thread(own_cluster.add_node)
    steps = own_cluster.migrating(slot_of("{a}"), added)
    while next(steps) != "migrating":
        pass
    for _ in range(3):
        with pytest.raises(NotConnected, match=r"address_remap raised LookupError\('who is that"):
            await asyncio.wait_for(append(mpx, "{a}new", 1), PATIENCE)
    assert mpx.stats().reconnects == 0
    ports.add(added.announced)
    assert await append(mpx, "{a}new", 1) == 1


@pytest.mark.parametrize("kind", ["hostname", "unknown-endpoint"])
async def test_asked_for_a_node_that_says_no_host(kind: str, server: object, new: New) -> None:
    """It is at the host of the node that says so."""
    with Cluster(config={"cluster-preferred-endpoint-type": kind}) as running:
        mpx = new(running)
        await mpx.start()
        _, target = two(running, "{a}")
        assert await append(mpx, "{a}old", 0) == 1
        steps = running.migrating(slot_of("{a}"), target)
        while next(steps) != "migrating":
            pass
        assert await append(mpx, "{a}new", 1) == 1
        assert len(mpx.nodes) == len(running.masters)


async def test_whoever_takes_a_node_for_a_server_is_told(cluster: Cluster) -> None:
    _, other = two(cluster, "{a}")
    mpx = Multiplexer(other.url)
    await mpx.start()
    try:
        for keys in ([b"{a}"], [b"{a}", b"{b}"]):
            words = (b"EVAL", APPEND, b"%d" % len(keys), *keys, b"x")
            with pytest.raises(CommandRefused, match="it is a node of a cluster: set 'cluster'"):
                await mpx.command(*words)
    finally:
        await mpx.stop()


async def test_try_again(cluster: Cluster, new: New) -> None:
    """Of two keys, one is here and one is there."""
    mpx = new(cluster)
    await mpx.start()
    source, target = two(cluster, "{t}")
    keys = (b"{t}1", b"{t}2")
    for key in keys:
        await append(mpx, key.decode(), 0)
    steps = cluster.migrating(slot_of("{t}"), target)
    while next(steps) != "migrating":
        pass
    source.ask("MIGRATE", "127.0.0.1", target.port, "{t}1", 0, 5000)
    before = misses(source)
    waiting = [mpx.command(b"EVAL", BOTH, b"2", *keys, b"%d" % value) for value in range(1, 30)]
    await eventually(lambda: misses(source) > before + 30)  # and not once only
    assert not any(each.done() for each in waiting)
    for _ in steps:
        waiting.append(mpx.command(b"EVAL", BOTH, b"2", *keys, b"%d" % (len(waiting) + 1)))
    await asyncio.gather(*waiting)
    for key in keys:
        assert numbers(target, key.decode()) == list(range(len(waiting) + 1))
        target.ask("DEL", key)
    await asyncio.to_thread(cluster.migrate_slot, slot_of("{t}"), source)
    cluster.wait_ok()


async def test_try_again_for_too_long(cluster: Cluster, new: New) -> None:
    mpx = new(cluster, backlog_timeout=0.3)
    await mpx.start()
    source, target = two(cluster, "{l}")
    keys = (b"{l}1", b"{l}2")
    await append(mpx, "{l}1", 0)
    steps = cluster.migrating(slot_of("{l}"), target)
    while next(steps) != "migrating":
        pass
    with pytest.raises(CommandRefused, match=rf"{source.url} refused the command: .*"):
        await mpx.command(b"EVAL", BOTH, b"2", *keys, b"1")
    for _ in steps:
        pass
    await mpx.command(b"EVAL", BOTH, b"2", *keys, b"1")
    target.ask("DEL", *keys)
    await asyncio.to_thread(cluster.migrate_slot, slot_of("{l}"), source)
    cluster.wait_ok()


async def test_cluster_down(own_cluster: Cluster, new: New) -> None:
    """A master is dead, and nobody takes its place: the others do nothing either."""
    for replica in own_cluster.replicas:
        replica.ask("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    patient, other = new(own_cluster, backlog_timeout=60.0), new(own_cluster, backlog_timeout=2.0)
    for mpx in (patient, other):
        await mpx.start()
        await mpx.wait_connected(30)
    dead = own_cluster.nodes[0]
    alive = own_cluster.nodes[1]
    key = own_cluster.key_at(alive)
    own_cluster.kill(dead)
    await eventually(lambda: alive.info("cluster_info")["cluster_state"] == "fail")
    waiting = [append(patient, key, value) for value in range(50)]
    with pytest.raises(CommandRefused, match=rf"{alive.url} refused the command: .*down"):
        await append(other, key, 100)
    assert not any(each.done() for each in waiting)
    await asyncio.to_thread(own_cluster.restart, dead)
    answers = await asyncio.gather(*waiting)
    assert answers == list(range(1, 51))
    assert numbers(alive, key) == list(range(50))


async def test_a_cluster_that_is_down_is_not_asked_all_the_time(
    own_cluster: Cluster, new: New
) -> None:
    for replica in own_cluster.replicas:
        replica.ask("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    mpx = new(own_cluster, backlog_timeout=60.0)
    await mpx.start()
    await mpx.wait_connected(30)
    dead, *alive = own_cluster.nodes[:3]
    own_cluster.kill(dead)
    await eventually(lambda: alive[0].info("cluster_info")["cluster_state"] == "fail")
    for node in alive:
        node.ask("CONFIG", "RESETSTAT")
    waiting = [append(mpx, own_cluster.key_at(node), 1) for node in alive for _ in range(10)]
    await asyncio.sleep(4.0)

    def calls(command: str) -> int:
        return sum(
            sum(stats["calls"] + stats.get("rejected_calls", 0))
            if isinstance(stats["calls"], list)
            else stats["calls"] + stats.get("rejected_calls", 0)
            for node in alive
            for name, stats in node.info("commandstats").items()
            if name == f"cmdstat_{command}"
        )

    # 20 ms, 40 ms, and so on, then one a second.
    assert 2 <= calls("cluster|slots") < 20
    # Ten commands at each of two nodes, after 0.05 s, and ever longer, up to half a second.
    assert calls("eval") < 2 * 10 * 20
    for each in waiting:
        each.cancel()


async def test_a_script_that_the_other_node_does_not_know(
    cluster: Cluster, new: New, how: str
) -> None:
    """Calls that were led on to it do not fall behind those that were meant for it."""
    mpx = new(cluster)
    await mpx.start()
    source, target = two(cluster, "{s}")
    await mpx.wait_connected(30)
    scripts = {
        str(node): FrequentScript(f"{APPEND.decode()} -- {how}", mpx, node) for node in mpx.nodes
    }
    calls = []
    value = 0

    def call() -> None:
        nonlocal value
        script = scripts[str(mpx.node_of("{s}"))]
        calls.append(asyncio.create_task(script("{s}", b"%d" % value)))
        value += 1

    moving = asyncio.create_task(
        asyncio.to_thread(cluster.migrate_slot, slot_of("{s}"), target, how=how)
    )
    while not moving.done() or str(mpx.node_of("{s}")) != target.url:
        for _ in range(3):
            call()
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    for _ in range(10):
        call()
    await asyncio.gather(moving, *calls)
    assert numbers(target, "{s}") == list(range(value))
    target.ask("DEL", "{s}")
    await asyncio.to_thread(cluster.migrate_slot, slot_of("{s}"), source, how=how)
    cluster.wait_ok()
