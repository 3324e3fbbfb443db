"""Finding the master through real Sentinels, at every connection anew."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from mpx_channels.multiplexer import Multiplexer, NotConnected, SentinelNode
from mpx_channels.multiplexer.wire import Frame, Wire
from tests.inside import (
    ASK,
    asked_all,
    is_asking,
    link_of,
    listens_at,
    publisher_of,
    publishers_of,
    sentinels_of,
    watch_of,
)

from ..conftest import RestartableServer, eventually
from ..proxy import Proxy, free_port
from ..sentinels import MASTER, Sentinels
from .conftest import NewMultiplexer
from .recorder import Recorder
from .test_multiplexer import PEM


@pytest.fixture(scope="module")
def shared(server: object) -> Iterator[Sentinels]:
    """Three Sentinels with a password; leave all of them running, and the master where it is."""
    with Sentinels(3, password="hush") as running:
        yield running


def node_for(running: Sentinels, **options: Any) -> SentinelNode:
    host = running.host
    kwargs = options.pop("sentinel_kwargs", host.get("sentinel_kwargs"))
    return SentinelNode(
        options.pop("sentinels", host["sentinels"]),
        options.pop("master_name", host["master_name"]),
        sentinel_kwargs=kwargs,
        connect_timeout=options.pop("connect_timeout", 5.0),
        options=options,
    )


@pytest.mark.parametrize("protocol", [2, 3])
async def test_the_master_is_found(
    shared: Sentinels, new_multiplexer: NewMultiplexer, parser: str, protocol: int
) -> None:
    if parser == "python parser":
        protocol = 2
    mpx = new_multiplexer(node_for(shared, db=3, protocol=protocol))
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    await mpx.start()
    await mpx.wait_connected(10)
    await sub.wait_for_activation("a")
    assert await mpx.publish("a", b"x") == 1
    await eventually(lambda: recorder.messages == [("a", b"x")])
    info = (await mpx.command(b"INFO")).decode()
    assert f"tcp_port:{shared.master.port}\r" in info
    assert "db=3" in (await mpx.command(b"CLIENT", b"INFO")).decode()
    assert str(mpx.node).startswith("redis+sentinel://127.0.0.1:")
    assert str(mpx.node).endswith(f"/{MASTER}")
    assert mpx.stats().nodes[0].db == 3


async def test_tls(
    shared: Sentinels, new_multiplexer: NewMultiplexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    async with Proxy("127.0.0.1", shared.master.port, tls=context) as proxy:
        known = getattr(SentinelNode, ASK)

        async def behind_the_proxy(self: SentinelNode, sentinel: Any) -> Any:
            assert await known(self, sentinel) == ("127.0.0.1", shared.master.port)
            return "localhost", proxy.port

        monkeypatch.setattr(SentinelNode, ASK, behind_the_proxy)
        mpx = new_multiplexer(node_for(shared, ssl=True, ssl_ca_certs=str(PEM)))
        await mpx.start()
        await mpx.wait_connected(10)
        assert str(mpx.node).startswith("rediss+sentinel://")
        assert await mpx.publish("a", b"x") == 0
        await mpx.stop()


def test_a_loop_that_is_closed_without_a_word(shared: Sentinels) -> None:
    """No socket is left open, to the master or to a Sentinel; pytest notices warnings."""
    mpx = Multiplexer(node_for(shared))
    loop = asyncio.new_event_loop()

    async def use() -> None:
        await mpx.start()
        await mpx.wait_connected(10)
        assert await mpx.publish("a", b"x") == 0
        await eventually(lambda: asked_all(watch_of(mpx)))

    loop.run_until_complete(use())
    loop.close()
    mpx.abandon()
    gc.collect()
    _settled(shared)


async def test_sentinels_that_are_away_are_passed_over(
    shared: Sentinels, new_multiplexer: NewMultiplexer
) -> None:
    away = ("127.0.0.1", free_port())
    there = shared.host["sentinels"][0]
    node = node_for(shared, sentinels=[away, there])
    mpx = new_multiplexer(node)
    await mpx.start()
    await mpx.wait_connected(10)
    # The one that knew is asked first the next time.
    assert sentinels_of(node)[0] == there


async def test_a_sentinel_that_is_silent_leaves_time_for_the_others(
    shared: Sentinels, new_multiplexer: NewMultiplexer
) -> None:
    accepted: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    address = silent.sockets[0].getsockname()
    node = node_for(shared, sentinels=[address, shared.host["sentinels"][0]], connect_timeout=1.5)
    mpx = new_multiplexer(node, connect_timeout=1.5)
    await mpx.start()
    await mpx.wait_connected(10)
    for writer in accepted:
        writer.close()
    silent.close()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"master_name": "nobody"}, "no Sentinel knows a master of 'nobody' (127.0.0.1:"),
        ({"master_name": "nobody"}, "knows no such service"),
        (
            {"sentinel_kwargs": {"password": "wrong-secret"}},
            f"no Sentinel knows a master of '{MASTER}'",
        ),
        ({"sentinel_kwargs": {}}, f"no Sentinel knows a master of '{MASTER}' (127"),
        ({"sentinels": [("127.0.0.1", 1)]}, f"a master of '{MASTER}' (127.0.0.1:1: "),
    ],
)
async def test_what_the_sentinels_do_not_know_is_said(
    shared: Sentinels,
    new_multiplexer: NewMultiplexer,
    caplog: pytest.LogCaptureFixture,
    changed: dict[str, Any],
    says: str,
) -> None:
    caplog.set_level(logging.DEBUG, "mpx_channels")
    mpx = new_multiplexer(node_for(shared, password="master-secret", **changed))
    await mpx.start()
    with pytest.raises(NotConnected) as caught:
        await mpx.wait_connected(1)
    await eventually(lambda: mpx.last_error)
    said = f"{caught.value} {mpx.last_error}"
    assert says in said
    assert "redis+sentinel://127.0.0.1:" in said
    for secret in ("hush", "secret"):
        assert secret not in said + caplog.text


async def test_a_server_that_is_no_master_is_not_used(
    shared: Sentinels, new_multiplexer: NewMultiplexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentinels may be late: the one that they name may have been demoted a moment ago."""
    (replica,) = (server for server in shared.servers if server is not shared.master)
    there, asked = getattr(SentinelNode, ASK), 0

    async def late(self: SentinelNode, sentinel: Any) -> Any:
        nonlocal asked
        asked += 1
        return await there(self, sentinel) if asked > 5 else ("127.0.0.1", replica.port)

    monkeypatch.setattr(SentinelNode, ASK, late)
    mpx = new_multiplexer(node_for(shared))
    await mpx.start()
    await eventually(lambda: mpx.last_error)
    said = f"127.0.0.1:{replica.port} is no master of '{MASTER}', but a slave"
    assert str(mpx.last_error) == said
    await mpx.wait_connected(10)
    assert asked > 5


