"""Consumers that are in a group for all to see, and that hear of others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import InvalidChannelLayerError, StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer as StockConsumer

from mpx_channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from mpx_channels.layer import MpxChannelLayer
from mpx_channels.presence.values import PresenceCount

from .conftest import AnyLayer, MakeLayer

Connected = Callable[..., Any]


class Present(AsyncWebsocketConsumer):
    """Is in the room as who the scope says; ends in the way that it is told."""

    groups = ["room"]

    async def connect(self) -> None:
        await self.presence_join("room", self.scope["id"], {"name": self.scope["id"].title()})
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "stop":
            raise StopConsumer
        if text_data == "fail":
            raise RuntimeError("as told")
        if text_data == "leave":
            await self.presence_leave("room", self.scope["id"])
            await self.send(text_data="done")


class Watcher(AsyncWebsocketConsumer):
    groups = ["room"]

    async def mpx_presence(self, event: Any) -> None:
        await self.send(text_data=json.dumps(event))


class SyncWatcher(WebsocketConsumer):
    groups = ["room"]

    def connect(self) -> None:
        async_to_sync(self.presence_join)("room", self.scope["id"], {"sync": True})
        self.accept()

    def mpx_presence(self, event: Any) -> None:
        self.send(text_data=json.dumps(event))


def event(members: int, joined: Any = None, left: Any = None) -> Any:
    change = {"joined": joined or {}, "left": left or {}, "members": members}
    return {"type": "mpx.presence", "group": "room", **change}


@pytest.fixture
def quick(make_layer: MakeLayer, install: Callable[[AnyLayer], AnyLayer]) -> MpxChannelLayer:
    layer: MpxChannelLayer = install(make_layer(presence_linger=0.2))
    return layer


async def test_it_ends_with_the_consumer(quick: MpxChannelLayer, connected: Connected) -> None:
    watcher = await connected(Watcher)
    ids = ("leave", "stop", "fail", "close", "cancel")
    sockets = {id: await connected(Present, id=id) for id in ids}
    for number, id in enumerate(ids, 1):
        joined = {id: {"name": id.title()}}
        assert json.loads(await watcher.text()) == event(number, joined)
    assert await quick.presence_count("room") == PresenceCount(5, 5)
    sockets["leave"].say("leave")
    assert json.loads(await watcher.text()) == event(4, left={"leave": "left"})
    for number, id in enumerate(ids[1:]):
        socket = sockets[id]
        if id == "close":
            await socket.disconnect()
        elif id == "cancel":
            socket.task.cancel()
        else:
            socket.say(id)
        await asyncio.wait([socket.task])
        assert json.loads(await watcher.text()) == event(3 - number, left={id: "timeout"})
    assert await quick.presence_count("room") == PresenceCount(0, 0)
    await watcher.disconnect()


async def test_two_tabs(quick: MpxChannelLayer, connected: Connected) -> None:
    watcher = await connected(Watcher)
    first, second = await connected(Present, id="ann"), await connected(Present, id="ann")
    assert await quick.presence_count("room") == PresenceCount(1, 2)
    await first.disconnect()
    third = await connected(Present, id="ann")
    await second.disconnect()
    await third.disconnect()
    assert json.loads(await watcher.text()) == event(1, {"ann": {"name": "Ann"}})
    assert json.loads(await watcher.text()) == event(0, left={"ann": "timeout"})
    await watcher.disconnect()


async def test_a_sync_consumer(quick: MpxChannelLayer, connected: Connected) -> None:
    socket = await connected(SyncWatcher, id="ann")
    assert json.loads(await socket.text()) == event(1, {"ann": {"sync": True}})
    other = await connected(Present, id="bob")
    assert json.loads(await socket.text()) == event(2, {"bob": {"name": "Bob"}})
    await other.disconnect()
    assert json.loads(await socket.text()) == event(1, left={"bob": "timeout"})
    await socket.disconnect()


async def test_who_knows_nothing_of_it_is_left_alone(
    quick: MpxChannelLayer, connected: Connected
) -> None:
    """Channels' own consumers, too: an event that they have no handler for would end them."""

    class Stock(StockConsumer):
        groups = ["room"]

        async def say(self, event: Any) -> None:
            await self.send(text_data=event["text"])

    class Ours(AsyncWebsocketConsumer):
        groups = ["room"]
        say = Stock.say

    sockets = [await connected(Stock), await connected(Ours)]
    present = await quick.new_channel()
    await quick.presence_join("room", present, "ann")
    await quick.group_send("room", {"type": "say", "text": "hello"})
    for socket in sockets:
        assert await socket.text() == "hello"
        await socket.disconnect()


async def test_it_needs_our_layer(install: Callable[[AnyLayer], AnyLayer], opened: Any) -> None:
    from channels.layers import InMemoryChannelLayer

    install(InMemoryChannelLayer())
    socket = opened(Present, id="ann")
    socket.push({"type": "websocket.connect"})
    with pytest.raises(InvalidChannelLayerError, match="needs a channel layer of mpx_channels"):
        await socket.task
