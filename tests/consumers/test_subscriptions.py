"""Raw channels, patterns and wildcard groups on a consumer. What they hear: tests/layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from channels.exceptions import InvalidChannelLayerError
from channels.layers import InMemoryChannelLayer

from mpx_channels.consumers import (
    ChannelSubscriptionMixin,
    PatternSubscriptionMixin,
    PromiseMixin,
)
from mpx_channels.generic.websocket import AsyncWebsocketConsumer
from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually

from .conftest import Gate, Open

Connected = Callable[..., Any]


class Raw(ChannelSubscriptionMixin, PatternSubscriptionMixin, AsyncWebsocketConsumer):
    """Says what it hears; does what it is told: "channel_add news" calls that."""

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        method, argument = text_data.split()
        await getattr(self, method)(argument)
        await self.send(text_data="done")

    async def channel_message(self, event: Any) -> None:
        assert set(event) == {"type", "channel", "data"}
        await self.send(text_data=f"{event['channel']} {event['data'].decode()}")

    async def pattern_message(self, event: Any) -> None:
        assert set(event) == {"type", "pattern", "channel", "data"}
        await self.send(text_data=f"{event['pattern']} {event['channel']} {event['data'].decode()}")

    async def say(self, event: Any) -> None:
        await self.send(text_data=f"{event.get('mpx_group')} {event['text']}")


async def told(socket: Any, order: str) -> None:
    socket.say(order)
    assert await socket.text() == "done"


async def test_channels_come_and_go(
    default: MpxChannelLayer, client: Any, prefix: str, connected: Connected
) -> None:
    socket = await connected(Raw)
    await told(socket, f"channel_add {prefix}.a")
    await told(socket, f"channel_add {prefix}.b")
    client.publish(f"{prefix}.a", "1")
    client.publish(f"{prefix}.b", "2")
    assert await socket.texts(2) == [f"{prefix}.a 1", f"{prefix}.b 2"]
    await told(socket, f"channel_discard {prefix}.a")
    await told(socket, f"channel_discard {prefix}.never")
    client.publish(f"{prefix}.a", "3")
    client.publish(f"{prefix}.b", "4")
    assert await socket.text() == f"{prefix}.b 4"
    await socket.disconnect()


async def test_patterns_come_and_go(
    default: MpxChannelLayer, client: Any, prefix: str, connected: Connected
) -> None:
    socket = await connected(Raw)
    await told(socket, f"pattern_add {prefix}.*")
    client.publish(f"{prefix}.a", "1")
    assert await socket.text() == f"{prefix}.* {prefix}.a 1"
    await told(socket, f"pattern_add {prefix}.[ab]")
    client.publish(f"{prefix}.a", "2")
    # One message for each pattern, in Redis' order.
    assert sorted(await socket.texts(2)) == [
        f"{prefix}.* {prefix}.a 2",
        f"{prefix}.[ab] {prefix}.a 2",
    ]
    await told(socket, f"pattern_discard {prefix}.*")
    await told(socket, f"pattern_discard {prefix}.never*")
    client.publish(f"{prefix}.b", "3")
    assert await socket.text() == f"{prefix}.[ab] {prefix}.b 3"
    await socket.disconnect()


@pytest.mark.classic
async def test_wildcard_groups_come_and_go(default: MpxChannelLayer, connected: Connected) -> None:
    class Member(Raw):
        groups = ["room-1"]

    socket = await connected(Member)
    await told(socket, "group_pattern_add room-*")
    await default.group_send("room-1", {"type": "say", "text": "once"})
    await default.group_send("room-2", {"type": "say", "text": "once"})
    assert await socket.texts(2) == ["room-1 once", "room-2 once"]
    await told(socket, "group_pattern_discard room-*")
    await default.group_send("room-2", {"type": "say", "text": "not for us"})
    await default.group_send("room-1", {"type": "say", "text": "as a member"})
    assert await socket.text() == "None as a member"
    await socket.disconnect()


@pytest.mark.classic
async def test_a_wildcard_event_without_a_handler_is_passed_over(
    default: MpxChannelLayer, connected: Connected
) -> None:
    """Who sends to a group knows its members, not who listens to all groups."""

    class Listener(Raw):
        async def connect(self) -> None:
            await self.group_pattern_add("room-*")
            await self.accept()

    class Member(Raw):
        groups = ["room-1"]

    listener, member = await connected(Listener), await connected(Member)
    await default.group_send("room-1", {"type": "un.known"})
    await default.group_send("room-2", {"type": "say", "text": "still here"})
    assert await listener.text() == "room-2 still here"
    with pytest.raises(ValueError, match=r"No handler for message type un\.known"):
        await member.ended()


async def test_the_class_names_its_own(
    default: MpxChannelLayer, client: Any, prefix: str, connected: Connected
) -> None:
    class Named(Raw):
        redis_channels = (f"{prefix}.a", f"{prefix}.b")
        redis_patterns = [f"{prefix}.c*"]

    socket = await connected(Named)
    for name in ("a", "b", "c1"):
        client.publish(f"{prefix}.{name}", name)
    assert await socket.texts(3) == [
        f"{prefix}.a a",
        f"{prefix}.b b",
        f"{prefix}.c* {prefix}.c1 c1",
    ]
    await socket.disconnect()
    assert default.stats().raw_channels == 0


async def test_nothing_is_handled_before_the_connection(
    default: MpxChannelLayer, client: Any, prefix: str, opened: Open, gate: Gate
) -> None:
    """A frame before the handshake's end is an error: messages wait until connect() is over."""

    class Busy(Raw):
        redis_channels = [f"{prefix}.busy"]
        redis_patterns = [f"{prefix}.bus*"]

        async def connect(self) -> None:
            await gate.passed()
            await self.accept()

        async def mpx_activation(self, event: Any) -> None:
            await self.send(text_data=event["kind"])

    socket = opened(Busy)
    # Subscribed only when there is somebody to be connected.
    await eventually(lambda: socket.waiting)
    socket.push({"type": "websocket.connect"})
    await gate.reached.wait()
    assert client.publish(f"{prefix}.busy", "early") == 2
    await eventually(lambda: default.stats().unread == 4)
    assert socket.sent == []
    gate.open()
    assert (await socket.next())["type"] == "websocket.accept"
    assert sorted(await socket.texts(4)) == sorted(
        ["channel", "pattern", f"{prefix}.busy early", f"{prefix}.bus* {prefix}.busy early"]
    )
    await socket.disconnect()


