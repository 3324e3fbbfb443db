"""`group_close`: every WebSocket of our consumers in a group is closed, after what came before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer as StockConsumer

from mpx_channels.consumers import MpxConsumerMixin
from mpx_channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually

from .conftest import Event, MakeLayer, Socket

Connected = Callable[..., Any]
KEPT = {"room": {"size": 1000, "ttl": 300}}
CLOSED = {"type": "websocket.close", "code": 4001, "reason": "logged out"}


class Member(AsyncWebsocketConsumer):
    """Says what the group is told, and what it ended with."""

    groups = ["room"]
    ended: list[int]

    async def say(self, event: Any) -> None:
        await self.send(text_data=event["text"])

    async def disconnect(self, code: int) -> None:
        type(self).ended = [*getattr(self, "ended", []), code]


class SyncMember(WebsocketConsumer):
    groups = ["room"]

    def say(self, event: Any) -> None:
        self.send(text_data=event["text"])


async def say(layer: MpxChannelLayer, text: str) -> None:
    await layer.group_send("room", {"type": "say", "text": text})


@pytest.mark.parametrize("history", [None, KEPT])
@pytest.mark.parametrize("consumer", [Member, SyncMember])
@pytest.mark.parametrize("keys", [None, ["secret"]])
async def test_every_socket_after_the_messages_before(
    make_layer: MakeLayer,
    install: Any,
    connected: Connected,
    consumer: Any,
    history: Any,
    keys: Any,
) -> None:
    config = {"history": history, "symmetric_encryption_keys": keys}
    layer, other = install(make_layer(**config)), make_layer(**config)
    sockets = [await connected(consumer) for _ in range(3)]
    await say(other, "before")
    assert await other.group_close("room", 4001, "logged out") == 1
    await say(other, "after")
    for socket in sockets:
        assert await socket.text() == "before"
        assert await socket.next() == CLOSED
        await socket.disconnect(4001)
        assert len(socket.sent) == 3
    assert await layer.group_size("room") == 0
    if history:
        found = (await other.group_history("room")).messages
        assert [each["text"] for each in found] == ["before", "after"]


async def test_who_is_full_is_closed_too(
    make_layer: MakeLayer, install: Any, connected: Connected
) -> None:
    """A mailbox at its capacity drops messages; not this one, and not out of turn."""
    layer = install(make_layer(capacity=2))
    mailbox = await layer.open_channel()
    mailbox.closable = True
    await layer.group_add("room", mailbox.channel)
    for _ in range(6):
        await say(layer, "more than it has room for")
    await layer.group_close("room")
    events = []
    while not events or events[-1]["type"] != "mpx.closing":
        events.append(await mailbox.get())
    assert [each["type"] for each in events[:-1]] == ["say"] * (len(events) - 1)
    assert events[-1] == {"type": "mpx.closing", "group": "room", "code": 4000, "reason": ""}


async def test_who_reads_the_history_is_closed_behind_that(
    make_layer: MakeLayer, install: Any, connected: Connected
) -> None:
    class Late(Member):
        groups: list[str] = []

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.channel_layer.group_add("room", self.channel_name, since=text_data)
            joined.set()

    joined = asyncio.Event()
    layer = install(make_layer(history=KEPT))
    first = (await layer.group_send("room", {"type": "say", "text": "0"})) or ""
    for number in range(1, 500):
        await say(layer, str(number))
    socket = await connected(Late)
    socket.say(first)
    await joined.wait()
    await layer.group_close("room", 4001, "logged out")
    assert await socket.texts(499) == [str(number) for number in range(1, 500)]
    assert await socket.next() == CLOSED
    await socket.disconnect(4001)


async def test_a_consumer_decides_itself(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    class Stubborn(Member):
        async def mpx_close(self, event: Any) -> bool:
            await self.send(text_data=f"{event['type']} {event['group']} {event['code']}")
            return event["code"] != 4002

    class SyncStubborn(SyncMember):
        def mpx_close(self, event: Any) -> bool:
            self.send(text_data=f"{event['type']} {event['group']} {event['code']}")
            return bool(event["code"] != 4002)

    class Itself(Member):
        async def mpx_close(self, event: Any) -> None:
            await self.close(4444)

    install(layer)
    sockets = [await connected(Stubborn), await connected(SyncStubborn)]
    itself = await connected(Itself)
    await layer.group_close("room", 4002)
    assert (await itself.next())["code"] == 4444
    await itself.disconnect()
    assert len(itself.sent) == 2  # and was not closed again
    for socket in sockets:
        assert await socket.text() == "mpx.close room 4002"
    await say(layer, "it stays")
    for socket in sockets:
        assert await socket.text() == "it stays"
    await layer.group_close("room", 4001, "logged out")
    for socket in sockets:
        assert await socket.text() == "mpx.close room 4001"
        assert await socket.next() == CLOSED
        await socket.disconnect()


@pytest.mark.classic
async def test_others_are_left_alone(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    """Stock consumers end with an error on an event they do not know; wildcards only look on."""

    class Stock(StockConsumer):
        groups = ["room"]

        async def say(self, event: Any) -> None:
            await self.send(text_data=event["text"])

    class StockWatcher(Stock):
        groups: list[str] = []

        async def connect(self) -> None:
            await self.channel_layer.group_pattern_add("ro*", self.channel_name)
            await super().connect()

    class Watcher(Member):
        groups: list[str] = []

        async def connect(self) -> None:
            await self.group_pattern_add("ro*")
            await super().connect()

    install(layer)
    sockets = [await connected(each) for each in (Stock, StockWatcher, Watcher)]
    gone = await connected(Member)
    async with layer.subscribe(groups=["room"]) as events:
        assert await layer.group_close("room") == 1
        assert (await gone.next())["code"] == 4000
        await gone.disconnect()
        for text in ("one", "one"):
            await say(layer, text)
            assert (await anext(events))["text"] == text
            for socket in sockets:
                assert await socket.text() == text
    for socket in sockets:
        await socket.disconnect()


async def test_a_process_that_is_away_is_not_counted(
    make_layer: MakeLayer, install: Any, proxy: Any, connected: Connected
) -> None:
    class Anew(Member):
        async def mpx_disconnect(self, event: Any) -> None:
            await self.send(text_data="away")

        async def mpx_reconnect(self, event: Any) -> None:
            await self.send(text_data="look again")

    other = make_layer()
    install(make_layer(hosts=[proxy.url]))
    socket = await connected(Anew)
    assert await other.group_size("room") == 1
    proxy.refuse()
    proxy.cut()
    assert await socket.text() == "away"
    assert await other.group_close("room") == 0
    await proxy.accept()
    assert await socket.text() == "look again"
    assert await other.group_close("room") == 1
    assert (await socket.next())["code"] == 4000
    await socket.disconnect()


async def test_nothing_is_handled_or_sent_afterwards(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    """Servers raise on what is sent after a close, and the consumer would end with an error."""

    class Busy(Member):
        async def disconnect(self, code: int) -> None:
            await self.send(text_data="goodbye")

    install(layer)
    socket = await connected(Busy)
    await layer.group_close("room")
    for _ in range(5):
        await say(layer, "nobody hears it")
    assert (await socket.next())["type"] == "websocket.close"
    await socket.disconnect()
    assert [each["type"] for each in socket.sent] == ["websocket.accept", "websocket.close"]


@pytest.mark.parametrize("sync", [False, True])
async def test_who_was_thrown_out_has_no_more_say(
    layer: MpxChannelLayer, install: Any, connected: Connected, sync: bool
) -> None:
    """Daphne passes on what a client sends that does not answer the close."""
    heard: list[str] = []

    class Hears(Member):
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            heard.append(text_data)

    class SyncHears(SyncMember):
        def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            heard.append(text_data)

    install(layer)
    socket = await connected(SyncHears if sync else Hears)
    socket.say("before")
    await eventually(lambda: heard == ["before"])
    await layer.group_close("room")
    assert (await socket.next())["type"] == "websocket.close"
    socket.say("after", "and again")
    await socket.disconnect()
    assert heard == ["before"]


async def test_who_joins_a_group_after_it(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    """Its client may say something meanwhile, or a task of it goes on; it leaves with the rest."""

    class Joins(Member):
        async def mpx_close(self, event: Any) -> None:
            self.start_task(self.join())

        async def join(self) -> None:
            await closed.wait()
            await self.channel_layer.group_add("other", self.channel_name)
            joined.set()

    closed, joined = asyncio.Event(), asyncio.Event()
    install(layer)
    socket = await connected(Joins)
    await layer.group_close("room")
    assert (await socket.next())["type"] == "websocket.close"
    closed.set()
    await joined.wait()
    assert await layer.group_size("other") == 1
    await socket.disconnect()
    assert await layer.group_size("other") == 0
    total = layer.local_stats().total
    assert (total.channels, total.memberships) == (0, 0)


async def test_one_that_was_not_accepted_yet(
    layer: MpxChannelLayer, install: Any, opened: Any
) -> None:
    """A close before the accept reaches browsers as a bare 403, without the code."""

    class Slow(Member):
        async def connect(self) -> None:
            pass

    install(layer)
    socket = opened(Slow, subprotocols=["chat", "other"])
    socket.push({"type": "websocket.connect"})
    while not await layer.group_size("room"):
        pass
    await layer.group_close("room")
    assert await socket.next() == {"type": "websocket.accept", "subprotocol": "chat"}
    assert (await socket.next())["code"] == 4000
    await socket.disconnect()


async def test_a_server_that_refuses_codes_of_the_standard(
    layer: MpxChannelLayer, install: Any
) -> None:
    """As Daphne does; and one that says the client is gone."""

    class Picky(Socket):
        async def send(self, frame: Event) -> None:
            if frame.get("code", 4000) < self.least:
                raise Exception("invalid close code")
            await super().send(frame)

        least = 3000

    install(layer)
    socket = await Picky(Member).connect()
    await layer.group_close("room", 1012, "service restart")
    assert await socket.next() == {**CLOSED, "code": 4012, "reason": "service restart"}
    await socket.disconnect()
    socket = await Picky(Member).connect()
    socket.least = 5000
    await layer.group_close("room", 1012)
    while await layer.group_size("room"):
        pass
    await socket.disconnect()


async def test_a_raw_consumer(layer: MpxChannelLayer, install: Any, opened: Any) -> None:
    class Raw(MpxConsumerMixin, AsyncConsumer):
        async def websocket_connect(self, event: Any) -> None:
            await self.channel_layer.group_add("room", self.channel_name)
            await self.send({"type": "websocket.accept"})

    install(layer)
    socket = await opened(Raw).connect()
    await layer.group_close("room", 1000)
    assert await socket.next() == {"type": "websocket.close", "code": 1000, "reason": ""}


async def test_from_synchronous_code(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    install(layer)
    socket = await connected(Member)

    assert await sync_to_async(layer.sync.group_close)("nobody") == 0
    assert await sync_to_async(layer.sync.group_close)("room", 4001, "logged out") == 1
    assert await socket.next() == CLOSED
    await socket.disconnect()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("no room",), TypeError, "Group name"),
        (("room", "4000"), TypeError, "'4000'"),
        (("room", True), TypeError, "True"),
        (("room", 1005), ValueError, "1005"),
        (("room", 5000), ValueError, "5000"),
        (("room", 4000, b"bye"), TypeError, "b'bye'"),
        (("room", 4000, "\N{SNOWMAN}" * 42), ValueError, "126 bytes"),
    ],
)
async def test_what_is_no_close(layer: Any, arguments: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        await layer.group_close(*arguments)
    with pytest.raises(error, match=text):
        await sync_to_async(layer.sync.group_close)(*arguments, on_commit=True)
