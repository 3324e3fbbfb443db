"""Pipelined commands: replies to their senders, and what becomes of them when the link breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis

from mpx_channels.multiplexer import (
    BacklogFull,
    CommandRefused,
    ConnectionLost,
    MultiplexerStopped,
    NotConnected,
)
from mpx_channels.multiplexer.cluster.publisher import ClusterPublisher
from mpx_channels.multiplexer.counters import EngineCounters
from mpx_channels.multiplexer.link import LinkOptions
from mpx_channels.multiplexer.packing import pack
from mpx_channels.multiplexer.publisher import WRITE_AT_ONCE, OnRefusal, Publisher, Sent
from mpx_channels.multiplexer.topology import Node
from mpx_channels.multiplexer.wire import Wire
from tests.inside import counters_of, is_watched, refusable_in, waits_until, watched_by

from ..conftest import PATIENCE, RestartableServer, eventually
from ..proxy import Proxy
from .raw_server import RawServer

pytestmark = pytest.mark.usefixtures("clean_loop")

NewPublisher = Callable[..., Publisher]


def publisher_for(url: str, on_refusal: OnRefusal | None = None, **options: Any) -> Publisher:
    """Not started yet."""
    queue_options = {
        "max_backlog": options.pop("max_backlog", 100_000),
        "backlog_timeout": options.pop("backlog_timeout", 10.0),
    }
    link_options = LinkOptions(**{"min_backoff": 0.001, "max_backoff": 0.01, **options})
    node = Node(url, connect_timeout=link_options.connect_timeout)
    return ClusterPublisher(
        node, link_options, EngineCounters(), on_refusal=on_refusal, **queue_options
    )


def counters(publisher: Publisher) -> EngineCounters:
    return counters_of(publisher)


@pytest.fixture
async def new_publisher(redis_url: str) -> AsyncIterator[NewPublisher]:
    publishers = []

    def new(url: str = redis_url, **options: Any) -> Publisher:
        publisher = publisher_for(url, **options)
        publishers.append(publisher)
        publisher.start()
        return publisher

    yield new
    for publisher in publishers:
        await publisher.stop()


async def connected(publisher: Publisher) -> Publisher:
    await eventually(lambda: publisher.link.wire)
    return publisher


@pytest.fixture
def key(client: redis.Redis) -> bytes:
    """A key for INCR, to count how often a command has run."""
    client.delete("test:publisher")
    return b"test:publisher"


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all writes from here on."""
    sizes: list[int] = []
    write = Wire.write

    def noting(self: Wire, data: bytes) -> None:
        sizes.append(len(data))
        write(self, data)

    monkeypatch.setattr(Wire, "write", noting)
    return sizes


def echo(text: object) -> bytes:
    return pack(b"ECHO", str(text).encode())


async def test_everybody_gets_his_own_reply(new_publisher: NewPublisher) -> None:
    publisher = await connected(new_publisher())
    replies = await asyncio.gather(*[publisher.submit(echo(number)) for number in range(1000)])
    assert replies == [str(number).encode() for number in range(1000)]
    assert counters(publisher).commands_out == 1000


async def test_what_is_submitted_in_one_turn_is_one_write(
    new_publisher: NewPublisher, writes: list[int]
) -> None:
    publisher = await connected(new_publisher())
    commands = [echo(number) for number in range(WRITE_AT_ONCE - 1)]
    futures = [publisher.submit(command) for command in commands]
    assert writes == []  # nothing before the turn ends
    await asyncio.gather(*futures)
    assert writes == [sum(map(len, commands))]


async def test_thousands_in_one_turn_are_a_handful_of_writes(
    new_publisher: NewPublisher, writes: list[int]
) -> None:
    publisher = await connected(new_publisher())
    await asyncio.gather(*[publisher.submit(echo(number)) for number in range(5000)])
    assert len(writes) <= 5000 / WRITE_AT_ONCE + 1


async def test_an_error_is_its_sender_s_alone(new_publisher: NewPublisher) -> None:
    publisher = await connected(new_publisher())
    good, bad, also_good = (
        publisher.submit(command) for command in (echo(1), pack(b"NONSENSE"), echo(2))
    )
    assert await good == b"1"
    with pytest.raises(CommandRefused, match="refused the command: unknown command") as caught:
        await bad
    assert isinstance(caught.value.__cause__, redis.ResponseError)
    assert await also_good == b"2"


