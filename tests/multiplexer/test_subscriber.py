"""The registry at work over a link: turns, frames, the order of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import redis

from mpx_channels.multiplexer import Multiplexer, SubscriptionRefused
from tests.inside import link_of, publisher_of, registry_of, subscriber_of, unanswered_pings

from ..conftest import PATIENCE, eventually
from ..proxy import Proxy
from .conftest import NewMultiplexer
from .raw_server import RawServer
from .recorder import Recorder

pytestmark = pytest.mark.usefixtures("clean_loop")


def confirmation(verb: str, name: str, count: int = 1) -> bytes:
    return b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:%d\r\n" % (
        len(verb),
        verb.encode(),
        len(name),
        name.encode(),
        count,
    )


def message(name: str, data: bytes) -> bytes:
    return b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        len(name),
        name.encode(),
        len(data),
        data,
    )


@pytest.fixture
async def raw() -> AsyncIterator[RawServer]:
    async with RawServer() as server:
        yield server


@pytest.fixture
async def scripted(new_multiplexer: NewMultiplexer, raw: RawServer) -> Multiplexer:
    """A multiplexer of which the subscribing side is connected to the raw server."""
    mpx = new_multiplexer(raw.url, unsubscribe_delay=0)
    # Without the publishing side, as the raw server serves one.
    subscriber_of(mpx).start()
    await mpx.wait_connected(5)
    await eventually(lambda: raw.connected)
    return mpx


async def test_changes_of_one_turn_are_one_write(
    mpx: Multiplexer, proxy: Proxy, new_multiplexer: NewMultiplexer
) -> None:
    mpx = new_multiplexer(proxy.url)
    await mpx.start()
    await mpx.wait_connected(5)
    await eventually(lambda: publisher_of(mpx).link.wire)
    del proxy.to_server.data[:]
    sub = mpx.new_channel_subscription()
    for name in "abc":
        sub.add(name)
    sub.remove("b")
    pattern = mpx.new_pattern_subscription("a*")
    await pattern.wait_for_activation()
    assert bytes(proxy.to_server.data) == (
        b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nc\r\n"
        + b"*2\r\n$10\r\nPSUBSCRIBE\r\n$2\r\na*\r\n"
    )


async def test_what_was_added_before_the_start_goes_out_with_the_connection(
    scripted: Multiplexer, raw: RawServer
) -> None:
    sub = scripted.new_channel_subscription()
    sub.add("a")
    await eventually(lambda: raw.received == b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n")
    del raw.received[:]
    await raw.end()
    await eventually(lambda: raw.received == b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n")


async def test_a_break_is_told_after_every_message(scripted: Multiplexer, raw: RawServer) -> None:
    recorders = [Recorder(), Recorder()]
    sub = scripted.new_channel_subscription(*recorders[0].callbacks)
    sub.add("a")
    queued = scripted.new_channel_subscription(*recorders[1].async_callbacks)
    queued.add("a")
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    # Fewer than fit the queue, more than one turn of the reader with what comes before.
    raw.send(confirmation("subscribe", "a") + message("a", b"x") * 900)
    await eventually(lambda: recorders[0].messages)
    raw.send(message("b", b"") * 1000 + message("a", b"y") * 99)
    await raw.end()
    for recorder in recorders:
        await eventually(lambda recorder=recorder: recorder.disconnects)
        assert recorder.kinds == ["activation"] + ["message"] * 999 + ["disconnect"]


async def test_stopping_tells_after_every_message(scripted: Multiplexer, raw: RawServer) -> None:
    stopping: list[asyncio.Task[None]] = []
    recorder = Recorder()

    def on_message(name: str, data: bytes) -> None:
        recorder.on_message(name, data)
        if not stopping:
            stopping.append(asyncio.create_task(scripted.stop()))

    sub = scripted.new_channel_subscription(on_message, recorder.on_disconnect)
    sub.add("a")
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    raw.send(confirmation("subscribe", "a") + message("a", b"x") * 3000)
    await eventually(lambda: recorder.disconnects)
    await asyncio.gather(*stopping)
    await eventually(lambda: not raw.connected)
    assert recorder.kinds[-1] == "disconnect"
    assert recorder.kinds.count("disconnect") == 1


async def test_a_name_that_the_server_took_away_is_asked_for_again(
    scripted: Multiplexer, raw: RawServer
) -> None:
    recorder = Recorder()
    sub = scripted.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    raw.send(confirmation("subscribe", "a"))
    await eventually(lambda: recorder.activations == ["a"])
    del raw.received[:]
    raw.send(confirmation("unsubscribe", "a", 0))
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    raw.send(confirmation("subscribe", "a"))
    await eventually(lambda: recorder.activations == ["a", "a"])


async def test_answers_that_nobody_can_read_are_counted(
    scripted: Multiplexer, raw: RawServer, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    sub = scripted.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    strange = [b"+hello\r\n", b":1\r\n", b"*2\r\n$10\r\ninvalidate\r\n*-1\r\n", b"$-1\r\n"]
    raw.send(b"".join(strange))
    raw.send(confirmation("unsubscribe", "b", 0) + b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n")
    raw.send(confirmation("subscribe", "a") + message("a", b"x"))
    await eventually(lambda: recorder.messages)
    assert scripted.stats().drops["unreadable"] == len(strange) + 1
    assert caplog.text.count("sent what we cannot read: b'hello'") == 1
    assert scripted.stats().reconnects == 0
    await scripted.stop()
    assert caplog.text.count("sent what we cannot read") == 2
    assert f"(and {len(strange) - 1} more in the last" in caplog.text


@pytest.mark.parametrize("nonsense", [b"*0\r\n", b"*1\r\n$7\r\nmessage\r\n", b"nonsense\r\n"])
async def test_a_server_that_talks_nonsense_is_left(
    scripted: Multiplexer, raw: RawServer, nonsense: bytes
) -> None:
    """The loop may complain of us; the multiplexer goes on with a new connection."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: None)
    recorder = Recorder()
    sub = scripted.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    del raw.received[:]
    raw.send(nonsense)
    await eventually(lambda: recorder.disconnects)
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    raw.send(confirmation("subscribe", "a"))
    await sub.wait_for_activation("a")


