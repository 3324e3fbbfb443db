"""`drain`: a process sees off its consumers one by one, and lets no more in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer as StockConsumer
from channels.layers import InMemoryChannelLayer
from django.http import HttpRequest

from mpx_channels.generic.http import AsyncHttpConsumer
from mpx_channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from mpx_channels.health import ready
from mpx_channels.layer import MpxChannelLayer
from mpx_channels.loops.doors import doors
from tests.conftest import eventually

from .conftest import Event, Socket

Connected = Callable[..., Any]
RESTART = {"type": "websocket.close", "code": 1012, "reason": "service restart"}
LONG = 600.0


@pytest.fixture(autouse=True)
def open_again() -> Iterator[None]:
    yield
    doors.undrain()


class Member(AsyncWebsocketConsumer):
    groups = ["room"]

    async def say(self, event: Any) -> None:
        await self.send(text_data=event["text"])


class SyncMember(WebsocketConsumer):
    groups = ["room"]

    def say(self, event: Any) -> None:
        self.send(text_data=event["text"])


class Polite(Member):
    async def mpx_drain(self, event: Any) -> None:
        await self.send(text_data=f"{event['type']} {event['code']} {event['seconds'] <= LONG}")


class SyncPolite(SyncMember):
    def mpx_drain(self, event: Any) -> None:
        self.send(text_data=f"{event['type']} {event['code']} {event['seconds'] <= LONG}")
        self.close(4000)


async def is_ready() -> int:
    request = HttpRequest()
    request.method = "GET"
    return int((await ready(request)).status_code)


async def answer_closes(*sockets: Socket) -> None:
    """Clients that do as browsers do."""
    for socket in sockets:
        while (await socket.next())["type"] != "websocket.close":
            pass
        socket.hang_up(1012)


async def test_everybody_goes_and_nobody_comes(
    layer: MpxChannelLayer, install: Any, connected: Connected, opened: Any
) -> None:
    install(layer)
    assert await is_ready() == 200
    sockets = [await connected(each) for each in (Member, SyncMember, Member)]
    stock = await connected(type("Stock", (StockConsumer,), {}))
    draining = asyncio.create_task(layer.drain(over=0.3))
    await eventually(lambda: doors.draining)
    assert await is_ready() == 503
    late = opened(Member, subprotocols=["chat"])
    late.push({"type": "websocket.connect"})
    assert await late.next() == {"type": "websocket.accept", "subprotocol": "chat"}
    assert await late.next() == RESTART
    await late.ended()
    for socket in sockets[:2]:
        assert await socket.next() == RESTART
        socket.hang_up(1012)
    assert await sockets[2].next() == RESTART
    assert not draining.done()
    await eventually(lambda: doors.state.left == 1)
    sockets[2].hang_up(1012)
    await draining
    for socket in sockets:
        await socket.ended()
    assert layer.local_stats().total.drained == 4
    assert (await layer.fleet_stats()).processes[0].draining
    assert await is_ready() == 503
    await layer.drain()  # there is nobody any more
    layer.undrain()
    assert await is_ready() == 200
    again = await connected(Member)
    await again.disconnect()
    await stock.disconnect()


async def test_evenly(layer: MpxChannelLayer, install: Any, connected: Connected) -> None:
    """In the order of their coming, and the last one before the end."""
    install(layer)
    sockets = [await connected(Member) for _ in range(20)]
    loop = asyncio.get_running_loop()
    began, closed = loop.time(), []

    async def client(number: int, socket: Socket) -> None:
        await answer_closes(socket)
        closed.append((number, loop.time() - began))

    clients = [asyncio.create_task(client(*each)) for each in enumerate(sockets)]
    await layer.drain(over=1.0)
    await asyncio.gather(*clients)
    # Those that are due in one moment, on a slow machine, are closed in any order.
    assert sorted(number for number, _ in closed) == list(range(20))
    for number, at in closed:
        assert at >= 0.99 * number / 20  # never sooner; how late, depends on the machine


async def test_messages_before_it_come_before_it(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    install(layer)
    socket = await connected(Member)
    for number in range(50):
        await layer.group_send("room", {"type": "say", "text": str(number)})
    await eventually(lambda: layer.local_stats().total.deliveries == 50)
    draining = asyncio.create_task(layer.drain(over=LONG))
    assert await socket.texts(50) == [str(number) for number in range(50)]
    assert await socket.next() == RESTART
    socket.hang_up()
    await draining


@pytest.mark.parametrize(
    ("consumer", "over", "code"), [(Polite, 1.0, 1012), (SyncPolite, LONG, 4000)]
)
async def test_saying_goodbye(
    layer: MpxChannelLayer,
    install: Any,
    connected: Connected,
    consumer: Any,
    over: float,
    code: int,
) -> None:
    install(layer)
    socket = await connected(consumer)
    draining = asyncio.create_task(layer.drain(over=over))
    assert await socket.text() == "mpx.drain 1012 True"
    # Who does not close in time, is closed.
    assert (await socket.next())["code"] == code
    socket.hang_up()
    await draining
    assert [each["type"] for each in socket.sent].count("websocket.close") == 1


async def test_a_handler_that_does_not_end_in_time(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    """The socket is closed all the same, and the handler is not interrupted."""
    go = asyncio.Event()

    class Busy(Member):
        async def say(self, event: Any) -> None:
            await go.wait()
            await self.send(text_data="nobody gets it")

        async def disconnect(self, code: int) -> None:
            ended.append(code)

    ended: list[int] = []
    install(layer)
    socket = await connected(Busy)
    await layer.group_send("room", {"type": "say"})
    await eventually(lambda: layer.local_stats().total.deliveries == 1)
    draining = asyncio.create_task(layer.drain(over=0.05))
    assert await socket.next() == RESTART
    socket.hang_up(1012)
    go.set()
    await draining
    assert ended == [1012]
    assert len(socket.sent) == 2


@pytest.mark.parametrize("consumer", [Member, SyncMember])
@pytest.mark.parametrize("sends", [True, False])
async def test_a_client_that_does_not_read(
    layer: MpxChannelLayer,
    install: Any,
    monkeypatch: pytest.MonkeyPatch,
    consumer: Any,
    sends: bool,
) -> None:
    """Nobody waits for it longer than a moment after the end."""

    class Silent(Socket):
        reads = True

        async def send(self, frame: Event) -> None:
            if not self.reads:
                await asyncio.get_running_loop().create_future()
            await super().send(frame)

    ended: list[int] = []

    class Ends(consumer):  # type: ignore[misc]
        def websocket_disconnect(self, event: Any) -> Any:
            ended.append(event["code"])
            return super().websocket_disconnect(event)

    monkeypatch.setattr("mpx_channels.consumers.door.LAST_CHANCE", 0.1)
    install(layer)
    socket = await Silent(Ends).connect()
    socket.reads = False
    if sends:
        await layer.group_send("room", {"type": "say", "text": "hello"})
        await eventually(lambda: layer.local_stats().total.deliveries == 1)
    await layer.drain(over=0.1)
    await socket.ended()
    assert ended == [1012]


async def test_taken_back(layer: MpxChannelLayer, install: Any, connected: Connected) -> None:
    install(layer)
    sockets = [await connected(Member) for _ in range(3)]
    draining = asyncio.create_task(layer.drain(over=LONG))
    await answer_closes(sockets[0])
    await sockets[0].ended()
    assert (doors.state.total, doors.state.left) == (3, 2)
    layer.undrain()
    await draining
    await layer.group_send("room", {"type": "say", "text": "they stay"})
    for socket in sockets[1:]:
        assert await socket.text() == "they stay"
    # And can be drained again, faster than it was first meant.
    slowly = asyncio.create_task(layer.drain(over=LONG))
    await eventually(lambda: doors.state.left == 2)
    quickly = asyncio.create_task(layer.drain(over=0))
    await answer_closes(*sockets[1:])
    await asyncio.gather(slowly, quickly)


async def test_who_is_cancelled_does_not_wait_and_it_goes_on(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    install(layer)
    sockets = [await connected(Member) for _ in range(2)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await layer.drain(over=0.3)
    waiting = asyncio.create_task(layer.drain(over=0.3))
    await answer_closes(*sockets)
    await waiting


async def test_all_loops_and_layers(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    """A consumer of ours on another layer, and one on another event loop."""
    other, began = threading.Event(), threading.Event()
    frames: list[Any] = []

    def elsewhere() -> None:
        async def serve() -> None:
            socket = await Socket(Member).connect()
            began.set()
            await answer_closes(socket)
            await socket.ended()
            frames.extend(socket.sent)
            await layer.close_pools()

        asyncio.run(serve())
        other.set()

    install(layer)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    await eventually(began.is_set)
    install(InMemoryChannelLayer())
    memory = await connected(Member)
    assert doors.count == 2
    draining = asyncio.create_task(layer.drain(over=0.2))
    await answer_closes(memory)
    await draining
    thread.join()
    assert frames[-1] == RESTART


async def test_from_another_thread(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    install(layer)
    socket = await connected(Member)
    draining = asyncio.create_task(sync_to_async(layer.sync.drain, thread_sensitive=False)(0.1))
    await answer_closes(socket)
    await draining
    await sync_to_async(layer.sync.undrain)()
    assert not doors.draining


class Stream(AsyncHttpConsumer):
    content_type = b"text/event-stream"

    async def handle(self, body: bytes) -> None:
        await self.send_headers(headers=[(b"Content-Type", self.content_type)])
        await self.send_body(b"data: 1\n\n", more_body=True)
        await self.wait()
        await self.send_body(b"the end")

    async def wait(self) -> None:
        await asyncio.get_running_loop().create_future()


async def test_http(layer: MpxChannelLayer, install: Any, opened: Any) -> None:
    """A stream of events ends, and browsers ask for it again; a download goes on to its end."""
    go = asyncio.Event()

    class Download(Stream):
        content_type = b"text/csv"

        async def wait(self) -> None:
            await go.wait()

    install(layer)
    stream, download = opened(Stream, type="http"), opened(Download, type="http")
    for socket in (stream, download):
        socket.push({"type": "http.request"})
        await socket.next()
        await socket.next()
    draining = asyncio.create_task(layer.drain(over=0.05))
    assert await stream.next() == {"type": "http.response.body", "body": b"", "more_body": False}
    await stream.ended()
    late = opened(Download, type="http")  # is served
    late.push({"type": "http.request"})
    assert (await late.next())["status"] == 200
    assert not draining.done()
    go.set()
    await draining
    for socket in (download, late):
        await socket.ended()
        assert socket.sent[-1]["body"] == b"the end"


@pytest.mark.parametrize("over", [-1, float("nan"), float("inf"), None, "30", True])
async def test_what_is_no_time(layer: MpxChannelLayer, over: Any) -> None:
    with pytest.raises(ValueError, match="over must be a number of seconds from 0 up, not "):
        await layer.drain(over)
    assert not doors.draining


# -- from another process -------------------------------------------------------------------------


async def test_asked_by_another_process(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    """Both stand for a process here, and are one: so it is drained whom one asks."""
    install(layer)
    socket = await connected(Member)
    process_id = layer.process_id or ""
    state = await other_layer.draining(process_id)
    assert state is not None
    assert (state.draining, state.total, state.left) == (False, 0, 0)
    state = await other_layer.drain_process(process_id, over=0.05)
    assert state is not None
    assert (state.draining, state.total, state.left) == (True, 1, 1)
    await answer_closes(socket)
    await socket.ended()
    state = await other_layer.draining(process_id)
    assert state is not None
    assert (state.draining, state.total, state.left) == (True, 1, 0)
    state = await other_layer.undrain_process(process_id)
    assert state is not None
    assert not state.draining
    assert await other_layer.drain_process("0" * 16) is None
    with pytest.raises(ValueError, match="over must"):
        await other_layer.drain_process(process_id, over=-1)
