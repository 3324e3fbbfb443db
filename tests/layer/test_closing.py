"""`close`, and event loops that come and go in many threads."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.multiplexer import MpxError, MultiplexerStopped, NotConnected
from tests.conftest import eventually
from tests.inside import asked_for, hub_of, queue_reader, serve, shared_hub_of, wake
from tests.proxy import Proxy

from .conftest import MakeLayer
from .test_sync import in_thread


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_loops_that_come_and_go_in_many_threads(
    layer_config: dict[str, Any], prefix: str, quick_switches: None
) -> None:
    layer = MpxChannelLayer(**layer_config, prefix=prefix)
    errors: list[BaseException] = []

    async def use() -> None:
        await layer.new_channel()
        await layer.close()

    async def leave() -> None:
        await layer.new_channel()

    def run() -> None:
        try:
            for number in range(10):
                asyncio.run(use() if number % 2 else leave())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


async def test_nobody_is_left_waiting(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A join that Redis has not confirmed when the layer is closed will never be."""
    layer = make_layer(hosts=[proxy.url])
    channel = await layer.new_channel()
    proxy.to_client.freeze()
    joins: list[asyncio.Task[Any]] = [
        asyncio.create_task(add("name", channel))
        for add in (layer.group_add, layer.group_pattern_add, layer.channel_add, layer.pattern_add)
    ]
    await eventually(lambda: layer.stats().patterns == 2)
    await layer.close()
    for join in joins:
        with pytest.raises(NotConnected, match=r"closed before .* confirmed"):
            await asyncio.wait_for(join, 10)
    proxy.to_client.thaw()


@pytest.mark.everywhere
async def test_nobody_is_left_reading_a_plain_channel(layer: MpxChannelLayer) -> None:
    await layer.connect()
    readers = [asyncio.create_task(layer.receive(f"jobs-{number}")) for number in (1, 1, 2)]
    await eventually(lambda: len(asked_for(queue_reader(layer, "jobs-1"))) == 2)
    await layer.close()
    for reader in readers:
        with pytest.raises(MultiplexerStopped, match="the layer was closed"):
            await asyncio.wait_for(reader, 10)


async def test_it_takes_a_second_at_most(make_layer: MakeLayer, proxy: Proxy) -> None:
    """Whatever waits for a server that has fallen silent: it is one second for all."""
    layer = make_layer(hosts=[proxy.url])
    await layer.connect()
    readers = [asyncio.create_task(layer.receive(f"jobs-{number}")) for number in range(2)]
    queue = queue_reader(layer, "jobs-0")
    await eventually(lambda: len(asked_for(queue)) == 2)
    proxy.freeze()
    calls: list[Any] = [layer.group_send("name", {"type": "x"}), layer.send("jobs", {"type": "x"})]
    waiting = [*readers, *map(asyncio.ensure_future, calls)]
    started = asyncio.get_running_loop().time()
    await layer.close()
    assert asyncio.get_running_loop().time() - started < 1
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, MpxError) for result in results)
    proxy.thaw()


async def test_a_reader_that_is_cancelled_as_the_layer_is_closed(layer: MpxChannelLayer) -> None:
    await layer.connect()
    reader = asyncio.create_task(layer.receive("jobs"))
    queue = queue_reader(layer, "jobs")
    await eventually(lambda: asked_for(queue))
    closing = asyncio.create_task(queue.close(0.5))
    await asyncio.sleep(0)  # the reader is told now, and has not heard of it
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await closing


@pytest.mark.parametrize("kind", ["own", "plain"])
async def test_synchronous_readers_are_not_left_waiting(layer: MpxChannelLayer, kind: str) -> None:
    channel = await in_thread(layer.sync.new_channel) if kind == "own" else "jobs"
    reading = asyncio.create_task(in_thread(layer.sync.receive, channel))
    await eventually(lambda: (hub := shared_hub_of(layer)) and hub.inbox.live)
    hub = shared_hub_of(layer)
    assert hub is not None
    if kind == "own":
        await eventually(lambda: hub.mailboxes[channel].waited_for)
    else:
        await eventually(lambda: asked_for(queue_reader(layer, channel, hub)))
    await in_thread(layer.sync.close)
    with pytest.raises(MultiplexerStopped, match="the layer was closed"):
        await asyncio.wait_for(reading, 10)


@pytest.mark.only_single("a blocking pop is woken")
def test_a_loop_that_is_closed_in_the_middle_of_an_answer(
    layer_config: dict[str, Any], prefix: str
) -> None:
    """Nothing complains of the task; pytest notices warnings."""
    layer = MpxChannelLayer(**layer_config, prefix=prefix)
    loop = asyncio.new_event_loop()
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reports.append(context))

    async def use() -> None:
        await layer.connect()
        tasks = serve(hub_of(layer), {"do": "stats"})
        wake(queue_reader(layer, "x"))
        await asyncio.sleep(0)
        assert tasks

    loop.run_until_complete(use())
    loop.close()
    gc.collect()
    assert not reports


@pytest.mark.everywhere
def test_a_loop_that_is_closed_in_any_turn(
    layer_config: dict[str, Any], prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While a layer connects, asks Sentinels or nodes, and hangs up: no socket is left open, no
    task, and no word in the log. pytest notices warnings.
    """
    layer = MpxChannelLayer(**layer_config, prefix=prefix)
    reports: list[dict[str, Any]] = []

    async def connect_for(turns: int) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: reports.append(told))
        connecting = asyncio.ensure_future(layer.connect())
        for turn in range(turns):
            # What comes of the sockets takes a moment, too.
            await asyncio.sleep(0.0002 * (turn % 2))
        connecting.cancel()
        await asyncio.wait([connecting])

    for turns in range(60):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(connect_for(turns))
        loop.close()
    gc.collect()
    assert not reports
    assert not caplog.records
