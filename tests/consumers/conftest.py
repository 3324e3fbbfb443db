"""Consumers under test, and a server so small that a test can have ten thousand connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.generic import http as stock_http
from channels.generic import websocket as stock_websocket
from channels.layers import channel_layers

from mpx_channels.generic import http as mixed_http
from mpx_channels.generic import websocket as mixed_websocket
from mpx_channels.layer import MpxChannelLayer
from tests.layer.conftest import MakeLayer, layer, make_layer, other_layer, prefix
from tests.users import as_admin

from .socket import Event, Socket

__all__ = [
    "AnyLayer",
    "Event",
    "Generic",
    "MakeLayer",
    "Open",
    "Socket",
    "layer",
    "make_layer",
    "other_layer",
    "prefix",
]

# Any project's channel layer, or none at all.
AnyLayer = Any


Open = Callable[..., Socket]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens sockets; those that are still open at the end of the test are cut off."""
    sockets: list[Socket] = []

    def open_socket(consumer: Any, **scope: Any) -> Socket:
        socket = Socket(consumer, **scope)
        sockets.append(socket)
        return socket

    yield open_socket
    for socket in sockets:
        socket.task.cancel()
    await asyncio.gather(*[socket.task for socket in sockets], return_exceptions=True)


@pytest.fixture
def connected(opened: Open) -> Callable[..., Any]:
    """Opens a WebSocket that the consumer accepts."""

    async def connect(consumer: Any, **scope: Any) -> Socket:
        return await opened(consumer, **scope).connect()

    return connect


# -- stock and mixed ------------------------------------------------------------------------------


class Generic:
    """The consumers of Channels, or ours, by the same names."""

    def __init__(self, name: str) -> None:
        self.mixed = name == "mixed"
        websocket, http = (
            (mixed_websocket, mixed_http) if self.mixed else (stock_websocket, stock_http)
        )
        self.WebsocketConsumer: Any = websocket.WebsocketConsumer
        self.JsonWebsocketConsumer: Any = websocket.JsonWebsocketConsumer
        self.AsyncWebsocketConsumer: Any = websocket.AsyncWebsocketConsumer
        self.AsyncJsonWebsocketConsumer: Any = websocket.AsyncJsonWebsocketConsumer
        self.AsyncHttpConsumer: Any = http.AsyncHttpConsumer


@pytest.fixture(params=["stock", "mixed"])
def generic(request: pytest.FixtureRequest) -> Generic:
    """What holds for Channels' consumers holds for ours."""
    return Generic(request.param)


# -- layers ---------------------------------------------------------------------------------------


@pytest.fixture
def install() -> AsyncIterator[Callable[[AnyLayer], AnyLayer]]:
    """Makes a layer the project's default one, for the test."""
    before = channel_layers.backends.get("default")

    def install(layer: AnyLayer) -> AnyLayer:
        channel_layers.backends["default"] = layer
        return layer

    yield install
    if before is None:
        channel_layers.backends.pop("default", None)
    else:
        channel_layers.backends["default"] = before


@pytest.fixture
def default(layer: MpxChannelLayer, install: Callable[[AnyLayer], AnyLayer]) -> MpxChannelLayer:
    """Our layer, as the project's default one."""
    return install(layer)


LAYERS = ("mpx", "memory", "redis-pubsub", "redis")


async def make_any_layer(name: str, url: str, prefix: str) -> AnyLayer:
    """One of the layers that a project may have."""
    if name == "mpx":
        return MpxChannelLayer(hosts=[url], prefix=prefix)
    if name == "memory":
        from channels.layers import InMemoryChannelLayer

        return InMemoryChannelLayer()
    url = as_admin(url)  # other layers need other rules
    if name == "redis-pubsub":
        from channels_redis.pubsub import RedisPubSubChannelLayer

        return RedisPubSubChannelLayer(hosts=[url], prefix=prefix)
    from channels_redis.core import RedisChannelLayer

    # It waits for five seconds in BRPOP, as long as redis-py 8 waits for any answer.
    return RedisChannelLayer(hosts=[{"address": url, "socket_timeout": None}], prefix=prefix)


async def close_any_layer(layer: AnyLayer) -> None:
    """Close what has a close."""
    if hasattr(layer, "close_pools"):
        await layer.close_pools()
    elif hasattr(layer, "close"):
        await layer.close()
    elif hasattr(layer, "flush"):
        await layer.flush()


@pytest.fixture(params=LAYERS)
async def any_layer(
    request: pytest.FixtureRequest,
    redis_url: str,
    prefix: str,
    install: Callable[[AnyLayer], AnyLayer],
) -> AsyncIterator[AnyLayer]:
    """Every channel layer that there is, in turn, as the project's default one."""
    if request.param.startswith("redis"):
        pytest.importorskip("channels_redis")
    layer = await make_any_layer(request.param, redis_url, prefix)
    yield install(layer)
    await close_any_layer(layer)


class Gate:
    """Holds up a handler until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    async def passed(self) -> None:
        """For the handler: return once the gate is open."""
        self.reached.set()
        await self._open.wait()

    def open(self) -> None:
        self._open.set()


@pytest.fixture
async def gate() -> Gate:
    return Gate()
