"""Who is waited for, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from mpx_channels.multiplexer import Multiplexer
from mpx_channels.multiplexer import flow as flow_module
from mpx_channels.multiplexer.flow import PATIENCE, Flow
from tests.inside import full_buffers, subscriber_of, subscribers_of, use_up

from ..conftest import eventually
from .conftest import NewMultiplexer
from .raw_server import RawServer
from .recorder import Recorder
from .test_subscriber import confirmation, message

pytestmark = pytest.mark.usefixtures("clean_loop")


class Shelf:
    """A buffer of which the test takes what it likes."""

    def __init__(self, unread: int = 10) -> None:
        self.unread = self.capacity = unread
        self.patience = PATIENCE

    @property
    def half_empty(self) -> bool:
        return 2 * self.unread <= self.capacity


@pytest.fixture
async def flow() -> Flow:
    return Flow()


async def test_a_prompt_reader_is_waited_for_and_no_longer(flow: Flow) -> None:
    shelf = Shelf()
    freed: list[bool] = []
    flow.filled(shelf)
    flow.when_free(lambda: freed.append(flow.held))
    assert flow.held
    for _ in range(3):
        await asyncio.sleep(0)
        assert flow.held
        assert not freed
    shelf.unread = 5
    await asyncio.sleep(0)
    assert freed == [False]
    assert shelf.patience == PATIENCE


async def test_one_that_takes_nothing_is_slow_until_it_is_done(flow: Flow) -> None:
    shelf = Shelf()
    flow.filled(shelf)
    await eventually(lambda: not flow.held)
    assert shelf.patience <= 0
    flow.filled(shelf)
    assert not flow.held
    shelf.patience = PATIENCE
    flow.filled(shelf)
    assert flow.held
    shelf.unread = 0
    await eventually(lambda: not flow.held)


async def test_one_that_gets_on_is_waited_for(flow: Flow) -> None:
    shelf = Shelf(1000)
    loop = asyncio.get_running_loop()

    def take() -> None:
        shelf.unread -= 2
        if flow.held:
            loop.call_later(0.001, take)

    flow.filled(shelf)
    take()
    await eventually(lambda: not flow.held)
    assert shelf.half_empty
    assert shelf.patience > 0


async def test_one_that_hardly_gets_on_is_slow(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with holds in between, as long as it is never done."""
    monkeypatch.setattr(flow_module, "PATIENCE_PER_MESSAGE", 0.1)
    shelf = Shelf(10)
    for _ in range(100):
        flow.filled(shelf)
        if not flow.held:
            break
        while flow.held:
            before = shelf.patience
            await eventually(lambda before=before: shelf.patience != before or not flow.held)
            shelf.unread -= 1
        shelf.unread = 10
    assert shelf.patience <= 0


async def test_the_waiting_is_bounded_altogether(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_module, "COMES_BACK", 0.0)
    use_up(flow)
    shelf = Shelf(1_000_000)
    flow.filled(shelf)
    while flow.held:
        shelf.unread -= 10
        await asyncio.sleep(0)
    assert shelf.patience == 0
    # Who needs a turn only is none that is waited for.
    prompt = Shelf()
    flow.filled(prompt)
    prompt.unread = 0
    await asyncio.sleep(0)
    assert not flow.held
    assert prompt.patience == PATIENCE


async def test_what_another_loop_has_left_holds_nobody(flow: Flow) -> None:
    flow.filled(Shelf())
    flow.start()
    assert not flow.held
    await eventually(lambda: not full_buffers(flow))


# -- a subscription's queues ----------------------------------------------------------------------


def burst(client: redis.Redis, name: str, count: int) -> None:
    """Publish all at once: without a turn of the loop, so that it is there in one piece."""
    pipeline = client.pipeline(transaction=False)
    for number in range(count):
        pipeline.publish(name, number)
    pipeline.execute()


async def test_a_burst_to_who_iterates(parser: str, mpx: Multiplexer, client: redis.Redis) -> None:
    async with mpx.new_channel_subscription() as subscription:
        subscription.add("burst")
        await subscription.wait_for_activation("burst")
        burst(client, "burst", 5000)
        for number in range(5000):
            assert await anext(subscription) == ("burst", b"%d" % number)
            await asyncio.sleep(0)  # a reader that has something to do
    assert mpx.stats().drops["queue_full"] == 0


