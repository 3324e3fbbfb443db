"""How events reach a subscription's owner: at once, queued, iterated over."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

import pytest

from mpx_channels.multiplexer.callbacks import Callbacks, MessageStream, is_async
from mpx_channels.multiplexer.counters import EngineCounters
from mpx_channels.multiplexer.flow import Flow
from mpx_channels.multiplexer.logs import LimitedLog

from ..conftest import eventually
from .recorder import Recorder

pytestmark = pytest.mark.usefixtures("clean_loop")


def new_callbacks(
    *callbacks: Any, counters: EngineCounters | None = None, max_queue: int = 5
) -> Any:
    on_message, on_disconnect, on_activation = (*callbacks, None, None)[:3]
    return Callbacks(
        on_message,
        on_disconnect,
        on_activation,
        counters=counters or EngineCounters(),
        flow=Flow(),
        log=LimitedLog(logging.getLogger("mpx_channels.multiplexer")),
        max_queue=max_queue,
    )


async def handler(name: str, data: bytes) -> None: ...


class Handler:
    async def __call__(self, name: str, data: bytes) -> None: ...

    async def method(self, name: str, data: bytes) -> None: ...


@pytest.mark.parametrize(
    "callback", [handler, Handler(), Handler().method, functools.partial(handler, data=b"")]
)
async def test_coroutine_functions_of_all_kinds_are_known(callback: Any) -> None:
    assert is_async(callback)


@pytest.mark.parametrize("callback", [print, lambda name, data: None, [].append, None])
async def test_plain_functions_are_known(callback: Any) -> None:
    assert not is_async(callback)


async def test_plain_callbacks_are_called_at_once() -> None:
    recorder = Recorder()
    callbacks = new_callbacks(*recorder.callbacks)
    callbacks.activated("a")
    callbacks.deliver("a", b"1")
    error = OSError()
    callbacks.disconnected(error)
    assert recorder.events == [
        ("activation", "a", None),
        ("message", "a", b"1"),
        ("disconnect", error, None),
    ]


async def test_async_callbacks_run_one_at_a_time_and_in_order() -> None:
    running = 0
    heard = []
    done = asyncio.Event()

    async def note(*arguments: Any) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        heard.append(arguments)
        running -= 1
        if len(heard) == 4:
            done.set()

    # One async callback is enough to queue the plain ones, too.
    callbacks = new_callbacks(note, lambda error: heard.append((error,)), note)
    error = OSError()
    callbacks.activated("a")
    callbacks.deliver("a", b"1")
    callbacks.disconnected(error)
    callbacks.deliver("a", b"2")
    assert heard == []
    await done.wait()
    assert heard == [("a",), ("a", b"1"), (error,), ("a", b"2")]


async def test_the_worker_ends_when_the_queue_is_empty() -> None:
    heard = asyncio.Queue[bytes]()

    async def on_message(name: str, data: bytes) -> None:
        await heard.put(data)

    before = asyncio.all_tasks()
    callbacks = new_callbacks(on_message)
    for data in (b"1", b"2"):
        callbacks.deliver("a", data)
        assert await heard.get() == data
        await eventually(lambda: asyncio.all_tasks() == before)


async def test_a_full_queue_drops_the_newest_message_and_counts() -> None:
    heard = []
    gate = asyncio.Event()

    async def on_message(name: str, data: bytes) -> None:
        await gate.wait()
        heard.append(data)

    counters = EngineCounters()
    callbacks = new_callbacks(on_message, None, heard.append, counters=counters, max_queue=2)
    for data in (b"1", b"2", b"3"):
        callbacks.deliver("a", data)
    assert counters.dropped_queue_full == 1
    callbacks.activated("a")  # never dropped
    gate.set()
    await eventually(lambda: len(heard) == 3)
    assert heard == [b"1", b"2", "a"]
    callbacks.deliver("a", b"4")
    await eventually(lambda: heard[-1] == b"4")
    assert counters.dropped_queue_full == 1


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_raising_plain_callback_is_logged(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:
        raise error("on purpose")

    counters = EngineCounters()
    callbacks = new_callbacks(fail, fail, fail, counters=counters)
    callbacks.activated("a")
    callbacks.disconnected(OSError())
    assert counters.callback_errors == 2
    # The same line of the same function: it is shown once.
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "on purpose" in caplog.text


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_raising_async_callback_does_not_end_the_queue(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    heard = []

    async def on_message(name: str, data: bytes) -> None:
        heard.append(data)
        raise error("on purpose")

    counters = EngineCounters()
    callbacks = new_callbacks(on_message, counters=counters)
    callbacks.deliver("a", b"1")
    callbacks.deliver("a", b"2")
    await eventually(lambda: counters.callback_errors == 2)
    assert heard == [b"1", b"2"]
    assert "on purpose" in caplog.text


async def test_an_async_callback_may_wait_for_something_that_is_cancelled() -> None:
    heard = []
    future = asyncio.get_running_loop().create_future()

    async def on_message(name: str, data: bytes) -> None:
        if data == b"1":
            await future
        heard.append(data)

    callbacks = new_callbacks(on_message)
    callbacks.deliver("a", b"1")
    callbacks.deliver("a", b"2")
    await asyncio.sleep(0)
    future.cancel()
    await eventually(lambda: heard == [b"2"])


async def test_cancelling_the_worker_ends_it() -> None:
    """As `asyncio.run` does when it ends."""
    started = asyncio.Event()

    async def on_message(name: str, data: bytes) -> None:
        started.set()
        await asyncio.get_running_loop().create_future()

    before = asyncio.all_tasks()
    callbacks = new_callbacks(on_message)
    callbacks.deliver("a", b"1")
    await started.wait()
    (worker,) = asyncio.all_tasks() - before
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker


async def test_after_close_nobody_is_called() -> None:
    recorder = Recorder()
    callbacks = new_callbacks(*recorder.callbacks)
    callbacks.close()
    callbacks.activated("a")
    callbacks.disconnected(OSError())
    assert recorder.events == []


async def test_close_discards_what_is_queued() -> None:
    recorder = Recorder()
    callbacks = new_callbacks(*recorder.async_callbacks)
    callbacks.activated("a")
    callbacks.deliver("a", b"1")
    callbacks.close()
    callbacks.disconnected(OSError())
    await eventually(lambda: len(asyncio.all_tasks()) == 1)
    assert recorder.events == []


# -- iterated over ---------------------------------------------------------------------------------


async def test_a_stream_gives_messages_in_order() -> None:
    stream = MessageStream(EngineCounters(), Flow(), 5)
    stream.put("a", b"1")
    stream.put("b", b"2")
    assert await stream.take() == ("a", b"1")
    assert await stream.take() == ("b", b"2")


async def test_a_stream_waits_for_a_message() -> None:
    stream = MessageStream(EngineCounters(), Flow(), 5)
    takers = [asyncio.create_task(stream.take()) for _ in range(3)]
    await asyncio.sleep(0)
    for data in (b"1", b"2", b"3"):
        stream.put("a", data)
    assert await asyncio.gather(*takers) == [("a", b"1"), ("a", b"2"), ("a", b"3")]


async def test_a_full_stream_drops_the_newest_and_counts() -> None:
    counters = EngineCounters()
    stream = MessageStream(counters, Flow(), 2)
    for data in (b"1", b"2", b"3"):
        stream.put("a", data)
    assert counters.dropped_queue_full == 1
    assert [await stream.take(), await stream.take()] == [("a", b"1"), ("a", b"2")]


async def test_an_ended_stream_gives_what_it_has_and_ends() -> None:
    stream = MessageStream(EngineCounters(), Flow(), 5)
    stream.put("a", b"1")
    stream.end()
    assert await stream.take() == ("a", b"1")
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await stream.take()


async def test_the_end_wakes_everybody_who_waits() -> None:
    stream = MessageStream(EngineCounters(), Flow(), 5)

    async def drain() -> str:
        try:
            await stream.take()
        except StopAsyncIteration:
            return "end"
        return "message"

    takers = [asyncio.create_task(drain()) for _ in range(3)]
    await asyncio.sleep(0)
    stream.end()
    assert await asyncio.gather(*takers) == ["end"] * 3


async def test_a_cancelled_taker_takes_nothing_along() -> None:
    stream = MessageStream(EngineCounters(), Flow(), 5)
    first, second = (asyncio.create_task(stream.take()) for _ in range(2))
    await asyncio.sleep(0)
    stream.put("a", b"1")  # wakes the first, which is cancelled before it runs
    first.cancel()
    assert await second == ("a", b"1")
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_taker_cancelled_while_waiting_is_passed_over() -> None:
    stream = MessageStream(EngineCounters(), Flow(), 5)
    first, second = (asyncio.create_task(stream.take()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    stream.put("a", b"1")
    assert await second == ("a", b"1")
