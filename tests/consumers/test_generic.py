"""`mpx_channels.generic` offers what `channels.generic` has: the import is the migration."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from typing import Any

import channels.generic
import pytest
from channels.consumer import AsyncConsumer, SyncConsumer, get_handler_name
from channels.exceptions import StopConsumer

import mpx_channels.generic
from mpx_channels.consumers import (
    ChannelSubscriptionMixin,
    MpxConsumerMixin,
    PatternSubscriptionMixin,
    PromiseMixin,
)
from mpx_channels.layer import MpxChannelLayer

from .conftest import Generic, Open

MODULES = [module.name for module in pkgutil.iter_modules(channels.generic.__path__)]


def consumers_of(module: Any) -> dict[str, type]:
    """The consumers that a module defines."""
    return {
        name: each
        for name, each in vars(module).items()
        if inspect.isclass(each)
        and issubclass(each, AsyncConsumer)
        and each.__module__ == module.__name__
    }


STOCK = [
    (module, name)
    for module in MODULES
    for name in consumers_of(importlib.import_module(f"channels.generic.{module}"))
]


def test_there_are_consumers_to_look_at() -> None:
    assert ("websocket", "AsyncJsonWebsocketConsumer") in STOCK
    assert len(STOCK) >= 5


@pytest.mark.parametrize(("module", "name"), STOCK)
def test_every_consumer_has_its_counterpart(module: str, name: str) -> None:
    stock = getattr(importlib.import_module(f"channels.generic.{module}"), name)
    ours = importlib.import_module(f"mpx_channels.generic.{module}")
    mixed = getattr(ours, name)
    assert name in ours.__all__
    assert issubclass(mixed, stock)
    assert mixed.__mro__[1] is MpxConsumerMixin
    assert mixed.__module__ == f"mpx_channels.generic.{module}"


def test_nothing_else_is_offered() -> None:
    ours = [module.name for module in pkgutil.iter_modules(mpx_channels.generic.__path__)]
    assert sorted(ours) == sorted(MODULES)
    for module in ours:
        assert sorted(importlib.import_module(f"mpx_channels.generic.{module}").__all__) == sorted(
            name for stock, name in STOCK if stock == module
        )


@pytest.mark.parametrize(
    "mixin", [MpxConsumerMixin, ChannelSubscriptionMixin, PatternSubscriptionMixin, PromiseMixin]
)
@pytest.mark.parametrize("base", [AsyncConsumer, SyncConsumer])
def test_the_order_of_bases_is_checked(mixin: type, base: type) -> None:
    """The other way round, Channels' own loop would run, and nobody would notice."""
    type("Right", (mixin, base), {})
    type("Mixin", (mixin,), {})
    with pytest.raises(TypeError, match="Wrong must name the mixins of mpx_channels before"):
        type("Wrong", (base, mixin), {})


# -- what projects override -----------------------------------------------------------------------