async def test_a_burst_to_an_async_callback(mpx: Multiplexer, client: redis.Redis) -> None:
    heard: list[bytes] = []

    async def on_message(name: str, data: bytes) -> None:
        await asyncio.sleep(0)
        heard.append(data)

    subscription = mpx.new_channel_subscription(on_message)
    subscription.add("burst")
    await subscription.wait_for_activation("burst")
    burst(client, "burst", 5000)
    await eventually(lambda: len(heard) == 5000)
    assert heard == [b"%d" % number for number in range(5000)]
    assert mpx.stats().drops["queue_full"] == 0
    subscription.close()


async def test_a_callback_that_is_stuck_holds_nobody_for_long(
    mpx: Multiplexer, client: redis.Redis
) -> None:
    gate = asyncio.Event()
    heard: list[bytes] = []

    async def stuck(name: str, data: bytes) -> None:
        await gate.wait()

    stuck_one = mpx.new_channel_subscription(stuck)
    well = mpx.new_channel_subscription(lambda name, data: heard.append(data))
    for subscription in (stuck_one, well):
        subscription.add("burst")
        await subscription.wait_for_activation("burst")
    burst(client, "burst", 3000)
    await eventually(lambda: len(heard) == 3000)
    assert mpx.stats().drops["queue_full"] in (1999, 2000)
    gate.set()
    stuck_one.close()
    well.close()


# -- what comes over the link meanwhile -----------------------------------------------------------


@pytest.fixture
async def raw() -> AsyncIterator[RawServer]:
    async with RawServer() as server:
        yield server


async def scripted(new_multiplexer: NewMultiplexer, raw: RawServer, **options: Any) -> Multiplexer:
    mpx = new_multiplexer(raw.url, max_queue=10, **options)
    subscriber_of(mpx).start()
    await mpx.wait_connected(5)
    await eventually(lambda: raw.connected)
    return mpx


async def test_a_link_that_ends_with_a_burst(
    parser: str, new_multiplexer: NewMultiplexer, raw: RawServer
) -> None:
    """What came before the end is for readers that had no turn, too, and comes before the news."""
    mpx = await scripted(new_multiplexer, raw, min_backoff=10, max_backoff=10)
    recorder = Recorder()

    async def on_message(name: str, data: bytes) -> None:
        await asyncio.sleep(0)
        recorder.on_message(name, data)

    subscription = mpx.new_channel_subscription(on_message, recorder.on_disconnect)
    subscription.add("a")
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    raw.send(
        confirmation("subscribe", "a")
        + b"".join([message("a", b"%d" % number) for number in range(500)])
    )
    await raw.end()
    await eventually(lambda: recorder.disconnects)
    assert [data for _, data in recorder.messages] == [b"%d" % n for n in range(500)]
    assert recorder.kinds[-1] == "disconnect"
    assert mpx.stats().drops["queue_full"] == 0
    subscription.close()


async def test_confirmations_keep_their_place(
    parser: str, new_multiplexer: NewMultiplexer, raw: RawServer
) -> None:
    mpx = await scripted(new_multiplexer, raw)
    recorder = Recorder()
    subscription = mpx.new_channel_subscription(*recorder.async_callbacks)
    subscription.add("a", "b")
    await eventually(lambda: b"SUBSCRIBE" in raw.received)
    raw.send(
        confirmation("subscribe", "a")
        + b"".join([message("a", b"%d" % number) for number in range(100)])
        + confirmation("subscribe", "b", 2)
        + b"".join([message("b", b"%d" % number) for number in range(100)])
    )
    await eventually(lambda: len(recorder.events) == 202)
    assert [name for _, name, _ in recorder.events] == ["a"] * 101 + ["b"] * 101
    assert recorder.kinds[101] == "activation"
    subscription.close()


async def test_stopping_waits_for_readers_only_so_long(
    new_multiplexer: NewMultiplexer, raw: RawServer
) -> None:
    mpx = await scripted(new_multiplexer, raw)
    async with mpx.new_channel_subscription() as subscription:
        subscription.add("a")
        await eventually(lambda: b"SUBSCRIBE" in raw.received)
        raw.send(confirmation("subscribe", "a") + b"".join([message("a", b"x")] * 500))
        await eventually(lambda: subscribers_of(mpx).flow.held)
        async with asyncio.timeout(5):
            await mpx.stop()
        assert (await anext(subscription))[1] == b"x"
