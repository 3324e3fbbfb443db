"""The mixin before the consumers of other packages: what they override is not passed over.

The classes here do what strawberry-graphql, channelsmultiplexer, django-sockpuppet and
djangochannelsrestframework do. What holds with Channels alone holds with the mixin.
"""

from __future__ import annotations

import abc
import asyncio
import types
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer, get_handler_name
from channels.db import database_sync_to_async
from channels.generic import websocket as stock

from mpx_channels.consumers import MpxConsumerMixin, PromiseMixin
from mpx_channels.generic import websocket as ours
from mpx_channels.layer import MpxChannelLayer

from .conftest import Open

T = TypeVar("T")
Connected = Callable[..., Any]
Mix = Callable[..., Any]


@pytest.fixture(params=["stock", "mixed"])
def mix(request: pytest.FixtureRequest) -> Mix:
    """A consumer of these bases, without and with our mixin before them."""

    def mix(*bases: Any) -> Any:
        mixins = (MpxConsumerMixin,) if request.param == "mixed" else ()
        return types.new_class("Mixed", (*mixins, *bases))

    return mix


# -- dispatch -------------------------------------------------------------------------------------


class Queueing(stock.AsyncWebsocketConsumer):
    """Messages of the layer have no handlers: they go to whoever listens, as for GraphQL."""

    groups = ["room"]

    async def connect(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.listener = asyncio.ensure_future(self.listen())
        await self.accept()

    async def dispatch(self, message: Any) -> None:
        if message["type"].startswith("websocket."):
            await super().dispatch(message)
        else:
            self.queue.put_nowait(message)

    async def listen(self) -> None:
        while True:
            await self.send(text_data=f"heard {(await self.queue.get())['n']}")

    async def disconnect(self, code: int) -> None:
        self.listener.cancel()


class Shouting(stock.AsyncWebsocketConsumer):
    """Hands on another message than it got."""

    async def dispatch(self, message: Any) -> None:
        if "text" in message:
            message = {**message, "text": message["text"].upper()}
        await super().dispatch(message)

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        await self.send(text_data=text_data)


class Counting(AsyncConsumer):
    """Counts what goes through."""

    count = 0

    async def dispatch(self, message: Any) -> None:
        self.count += 1
        await super().dispatch(message)


async def test_messages_that_dispatch_keeps(
    mix: Mix, default: MpxChannelLayer, connected: Connected
) -> None:
    socket = await connected(mix(Queueing))
    for number in range(3):
        await default.group_send("room", {"type": "chat.message", "n": number})
    assert await socket.texts(3) == ["heard 0", "heard 1", "heard 2"]
    await socket.disconnect()


async def test_messages_that_dispatch_changes(
    mix: Mix, default: MpxChannelLayer, connected: Connected
) -> None:
    socket = await connected(mix(Shouting))
    socket.say("hello")
    assert await socket.text() == "HELLO"
    await socket.disconnect()


async def test_an_exception_passes_through(
    mix: Mix, default: MpxChannelLayer, connected: Connected
) -> None:
    class Catching(stock.AsyncWebsocketConsumer):
        async def dispatch(self, message: Any) -> None:
            try:
                await super().dispatch(message)
            except LookupError as error:
                await self.send(text_data=f"caught {error}")

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            raise LookupError(text_data)

    socket = await connected(mix(Catching))
    socket.say("hello")
    assert await socket.text() == "caught hello"
    await socket.disconnect()


class Opening(AsyncConsumer):
    """Opens, and tells what was counted."""

    async def websocket_connect(self, message: Any) -> None:
        await self.send({"type": "websocket.accept"})

    async def tell(self, message: Any) -> None:
        await self.send({"type": "websocket.send", "text": str(self.count)})


class CountingMixin:
    """As `Counting`, and no consumer."""

    count = 0

    async def dispatch(self, message: Any) -> None:
        self.count += 1
        await super().dispatch(message)  # type: ignore[misc]


class Abstract(Counting, abc.ABC, Generic[T]):
    """With a metaclass, and with bases behind the consumer."""


@pytest.mark.parametrize(
    "bases",
    [
        (Counting, Opening),
        (Opening, Counting),
        (CountingMixin, Opening),
        (Opening, CountingMixin, AsyncConsumer),
        (Opening, Abstract),
        (Opening, Abstract, abc.ABC),
    ],
    ids=lambda bases: "-".join(base.__name__ for base in bases),
)
async def test_wherever_it_stands(
    mix: Mix, default: MpxChannelLayer, opened: Open, bases: tuple[Any, ...]
) -> None:
    socket = await opened(mix(*bases)).connect()
    socket.push({"type": "tell"})
    assert await socket.text() == "2"


async def test_between_ours_and_another(default: MpxChannelLayer, opened: Open) -> None:
    """A consumer of ours that a package's one is added to, and one made of that."""

    class Before(MpxConsumerMixin, Opening):
        pass

    class Both(Before, Counting):
        async def task(self, message: Any) -> None:
            self.start_task(self.tell(message))  # works in our own loop only

    class Promising(PromiseMixin, Both):
        async def tell(self, message: Any) -> None:
            self.count *= 10
            await super().tell(message)

    for consumer, told in ((Both, "2"), (Promising, "20")):
        socket = await opened(consumer).connect()
        socket.push({"type": "task"})
        assert await socket.text() == told


async def test_a_generic_one(default: MpxChannelLayer, opened: Open) -> None:
    class Mixed(PromiseMixin, Opening, Abstract[T], Generic[T]):
        pass

    class Concrete(Mixed[int]):
        pass

    socket = await opened(Concrete).connect()
    socket.push({"type": "tell"})
    assert await socket.text() == "2"


# -- dispatch of synchronous consumers ------------------------------------------------------------


class SyncOpening(SyncConsumer):
    """As `Opening`."""

    def websocket_connect(self, message: Any) -> None:
        self.send({"type": "websocket.accept"})

    def tell(self, message: Any) -> None:
        self.send({"type": "websocket.send", "text": str(self.count)})


class InTheThread(SyncConsumer):
    """Calls handlers itself, as `SyncConsumer.dispatch` does."""

    count = 0

    @database_sync_to_async
    def dispatch(self, message: Any) -> None:
        self.count += 1
        getattr(self, get_handler_name(message))(message)


class Awaiting(SyncConsumer):
    """Has a coroutine around it."""

    count = 0

    async def dispatch(self, message: Any) -> None:
        self.count += 1
        await super().dispatch(message)


class Returning(SyncConsumer):
    """Is no coroutine, and returns one."""

    count = 0

    def dispatch(self, message: Any) -> Any:
        self.count += 1
        return super().dispatch(message)


@pytest.mark.parametrize("base", [InTheThread, Awaiting, Returning])
async def test_synchronous_consumers(
    mix: Mix, default: MpxChannelLayer, opened: Open, base: Any
) -> None:
    socket = await opened(mix(base, SyncOpening)).connect()
    socket.push({"type": "tell"})
    assert await socket.text() == "2"


async def test_a_synchronous_one_added_to_an_asynchronous_one_of_ours(
    default: MpxChannelLayer, opened: Open
) -> None:
    class Nothing(MpxConsumerMixin, AsyncConsumer):
        pass

    class Both(Nothing, Awaiting, SyncOpening):
        pass

    socket = await opened(Both).connect()
    socket.push({"type": "tell"})
    assert await socket.text() == "2"


# -- __call__ -------------------------------------------------------------------------------------


async def test_call_prepares_and_cleans_up(
    mix: Mix, default: MpxChannelLayer, connected: Connected
) -> None:
    ends = []

    class Loading(stock.JsonWebsocketConsumer):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.greeting = scope["greeting"]
            await super().__call__(scope, receive, send)
            ends.append(self.channel_name)

        def receive_json(self, content: Any, **kwargs: Any) -> None:
            self.send_json([self.greeting, content])

    socket = await connected(mix(Loading), greeting="hello")
    socket.say("1")
    assert await socket.text() == '["hello", 1]'
    await socket.disconnect()
    assert len(ends) == 1


async def test_call_with_another_receive_and_send(
    mix: Mix, default: MpxChannelLayer, connected: Connected
) -> None:
    class Between(Shouting):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def receive_less() -> Any:
                while True:
                    event = await receive()
                    if event.get("text") != "noise":
                        return event

            async def send_more(frame: Any) -> None:
                if "text" in frame:
                    frame["text"] = f"<{frame['text']}>"
                await send(frame)

            await super().__call__(scope, receive_less, send_more)

    socket = await connected(mix(Between))
    socket.say("noise", "hello")
    assert await socket.text() == "<HELLO>"
    await socket.disconnect()


async def test_call_in_a_task_that_it_cancels(default: MpxChannelLayer, opened: Open) -> None:
    """As a multiplexer does; what belongs to the consumer ends, as always."""
    over = asyncio.Event()

    class Multiplexer(stock.AsyncWebsocketConsumer):
        groups = ["room"]

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            loop = asyncio.ensure_future(super().__call__(scope, receive, send))
            await over.wait()
            loop.cancel()
            await asyncio.wait([loop])

    class Mixed(MpxConsumerMixin, Multiplexer):
        pass

    socket = await opened(Mixed).connect()
    assert default.stats().groups == 1
    over.set()
    await socket.ended()
    stats = default.stats()
    assert (stats.channels, stats.groups) == (0, 0)


# -- names ----------------------------------------------------------------------------------------


async def test_a_method_of_theirs_with_a_name_of_ours(
    default: MpxChannelLayer, connected: Connected
) -> None:
    class Answering(stock.AsyncJsonWebsocketConsumer):
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.reply(action=content, status=200)

        async def reply(self, action: str, status: int) -> None:
            await self.send_json([action, status])

    class Mixed(MpxConsumerMixin, Answering):
        groups = ["room"]

        async def ask(self, event: Any) -> None:
            await self.channel_layer.reply(event, "ours")

    socket = await connected(Mixed)
    socket.say('"theirs"')
    assert await socket.text() == '["theirs", 200]'
    await socket.disconnect()


# -- what cannot be -------------------------------------------------------------------------------


def test_a_class_with_no_place_for_ours_is_refused() -> None:
    class Fixed(type):
        """A metaclass with an order of its own."""

        def mro(cls) -> list[type]:
            return [each for each in super().mro() if each.__name__ != "Dispatch"]

    class Theirs(AsyncConsumer, metaclass=Fixed):
        pass

    with pytest.raises(TypeError, match="Mixed cannot have the mixins of mpx_channels"):
        Fixed("Mixed", (MpxConsumerMixin, Theirs), {})


def test_bases_are_changed_no_more_than_needed() -> None:
    class Chat(ours.AsyncWebsocketConsumer):
        pass

    class Mixed(PromiseMixin, Chat):
        pass

    assert Chat.__bases__ == (ours.AsyncWebsocketConsumer,)
    assert Mixed.__bases__ == (PromiseMixin, Chat)