async def test_consumers_share_what_they_subscribe_to(
    default: MpxChannelLayer, client: Any, prefix: str, connected: Connected
) -> None:
    class Named(Raw):
        redis_channels = [f"{prefix}.a"]

    sockets = [await connected(Named) for _ in range(5)]
    assert client.publish(f"{prefix}.a", "1") == 1
    assert [await socket.text() for socket in sockets] == [f"{prefix}.a 1"] * 5
    await sockets[0].disconnect()
    assert client.publish(f"{prefix}.a", "2") == 1
    assert [await socket.text() for socket in sockets[1:]] == [f"{prefix}.a 2"] * 4


@pytest.mark.parametrize("name", ["", 7, None])
async def test_names_are_checked(default: MpxChannelLayer, opened: Open, name: Any) -> None:
    class Wrong(Raw):
        redis_channels = [name]

    socket = opened(Wrong)
    socket.push({"type": "websocket.connect"})
    with pytest.raises(TypeError, match="non-empty str"):
        await socket.ended()
    assert default.stats().channels == 0


@pytest.mark.parametrize(("layer", "described"), [(None, "not configured"), (0, "InMemory")])
async def test_another_layer_is_told_apart(
    install: Any, opened: Open, layer: Any, described: str
) -> None:
    install(InMemoryChannelLayer() if layer == 0 else layer)

    class Wrong(Raw):
        redis_channels = ["news"]

    socket = opened(Wrong)
    socket.push({"type": "websocket.connect"})
    with pytest.raises(
        InvalidChannelLayerError, match=rf"MpxChannelLayer, and 'default' is .*{described}"
    ):
        await socket.ended()


@pytest.mark.parametrize(
    "call",
    [
        lambda consumer: consumer.channel_add("a"),
        lambda consumer: consumer.channel_discard("a"),
        lambda consumer: consumer.pattern_add("a"),
        lambda consumer: consumer.pattern_discard("a"),
        lambda consumer: consumer.group_pattern_add("a"),
        lambda consumer: consumer.group_pattern_discard("a"),
        lambda consumer: consumer.promise("a"),
        lambda consumer: consumer.resolve("a"),
        lambda consumer: consumer.reject("a", "no"),
        lambda consumer: consumer.reply({}),
        lambda consumer: consumer.reply_error({}, "no"),
    ],
)
async def test_what_other_layers_cannot_do(install: Any, connected: Connected, call: Any) -> None:
    install(InMemoryChannelLayer())

    class All(PromiseMixin, Raw):
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            with pytest.raises(InvalidChannelLayerError, match="InMemoryChannelLayer"):
                await call(self)
            await self.send(text_data="refused")

    socket = await connected(All)
    socket.say("try")
    assert await socket.text() == "refused"
    await socket.disconnect()
