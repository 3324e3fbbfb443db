"""What `benchmarks.sockets` compares: how each stack serves a room, and how it publishes to it.

A server imports this with BENCHMARK_STACK and BENCHMARK_REDIS set and finds ``application``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings

ROOM = "room"

STACKS = {
    "stock": "Channels, channels_redis",
    "layer": "Channels, our layer",
    "mpx": "mpx-channels",
    "broadcast": "mpx-channels, group_broadcast",
    "socketio": "python-socketio",
    "floor": "a loop over send()",
}
# What is served for a stack, where that is not the stack of the same name.
SERVED_BY = {"broadcast": "mpx"}

Publish = Callable[[str], Awaitable[Any]]


def prefix(stack: str) -> str:
    """What keeps the stacks apart on their one Redis server."""
    return f"bench-{SERVED_BY.get(stack, stack)}"


# -- serving ----------------------------------------------------------------------------------


class Room:
    """A consumer: the same lines for each layer and each base class."""

    channel_layer: Any
    channel_name: str
    accept: Callable[..., Awaitable[None]]
    send: Callable[..., Awaitable[None]]

    async def connect(self) -> None:
        await self.channel_layer.group_add(ROOM, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(ROOM, self.channel_name)

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


def serve_consumer(stack: str, url: str) -> Any:
    layer = "mpx_channels.layer.MpxChannelLayer"
    if stack == "stock":
        layer = "channels_redis.pubsub.RedisPubSubChannelLayer"
    config = {"hosts": [url], "prefix": prefix(stack)}
    settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": layer, "CONFIG": config}})

    # Only now: they look at the settings.
    from channels.generic import websocket as stock
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import path

    from mpx_channels.generic import websocket as ours

    module = ours if stack == "mpx" else stock
    consumer = type("RoomConsumer", (Room, module.AsyncWebsocketConsumer), {})
    return ProtocolTypeRouter({"websocket": URLRouter([path("ws/room/", consumer.as_asgi())])})


def serve_socketio(stack: str, url: str) -> Any:
    import socketio

    manager = socketio.AsyncRedisManager(url, channel=prefix(stack))
    server = socketio.AsyncServer(async_mode="asgi", client_manager=manager)

    @server.event
    async def connect(sid: str, environ: dict[str, Any]) -> None:
        await server.enter_room(sid, ROOM)

    return socketio.ASGIApp(server)


def serve_floor(stack: str, url: str) -> Any:
    """Nothing but the server: a loop over the connections' own `send`."""
    from redis.asyncio import Redis

    sends: set[Any] = set()
    tasks: list[asyncio.Task[None]] = []

    async def pass_on() -> None:
        pubsub = Redis.from_url(url).pubsub(ignore_subscribe_messages=True)
        await pubsub.subscribe(prefix(stack))
        async for message in pubsub.listen():
            frame = {"type": "websocket.send", "text": message["data"].decode()}
            for send in tuple(sends):
                await send(frame)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            raise ValueError(f"no {scope['type']} here")
        if not tasks:
            tasks.append(asyncio.create_task(pass_on()))
        await receive()
        sends.add(send)
        await send({"type": "websocket.accept"})
        try:
            while (await receive())["type"] != "websocket.disconnect":
                pass
        finally:
            sends.discard(send)

    return application


def serve(stack: str, url: str) -> Any:
    """The ASGI application of a stack."""
    return {"socketio": serve_socketio, "floor": serve_floor}.get(stack, serve_consumer)(stack, url)


def path_of(stack: str) -> str:
    """Where clients connect."""
    return "/socket.io/?EIO=4&transport=websocket" if stack == "socketio" else "/ws/room/"


# -- publishing -------------------------------------------------------------------------------


def publisher(stack: str, url: str) -> Publish:
    """How a stack sends a text to the room from another process than the server's."""
    if stack == "socketio":
        import socketio

        manager = socketio.AsyncRedisManager(url, channel=prefix(stack), write_only=True)
        return lambda text: manager.emit("message", text, room=ROOM)
    if stack == "floor":
        from redis.asyncio import Redis

        redis = Redis.from_url(url)
        return lambda text: redis.publish(prefix(stack), text)

    layer: Any
    if stack == "stock":
        from channels_redis.pubsub import RedisPubSubChannelLayer

        layer = RedisPubSubChannelLayer(hosts=[url], prefix=prefix(stack))
    else:
        from mpx_channels.layer import MpxChannelLayer

        layer = MpxChannelLayer(hosts=[url], prefix=prefix(stack))
    if stack == "broadcast":
        return lambda text: layer.group_broadcast(ROOM, text)
    return lambda text: layer.group_send(ROOM, {"type": "chat.message", "text": text})


if "BENCHMARK_STACK" in os.environ:
    application = serve(os.environ["BENCHMARK_STACK"], os.environ["BENCHMARK_REDIS"])
