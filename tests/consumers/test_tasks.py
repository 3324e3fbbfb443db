"""`start_task`: work beside the handlers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mpx_channels.generic.websocket import AsyncWebsocketConsumer
from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually
from tests.inside import tasks_of

from .conftest import Gate, Open, Socket


class Starter(AsyncWebsocketConsumer):
    """Starts what the test gives it."""

    async def connect(self) -> None:
        await self.accept()
        await self.send(text_data=self.channel_name)

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        await self.send(text_data=text_data)

    async def disconnect(self, code: int) -> None:
        self.disconnected = code


async def open_starter(opened: Open, of: Any = Starter) -> tuple[Any, Socket]:
    consumer = of()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await consumer(scope, receive, send)

    socket = await opened(app).connect()
    await socket.text()
    return consumer, socket


async def test_a_task_runs_beside_the_handlers(
    default: MpxChannelLayer, opened: Open, gate: Gate
) -> None:
    consumer, socket = await open_starter(opened)

    async def work() -> str:
        await gate.passed()
        await consumer.send(text_data="from the task")
        return "result"

    task = consumer.start_task(work())
    await gate.reached.wait()
    socket.say("hello")
    assert await socket.text() == "hello"
    gate.open()
    assert await socket.text() == "from the task"
    assert await task == "result"
    socket.say("still here")
    assert await socket.text() == "still here"
    await socket.disconnect(1001)
    assert consumer.disconnected == 1001


async def test_an_exception_of_a_task_ends_the_consumer(
    default: MpxChannelLayer, opened: Open
) -> None:
    consumer, socket = await open_starter(opened)

    async def fail() -> None:
        raise LookupError("in a task")

    consumer.start_task(fail())
    with pytest.raises(LookupError, match="in a task"):
        await socket.ended()


async def test_an_exception_of_a_task_goes_before_what_is_unread(
    default: MpxChannelLayer, opened: Open, gate: Gate
) -> None:
    consumer, socket = await open_starter(opened)
    handled = []

    async def wait(event: Any) -> None:
        handled.append(event["n"])
        await gate.passed()

    consumer.wait = wait
    for number in range(3):
        await default.send(consumer.channel_name, {"type": "wait", "n": number})
    await gate.reached.wait()
    await eventually(lambda: default.stats().unread == 2)

    async def fail() -> None:
        raise LookupError("in a task")

    task = consumer.start_task(fail())
    await asyncio.wait([task])
    gate.open()
    with pytest.raises(LookupError, match="in a task"):
        await socket.ended()
    assert handled == [0]


async def test_a_cancelled_task_ends_nothing(default: MpxChannelLayer, opened: Open) -> None:
    consumer, socket = await open_starter(opened)
    task = consumer.start_task(asyncio.Event().wait())
    task.cancel()
    await asyncio.wait([task])
    socket.say("still here")
    assert await socket.text() == "still here"


async def test_no_exception_of_a_task_is_lost(
    default: MpxChannelLayer, opened: Open, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Of several, one ends the consumer; the others are logged, as one of a task's last words."""
    consumer, socket = await open_starter(opened)

    async def hold(event: Any) -> None:
        await gate.passed()

    async def fail(number: int) -> None:
        raise LookupError(f"number {number}")

    async def fail_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("last words")

    consumer.hold = hold
    await default.send(consumer.channel_name, {"type": "hold"})
    await gate.reached.wait()
    consumer.start_task(fail_when_cancelled())
    await asyncio.wait([consumer.start_task(fail(number)) for number in range(3)])
    gate.open()
    with pytest.raises(LookupError) as raised:
        await socket.ended()
    logged = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    failures = [f"number {n}" for n in range(3)]
    assert sorted([str(raised.value), *logged]) == ["last words", *failures]
    assert all("consumer's task failed" in record.getMessage() for record in caplog.records)


async def test_tasks_do_not_pile_up(default: MpxChannelLayer, opened: Open) -> None:
    consumer, socket = await open_starter(opened)
    before = len(tasks_of(consumer))

    async def nothing() -> None:
        pass

    for _ in range(100):
        await consumer.start_task(nothing())
    await eventually(lambda: len(tasks_of(consumer)) == before)
    await socket.disconnect()