async def test_an_error_between_confirmations(scripted: Multiplexer, raw: RawServer) -> None:
    sub = scripted.new_channel_subscription()
    sub.add("a")
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    sub.add("b")
    sub.add("c")
    await eventually(lambda: raw.received.count(b"SUBSCRIBE") == 2)
    raw.send(confirmation("subscribe", "a"))
    await sub.wait_for_activation("a")
    raw.send(b"-NOPERM not these\r\n")
    await eventually(lambda: raw.received.count(b"SUBSCRIBE") == 4)
    waiting = sub.activation("b")
    raw.send(b"-NOPERM not this\r\n" + confirmation("subscribe", "c"))
    await sub.wait_for_activation("c")
    with pytest.raises(SubscriptionRefused, match=r"'b': .*not this"):
        await waiting


async def test_a_ping_that_is_refused_is_an_answer(
    new_multiplexer: NewMultiplexer, raw: RawServer
) -> None:
    mpx = new_multiplexer(raw.url, ping_interval=0.15)
    subscriber_of(mpx).start()
    await eventually(lambda: raw.connected)
    for count in range(1, 4):
        await eventually(lambda count=count: raw.received.count(b"PING") >= count)
        raw.send(b"-NOPERM no pings\r\n")
    assert link_of(mpx).connections == 1
    await mpx.stop()


async def test_subscribed_and_idle_it_pings(new_multiplexer: NewMultiplexer) -> None:
    """RESP2 answers a subscriber's PING in another way than an idle client's."""
    for protocol in (2, 3):
        mpx = new_multiplexer(ping_interval=0.15, protocol=protocol)
        await mpx.start()
        await eventually(lambda mpx=mpx: mpx.stats().commands_out > 1)
        sub = mpx.new_channel_subscription()
        sub.add("a")
        await sub.wait_for_activation("a")
        commands = mpx.stats().commands_out
        await eventually(lambda mpx=mpx, commands=commands: mpx.stats().commands_out > commands + 1)
        sub.add("b")
        await sub.wait_for_activation("b")
        stats = mpx.stats()
        assert stats.reconnects == 0
        assert stats.drops["unreadable"] == 0
        assert unanswered_pings(registry_of(mpx)) <= 1
        await mpx.stop()


