"""`send_timeout` for clients that stop reading, and `max_consumers` of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer as StockConsumer

from mpx_channels.consumers import MpxConsumerMixin
from mpx_channels.generic.http import AsyncHttpConsumer
from mpx_channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from mpx_channels.layer import MpxChannelLayer
from mpx_channels.loops.doors import doors
from tests.conftest import eventually

from .conftest import Event, MakeLayer, Socket

Connected = Callable[..., Any]
TOO_SLOW = {"type": "websocket.close", "code": 1013, "reason": "too slow"}


class Slow(Socket):
    """Its client stops reading at some time, and the server waits for it with each send."""

    def __init__(self, consumer: Any, **scope: Any) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        # Sends that wait for the client.
        self.waiting_sends = 0
        super().__init__(consumer, **scope)

    async def send(self, frame: Event) -> None:
        self.waiting_sends += 1
        await self.reads.wait()
        self.waiting_sends -= 1
        await super().send(frame)


@pytest.fixture
async def slow() -> AsyncIterator[Callable[..., Slow]]:
    sockets: list[Slow] = []

    def opened(consumer: Any, **scope: Any) -> Slow:
        sockets.append(Slow(consumer, **scope))
        return sockets[-1]

    yield opened
    for socket in sockets:
        socket.task.cancel()
    await asyncio.gather(*[socket.task for socket in sockets], return_exceptions=True)


class Member(AsyncWebsocketConsumer):
    groups = ["room"]
    send_timeout = 0.2
    ended: list[Any] = []

    async def say(self, event: Any) -> None:
        await self.send(text_data=event["text"])

    async def own_task(self, event: Any) -> None:
        await asyncio.gather(asyncio.create_task(self.send(text_data="in a task")))

    async def disconnect(self, code: int) -> None:
        self.ended.append((type(self).__name__, code))


class SyncMember(WebsocketConsumer):
    groups = ["room"]
    send_timeout = 0.2
    ended = Member.ended

    def say(self, event: Any) -> None:
        self.send(text_data=event["text"])

    def own_task(self, event: Any) -> None:
        self.send(text_data="in a thread")

    def disconnect(self, code: int) -> None:
        self.ended.append((type(self).__name__, code))


def closed_slow(layer: MpxChannelLayer) -> int:
    return layer.local_stats().total.closed_slow


@pytest.mark.parametrize("consumer", [Member, SyncMember])
@pytest.mark.parametrize("type_", ["say", "own.task", "mpx.broadcast"])
async def test_a_client_that_stops_reading(
    layer: MpxChannelLayer, install: Any, slow: Any, connected: Connected, consumer: Any, type_: str
) -> None:
    install(layer)
    Member.ended.clear()
    socket, other = await slow(consumer).connect(), await connected(Member)
    socket.reads.clear()
    await layer.group_send("room", {"type": type_, "text": "hello"})
    assert (await other.next())["type"] == "websocket.send"
    await socket.ended()
    assert closed_slow(layer) == 1
    assert Member.ended == [(consumer.__name__, 1013)]
    assert await layer.group_size("room") == 1  # the other one stays
    await layer.group_send("room", {"type": "say", "text": "still here"})
    assert await other.text() == "still here"
    await other.disconnect()


async def test_one_that_reads_again_learns_why(
    layer: MpxChannelLayer, install: Any, slow: Any
) -> None:
    class Patient(Member):
        send_timeout = 1.0

    install(layer)
    socket = await slow(Patient).connect()
    socket.reads.clear()
    for text in ("one", "two"):
        await layer.group_send("room", {"type": "say", "text": text})
    await eventually(lambda: socket.waiting_sends == 2)
    assert closed_slow(layer) == 1
    socket.reads.set()
    assert await socket.text() == "one"
    assert await socket.next() == TOO_SLOW
    await socket.disconnect(1013)
    assert len(socket.sent) == 3


@pytest.mark.parametrize("consumer", [Member, SyncMember])
async def test_a_close_that_the_client_does_not_take(
    layer: MpxChannelLayer, install: Any, slow: Any, connected: Connected, consumer: Any
) -> None:
    """It waits for the client as a frame does; others of the same thread do not wait for it."""
    install(layer)
    Member.ended.clear()
    socket, other = await slow(consumer).connect(), await connected(SyncMember)
    socket.reads.clear()
    await layer.group_close("room")
    assert (await other.next())["type"] == "websocket.close"
    await other.disconnect()
    await socket.ended()
    assert closed_slow(layer) == 1
    assert sorted(Member.ended) == sorted([("SyncMember", 1000), (consumer.__name__, 1013)])


async def test_many_short_waits_are_no_long_one(
    layer: MpxChannelLayer, install: Any, slow: Any
) -> None:
    class Patient(Member):
        send_timeout = 0.6

    install(layer)
    socket = await slow(Patient).connect()
    for number in range(20):
        socket.reads.clear()
        await layer.group_send("room", {"type": "say", "text": str(number)})
        await asyncio.sleep(0.06)
        socket.reads.set()
        assert await socket.text() == str(number)
    assert closed_slow(layer) == 0
    await socket.disconnect()


async def test_a_slow_handler_is_no_slow_client(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    class Busy(Member):
        send_timeout = 0.05

        async def say(self, event: Any) -> None:
            await self.send(text_data="begun")
            await asyncio.sleep(0.5)
            await self.send(text_data="done")

    class Patient(Busy):
        send_timeout = None

    install(layer)
    sockets = [await connected(each) for each in (Busy, Patient)]
    await layer.group_send("room", {"type": "say"})
    for socket in sockets:
        assert await socket.texts(2) == ["begun", "done"]
        await socket.disconnect()
    assert closed_slow(layer) == 0


async def test_a_response_that_nobody_reads(
    layer: MpxChannelLayer, install: Any, slow: Any
) -> None:
    class Endless(AsyncHttpConsumer):
        send_timeout = 0.2
        ended = 0

        async def handle(self, body: bytes) -> None:
            await self.send_headers(headers=[(b"Content-Type", b"text/event-stream")])
            while True:
                await self.send_body(b"data: x\n\n", more_body=True)
                await asyncio.sleep(0)

        async def disconnect(self) -> None:
            Endless.ended += 1

    install(layer)
    socket = slow(Endless, type="http")
    socket.push({"type": "http.request"})
    await socket.next()
    socket.reads.clear()
    await socket.ended()
    assert (closed_slow(layer), Endless.ended) == (1, 1)


async def test_a_server_that_cancels_in_the_same_moment(
    layer: MpxChannelLayer, install: Any, slow: Any
) -> None:
    """Its cancellation is not swallowed."""
    install(layer)
    socket = await slow(Member).connect()
    socket.reads.clear()
    await layer.group_send("room", {"type": "say", "text": "hello"})
    await eventually(lambda: closed_slow(layer) == 1)
    socket.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await socket.ended()


@pytest.mark.parametrize("value", ["60", 0, -1, float("nan"), float("inf"), True])
async def test_what_is_no_send_timeout(
    layer: MpxChannelLayer, install: Any, opened: Any, value: Any
) -> None:
    class Mistaken(Member):
        send_timeout = value

    install(layer)
    socket = opened(Mistaken)
    text = f"send_timeout of Mistaken must be a number of seconds above 0, .*not {value!r}"
    with pytest.raises(ValueError, match=text):
        await socket.ended()
    assert doors.count == 0


# -- max_consumers --------------------------------------------------------------------------------


async def test_no_more_than_max_consumers(
    make_layer: MakeLayer, install: Any, connected: Connected, opened: Any
) -> None:
    layer = install(make_layer(max_consumers=2))
    sockets = [await connected(Member), await connected(SyncMember)]
    for protocols in ([], ["chat"]):
        refused = opened(Member, subprotocols=protocols)
        refused.push({"type": "websocket.connect"})
        first = protocols[0] if protocols else None
        assert await refused.next() == {"type": "websocket.accept", "subprotocol": first}
        assert await refused.next() == {**TOO_SLOW, "reason": "try again later"}
        await refused.ended()
    request = opened(AsyncHttpConsumer, type="http")
    request.push({"type": "http.request"})
    assert (await request.next())["status"] == 503
    await request.next()
    await request.ended()
    assert layer.local_stats().total.refused == 3
    assert await layer.group_size("room") == 2
    stock = await connected(type("Stock", (StockConsumer,), {}))  # is not ours to refuse
    await stock.disconnect()
    await sockets.pop().disconnect()
    sockets.append(await connected(Member))
    for socket in sockets:
        await socket.disconnect()


async def test_workers_do_not_count(make_layer: MakeLayer, install: Any, connected: Any) -> None:
    """A consumer of a plain channel has no connection that could be refused."""

    class Job(MpxConsumerMixin, AsyncConsumer):
        async def job(self, event: Any) -> None:
            await self.send({"type": "done"})

    install(make_layer(max_consumers=1))
    socket = await connected(Member)
    job = Socket(Job, type="channel")
    job.push({"type": "job"})
    assert (await job.next())["type"] == "done"
    job.task.cancel()
    await socket.disconnect()


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10"])
def test_what_is_no_limit(value: Any) -> None:
    with pytest.raises(ValueError, match=r"max_consumers must be .* not "):
        MpxChannelLayer(max_consumers=value)
