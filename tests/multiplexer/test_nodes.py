"""A multiplexer of several nodes: real servers, of which one may go away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from mpx_channels.multiplexer import (
    ConnectionLost,
    Multiplexer,
    Node,
    NotConnected,
    PromiseDisconnected,
    SentinelNode,
    SubscriptionRefused,
)
from mpx_channels.multiplexer.topology import Topology
from tests.inside import subscribers_of

from ..conftest import RestartableServer, eventually, missing
from .conftest import NewMultiplexer
from .recorder import Recorder

NAMES = [f"name-{number}" for number in range(300)]


@pytest.fixture
def other_server(restartable_server: RestartableServer) -> Iterator[RestartableServer]:
    """A second server besides the session's, that runs."""
    restartable_server.start()
    return restartable_server


@pytest.fixture
async def both(
    new_multiplexer: NewMultiplexer, redis_url: str, other_server: RestartableServer
) -> Multiplexer:
    """Connected to the session's server and to the other one."""
    options = {"backlog_timeout": 0.3, "max_backoff": 0.05, "unsubscribe_delay": 0}
    mpx = new_multiplexer([redis_url, other_server.url], **options)
    await mpx.start()
    await mpx.wait_connected(10)
    return mpx


def split(mpx: Multiplexer) -> tuple[list[str], list[str]]:
    """The names that live on the first node, and those on the second."""
    first, second = mpx.nodes
    return (
        [name for name in NAMES if mpx.node_of(name) is first],
        [name for name in NAMES if mpx.node_of(name) is second],
    )


# -- which node a name lives on --------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 10, 100])
def test_names_are_shared_out_as_channels_redis_does(count: int) -> None:
    try:
        from channels_redis.utils import _consistent_hash
    except ImportError:
        missing("channels_redis is not installed")
    topology = Topology([Node(f"redis://host-{number}") for number in range(count)])
    for name in (*NAMES, "", "ü", "x" * 5000):
        index = _consistent_hash(name, count)
        assert topology.node_of(name.encode()) is topology.nodes[index]
    used = {topology.node_of(name.encode()) for name in NAMES}
    assert len(used) == min(count, len(used)) > count / 2


def test_the_same_names_in_str_and_bytes() -> None:
    mpx = Multiplexer(["redis://a", "redis://b"])
    for name in NAMES:
        assert mpx.node_of(name) is mpx.node_of(name.encode()) is mpx.server_of(name)


def test_one_node_has_every_name() -> None:
    for url in ("redis://a", ["redis://a"], Node("redis://a"), (Node("redis://a"),)):
        mpx = Multiplexer(url)
        assert str(mpx.node) == "redis://a:6379"
        assert mpx.nodes == (mpx.node,)
        assert {mpx.node_of(name) for name in NAMES} == {mpx.node}


def test_a_multiplexer_needs_a_node() -> None:
    with pytest.raises(ValueError, match="at least one URL"):
        Multiplexer([])
    with pytest.raises(TypeError, match="must be a str"):
        Multiplexer([7])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("urls", "servers"),
    [
        (["redis://a/0", "redis://a/1", "redis://:secret@a:6379/2"], 1),
        (["redis://a", "redis://a:6380"], 2),
        (["unix:///a?db=1", "unix:///a?db=2", "unix:///b"], 2),
        (["redis://a", "rediss://a"], 2),
    ],
)
def test_databases_of_one_server_are_one_server(urls: list[str], servers: int) -> None:
    mpx = Multiplexer(urls)
    assert len(mpx.nodes) == len(urls)
    assert len(subscribers_of(mpx).all) == servers


def test_classes_of_other_people_are_told_apart_by_all_that_they_are_given() -> None:
    from redis.asyncio.connection import Connection

    class Resolving(Connection):
        def __init__(self, *, service: str, **options: Any) -> None:
            super().__init__(**options)

    def node(service: str, db: int) -> Node:
        options = {"connection_class": Resolving, "service": service, "db": db}
        return Node(options=options)

    nodes = [node("a", 0), node("a", 1), node("b", 0)]
    assert Topology(nodes).servers == (nodes[0], nodes[2])


def test_services_of_the_same_sentinels_are_told_apart() -> None:
    def node(name: str, *ports: int, db: int = 0) -> SentinelNode:
        return SentinelNode([("s", port) for port in ports], name, options={"db": db})

    nodes = [node("a", 1, 2), node("a", 2, 1, db=1), node("b", 1, 2)]
    assert Topology(nodes).servers == (nodes[0], nodes[2])


