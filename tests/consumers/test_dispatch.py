"""What holds for Channels' consumers holds for ours, on every layer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from channels.exceptions import AcceptConnection, DenyConnection

from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually

from .conftest import AnyLayer, Gate, Generic, Open
from .echo import echo_of

Connected = Callable[..., Any]


async def test_the_socket_and_the_layer_are_heard(
    generic: Generic, any_layer: AnyLayer, connected: Connected
) -> None:
    socket = await connected(echo_of(generic))
    channel = await socket.text()
    socket.say("hello")
    assert await socket.text() == "heard hello"
    await any_layer.send(channel, {"type": "say", "text": "hello"})
    assert await socket.text() == "told hello"
    socket.push({"type": "websocket.receive", "bytes": b"\x00"})
    assert await socket.text() == r"heard b'\x00'"
    await socket.disconnect()


async def test_groups(generic: Generic, any_layer: AnyLayer, connected: Connected) -> None:
    class Member(echo_of(generic)):  # type: ignore[misc]
        groups = ["room", "hall"]

    one, two = await connected(Member), await connected(Member)
    await one.text(), await two.text()
    await any_layer.group_send("room", {"type": "say", "text": "1"})
    assert (await one.text(), await two.text()) == ("told 1", "told 1")
    await one.disconnect()
    await any_layer.group_send("hall", {"type": "say", "text": "2"})
    assert await two.text() == "told 2"
    assert [frame.get("text") for frame in one.sent].count("told 2") == 0
    await two.disconnect()


async def test_handlers_run_one_at_a_time(
    generic: Generic, any_layer: AnyLayer, connected: Connected
) -> None:
    class Busy(echo_of(generic)):  # type: ignore[misc]
        running = most = 0

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.say({"text": text_data})

        async def say(self, event: Any) -> None:
            Busy.running += 1
            Busy.most = max(Busy.most, Busy.running)
            await asyncio.sleep(0)
            await self.send(text_data=event["text"])
            await asyncio.sleep(0)
            Busy.running -= 1

    socket = await connected(Busy)
    channel = await socket.text()
    for number in range(20):
        await any_layer.send(channel, {"type": "say", "text": f"layer-{number}"})
        socket.say(f"socket-{number}")
    heard = await socket.texts(40)
    # Each source in its own order, whatever the order between them.
    for source in ("layer", "socket"):
        assert [text for text in heard if text.startswith(source)] == [
            f"{source}-{number}" for number in range(20)
        ]
    assert Busy.most == 1
    await socket.disconnect()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"text": "x"}, "no 'type' attribute"),
        ({"type": "_private"}, "leading underscore"),
        ({"type": ".private"}, "leading underscore"),
    ],
)
async def test_what_is_no_message_is_said(
    generic: Generic, default: MpxChannelLayer, connected: Connected, message: Any, reason: str
) -> None:
    socket = await connected(echo_of(generic))
    await default.send(await socket.text(), message)
    with pytest.raises(ValueError, match=reason):
        await socket.ended()


async def test_the_server_may_cancel_a_handler(
    generic: Generic, any_layer: AnyLayer, connected: Connected, gate: Gate
) -> None:
    class Slow(echo_of(generic)):  # type: ignore[misc]
        cancelled = False

        async def receive(self, **data: Any) -> None:
            try:
                await gate.passed()
            except asyncio.CancelledError:
                Slow.cancelled = True
                raise

    socket = await connected(Slow)
    socket.say("wait")
    await gate.reached.wait()
    socket.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await socket.ended()
    assert Slow.cancelled


async def test_a_slow_handler_delays_its_own_consumer_only(
    generic: Generic, any_layer: AnyLayer, connected: Connected, gate: Gate
) -> None:
    class Slow(echo_of(generic)):  # type: ignore[misc]
        async def receive(self, **data: Any) -> None:
            await gate.passed()

    slow, quick = await connected(Slow), await connected(echo_of(generic))
    channel = await slow.text()
    await quick.text()
    slow.say("wait")
    await gate.reached.wait()
    await any_layer.send(channel, {"type": "say", "text": "after"})
    for number in range(10):
        quick.say(str(number))
        assert await quick.text() == f"heard {number}"
    assert slow.sent[-1]["text"] == channel
    gate.open()
    assert await slow.text() == "told after"


async def test_the_socket_waits_for_its_handler(
    generic: Generic, any_layer: AnyLayer, connected: Connected, gate: Gate
) -> None:
    """Back pressure: what the server is not asked for stays with the client."""

    class Slow(echo_of(generic)):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await gate.passed()
            await self.send(text_data=f"heard {text_data}")

    bystander = await connected(echo_of(generic))
    await bystander.text()
    socket = await connected(Slow)
    channel = await socket.text()
    await eventually(lambda: socket.waiting)
    asked = socket.asked
    socket.say("1", "2", "3")
    await gate.reached.wait()
    await any_layer.send(channel, {"type": "say", "text": "from the layer"})
    # Whatever would have been read in these turns of the loop was not.
    for number in range(10):
        bystander.say(str(number))
        await bystander.text()
    assert (socket.asked, socket.unread) == (asked, 2)
    gate.open()
    heard = await socket.texts(4)
    assert [text for text in heard if text.startswith("heard")] == ["heard 1", "heard 2", "heard 3"]


async def test_a_disconnect_is_handled_once_and_last(
    generic: Generic, any_layer: AnyLayer, connected: Connected, gate: Gate
) -> None:
    done = []

    class Slow(echo_of(generic)):  # type: ignore[misc]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await gate.passed()
            done.append(text_data)

        async def say(self, event: Any) -> None:
            done.append(event["text"])

        async def disconnect(self, code: int) -> None:
            done.append(code)

    socket = await connected(Slow)
    channel = await socket.text()
    socket.say("first")
    await gate.reached.wait()
    await any_layer.send(channel, {"type": "say", "text": "told"})
    socket.say("second")
    # A server that is asked again says it again.
    socket.hang_up(1001)
    socket.hang_up(1001)
    gate.open()
    await socket.ended()
    assert done.count(1001) == 1
    assert done[-1] == 1001
    assert [text for text in done if text in ("first", "second")] == ["first", "second"]
    assert socket.unread == 1


async def test_an_error_of_the_server_ends_the_consumer(
    generic: Generic, any_layer: AnyLayer, connected: Connected
) -> None:
    socket = await connected(echo_of(generic))
    socket.push(OSError("the socket is gone"))
    with pytest.raises(OSError, match="the socket is gone"):
        await socket.ended()


async def test_a_cancelled_read_ends_the_consumer(
    generic: Generic, any_layer: AnyLayer, connected: Connected
) -> None:
    socket = await connected(echo_of(generic))
    await eventually(lambda: socket.waiting)
    socket.push(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await socket.ended()


async def test_an_error_of_send_ends_the_consumer(
    generic: Generic, any_layer: AnyLayer, opened: Open
) -> None:
    socket = opened(echo_of(generic))

    async def send(frame: Any) -> None:
        raise ConnectionResetError("gone")

    socket.send = send  # type: ignore[method-assign]
    socket.task.cancel()
    socket.task = asyncio.create_task(socket.app(socket.scope, socket.receive, send))
    socket.push({"type": "websocket.connect"})
    with pytest.raises(ConnectionResetError):
        await socket.ended()


@pytest.mark.parametrize(
    ("exception", "frame"),
    [(AcceptConnection, "websocket.accept"), (DenyConnection, "websocket.close")],
)
async def test_connections_are_accepted_and_denied(
    generic: Generic, default: MpxChannelLayer, opened: Open, exception: Any, frame: str
) -> None:
    class Doorkeeper(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        async def connect(self) -> None:
            raise exception

    socket = opened(Doorkeeper)
    socket.push({"type": "websocket.connect"})
    assert (await socket.next())["type"] == frame
    await socket.disconnect()
