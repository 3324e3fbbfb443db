"""Sync consumers: the same, with their handlers in the thread pool."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.consumer import SyncConsumer
from channels.exceptions import StopConsumer

from mpx_channels.consumers import ChannelSubscriptionMixin, MpxConsumerMixin, PromiseMixin
from mpx_channels.generic.websocket import WebsocketConsumer
from mpx_channels.layer import MpxChannelLayer, RequestFailed
from tests.conftest import eventually

from .conftest import AnyLayer, Generic, Open
from .echo import sync_echo_of

Connected = Callable[..., Any]


async def test_the_socket_the_layer_and_groups(
    generic: Generic, any_layer: AnyLayer, connected: Connected
) -> None:
    socket = await connected(sync_echo_of(generic))
    channel = await socket.text()
    socket.say("hello")
    assert await socket.text() == "heard hello"
    await any_layer.send(channel, {"type": "say", "text": "to you"})
    assert await socket.text() == "told to you"
    await any_layer.group_send("room", {"type": "say", "text": "to all"})
    assert await socket.text() == "told to all"
    await socket.disconnect()


async def test_handlers_run_in_a_thread(
    generic: Generic, default: MpxChannelLayer, connected: Connected
) -> None:
    class Where(generic.WebsocketConsumer):  # type: ignore[misc,name-defined]
        threads: set[int] = set()

        def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            Where.threads.add(threading.get_ident())
            self.send(text_data="done")

    socket = await connected(Where)
    socket.say("where?")
    await socket.text()
    assert threading.get_ident() not in Where.threads
    await socket.disconnect()


async def test_the_socket_waits_for_its_handler(
    generic: Generic, default: MpxChannelLayer, connected: Connected
) -> None:
    reached, go = threading.Event(), threading.Event()

    class Slow(sync_echo_of(generic)):  # type: ignore[misc]
        def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            reached.set()
            assert go.wait(10)
            self.send(text_data=text_data)

    socket = await connected(Slow)
    await socket.text()
    await eventually(lambda: socket.waiting)
    asked = socket.asked
    socket.say("1", "2", "3")
    await eventually(reached.is_set)
    assert (socket.asked, socket.unread) == (asked, 2)
    go.set()
    assert await socket.texts(3) == ["1", "2", "3"]
    await socket.disconnect()


async def test_a_bare_sync_consumer(
    generic: Generic, default: MpxChannelLayer, opened: Open
) -> None:
    bases = (MpxConsumerMixin, SyncConsumer) if generic.mixed else (SyncConsumer,)

    class Bare(*bases):  # type: ignore[misc]
        def start(self, event: Any) -> None:
            self.send({"type": "started", "room": self.scope["room"]})
            raise StopConsumer

    socket = opened(Bare, type="own.protocol", room=7)
    socket.push({"type": "start"})
    assert await socket.next() == {"type": "started", "room": 7}
    await socket.ended()


async def test_without_a_layer(generic: Generic, install: Any, connected: Connected) -> None:
    install(None)

    class Lonely(generic.WebsocketConsumer):  # type: ignore[misc,name-defined]
        def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            self.send(text_data=f"{self.channel_layer} {text_data}")

    socket = await connected(Lonely)
    socket.say("hello")
    assert await socket.text() == "None hello"
    await socket.disconnect()


async def test_leaving_is_automatic(default: MpxChannelLayer, connected: Connected) -> None:
    class Careless(WebsocketConsumer):
        def connect(self) -> None:
            async_to_sync(self.channel_layer.group_add)("room", self.channel_name)
            self.accept()

        def fail(self, event: Any) -> None:
            raise LookupError

    sockets = [await connected(Careless) for _ in range(3)]
    assert default.stats().memberships == 3
    await sockets[0].disconnect()
    sockets[1].task.cancel()
    await default.group_send("room", {"type": "fail"})
    for socket in sockets[1:]:
        with pytest.raises((LookupError, asyncio.CancelledError)):
            await socket.ended()
    stats = default.stats()
    assert (stats.channels, stats.groups, stats.memberships) == (0, 0, 0)


async def test_what_the_mixins_offer(
    default: MpxChannelLayer, client: Any, prefix: str, connected: Connected
) -> None:
    """Their methods are coroutines: `async_to_sync` has them run on the consumer's own loop."""

    class Handy(ChannelSubscriptionMixin, PromiseMixin, WebsocketConsumer):
        redis_channels = [f"{prefix}-1"]

        def connect(self) -> None:
            async_to_sync(self.channel_add)(f"{prefix}-2")
            async_to_sync(self.group_pattern_add)("room-*")
            self.accept()
            self.send(text_data=self.channel_name)

        def channel_message(self, event: Any) -> None:
            self.send(text_data=event["channel"] + " " + event["data"].decode())

        def say(self, event: Any) -> None:
            self.send(text_data=event["mpx_group"])

        def wait(self, event: Any) -> None:
            self.send(text_data=async_to_sync(self.promise)(event["text"], 10))

        def make(self, event: Any) -> None:
            async_to_sync(self.reply)(event, "made")

        def make_nothing(self, event: Any) -> None:
            async_to_sync(self.reply_error)(event, "no size")

        def start(self, event: Any) -> None:
            async def beside() -> None:
                await socket.send({"type": "websocket.send", "text": "from a task"})

            with pytest.raises(RuntimeError, match="no running event loop"):
                self.start_task(beside())

            async def start() -> None:
                self.start_task(beside())

            async_to_sync(start)()

    socket = await connected(Handy)
    channel = await socket.text()
    for name in (f"{prefix}-1", f"{prefix}-2"):
        client.publish(name, "x")
        assert await socket.text() == f"{name} x"
    await default.group_send("room-1", {"type": "say"})
    assert await socket.text() == "room-1"
    await default.send(channel, {"type": "wait", "text": "order"})
    await eventually(lambda: default.stats().promises)
    assert await default.resolve("order", "done") == 1
    assert await socket.text() == "done"
    assert await default.request(channel, {"type": "make"}) == "made"
    with pytest.raises(RequestFailed, match="no size"):
        await default.request(channel, {"type": "make.nothing"})
    await default.send(channel, {"type": "start"})
    assert await socket.text() == "from a task"
    await socket.disconnect()
    stats = default.stats()
    assert (stats.channels, stats.raw_channels, stats.patterns, stats.promises) == (0, 0, 0, 0)


async def test_hooks(make_layer: Any, install: Any, proxy: Any, connected: Connected) -> None:
    layer = install(make_layer(hosts=[proxy.url]))

    class Watcher(WebsocketConsumer):
        groups = ["room"]

        def mpx_activation(self, event: Any) -> None:
            self.send(text_data=f"active {event['name']}")

        def mpx_disconnect(self, event: Any) -> None:
            self.send(text_data="disconnected")

        def mpx_reconnect(self, event: Any) -> None:
            self.send(text_data="reconnected")

    socket = await connected(Watcher)
    assert await socket.text() == "active room"
    proxy.cut()
    assert await socket.texts(3) == ["disconnected", "active room", "reconnected"]
    assert layer.stats().memberships == 1
    await socket.disconnect()


async def test_requests_that_fail(default: MpxChannelLayer, connected: Connected) -> None:
    socket = await connected(sync_echo_of(Generic("mixed")))
    channel = await socket.text()
    with pytest.raises(RequestFailed, match="LookupError: no way"):
        await default.request(channel, {"type": "fail", "reason": "no way"})
    with pytest.raises(LookupError):
        await socket.ended()
