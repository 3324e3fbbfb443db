"""`group_broadcast`: frames that were encoded where they were sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from mpx_channels.generic import websocket
from mpx_channels.layer import MpxChannelLayer

Connected = Callable[..., Any]

KINDS = [
    websocket.AsyncWebsocketConsumer,
    websocket.AsyncJsonWebsocketConsumer,
    websocket.WebsocketConsumer,
    websocket.JsonWebsocketConsumer,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content", "frame"),
    [
        ("grüße", {"type": "websocket.send", "text": "grüße"}),
        (b"\x00\xff", {"type": "websocket.send", "bytes": b"\x00\xff"}),
        ({"a": [1]}, {"type": "websocket.send", "text": '{"a": [1]}'}),
        ("", {"type": "websocket.send", "text": ""}),
    ],
)
async def test_frames(
    default: MpxChannelLayer,
    other_layer: MpxChannelLayer,
    connected: Connected,
    kind: Any,
    content: Any,
    frame: Any,
) -> None:
    class Member(kind):  # type: ignore[misc]
        groups = ["room"]

    sockets = [await connected(Member) for _ in range(3)]
    await other_layer.group_broadcast("room", content)
    for socket in sockets:
        assert await socket.next() == frame
    for socket in sockets:
        await socket.disconnect()


@pytest.mark.everywhere
async def test_encoded_once(default: MpxChannelLayer, connected: Connected) -> None:
    class Member(websocket.AsyncJsonWebsocketConsumer):
        groups = ["room"]

        @classmethod
        async def encode_json(cls, content: Any) -> str:
            raise AssertionError("encoded again")

    sockets = [await connected(Member) for _ in range(10)]
    with mock.patch.object(json, "dumps", wraps=json.dumps) as dumps:
        await default.group_broadcast("room", {"a": 1})
        assert [await socket.text() for socket in sockets] == ['{"a": 1}'] * 10
    assert dumps.call_count == 1


@pytest.mark.everywhere
async def test_exclude(default: MpxChannelLayer, connected: Connected) -> None:
    class Member(websocket.AsyncWebsocketConsumer):
        groups = ["room"]

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.channel_layer.group_broadcast("room", text_data, exclude=[self.channel_name])
            await self.send(text_data="sent")

    one, two = await connected(Member), await connected(Member)
    one.say("hello")
    assert await two.text() == "hello"
    assert await one.text() == "sent"
    two.say("hello, you")
    assert await one.text() == "hello, you"
    assert await two.text() == "sent"


@pytest.mark.classic
async def test_wildcards_hear_broadcasts(default: MpxChannelLayer, connected: Connected) -> None:
    class Member(websocket.AsyncWebsocketConsumer):
        async def connect(self) -> None:
            await self.group_pattern_add("room-*")
            await self.accept()

    socket = await connected(Member)
    await default.group_broadcast("room-1", "hello")
    assert await socket.next() == {"type": "websocket.send", "text": "hello"}


async def test_the_handler_can_be_overridden(
    default: MpxChannelLayer, connected: Connected
) -> None:
    class Member(websocket.AsyncWebsocketConsumer):
        groups = ["room"]

        async def mpx_broadcast(self, event: Any) -> None:
            event["text"] = event["text"].upper()
            await super().mpx_broadcast(event)

    socket = await connected(Member)
    await default.group_broadcast("room", "hello")
    assert await socket.text() == "HELLO"