async def test_while_the_server_does_not_read_changes_wait(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    mpx = new_multiplexer(proxy.url)
    await mpx.start()
    await mpx.wait_connected(5)
    wire = link_of(mpx).wire
    assert wire is not None
    proxy.to_server.freeze()
    sub = mpx.new_channel_subscription()
    number = 0
    while not wire.paused:
        sub.add(f"{number}:" + "x" * 100_000)
        number += 1
        await asyncio.sleep(0)
        assert number < 1000
    commands = mpx.stats().commands_out
    sub.add("later", "never")
    await asyncio.sleep(0)
    sub.remove("never")
    await asyncio.sleep(0)
    assert mpx.stats().commands_out == commands
    proxy.thaw()
    await sub.wait_for_activation("later")
    assert mpx.stats().names_confirmed == number + 1


def test_a_loop_that_ended_without_a_stop_does_not_block_the_next(
    redis_url: str, client: redis.Redis
) -> None:
    mpx = Multiplexer(redis_url, unsubscribe_delay=0.05)
    sub = mpx.new_channel_subscription()

    async def life(name: str) -> None:
        await mpx.start()
        sub.add(name)
        await sub.wait_for_activation(name)
        sub.remove(name)
        await asyncio.sleep(0)  # the timer of the late unsubscribe is set
        sub.add(name + " too")  # in a turn that never ends

    async def next_life() -> None:
        await life("b")
        await eventually(lambda: client.pubsub_numsub("a", "b") == [(b"a", 0), (b"b", 0)])
        await mpx.stop()

    asyncio.run(life("a"))
    assert not mpx.running
    asyncio.run(next_life())
    assert sub.channels == {"a too", "b too"}


# -- silence ---------------------------------------------------------------------------------------


async def test_a_link_of_which_one_direction_is_dead_is_ended(
    new_multiplexer: NewMultiplexer, proxy: Proxy, client: redis.Redis
) -> None:
    """Messages go on arriving; nothing that we send gets through."""
    mpx = new_multiplexer(proxy.url, connect_timeout=1.0, ping_interval=0.1)
    await mpx.start()
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    await sub.wait_for_activation("a")
    proxy.to_server.freeze()
    loop = asyncio.get_running_loop()
    started = loop.time()
    sub.add("b")
    async with asyncio.timeout(PATIENCE):
        while not recorder.disconnects:
            client.publish("a", b"x")
            await asyncio.sleep(0.01)
    took = loop.time() - started
    (error,) = recorder.disconnects
    assert str(error) == "a command went unanswered for 1.0 s"
    # Once connect_timeout is promised, not twice.
    assert 1 <= took < 2
    assert len(recorder.messages) > 10
    proxy.thaw()
    await sub.wait_for_activation("b")


async def test_a_ping_that_is_not_answered_ends_the_link(
    new_multiplexer: NewMultiplexer, raw: RawServer
) -> None:
    mpx = new_multiplexer(raw.url, connect_timeout=0.2, ping_interval=0.6)
    subscriber_of(mpx).start()
    await eventually(lambda: raw.connected)
    await eventually(lambda: link_of(mpx).connections == 2)
    assert raw.received.count(b"PING") == 1
    await mpx.stop()


async def test_a_fence_after_a_quiet_time_has_its_time_for_an_answer(
    new_multiplexer: NewMultiplexer, raw: RawServer
) -> None:
    mpx = new_multiplexer(raw.url, connect_timeout=1.0)
    subscriber_of(mpx).start()
    await eventually(lambda: raw.connected)
    sub = mpx.new_channel_subscription()
    sub.add("a")
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    raw.send(confirmation("subscribe", "a"))
    await sub.wait_for_activation("a")
    await asyncio.sleep(1.1)
    (fence,) = mpx.fences(time.monotonic(), "a")
    await eventually(lambda: b"PING" in raw.received)
    await asyncio.sleep(0.3)
    assert not fence.done()
    raw.send(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
    await fence
    assert link_of(mpx).connections == 1
    await mpx.stop()


async def test_many_commands_that_are_answered_one_after_the_other_may_take_longer(
    new_multiplexer: NewMultiplexer, raw: RawServer
) -> None:
    mpx = new_multiplexer(raw.url, connect_timeout=0.5)
    subscriber_of(mpx).start()
    await eventually(lambda: raw.connected)
    sub = mpx.new_channel_subscription()
    names = [str(number) for number in range(12)]
    sub.add(*names)
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    for name in names:
        await asyncio.sleep(0.1)
        raw.send(confirmation("subscribe", name))
    async with asyncio.timeout(PATIENCE):
        await sub.wait_for_activation(names[-1])
    assert link_of(mpx).connections == 1
    # All is answered: nothing to wait for.
    await asyncio.sleep(0.6)
    assert link_of(mpx).connections == 1
    await mpx.stop()


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("size", [1, 10_000])
async def test_an_answer_that_we_have_not_read_yet_is_an_answer(
    new_multiplexer: NewMultiplexer, raw: RawServer, size: int
) -> None:
    """It lies behind many messages, in our buffers or in those of the socket."""
    mpx = new_multiplexer(raw.url, connect_timeout=0.3)
    subscriber_of(mpx).start()
    await eventually(lambda: raw.connected)
    handled = []

    def slow(name: str, data: bytes) -> None:
        handled.append(time.monotonic())
        time.sleep(0.0005)

    sub = mpx.new_channel_subscription(slow)
    sub.add("a")
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    raw.send(confirmation("subscribe", "a"))
    await sub.wait_for_activation("a")
    raw.send(message("a", b"x" * size) * 2000)
    sub.add("b")
    await eventually(lambda: raw.received.count(b"SUBSCRIBE") == 2)
    raw.send(confirmation("subscribe", "b"))
    async with asyncio.timeout(PATIENCE):
        await sub.wait_for_activation("b")
    assert handled[-1] - handled[0] > 0.3
    assert link_of(mpx).connections == 1
    await mpx.stop()
