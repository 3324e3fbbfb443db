"""`PromiseMixin` and `start_task`. What promises do: tests/layer/answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mpx_channels.consumers import PromiseMixin
from mpx_channels.generic.websocket import AsyncWebsocketConsumer
from mpx_channels.layer import MpxChannelLayer, PromiseRejected
from mpx_channels.multiplexer import PromiseDisconnected
from tests.conftest import eventually

from .conftest import MakeLayer

Connected = Callable[..., Any]


class Asker(PromiseMixin, AsyncWebsocketConsumer):
    """ "wait order" waits in the handler, "beside order" in a task; anything else is echoed."""

    timeout: float | None = None

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        match text_data.split():
            case ["wait", name]:
                await self.wait(name)
            case ["beside", name]:
                self.start_task(self.wait(name))
            case ["resolve", name]:
                await self.send(text_data=f"{name} had {await self.resolve(name, 'value')}")
            case ["reject", name]:
                await self.send(text_data=f"{name} had {await self.reject(name, 'reason')}")
            case _:
                await self.send(text_data=text_data)

    async def wait(self, name: str) -> None:
        try:
            await self.send(text_data=f"{name}: {await self.promise(name, timeout=self.timeout)}")
        except (PromiseRejected, PromiseDisconnected, TimeoutError) as error:
            await self.send(text_data=type(error).__name__)


async def waits(layer: MpxChannelLayer, count: int = 1) -> None:
    """Return once so many promises are in force."""
    stats = layer.stats
    await eventually(lambda: stats().promises == count)
    await eventually(
        lambda: stats().multiplexer.names_wanted == stats().multiplexer.names_confirmed
    )


async def test_a_promise_in_a_handler_holds_up_its_consumer(
    default: MpxChannelLayer, other_layer: MpxChannelLayer, connected: Connected
) -> None:
    socket, other = await connected(Asker), await connected(Asker)
    socket.say("wait order", "after")
    await waits(default)
    other.say("hello")
    assert await other.text() == "hello"
    assert socket.unread == 1
    assert await other_layer.resolve("order", [1]) == 1
    assert await socket.texts(2) == ["order: [1]", "after"]


async def test_a_promise_in_a_task_holds_up_nobody(
    default: MpxChannelLayer, other_layer: MpxChannelLayer, connected: Connected
) -> None:
    socket = await connected(Asker)
    socket.say("beside order", "beside other", "meanwhile")
    assert await socket.text() == "meanwhile"
    await waits(default, 2)
    assert await other_layer.resolve("other", 2) == 1
    assert await socket.text() == "other: 2"
    assert await other_layer.reject("order", "no") == 1
    assert await socket.text() == "PromiseRejected"
    await socket.disconnect()
    assert default.stats().channels == 0


async def test_consumers_settle_promises_of_each_other(
    default: MpxChannelLayer, connected: Connected
) -> None:
    one, two = await connected(Asker), await connected(Asker)
    one.say("beside order", "beside order", "beside bill")
    await waits(default, 3)
    two.say("resolve order", "reject bill", "resolve order")
    assert await two.texts(3) == ["order had 2", "bill had 1", "order had 0"]
    assert await one.texts(3) == ["order: value", "order: value", "PromiseRejected"]


@pytest.mark.everywhere
async def test_time_is_over(default: MpxChannelLayer, connected: Connected) -> None:
    class Hasty(Asker):
        timeout = 0.01

    socket = await connected(Hasty)
    socket.say("wait order", "after")
    assert await socket.texts(2) == ["TimeoutError", "after"]


async def test_the_link_breaks(
    make_layer: MakeLayer, install: Any, proxy: Any, connected: Connected
) -> None:
    layer = install(make_layer(hosts=[proxy.url]))
    socket = await connected(Asker)
    socket.say("beside order", "wait other")
    await waits(layer, 2)
    proxy.cut()
    assert await socket.texts(2) == ["PromiseDisconnected"] * 2


async def test_a_rejection_that_nobody_catches_ends_the_consumer(
    default: MpxChannelLayer, connected: Connected
) -> None:
    class Careless(Asker):
        async def wait(self, name: str) -> None:
            await self.promise(name)

    socket = await connected(Careless)
    socket.say("beside order")
    await waits(default)
    assert await default.reject("order", "sold out") == 1
    with pytest.raises(PromiseRejected, match="sold out"):
        await socket.ended()


async def test_first_promise_then_ask_then_await(
    default: MpxChannelLayer, other_layer: MpxChannelLayer, connected: Connected
) -> None:
    class Careful(Asker):
        async def wait(self, name: str) -> None:
            promise = await self.new_promise(name, timeout=10)
            await self.channel_layer.group_send("workers", {"type": "work", "name": name})
            await self.send(text_data=await promise)

    async def work() -> int:
        async with other_layer.subscribe(groups=["workers"]) as events:
            ready.set()
            async for event in events:
                return await other_layer.resolve(event["name"], "done")
        return 0

    ready = asyncio.Event()
    working = asyncio.create_task(work())
    await ready.wait()
    socket = await connected(Careful)
    socket.say("wait order")
    assert await socket.text() == "done"
    assert await working == 1
