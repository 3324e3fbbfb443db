"""The hooks on consumers. When each event comes: tests/layer/groups/test_link_events.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mpx_channels.consumers import ChannelSubscriptionMixin, PatternSubscriptionMixin
from mpx_channels.generic.websocket import AsyncWebsocketConsumer
from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually

from .conftest import Gate, Generic, MakeLayer

Connected = Callable[..., Any]


class Watcher(AsyncWebsocketConsumer):
    """Says what it hears of the link."""

    groups = ["room"]

    async def mpx_activation(self, event: Any) -> None:
        await self.send(text_data=f"active {event['kind']} {event['name']}")

    async def mpx_disconnect(self, event: Any) -> None:
        await self.send(text_data=f"disconnected: {event['reason']}")

    async def mpx_reconnect(self, event: Any) -> None:
        await self.send(text_data="reconnected")

    async def say(self, event: Any) -> None:
        await self.send(text_data=event["text"])


async def test_all_of_them(
    make_layer: MakeLayer,
    other_layer: MpxChannelLayer,
    install: Any,
    proxy: Any,
    prefix: str,
    connected: Connected,
) -> None:
    install(make_layer(hosts=[proxy.url]))

    class Everything(ChannelSubscriptionMixin, PatternSubscriptionMixin, Watcher):
        redis_channels = [f"{prefix}.a"]
        redis_patterns = [f"{prefix}.*"]

    socket = await connected(Everything)
    active = [
        f"active channel {prefix}.a",
        "active group room",
        f"active pattern {prefix}.*",
    ]
    assert sorted(await socket.texts(3)) == active
    for _ in range(3):
        proxy.cut()
        assert (await socket.text()).startswith("disconnected: ")
        assert sorted(await socket.texts(3)) == active
        assert await socket.text() == "reconnected"
        # From then on, nothing is missed.
        await other_layer.group_send("room", {"type": "say", "text": "hello"})
        assert await socket.text() == "hello"
    await socket.disconnect()


@pytest.mark.parametrize("hook", ["mpx_activation", "mpx_disconnect", "mpx_reconnect"])
async def test_one_of_them(
    make_layer: MakeLayer, install: Any, proxy: Any, connected: Connected, hook: str
) -> None:
    """An event without a handler would end the consumer: what has none does not come."""
    layer = install(make_layer(hosts=[proxy.url]))

    async def handler(self: Any, event: Any) -> None:
        await self.send(text_data=event["type"])

    one = type("One", (AsyncWebsocketConsumer,), {"groups": ["room"], hook: handler})
    socket, watcher = await connected(one), await connected(Watcher)
    proxy.cut()
    heard = [await watcher.text() for _ in range(4)]
    assert heard[-1] == "reconnected"
    times = 2 if hook == "mpx_activation" else 1
    assert await socket.texts(times) == [hook.replace("_", ".")] * times
    await layer.group_broadcast("room", "end")
    assert await socket.text() == "end"


async def test_none_of_them(
    make_layer: MakeLayer,
    other_layer: MpxChannelLayer,
    install: Any,
    proxy: Any,
    connected: Connected,
    generic: Generic,
) -> None:
    install(make_layer(hosts=[proxy.url]))

    class Plain(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        groups = ["room"]

        async def say(self, event: Any) -> None:
            await self.send(text_data=event["text"])

    socket, watcher = await connected(Plain), await connected(Watcher)
    proxy.cut()
    while await watcher.text() != "reconnected":
        pass
    await other_layer.group_send("room", {"type": "say", "text": "hello"})
    assert await socket.text() == "hello"
    assert len(socket.sent) == 2


async def test_news_wait_for_the_handler(
    make_layer: MakeLayer,
    other_layer: MpxChannelLayer,
    install: Any,
    proxy: Any,
    connected: Connected,
    gate: Gate,
) -> None:
    """Into a full mailbox, too, and at their place among the messages."""
    layer = install(make_layer(hosts=[proxy.url], capacity=2))

    class Slow(Watcher):
        async def wait(self, event: Any) -> None:
            await gate.passed()

    socket = await connected(Slow)
    assert await socket.text() == "active group room"
    await other_layer.group_send("room", {"type": "wait"})
    await gate.reached.wait()
    for text in ("1", "2", "dropped"):
        await other_layer.group_send("room", {"type": "say", "text": text})
    await eventually(lambda: layer.stats().drops["full"] == 1)
    proxy.cut()
    await eventually(lambda: layer.stats().unread == 5)
    gate.open()
    heard = await socket.texts(5)
    assert heard[:2] == ["1", "2"]
    assert heard[2].startswith("disconnected")
    assert heard[3:] == ["active group room", "reconnected"]


async def test_events_of_the_configuration(
    make_layer: MakeLayer, install: Any, proxy: Any, connected: Connected, generic: Generic
) -> None:
    install(make_layer(hosts=[proxy.url], on_disconnect="link.lost", on_reconnect="link.back"))

    class Configured(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        async def link_lost(self, event: Any) -> None:
            await self.send(text_data=f"lost {sorted(event)}")

        async def link_back(self, event: Any) -> None:
            await self.send(text_data=f"back {sorted(event)}")

    socket = await connected(Configured)
    proxy.cut()
    assert await socket.texts(2) == ["lost ['type']", "back ['type']"]
    await socket.disconnect()


async def test_a_configured_event_without_a_handler_ends_the_consumer(
    make_layer: MakeLayer, install: Any, proxy: Any, connected: Connected, generic: Generic
) -> None:
    """As with channels_redis."""
    install(make_layer(hosts=[proxy.url], on_disconnect="link.lost"))
    socket = await connected(generic.AsyncWebsocketConsumer)
    proxy.cut()
    with pytest.raises(ValueError, match=r"No handler for message type link\.lost"):
        await socket.ended()


async def test_a_consumer_begins_without_redis(
    make_layer: MakeLayer, install: Any, restartable_server: Any, connected: Connected
) -> None:
    layer = install(make_layer(hosts=[restartable_server.url]))

    class Patient(AsyncWebsocketConsumer):
        wait_for_redis = 0.01

        async def mpx_disconnect(self, event: Any) -> None:
            await self.send(text_data=f"disconnected: {event['reason']}")

        async def mpx_reconnect(self, event: Any) -> None:
            await self.send(text_data="reconnected")
            await self.channel_layer.group_add("room", self.channel_name)
            await self.send(text_data="joined")

        async def say(self, event: Any) -> None:
            await self.send(text_data=event["text"])

    early = await connected(Patient)
    assert (await early.text()).startswith("disconnected: ")
    restartable_server.start()
    assert await early.texts(2) == ["reconnected", "joined"]
    # What is there at once needs no patience, and what breaks later is told as ever.
    late = await connected(Patient)
    await layer.group_send("room", {"type": "say", "text": "hello"})
    assert await early.text() == "hello"
    restartable_server.kill()
    for socket in (early, late):
        assert (await socket.text()).startswith("disconnected: ")