async def test_dispatch_can_be_overridden(
    generic: Generic, default: MpxChannelLayer, connected: Any
) -> None:
    seen = []

    class Watched(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        groups = ["room"]

        async def dispatch(self, message: Any) -> None:
            seen.append(get_handler_name(message))
            try:
                await super().dispatch(message)
            except LookupError:
                await self.send(text_data="caught")

        async def fail(self, event: Any) -> None:
            raise LookupError

    socket = await connected(Watched)
    await default.group_send("room", {"type": "fail"})
    assert await socket.text() == "caught"
    await socket.disconnect()
    assert seen == ["websocket_connect", "fail", "websocket_disconnect"]


async def test_dispatch_can_be_overridden_in_a_sync_consumer(
    generic: Generic, default: MpxChannelLayer, connected: Any
) -> None:
    seen = []

    class Watched(generic.WebsocketConsumer):  # type: ignore[misc,name-defined]
        async def dispatch(self, message: Any) -> None:
            seen.append(get_handler_name(message))
            await super().dispatch(message)

    socket = await connected(Watched)
    await socket.disconnect()
    assert seen == ["websocket_connect", "websocket_disconnect"]


async def test_json(generic: Generic, default: MpxChannelLayer, connected: Any) -> None:
    class Chat(generic.AsyncJsonWebsocketConsumer):  # type: ignore[misc,name-defined]
        groups = ["room"]

        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.channel_layer.group_send("room", {"type": "chat.message", **content})

        async def chat_message(self, event: Any) -> None:
            await self.send_json({"said": event["text"]})

        @classmethod
        async def decode_json(cls, text_data: str) -> Any:
            return json.loads(text_data.removeprefix("for us: "))

        @classmethod
        async def encode_json(cls, content: Any) -> str:
            return "from us: " + json.dumps(content)

    socket = await connected(Chat)
    socket.say('for us: {"text": "hello"}')
    assert await socket.text() == 'from us: {"said": "hello"}'
    await socket.disconnect()


async def test_sync_json(generic: Generic, default: MpxChannelLayer, connected: Any) -> None:
    class Chat(generic.JsonWebsocketConsumer):  # type: ignore[misc,name-defined]
        groups = ["room"]

        def receive_json(self, content: Any, **kwargs: Any) -> None:
            self.send_json({"heard": content})

        def chat_message(self, event: Any) -> None:
            self.send_json(event)

        @classmethod
        def encode_json(cls, content: Any) -> str:
            return "from us: " + json.dumps(content)

    socket = await connected(Chat)
    socket.say('{"text": "hello"}')
    assert await socket.text() == 'from us: {"heard": {"text": "hello"}}'
    await default.group_send("room", {"type": "chat.message", "n": 1})
    assert await socket.text() == 'from us: {"type": "chat.message", "n": 1}'
    await socket.disconnect()


async def test_send_and_call_can_be_overridden(
    generic: Generic, default: MpxChannelLayer, opened: Open
) -> None:
    class Loud(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.volume = scope["volume"]
            await super().__call__(scope, receive, send)

        async def send(self, text_data: Any = None, **more: Any) -> None:
            await super().send(text_data=text_data.upper() * self.volume, **more)

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=text_data)

    socket = await opened(Loud, volume=2).connect()
    socket.say("hey")
    assert await socket.text() == "HEYHEY"
    await socket.disconnect()


async def test_the_handlers_of_the_socket_can_be_overridden(
    generic: Generic, default: MpxChannelLayer, opened: Open
) -> None:
    class Own(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        async def websocket_connect(self, message: Any) -> None:
            await self.base_send({"type": "websocket.accept"})
            await self.close(code=4000, reason="enough")

        async def websocket_disconnect(self, message: Any) -> None:
            raise StopConsumer

    socket = await opened(Own).connect()
    assert await socket.next() == {"type": "websocket.close", "code": 4000, "reason": "enough"}
    await socket.disconnect()


async def test_all_mixins_at_once(
    default: MpxChannelLayer, client: Any, prefix: str, connected: Any
) -> None:
    from mpx_channels.generic.websocket import AsyncJsonWebsocketConsumer

    class Everything(
        ChannelSubscriptionMixin,
        PatternSubscriptionMixin,
        PromiseMixin,
        AsyncJsonWebsocketConsumer,
    ):
        groups = ["room"]
        redis_channels = [f"{prefix}-prices"]
        redis_patterns = [f"{prefix}-news.*"]

        async def channel_message(self, event: Any) -> None:
            await self.send(text_data=event["data"].decode())

        pattern_message = channel_message

        async def wait(self, event: Any) -> None:
            await self.send(text_data=await self.promise("order"))

    socket = await connected(Everything)
    client.publish(f"{prefix}-prices", "price")
    assert await socket.text() == "price"
    client.publish(f"{prefix}-news.sport", "news")
    assert await socket.text() == "news"
    await default.group_broadcast("room", {"a": 1})
    assert await socket.text() == '{"a": 1}'
    await socket.disconnect()
    stats = default.stats()
    assert (stats.channels, stats.groups, stats.raw_channels, stats.patterns) == (0, 0, 0, 0)