async def test_what_was_written_fails_when_the_link_breaks_and_is_not_sent_again(
    new_publisher: NewPublisher, proxy: Proxy, client: redis.Redis, key: bytes
) -> None:
    publisher = await connected(new_publisher(proxy.url))
    proxy.to_client.freeze()
    futures = [publisher.submit(pack(b"INCR", key)) for _ in range(10)]
    await eventually(lambda: client.get(key) == b"10")
    proxy.thaw()
    proxy.cut()
    for future in futures:
        with pytest.raises(ConnectionLost, match="may have run"):
            await future
    assert await publisher.submit(pack(b"INCR", key)) == 11


async def test_what_was_not_written_waits_for_the_next_connection(
    new_publisher: NewPublisher, proxy: Proxy, client: redis.Redis, key: bytes
) -> None:
    publisher = await connected(new_publisher(proxy.url))
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: publisher.link.last_error)
    futures = [publisher.submit(pack(b"INCR", key)) for _ in range(500)]
    assert client.get(key) is None
    await proxy.accept()
    assert await asyncio.gather(*futures) == list(range(1, 501))


async def test_a_burst_that_meets_a_dead_socket_loses_what_the_kernel_took(
    new_publisher: NewPublisher, client: redis.Redis, key: bytes
) -> None:
    publisher = await connected(new_publisher())
    # In this very turn: nobody here has heard of it when the burst comes.
    client.client_kill_filter(_id=await publisher.submit(pack(b"CLIENT", b"ID")))
    futures = [publisher.submit(pack(b"INCR", key)) for _ in range(2000)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    lost = [result for result in results if isinstance(result, ConnectionLost)]
    assert len(lost) <= WRITE_AT_ONCE
    assert results[len(lost) :] == list(range(1, 2000 - len(lost) + 1))
    assert client.get(key) == b"%d" % (2000 - len(lost))


async def test_what_the_kernel_did_not_take_goes_to_the_next_connection(
    new_publisher: NewPublisher, proxy: Proxy, client: redis.Redis
) -> None:
    # So much takes a busy machine a while.
    patient = {"connect_timeout": PATIENCE, "backlog_timeout": PATIENCE}
    publisher = await connected(new_publisher(proxy.url, **patient))
    client.delete("test:list")
    proxy.to_server.freeze()
    size = 1_000_000
    futures = [
        publisher.submit(pack(b"RPUSH", b"test:list", b"%02d" % number + bytes(size)))
        for number in range(WRITE_AT_ONCE - 1)
    ]
    await eventually(lambda: publisher.link.wire is not None and publisher.link.wire.paused)
    proxy.cut()
    proxy.thaw()
    results = await asyncio.gather(*futures, return_exceptions=True)
    arrived = [n for n, result in enumerate(results) if not isinstance(result, ConnectionLost)]
    # What the kernels and the proxy on the way took is a few megabytes.
    assert len(arrived) > len(futures) / 3
    assert arrived == list(range(arrived[0], len(futures)))
    there = [int(data[:2]) for data in client.lrange("test:list", 0, -1)]
    assert there[-len(arrived) :] == arrived
    client.delete("test:list")


async def test_of_a_write_that_was_taken_in_part_the_rest_goes_to_the_next_connection(
    new_publisher: NewPublisher,
) -> None:
    async with RawServer() as server:
        publisher = await connected(new_publisher(server.url))
        wire = publisher.link.wire
        assert wire is not None
        await eventually(lambda: server.connected)
        server.reading.clear()
        futures = []
        while not wire.paused:
            # Less than `LARGEST_WRITE`, so that they are one write.
            futures += [publisher.submit(echo("x" * 4000)) for _ in range(WRITE_AT_ONCE - 1)]
            await asyncio.sleep(0)
        size = len(echo("x" * 4000))
        futures.append(publisher.submit(echo("behind")))
        wire.abort(ConnectionLost("by the test"))
        server.reading.set()
        await eventually(lambda: publisher.link.wire is None)
        lost = [future.done() for future in futures].index(False)
        kept = futures[lost:]
        assert lost == -(-(wire.bytes_out - wire.untaken) // size)
        assert publisher.waiting == len(kept)
        await publisher.stop()
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert {type(result) for result in results[:lost]} == {ConnectionLost}
        assert not any(future.cancelled() for future in kept)


async def test_what_is_taken_back_has_no_new_time(new_publisher: NewPublisher) -> None:
    """A link that comes and breaks before it takes anything must not keep commands for ever."""
    async with RawServer() as server:
        publisher = await connected(new_publisher(server.url))
        await eventually(lambda: server.connected)
        wire = publisher.link.wire
        assert wire is not None
        server.reading.clear()
        futures = []
        while not wire.paused:
            futures.append(publisher.submit(echo("x" * 200_000)))
            await asyncio.sleep(0)
        futures.append(publisher.submit(echo("x")))
        due = waits_until(publisher)
        wire.abort(ConnectionLost("by the test"))
        await eventually(lambda: publisher.link.wire is None)
        assert waits_until(publisher) == due
        server.reading.set()
        await publisher.stop()
        await asyncio.gather(*futures, return_exceptions=True)


async def test_what_was_submitted_in_the_turn_of_the_break_waits_too(
    new_publisher: NewPublisher, key: bytes
) -> None:
    publisher = await connected(new_publisher())
    wire = publisher.link.wire
    assert wire is not None
    before = publisher.submit(pack(b"INCR", key))
    cancelled = publisher.submit(pack(b"INCR", key))
    cancelled.cancel()
    wire.abort(ConnectionLost("by the test"))
    after = publisher.submit(pack(b"INCR", key))
    assert await asyncio.gather(before, after) == [1, 2]
    assert publisher.link.connections == 2


async def test_what_is_found_out_comes_before_what_is_sent_later(
    new_publisher: NewPublisher, proxy: Proxy, key: bytes
) -> None:
    """However often the link breaks; also before what was not written yet."""
    publisher = await connected(new_publisher(proxy.url))
    made: list[int] = []

    def submit(number: int) -> asyncio.Future[Any]:
        def again() -> bytes:
            made.append(number)
            return pack(b"RPUSH", key, b"again-%d" % number)

        return publisher.submit(pack(b"RPUSH", key, b"%d" % number), again)

    for _ in range(2):
        proxy.to_server.freeze()
        written = [submit(number) for number in range(3)]
        await asyncio.sleep(0)
        later = [submit(number) for number in range(3, 6)]
        assert publisher.link.wire is not None
        publisher.link.wire.abort(ConnectionLost("by the test"))
        proxy.cut()  # and with it what was written
        proxy.to_server.thaw()
        await asyncio.gather(*written, *later)
    assert publisher.waiting == 0
    assert made[:3] == [0, 1, 2]
    words = await publisher.submit(pack(b"LRANGE", key, b"0", b"-1"))
    numbers = [int(word.removeprefix(b"again-")) for word in words]
    assert numbers == [*range(6), *range(6)]


async def test_what_is_to_be_found_out_waits_for_longer_than_others(
    new_publisher: NewPublisher, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    publisher = await connected(new_publisher(restartable_server.url, backlog_timeout=0.05))
    restartable_server.freeze()
    try:
        sent = publisher.submit(echo(1), lambda: echo(2))
        await asyncio.sleep(0)
        assert publisher.link.wire is not None
        publisher.link.wire.abort(ConnectionLost("by the test"))
        await eventually(lambda: publisher.link.wire is None)
        with pytest.raises(NotConnected):
            await publisher.submit(echo(3))
        assert not sent.done()
    finally:
        restartable_server.thaw()
    assert await sent == b"2"


async def test_before_the_first_connection_commands_wait(
    new_publisher: NewPublisher, restartable_server: RestartableServer
) -> None:
    publisher = new_publisher(restartable_server.url)
    future = publisher.submit(echo(1))
    await eventually(lambda: publisher.link.last_error)
    restartable_server.start()
    assert await future == b"1"


async def test_the_backlog_is_bounded(
    new_publisher: NewPublisher, restartable_server: RestartableServer
) -> None:
    publisher = new_publisher(restartable_server.url, max_backlog=2)
    await eventually(lambda: publisher.link.last_error)
    futures = [publisher.submit(echo(number)) for number in range(2)]
    with pytest.raises(BacklogFull, match=r"2 commands wait for redis://.* already: .*connecting"):
        publisher.submit(echo(3))
    assert counters(publisher).dropped_backlog_full == 1
    restartable_server.start()
    assert await asyncio.gather(*futures) == [b"0", b"1"]


async def test_a_full_backlog_leaves_nothing_behind(
    new_publisher: NewPublisher, restartable_server: RestartableServer
) -> None:
    """However often somebody tries while the server is away."""
    publisher = new_publisher(
        restartable_server.url, max_backlog=1, on_refusal=lambda sent, error: False
    )
    waiting = publisher.submit(echo(1), lambda: echo(2))
    with pytest.raises(BacklogFull):
        publisher.submit(echo(3), lambda: echo(4))
    await asyncio.sleep(0)
    assert list(refusable_in(publisher)) == list(watched_by(publisher)) == [waiting]
    waiting.cancel()


async def test_the_backlog_is_bounded_in_time(
    new_publisher: NewPublisher, restartable_server: RestartableServer
) -> None:
    publisher = new_publisher(restartable_server.url, backlog_timeout=0.5)
    cancelled, future = (publisher.submit(echo(number)) for number in range(2))
    cancelled.cancel()
    with pytest.raises(NotConnected, match=r"no connection to redis://.* in 0.5 s: .*connecting"):
        await future
    assert counters(publisher).dropped_backlog_timeout == 1
    # The timer goes on for those who come later.
    with pytest.raises(NotConnected):
        await publisher.submit(echo(1))
    assert counters(publisher).dropped_backlog_timeout == 2


async def test_each_in_the_backlog_has_its_own_time(
    new_publisher: NewPublisher, restartable_server: RestartableServer
) -> None:
    publisher = new_publisher(restartable_server.url, backlog_timeout=0.05)
    failed: list[Any] = []
    for _ in range(3):
        future = publisher.submit(echo(1))
        future.add_done_callback(failed.append)
        await asyncio.sleep(0.01)  # so that their times differ
    # Not by awaiting the last: it may have failed before the others' callbacks had their turn.
    await eventually(lambda: len(failed) == 3)
    assert [type(each.exception()) for each in failed] == [NotConnected] * 3
    assert failed[-1] is future


async def test_a_command_cancelled_in_the_backlog_is_not_sent(
    new_publisher: NewPublisher, restartable_server: RestartableServer
) -> None:
    publisher = new_publisher(restartable_server.url)
    taken_back, kept = (publisher.submit(pack(b"INCR", b"key")) for _ in range(2))
    taken_back.cancel()
    restartable_server.start()
    assert await kept == 1


async def test_cancelling_what_was_written_shifts_no_replies(new_publisher: NewPublisher) -> None:
    publisher = await connected(new_publisher())
    futures = [publisher.submit(echo(number)) for number in range(3)]
    await asyncio.sleep(0)  # written
    futures[1].cancel()
    assert await futures[0] == b"0"
    assert await futures[2] == b"2"


async def test_a_ping_among_commands_shifts_no_replies(new_publisher: NewPublisher) -> None:
    """Commands of this turn, not written yet, are before it in the queue of answers."""
    publisher = await connected(new_publisher())
    assert publisher.link.wire is not None
    first = publisher.submit(echo(1))
    publisher.send_ping(publisher.link.wire)
    second = publisher.submit(echo(2))
    assert await asyncio.gather(first, second) == [b"1", b"2"]


async def test_pings_between_commands(new_publisher: NewPublisher) -> None:
    publisher = await connected(new_publisher(ping_interval=0.15))
    for number in range(3):
        replies = await asyncio.gather(*[publisher.submit(echo(number)) for _ in range(3)])
        assert replies == [str(number).encode()] * 3
        commands = counters(publisher).commands_out
        await eventually(lambda commands=commands: counters(publisher).commands_out > commands)
    assert publisher.link.connections == 1


async def test_a_server_that_does_not_read_makes_commands_wait_in_order(
    new_publisher: NewPublisher, proxy: Proxy, client: redis.Redis
) -> None:
    publisher = await connected(new_publisher(proxy.url))
    wire = publisher.link.wire
    assert wire is not None
    client.delete("test:list")
    proxy.to_server.freeze()
    futures = []
    while not wire.paused:
        assert len(futures) < 1000
        data = b"%d" % len(futures) + bytes(1_000_000)
        futures.append(publisher.submit(pack(b"PUBLISH", b"nobody", data)))
        await asyncio.sleep(0)
    more = [publisher.submit(pack(b"RPUSH", b"test:list", b"%d" % n)) for n in range(1000)]
    assert not any(future.done() for future in more)
    proxy.thaw()
    assert await asyncio.gather(*futures) == [0] * len(futures)
    assert await asyncio.gather(*more) == list(range(1, 1001))
    assert client.lrange("test:list", 0, -1) == [b"%d" % n for n in range(1000)]
    client.delete("test:list")


async def test_a_server_that_answers_nothing_is_taken_for_dead(
    new_publisher: NewPublisher, proxy: Proxy
) -> None:
    publisher = await connected(new_publisher(proxy.url, connect_timeout=0.1))
    assert await publisher.submit(echo(1)) == b"1"
    proxy.to_client.freeze()
    with pytest.raises(ConnectionLost, match=r"no reply in 0.1 s"):
        await publisher.submit(echo(2))
    proxy.thaw()
    assert await publisher.submit(echo(3)) == b"3"


async def test_a_server_that_falls_silent_has_its_time_once(
    new_publisher: NewPublisher, proxy: Proxy
) -> None:
    timeout = 1.0
    publisher = await connected(new_publisher(proxy.url, connect_timeout=timeout))
    loop = asyncio.get_running_loop()
    # The watch begins with this one, which is answered.
    assert await publisher.submit(echo(1)) == b"1"
    proxy.to_client.freeze()
    started = loop.time()
    with pytest.raises(ConnectionLost, match="no reply"):
        await publisher.submit(echo(2))
    assert timeout * 0.99 <= loop.time() - started < timeout * 1.5
    proxy.thaw()


async def test_a_slow_server_is_not_taken_for_dead(
    new_publisher: NewPublisher, proxy: Proxy
) -> None:
    publisher = await connected(new_publisher(proxy.url, connect_timeout=0.3))
    proxy.to_client.delay = 0.04
    # Each waits for less than the timeout, all together for more.
    for number in range(10):
        assert await publisher.submit(echo(number)) == str(number).encode()
    assert publisher.link.connections == 1


async def test_the_watch_over_a_lost_connection_ends_with_it(
    new_publisher: NewPublisher, proxy: Proxy
) -> None:
    """Else it would find the next connection silent since long, and end it, too."""
    publisher = await connected(new_publisher(proxy.url))
    assert await publisher.submit(echo(1)) == b"1"
    assert is_watched(publisher)
    proxy.cut()
    await eventually(lambda: publisher.link.connections == 2)
    assert not is_watched(publisher)


async def test_what_each_connection_begins_with(
    new_publisher: NewPublisher, proxy: Proxy, client: redis.Redis
) -> None:
    client.delete("test:list")
    publisher = await connected(new_publisher(proxy.url))

    def push(text: str) -> bytes:
        return pack(b"RPUSH", b"test:list", text.encode())

    await publisher.submit(push("a"))
    publisher.begin_with(push("first"))
    await publisher.submit(push("b"))
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: publisher.link.wire is None)
    waiting = publisher.submit(push("c"))
    await proxy.accept()
    assert await waiting == 5
    assert client.lrange("test:list", 0, -1) == [b"a", b"first", b"b", b"first", b"c"]
    client.delete("test:list")


async def test_an_answer_that_nobody_asked_for_is_counted(
    new_publisher: NewPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    async with RawServer() as server:
        publisher = await connected(new_publisher(server.url))
        await eventually(lambda: server.connected)
        server.send(b"+hello\r\n")
        await eventually(lambda: counters(publisher).dropped_unreadable == 1)
        assert "answered unasked: b'hello'" in caplog.text
        await publisher.stop()


# -- the end ---------------------------------------------------------------------------------------


async def test_stopping_lets_out_what_was_submitted(
    new_publisher: NewPublisher, key: bytes
) -> None:
    publisher = await connected(new_publisher())
    futures = [publisher.submit(pack(b"INCR", key)) for _ in range(10)]
    await publisher.stop()
    assert [future.result() for future in futures] == list(range(1, 11))


async def test_stopping_waits_no_longer_for_a_server_that_does_not_answer(
    new_publisher: NewPublisher, proxy: Proxy
) -> None:
    publisher = await connected(new_publisher(proxy.url))
    proxy.freeze()
    future = publisher.submit(echo(1))
    await publisher.stop()
    with pytest.raises(ConnectionLost):
        await future
    proxy.thaw()
    await eventually(lambda: proxy.open == 0)


async def test_stopping_while_the_server_does_not_read(
    new_publisher: NewPublisher, proxy: Proxy
) -> None:
    publisher = await connected(new_publisher(proxy.url))
    wire = publisher.link.wire
    assert wire is not None
    proxy.to_server.freeze()
    futures = []
    while not wire.paused:
        # More than all buffers on the way take together.
        futures.append(publisher.submit(echo("x" * 30_000_000)))
        await asyncio.sleep(0)
    waiting = publisher.submit(echo(1))
    await publisher.stop()
    for future in futures:
        with pytest.raises(ConnectionLost):
            await future
    with pytest.raises(MultiplexerStopped, match="before this was sent"):
        await waiting
    proxy.thaw()
    await eventually(lambda: proxy.open == 0)


async def test_stopping_while_the_server_is_away(
    new_publisher: NewPublisher, restartable_server: RestartableServer
) -> None:
    publisher = new_publisher(restartable_server.url)
    future = publisher.submit(echo(1))
    await publisher.stop()
    with pytest.raises(MultiplexerStopped, match="before this was sent"):
        await future


async def test_stopped_it_takes_nothing(new_publisher: NewPublisher, redis_url: str) -> None:
    publisher = publisher_for(redis_url)
    with pytest.raises(MultiplexerStopped, match="start"):
        publisher.submit(echo(1))
    publisher.start()
    assert await publisher.submit(echo(1)) == b"1"
    await publisher.stop()
    with pytest.raises(MultiplexerStopped, match="start"):
        publisher.submit(echo(1))
    publisher.start()
    assert await publisher.submit(echo(2)) == b"2"
    await publisher.stop()


@pytest.mark.parametrize("up", [True, False])
def test_a_loop_that_ended_without_a_stop(
    redis_url: str, restartable_server: RestartableServer, up: bool
) -> None:
    publisher = publisher_for(
        redis_url if up else restartable_server.url, backlog_timeout=0.1, max_backlog=1
    )

    async def begin() -> None:
        publisher.start()
        if up:
            await connected(publisher)
            await publisher.submit(echo(1))
        publisher.submit(echo(2))

    async def again() -> None:
        publisher.start()
        if up:
            assert await publisher.submit(echo(3)) == b"3"
        else:
            with pytest.raises(NotConnected, match=r"in 0.1 s"):
                await publisher.submit(echo(3))
        await publisher.stop()

    asyncio.run(begin())
    asyncio.run(again())


def test_doubts_of_a_loop_that_ended_end_with_it(redis_url: str) -> None:
    publisher = publisher_for(redis_url)

    async def begin() -> None:
        publisher.start()
        await connected(publisher)
        await publisher.submit(echo(1))
        publisher.submit(echo(2), lambda: echo(3))

    async def again() -> None:
        publisher.start()
        assert publisher.waiting == 0
        assert await publisher.submit(echo(4)) == b"4"
        await publisher.stop()

    asyncio.run(begin())
    asyncio.run(again())


# -- refusals that somebody takes over -------------------------------------------------------------


async def test_a_refused_command_can_be_sent_elsewhere(
    new_publisher: NewPublisher, key: bytes
) -> None:
    other = await connected(new_publisher())
    assert isinstance(other, ClusterPublisher)
    seen = []

    def take_over(sent: Sent, error: Exception) -> bool:
        seen.append((sent.command, str(error)))
        if b"MOVED" not in sent.command:
            return False
        other.take_over([sent._replace(command=pack(b"INCR", key))])
        return True

    publisher = await connected(new_publisher(on_refusal=take_over))
    moved = publisher.submit(pack(b"MOVED", b"x"))
    wrong = publisher.submit(pack(b"WRONG", b"x"))
    right = publisher.submit(pack(b"ECHO", b"x"))
    assert await moved == 1
    with pytest.raises(CommandRefused, match="unknown command"):
        await wrong
    assert await right == b"x"
    assert [command for command, _ in seen] == [pack(b"MOVED", b"x"), pack(b"WRONG", b"x")]
    assert all("unknown command" in error for _, error in seen)
    await eventually(lambda: not refusable_in(publisher))
