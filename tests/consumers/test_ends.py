"""When a consumer ends, in whatever way, everything that it holds ends with it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from channels.exceptions import StopConsumer

from mpx_channels.channels.mailbox import Mailbox
from mpx_channels.consumers import (
    ChannelSubscriptionMixin,
    PatternSubscriptionMixin,
    PromiseMixin,
)
from mpx_channels.generic.websocket import AsyncWebsocketConsumer
from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually
from tests.inside import promises_of

from .conftest import AnyLayer, Gate, Generic, MakeLayer, Open, Socket
from .test_tasks import Starter, open_starter

Connected = Callable[..., Any]


class Holder(
    ChannelSubscriptionMixin, PatternSubscriptionMixin, PromiseMixin, AsyncWebsocketConsumer
):
    """Takes all that a consumer can hold, and gives nothing back."""

    redis_channels = ["raw-1"]
    redis_patterns = ["raw-*"]

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.ended: list[str] = []

    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.channel_layer.group_add("hall", self.channel_name)
        await self.group_pattern_add("room-*")
        await self.channel_add("raw-2")
        await self.pattern_add("other-*")
        self.held = await self.new_promise("held")
        self.start_task(self.wait_for("in-a-task"))
        self.loose = asyncio.ensure_future(self.wait_for("in-a-loose-task"))
        self.start_task(self.sleep())
        await self.accept()

    async def wait_for(self, name: str) -> None:
        try:
            await self.promise(name)
        finally:
            self.ended.append(name)

    async def sleep(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            # A task may still talk when it is cancelled.
            await self.channel_layer.group_send("goodbyes", {"type": "x"})
            self.ended.append("sleep")

    async def disconnect(self, code: int) -> None:
        if code == 4001:
            raise LookupError("in disconnect")

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        if text_data == "stop":
            raise StopConsumer
        if text_data == "wait":
            await self.gate.passed()
        if text_data == "promise":
            await self.promise("in-a-handler")
        raise LookupError(text_data)


def held(layer: MpxChannelLayer) -> dict[str, int]:
    stats = layer.stats()
    assert stats is not None
    fields = ("channels", "groups", "memberships", "raw_channels", "patterns", "promises")
    return {name: getattr(stats, name) for name in (*fields, "unread")}


NOTHING = dict.fromkeys(
    ("channels", "groups", "memberships", "raw_channels", "patterns", "promises", "unread"), 0
)


async def open_holder(layer: MpxChannelLayer) -> tuple[Holder, Socket]:
    consumer = Holder()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await consumer(scope, receive, send)

    socket = await Socket(app).connect()
    await eventually(lambda: held(layer)["promises"] == 3)
    return consumer, socket


@pytest.mark.classic
@pytest.mark.parametrize(
    "way",
    ["disconnect", "stop", "fail", "fail in disconnect", "cancel", "cancel a handler",
     "cancel a promise", "an error of the server", "a task fails", "a task stops"],
)  # fmt: skip
async def test_however_it_ends(default: MpxChannelLayer, way: str) -> None:
    consumer, socket = await open_holder(default)
    assert held(default) == {
        "channels": 1, "groups": 2, "memberships": 2, "raw_channels": 2, "patterns": 3,
        "promises": 3, "unread": 0,
    }  # fmt: skip
    match way:
        case "disconnect":
            socket.hang_up()
        case "stop":
            socket.say("stop")
        case "fail":
            socket.say("anything else")
        case "fail in disconnect":
            socket.hang_up(4001)
        case "cancel":
            socket.task.cancel()
        case "cancel a handler":
            socket.say("wait")
            await consumer.gate.reached.wait()
            socket.task.cancel()
        case "cancel a promise":
            socket.say("promise")
            await eventually(lambda: held(default)["promises"] == 4)
            socket.task.cancel()
        case "an error of the server":
            socket.push(ConnectionResetError())
        case "a task fails":
            assert await default.reject("in-a-task", "no") == 1
        case "a task stops":

            async def stop() -> None:
                raise StopConsumer

            consumer.start_task(stop())
    [result] = await asyncio.gather(socket.task, return_exceptions=True)
    quiet = way in ("disconnect", "stop", "a task stops")
    assert (result is None) == quiet, result
    assert held(default) == NOTHING
    await eventually(consumer.loose.done)
    assert sorted(consumer.ended) == ["in-a-loose-task", "in-a-task", "sleep"]
    assert not socket.waiting
    with pytest.raises(asyncio.CancelledError):
        await consumer.held


async def test_a_promise_made_too_late_is_no_promise(
    make_layer: MakeLayer, install: Any, proxy: Any, opened: Open
) -> None:
    layer = install(make_layer(hosts=[proxy.url]))

    class Waiter(PromiseMixin, Starter):
        pass

    consumer, socket = await open_starter(opened, Waiter)
    proxy.to_client.freeze()
    late = asyncio.create_task(consumer.promise("late"))
    await eventually(lambda: held(layer)["promises"] == 1)
    await socket.disconnect()
    proxy.to_client.thaw()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert held(layer) == NOTHING


@pytest.mark.classic
async def test_nothing_starts_after_the_end(default: MpxChannelLayer) -> None:
    consumer, socket = await open_holder(default)
    await socket.disconnect()
    with pytest.raises(RuntimeError, match="while the consumer is connected"):
        consumer.start_task(consumer.wait_for("never"))


@pytest.mark.classic
async def test_a_dead_channel_is_not_brought_to_life(
    make_layer: MakeLayer, install: Any, connected: Connected
) -> None:
    layer = install(make_layer(expiry=0.05))

    class Named(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            await self.accept()
            await self.send(text_data=self.channel_name)

    socket = await connected(Named)
    channel = await socket.text()
    await socket.disconnect()
    await layer.group_discard("room", channel)
    await layer.channel_discard("raw", channel)
    await layer.pattern_discard("raw-*", channel)
    await layer.group_pattern_discard("room-*", channel)
    assert held(layer) == NOTHING
    # Adding opens the channel again, as with a name from elsewhere; but nobody ever reads it.
    await layer.group_add("room", channel)
    await layer.channel_add("raw", channel)
    await eventually(lambda: held(layer) == NOTHING)


@pytest.mark.classic
async def test_promises_do_not_pile_up(default: MpxChannelLayer) -> None:
    consumer, socket = await open_holder(default)
    for number in range(20):
        promise = await consumer.new_promise(f"name-{number}")
        if number % 2:
            promise.cancel()
        else:
            assert await default.resolve(f"name-{number}", number) == 1
    await eventually(lambda: len(promises_of(consumer)) == 3)
    await socket.disconnect()


# -- many -----------------------------------------------------------------------------------------


async def test_ten_thousand_connections_leave_nothing(
    make_layer: MakeLayer, install: Any, client: Any, prefix: str
) -> None:
    # So many at once take a busy machine a while.
    layer = install(make_layer(unsubscribe_delay=0.05, connect_timeout=60.0))
    before = {id(each): each for each in gc.get_objects() if isinstance(each, Mailbox)}

    class Member(PromiseMixin, AsyncWebsocketConsumer):
        """Joins, is told something, and goes without a word."""

        async def connect(self) -> None:
            number = self.scope["number"]
            await self.channel_layer.group_add("all", self.channel_name)
            await self.channel_layer.group_add(f"some-{number % 100}", self.channel_name)
            await self.channel_layer.group_add(f"own-{number}", self.channel_name)
            if number % 10 == 0:
                self.start_task(self.promise(f"promise-{number}"))
            await self.accept()

    app = Member.as_asgi()
    made: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect_and_go(number: int) -> None:
        events = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1}])
        accepted = asyncio.Event()

        async def receive() -> Any:
            event = next(events)
            if event["type"] == "websocket.disconnect":
                await accepted.wait()
                if number % 3 == 0:
                    await asyncio.Event().wait()  # until the server cancels
            return event

        async def send(frame: Any) -> None:
            accepted.set()

        task = asyncio.ensure_future(app({"type": "websocket", "number": number}, receive, send))
        made.add(task)
        task.add_done_callback(lambda _: accepted.set())  # or a failure would be waited for
        if number % 3 == 0:
            await accepted.wait()
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == (number % 3 == 0)

    for start in range(0, 10_000, 2_500):
        await asyncio.gather(*[connect_and_go(number) for number in range(start, start + 2_500)])
    assert held(layer) == NOTHING
    # The inbox, the control channel and what it is alive by; promises' names leave a moment later.
    await eventually(lambda: layer.stats().multiplexer.names_wanted == 3)
    inbox, control, alive = f"{prefix}:p:", f"{prefix}:c:", f"{prefix}:c:{layer.process_id}:"

    def left_in_redis() -> list[str]:
        names = [name.decode() for name in client.pubsub_channels(f"{prefix}:*")]
        return [n for n in names if n != control and not n.startswith((inbox, alive))]

    await eventually(lambda: left_in_redis() == [])
    gc.collect()
    left = [each for each in gc.get_objects() if isinstance(each, Member | Mailbox)]
    assert [each for each in left if id(each) not in before] == []
    assert len(made) == 0


@pytest.mark.parametrize("number", [50])
async def test_other_layers_are_left_alone_too(
    generic: Generic, any_layer: AnyLayer, connected: Connected, number: int
) -> None:
    """With somebody else's layer: as much is left as Channels leaves, which is no task."""

    class Member(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        groups = ["room"]

    before = len(asyncio.all_tasks())
    sockets = [await connected(Member) for _ in range(number)]
    for socket in sockets:
        socket.hang_up()
    for socket in sockets:
        await socket.ended()
    # A connection's own tasks stay: two readers of ours (four without hiredis), one of
    # channels_redis'.
    await eventually(lambda: len(asyncio.all_tasks()) <= before + 5)