async def test_news_that_came_during_the_handshake(shared: Sentinels) -> None:
    node = node_for(shared)
    connection: Any = node.connection()
    await connection.connect()
    await node.check(connection)
    node.master = ("127.0.0.1", 1)
    with pytest.raises(NotConnected, match=r"another master now: 127\.0\.0\.1:1$"):
        await node.check(connection)
    await connection.disconnect()


async def test_news_that_came_with_the_last_answer_of_the_handshake(shared: Sentinels) -> None:
    """Until Sentinel demotes it, the old master says that it is one."""
    node = node_for(shared)
    connection: Any = node.connection()
    await connection.connect()
    read = connection.read_response

    async def read_late() -> Any:
        answer = await read()
        node.master = ("127.0.0.1", 1)
        return answer

    connection.read_response = read_late
    with pytest.raises(NotConnected, match=r"another master now: 127\.0\.0\.1:1$"):
        await node.check(connection)
    await connection.disconnect()


async def test_whoever_has_news_is_asked_before_those_that_have_not(
    shared: Sentinels, new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    old, new = ("127.0.0.1", shared.master.port), ("127.0.0.1", restartable_server.port)
    node = node_for(shared)
    mpx = new_multiplexer(node)
    await mpx.start()
    await mpx.wait_connected(10)
    watch = watch_of(mpx)
    await eventually(lambda: asked_all(watch))
    wire = watch.link.wire
    assert wire is not None
    told = listens_at(watch)
    # Another is the first to be asked until then.
    sentinels_of(node).sort(key=lambda sentinel: sentinel == told)
    assert sentinels_of(node)[0] != told

    async def who_knows(sentinel: object) -> tuple[str, int]:
        return new if sentinel == told else old

    setattr(node, ASK, who_knows)
    news = f"{MASTER} {old[0]} {old[1]} {new[0]} {new[1]}"
    watch.frames_received([[b"message", b"+switch-master", news.encode()]])
    for link in (link_of(mpx), publishers_of(mpx).all[0].link):
        await eventually(lambda link=link: link.connections == 2 and link.wire)
    info = (await mpx.command(b"INFO")).decode()
    assert f"tcp_port:{new[1]}\r" in info


async def test_an_answer_that_news_overtook_does_not_count(shared: Sentinels) -> None:
    node = node_for(shared)
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(sentinel: object) -> tuple[str, int]:
        asked.set()
        await answer.wait()
        return "127.0.0.1", 1

    setattr(node, ASK, slow)
    asking = asyncio.create_task(node.master_address())
    await asked.wait()
    node.hear(("127.0.0.1", 2), sentinels_of(node)[2])
    answer.set()
    assert await asking == node.master == ("127.0.0.1", 2)
    assert await node.master_address() == ("127.0.0.1", 1)


async def test_who_talks_nonsense_is_passed_over(shared: Sentinels) -> None:
    node = node_for(shared)
    there, first = getattr(node, ASK), sentinels_of(node)[0]

    async def nonsense(sentinel: Any) -> Any:
        return int("nonsense") if sentinel == first else await there(sentinel)

    setattr(node, ASK, nonsense)
    assert await node.master_address() == ("127.0.0.1", shared.master.port)


async def test_where_role_is_forbidden_the_sentinels_word_has_to_do(
    shared: Sentinels, new_multiplexer: NewMultiplexer
) -> None:
    with shared.master.client() as client:
        rules = ["reset", "on", ">pass", "~*", "&*", "+@all", "-role"]
        client.execute_command("ACL", "SETUSER", "humble", *rules)
        mpx = new_multiplexer(node_for(shared, username="humble", password="pass"))
        await mpx.start()
        await mpx.wait_connected(10)
        assert await mpx.publish("a", b"x") == 0
        client.execute_command("ACL", "DELUSER", "humble")


async def test_many_reconnects_leave_nothing_behind(
    shared: Sentinels, new_multiplexer: NewMultiplexer
) -> None:
    mpx = new_multiplexer(node_for(shared), min_backoff=1e-4, max_backoff=1e-3)
    sub = mpx.new_channel_subscription()
    sub.add("a")
    await mpx.start()
    link = link_of(mpx)
    with shared.master.client() as client:
        for number in range(1, 31):
            await sub.wait_for_activation("a")
            assert link.connections == number
            assert client.client_kill_filter(_type="pubsub")  # those of the Sentinels, too
            await eventually(lambda: link.wire is None)
        await sub.wait_for_activation("a")
    await mpx.stop()
    gc.collect()
    await asyncio.to_thread(_settled, shared)


def _settled(sentinels: Sentinels) -> None:
    sentinels.wait(lambda: sentinels.clients_of_sentinels() == 0)


async def test_a_failover(new_multiplexer: NewMultiplexer, server: object) -> None:
    """All connections go to the new master, while the old one still serves who stays."""
    recorder = Recorder()
    with Sentinels() as sentinels:
        mpx = new_multiplexer([node_for(sentinels), node_for(sentinels, db=1)])
        sub = mpx.new_channel_subscription(*recorder.callbacks)
        names = [f"name-{number}" for number in range(20)]
        sub.add(*names)
        await mpx.start()
        for name in names:
            await sub.wait_for_activation(name)
        await eventually(lambda: is_asking(watch_of(mpx)))
        before = sentinels.master
        after = await asyncio.to_thread(sentinels.failover)
        assert before is not after
        await eventually(lambda: recorder.disconnects)
        assert f"'{MASTER}' has another master now: 127.0.0.1:{after.port}" in str(
            recorder.disconnects[0]
        )
        for name in names:
            await sub.wait_for_activation(name)
        for node in mpx.nodes:
            info = (await mpx.command(b"INFO", node=node)).decode()
            assert f"tcp_port:{after.port}\r" in info
        assert await asyncio.gather(*[mpx.publish(name, b"x") for name in names]) == [1] * 20
        await eventually(lambda: len(recorder.messages) == 20)


async def test_news_that_came_while_nobody_listened(
    new_multiplexer: NewMultiplexer, shared: Sentinels, restartable_server: RestartableServer
) -> None:
    """The watch was away during the failover: it asks when it is back."""
    restartable_server.start()
    node = node_for(shared)
    mpx = new_multiplexer(node)
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    await mpx.start()
    await sub.wait_for_activation("a")
    watch = watch_of(mpx).link
    await eventually(lambda: watch.wire)
    where = ("127.0.0.1", restartable_server.port)

    async def elsewhere(sentinel: object) -> tuple[str, int]:
        return where

    setattr(node, ASK, elsewhere)
    watch.wire.abort(ConnectionError("cut"))
    await eventually(lambda: recorder.kinds.count("activation") == 2)
    assert f"has another master now: 127.0.0.1:{where[1]}" in str(recorder.disconnects[0])
    await eventually(lambda: publisher_of(mpx).link.wire)
    info = (await mpx.command(b"INFO")).decode()
    assert f"tcp_port:{where[1]}\r" in info


async def test_news_of_others_change_nothing(
    shared: Sentinels, new_multiplexer: NewMultiplexer
) -> None:
    mpx = new_multiplexer(node_for(shared))
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    await mpx.start()
    await sub.wait_for_activation("a")
    await eventually(lambda: watch_of(mpx).link.wire)
    address = f"127.0.0.1 {shared.master.port}"
    for text in ("other 127.0.0.1 1 127.0.0.1 2", "nonsense", f"{MASTER} 127.0.0.1 1 {address}"):
        watch_of(mpx).frames_received([[b"message", b"+switch-master", text.encode()]])
    assert await mpx.publish("a", b"x") == 1
    await eventually(lambda: recorder.messages)
    assert not recorder.disconnects


async def test_a_cancelled_search_leaves_nothing(shared: Sentinels) -> None:
    class Handler:
        def frames_received(self, frames: Sequence[Frame]) -> int:
            return len(frames)

        def writable(self) -> None: ...

    node = node_for(shared)
    for number in range(40):
        opening = asyncio.create_task(Wire.open(node.connection(), Handler(), check=node.check))
        await asyncio.sleep(number * 0.0002)
        opening.cancel()
        for result in await asyncio.gather(opening, return_exceptions=True):
            if isinstance(result, Wire):
                await result.close()
            else:
                assert isinstance(result, asyncio.CancelledError), result
    gc.collect()
    await asyncio.to_thread(_settled, shared)
