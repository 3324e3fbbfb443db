"""WebSockets of the example, through the whole application; and the layer under it."""

from __future__ import annotations

from typing import Any
from unittest.mock import ANY
from urllib.parse import quote, urlencode

from channels.testing import WebsocketCommunicator

from example_project.asgi import application


def socket(
    path: str, name: str | None = None, origin: str = "http://localhost"
) -> WebsocketCommunicator:
    query = "" if name is None else "?" + urlencode({"name": name})
    return WebsocketCommunicator(application, path + query, headers=[(b"origin", origin.encode())])


def in_room(room: str) -> str:
    return f"/ws/chat/{quote(room, safe='')}/"


async def heard(communicator: WebsocketCommunicator) -> dict[str, Any]:
    frame: dict[str, Any] = await communicator.receive_json_from(timeout=30)
    return frame


def message(name: str, text: str, key: str | None = None) -> dict[str, Any]:
    about = {"key": key or ANY, "at": ANY, "position": ANY}
    return {"type": "message", "from": name, "text": text, **about}


async def go_in(communicator: WebsocketCommunicator, since: Any = None) -> list[dict[str, Any]]:
    """Enter the room; returns what comes before the page hears that it is in."""
    await communicator.send_json_to({"enter": since})
    frames = []
    while (frame := await heard(communicator))["type"] != "entered":
        frames.append(frame)
    return frames


async def assert_lives(communicator: WebsocketCommunicator, name: str) -> None:
    """What it says next is what it hears next: it goes on, and nothing else was on its way."""
    await communicator.send_json_to({"text": "still here"})
    assert await heard(communicator) == message(name, "still here")


def use_layer(settings: Any, **config: Any) -> None:
    """Put another layer under the example, for this test."""
    name = "mpx_channels.layer.MpxChannelLayer"
    history = settings.CHANNEL_LAYERS["default"]["CONFIG"]["history"]
    config = {"history": history, **config}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": name, "CONFIG": config}}
