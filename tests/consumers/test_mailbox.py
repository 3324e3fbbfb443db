"""One mailbox per consumer: what is ours alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest import mock

from mpx_channels.generic.websocket import AsyncWebsocketConsumer
from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually

from .conftest import Gate

Connected = Callable[..., Any]


async def test_one_mailbox_in_the_order_of_arrival(
    default: MpxChannelLayer, connected: Connected, gate: Gate
) -> None:
    done = []

    class Busy(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            await self.accept()
            await self.send(text_data=self.channel_name)

        async def wait(self, event: Any) -> None:
            await gate.passed()

        async def say(self, event: Any) -> None:
            done.append(event["text"])

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            done.append(text_data)

    socket = await connected(Busy)
    channel = await socket.text()
    stats = default.stats
    await default.send(channel, {"type": "wait"})
    await gate.reached.wait()
    for count, step in enumerate(["layer 1", "layer 2", "socket 1", "layer 3"], 1):
        if step.startswith("layer"):
            await default.send(channel, {"type": "say", "text": step})
        else:
            await eventually(lambda: socket.waiting)
            socket.say(step)
        await eventually(lambda count=count: stats().unread == count)
    # The server's next event is not asked for before the first one is handled.
    socket.say("socket 2")
    gate.open()
    await socket.disconnect()
    assert done == ["layer 1", "layer 2", "socket 1", "layer 3", "socket 2"]


async def test_no_task_and_no_thread_per_message(
    default: MpxChannelLayer, connected: Connected
) -> None:
    class Counter(AsyncWebsocketConsumer):
        close_old_connections_interval = 3600.0
        count = 0

        async def connect(self) -> None:
            await self.channel_layer.group_add("room", self.channel_name)
            await self.accept()

        async def count_me(self, event: Any) -> None:
            Counter.count += 1

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            Counter.count += 1

    sockets = [await connected(Counter) for _ in range(5)]
    await eventually(lambda: all(socket.waiting for socket in sockets))
    loop = asyncio.get_running_loop()
    with (
        mock.patch.object(loop, "create_task", wraps=loop.create_task) as tasks,
        mock.patch.object(loop, "run_in_executor", wraps=loop.run_in_executor) as hops,
    ):
        for _ in range(20):
            await default.group_send("room", {"type": "count.me"})
        for socket in sockets:
            socket.say(*"0123456789")
        await eventually(lambda: Counter.count == 150)
    assert (tasks.call_count, hops.call_count) == (0, 0)


async def test_a_full_mailbox_never_costs_an_event_of_the_socket(
    make_layer: Any, install: Any, connected: Connected, gate: Gate
) -> None:
    layer = install(make_layer(capacity=2))

    class Slow(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            await self.accept()
            await self.send(text_data=self.channel_name)

        async def wait(self, event: Any) -> None:
            await gate.passed()

        async def say(self, event: Any) -> None:
            await self.send(text_data=event["text"])

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=text_data)

    socket = await connected(Slow)
    channel = await socket.text()
    await eventually(lambda: socket.waiting)
    await layer.send(channel, {"type": "wait"})
    await gate.reached.wait()
    for number in range(5):
        await layer.send(channel, {"type": "say", "text": f"layer {number}"})
    await eventually(lambda: layer.stats().drops["full"] == 3)
    socket.say("socket")
    gate.open()
    assert await socket.texts(3) == ["layer 0", "layer 1", "socket"]
    await socket.disconnect()


async def test_a_flushed_layer_loses_no_event_of_the_socket(
    default: MpxChannelLayer, connected: Connected, gate: Gate
) -> None:
    """`flush` is for the layer's messages: a lost disconnect would leave a consumer for ever."""

    class Slow(AsyncWebsocketConsumer):
        told: list[Any] = []

        async def connect(self) -> None:
            await self.accept()
            await self.send(text_data=self.channel_name)

        async def wait(self, event: Any) -> None:
            await gate.passed()

        async def say(self, event: Any) -> None:
            Slow.told.append(event)

    socket = await connected(Slow)
    channel = await socket.text()
    await eventually(lambda: socket.waiting)
    await default.send(channel, {"type": "wait"})
    await gate.reached.wait()
    await default.send(channel, {"type": "say", "text": "unread"})
    await eventually(lambda: default.stats().unread == 1)
    socket.hang_up()
    await eventually(lambda: default.stats().unread == 2)
    await default.flush()
    gate.open()
    await socket.ended()
    assert Slow.told == []


async def test_handlers_own_their_events(default: MpxChannelLayer, connected: Connected) -> None:
    class Spoiler(AsyncWebsocketConsumer):
        groups = ["room"]

        async def spoil(self, event: Any) -> None:
            await self.send(text_data=repr(event.get("list")))
            event.pop("list").append("spoiled")
            event["type"] = "spoiled"

    sockets = [await connected(Spoiler) for _ in range(3)]
    await default.group_send("room", {"type": "spoil", "list": [1]})
    assert [await socket.text() for socket in sockets] == ["[1]"] * 3