# -- at work ---------------------------------------------------------------------------------------


async def test_every_name_is_subscribed_to_where_it_is_published(both: Multiplexer) -> None:
    recorder = Recorder()
    sub = both.new_channel_subscription(*recorder.callbacks)
    sub.add(*NAMES)
    for name in NAMES:
        await sub.wait_for_activation(name)
    assert sorted(recorder.activations) == sorted(NAMES)
    assert await asyncio.gather(*[both.publish(name, name.encode()) for name in NAMES]) == [1] * 300
    await eventually(lambda: len(recorder.messages) == 300)
    assert sorted(recorder.messages) == sorted((name, name.encode()) for name in NAMES)
    for node, names in zip(both.nodes, split(both), strict=True):
        listed = await both.command(b"PUBSUB", b"CHANNELS", b"name-*", node=node)
        assert {name.decode() for name in listed} == set(names)
        assert len(names) > 50
    sub.clear()
    for node in both.nodes:
        async with asyncio.timeout(10):
            while await both.command(b"PUBSUB", b"CHANNELS", b"name-*", node=node):
                pass


async def test_a_pattern_hears_all_servers_once(both: Multiplexer) -> None:
    recorder, late = Recorder(), Recorder()
    pattern = both.new_pattern_subscription("name-*", *recorder.callbacks)
    await pattern.wait_for_activation()
    assert pattern.active
    assert pattern.pending() == ()
    second = both.new_pattern_subscription("name-*", *late.callbacks)
    await second.wait_for_activation()
    await asyncio.gather(*[both.publish(name, b"x") for name in NAMES])
    await eventually(lambda: len(recorder.messages) == len(late.messages) == 300)
    assert sorted(name for name, _ in recorder.messages) == sorted(NAMES)
    # Told once, though two servers have confirmed.
    assert recorder.activations == late.activations == ["name-*"]
    stats = both.stats()
    assert (stats.patterns, stats.listeners) == (1, 4)
    pattern.close()
    second.close()


async def test_databases_of_one_server_deliver_once(
    new_multiplexer: NewMultiplexer, redis_url: str
) -> None:
    mpx = new_multiplexer([f"{redis_url}/{db}" for db in range(3)])
    await mpx.start()
    recorder, by_pattern = Recorder(), Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add(*NAMES)
    pattern = mpx.new_pattern_subscription("name-*", *by_pattern.callbacks)
    await pattern.wait_for_activation()
    for name in NAMES:
        await sub.wait_for_activation(name)
    assert await asyncio.gather(*[mpx.publish(name, b"x") for name in NAMES]) == [2] * 300
    await eventually(lambda: len(recorder.messages) == len(by_pattern.messages) == 300)
    # Keys know databases.
    for name in NAMES[:9]:
        await mpx.command(b"SET", name.encode(), b"x", node=mpx.node_of(name))
    for node in mpx.nodes:
        names = {name.encode() for name in NAMES[:9] if mpx.node_of(name) is node}
        assert set(await mpx.command(b"KEYS", b"name-*", node=node)) == names
        if names:
            await mpx.command(b"DEL", *names, node=node)
    assert [node.db for node in mpx.stats().nodes] == [0, 1, 2]


async def test_commands_go_to_the_node_that_is_named(
    both: Multiplexer, redis_url: str, other_server: RestartableServer
) -> None:
    for node, url in zip(both.nodes, (redis_url, other_server.url), strict=True):
        info = await both.command(b"INFO", b"server", node=node)
        assert f"tcp_port:{url.rpartition(':')[2]}\r" in info.decode()
        assert await both.blocking_command(b"BLPOP", b"no-such-list", b"0.01", node=node) is None
    for call in (both.command, both.blocking_command):
        with pytest.raises(ValueError, match=r"node must be one of .* nodes \(redis"):
            call(b"PING")
        with pytest.raises(ValueError, match="not redis://elsewhere:6379"):
            call(b"PING", node=Node("redis://elsewhere"))


