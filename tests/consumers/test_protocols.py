"""Consumers of HTTP and of other protocols, and those without a layer: as with Channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer

from mpx_channels.consumers import MpxConsumerMixin
from mpx_channels.layer import MpxChannelLayer

from .conftest import AnyLayer, Generic, Open, Socket

Connected = Callable[..., Any]


async def test_without_a_layer(generic: Generic, install: Any, connected: Connected) -> None:
    install(None)

    class Lonely(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=f"{self.channel_layer} {text_data}")

    socket = await connected(Lonely)
    socket.say("hello")
    assert await socket.text() == "None hello"
    await socket.disconnect()


async def test_groups_without_a_layer(generic: Generic, install: Any, opened: Open) -> None:
    install(None)

    class Member(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        groups = ["room"]

    socket = opened(Member)
    socket.push({"type": "websocket.connect"})
    with pytest.raises(ValueError, match="doesn't support groups"):
        await socket.ended()


async def test_another_layer_alias(
    generic: Generic, default: MpxChannelLayer, connected: Connected
) -> None:
    class Elsewhere(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        channel_layer_alias = "no-such-alias"

        async def connect(self) -> None:
            await self.accept()
            await self.send(text_data=str(self.channel_layer))

    socket = await connected(Elsewhere)
    assert await socket.text() == "None"


async def test_the_body_of_a_request(generic: Generic, any_layer: AnyLayer, opened: Open) -> None:
    class Upload(generic.AsyncHttpConsumer):  # type: ignore[misc,name-defined]
        async def handle(self, body: bytes) -> None:
            await self.send_response(200, b"got " + body, headers=[(b"x", b"y")])

    socket = opened(Upload, type="http")
    for body in (b"one, ", b"two, "):
        socket.push({"type": "http.request", "body": body, "more_body": True})
    socket.push({"type": "http.request", "body": b"three"})
    await socket.ended()
    assert socket.sent == [
        {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]},
        {"type": "http.response.body", "body": b"got one, two, three", "more_body": False},
    ]


async def test_a_request_that_goes_away(
    generic: Generic, any_layer: AnyLayer, opened: Open
) -> None:
    class Upload(generic.AsyncHttpConsumer):  # type: ignore[misc,name-defined]
        gone = 0

        async def disconnect(self) -> None:
            Upload.gone += 1

    socket = opened(Upload, type="http")
    socket.push({"type": "http.request", "body": b"one", "more_body": True})
    socket.push({"type": "http.disconnect"})
    await socket.ended()
    assert (Upload.gone, socket.sent) == (1, [])


async def test_a_request_that_stays_open(
    generic: Generic, any_layer: AnyLayer, opened: Open
) -> None:
    """Server-sent events: the handler joins, and the layer's messages come as they come."""

    class Events(generic.AsyncHttpConsumer):  # type: ignore[misc,name-defined]
        async def http_request(self, message: Any) -> None:
            await self.channel_layer.group_add("news", self.channel_name)
            await self.send_headers(headers=[(b"content-type", b"text/event-stream")])
            await self.send_body(b"", more_body=True)

        async def news(self, event: Any) -> None:
            await self.send_body(event["text"].encode(), more_body=True)

    socket = opened(Events, type="http")
    socket.push({"type": "http.request"})
    await socket.next(), await socket.next()
    for number in range(3):
        await any_layer.group_send("news", {"type": "news", "text": f"n{number}"})
        assert (await socket.next())["body"] == f"n{number}".encode()
    socket.push({"type": "http.disconnect"})
    await socket.ended()


async def test_a_bare_async_consumer(generic: Generic, any_layer: AnyLayer, opened: Open) -> None:
    bases = (MpxConsumerMixin, AsyncConsumer) if generic.mixed else (AsyncConsumer,)

    class Bare(*bases):  # type: ignore[misc]
        async def start(self, event: Any) -> None:
            await self.send({"type": "started", "channel": self.channel_name, **self.scope})

        async def echo(self, event: Any) -> None:
            await self.send(event)

        async def stop(self, event: Any) -> None:
            raise StopConsumer

    socket = opened(Bare, type="own.protocol", room=7)
    socket.push({"type": "start"})
    started = await socket.next()
    assert (started["room"], started["type"]) == (7, "own.protocol")
    await any_layer.send(started["channel"], {"type": "echo", "n": 1})
    assert await socket.next() == {"type": "echo", "n": 1}
    socket.push({"type": "stop"})
    await socket.ended()


async def test_arguments_reach_the_consumer(generic: Generic, default: MpxChannelLayer) -> None:
    class Room(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def connect(self) -> None:
            await self.accept(subprotocol=self.name)

    app = Room.as_asgi(name="tea")
    assert app.consumer_class is Room
    socket = Socket(app)
    socket.push({"type": "websocket.connect"})
    assert (await socket.next())["subprotocol"] == "tea"
    await socket.disconnect()