async def test_a_node_that_goes_and_comes_back(
    both: Multiplexer, other_server: RestartableServer
) -> None:
    here, there = split(both)
    first, second, mixed, everywhere = (Recorder() for _ in range(4))
    subs = []
    for recorder, names in ((first, here), (second, there), (mixed, [here[0], there[0]])):
        sub = both.new_channel_subscription(*recorder.callbacks)
        sub.add(*names)
        for name in names:
            await sub.wait_for_activation(name)
        subs.append(sub)
    pattern = both.new_pattern_subscription("name-*", *everywhere.callbacks)
    await pattern.wait_for_activation()

    other_server.kill()
    await eventually(lambda: second.disconnects and mixed.disconnects and everywhere.disconnects)
    (error,) = second.disconnects
    assert isinstance(error, ConnectionLost)
    assert other_server.url in str(error)
    assert both.concerns(error, there[0])
    assert not both.concerns(error, here[0])
    assert not first.disconnects
    assert not pattern.active
    assert pattern.pending() == (both.nodes[1],)
    assert subs[2].is_active(here[0])
    assert not subs[2].is_active(there[0])
    assert subs[2].pending(there[0]) == (both.nodes[1],)

    # What lives on the other node goes on.
    assert await both.publish(here[0], b"x") == 2  # by the name, and by the pattern
    await eventually(lambda: first.messages and mixed.messages and everywhere.messages)
    with pytest.raises(NotConnected, match=f"no connection to {other_server.url} in 0.3 s"):
        await both.publish(there[0], b"x")
    with pytest.raises(NotConnected, match=f"no connection to {other_server.url} in"):
        await both.wait_connected(0.05)

    stats = both.stats()
    assert (stats.connected, stats.connected_since) == (False, None)
    assert [node.connected for node in stats.nodes] == [True, False]
    assert [node.publishing for node in stats.nodes] == [True, False]
    assert [node.address for node in stats.nodes] == [str(node) for node in both.nodes]
    assert stats.nodes[0].last_error is None
    assert stats.nodes[0].connected_since is not None
    assert stats.nodes[1].last_error
    assert both.error_of(both.nodes[0]) is None
    assert both.last_error is both.error_of(both.nodes[1]) is not None

    other_server.start()
    await both.wait_connected(10)
    for name in there:
        await subs[1].wait_for_activation(name)
    await pattern.wait_for_activation()
    assert await both.publish(there[0], b"back") == 2
    await eventually(lambda: second.messages == [(there[0], b"back")])
    assert first.activations == here
    assert everywhere.kinds.count("activation") == 2
    stats = both.stats()
    assert stats.connected
    assert stats.reconnects == 1
    assert [node.reconnects for node in stats.nodes] == [0, 1]
    assert both.last_error is None


async def test_commands_wait_for_their_own_node(
    new_multiplexer: NewMultiplexer, redis_url: str, restartable_server: RestartableServer
) -> None:
    mpx = new_multiplexer([redis_url, restartable_server.url])
    await mpx.start()
    here, there = split(mpx)
    waiting = [mpx.publish_soon(name, b"x") for name in there]
    assert await mpx.publish(here[0], b"x") == 0
    assert mpx.stats().nodes[1].backlog == len(there)
    restartable_server.start()
    assert await asyncio.gather(*waiting) == [0] * len(there)
    assert mpx.stats().nodes[1].backlog == 0


async def test_promises_need_all_servers(
    both: Multiplexer, other_server: RestartableServer
) -> None:
    promises = both.new_promise_subscription("name-")
    promise = await promises.wait_for_new_promise("7")
    await both.publish("name-7", b"x")
    assert await promise == b"x"
    promise = promises.new_promise("7")
    other_server.kill()
    with pytest.raises(PromiseDisconnected):
        await promise
    assert not promises.active
    other_server.start()
    await promises.wait_for_new_promise("7")


async def test_a_pattern_that_one_server_refuses(
    new_multiplexer: NewMultiplexer, restricted_url: str, other_server: RestartableServer
) -> None:
    mpx = new_multiplexer([other_server.url, restricted_url])
    await mpx.start()
    pattern = mpx.new_pattern_subscription("forbidden*", lambda *_: None)
    with pytest.raises(SubscriptionRefused):
        await pattern.wait_for_activation()
    assert not pattern.active
    with pytest.raises(SubscriptionRefused):
        await pattern.wait_for_activation()


async def test_stopping_and_starting_again(both: Multiplexer) -> None:
    recorder = Recorder()
    sub = both.new_channel_subscription(*recorder.callbacks)
    sub.add(*NAMES[:20])
    for name in NAMES[:20]:
        await sub.wait_for_activation(name)
    await both.stop()
    assert not both.running
    assert len(recorder.disconnects) == 2
    await both.start()
    for name in NAMES[:20]:
        await sub.wait_for_activation(name)
    assert await both.publish(NAMES[0], b"x") == 1
