"""What the how-to pages define does what they say."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, Self

import pytest
import redis
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.http import QueryDict
from django.test import RequestFactory

from mpx_channels.layer import MpxChannelLayer, PlainChannel, PromiseRejected, RequestFailed
from mpx_channels.presence.values import PresenceCount
from mpx_channels.worker import MpxWorker
from tests.conftest import PATIENCE, eventually
from tests.consumers.socket import Socket

from .conftest import Read
from .pages import DOCS


class Browser:
    """One WebSocket to a consumer, and no server in between. Frames are JSON."""

    def __init__(self, consumer: Any, **scope: Any) -> None:
        self._application = consumer.as_asgi()
        self._scope = {"type": "websocket", "path": "/", **scope}
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._events.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.ensure_future(
            self._application(self._scope, self._events.get, self._frames.put)
        )
        assert (await self._next())["type"] == "websocket.accept"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(PATIENCE):
            await self._task

    def send(self, content: Any) -> None:
        self._events.put_nowait({"type": "websocket.receive", "text": json.dumps(content)})

    async def receive(self) -> Any:
        return json.loads((await self._next())["text"])

    async def _next(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            return await self._frames.get()


def drive(scenario: Callable[[MpxChannelLayer], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on a loop of its own, with the project's layer."""

    async def run() -> None:
        layer = get_channel_layer()
        try:
            await scenario(layer)
        finally:
            await layer.close()

    asyncio.run(run())


# -- consumers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RoomConsumer", "SyncRoomConsumer"])
def test_room(read: Read, name: str) -> None:
    consumer = read("consumers.md")[name]

    async def scenario(layer: MpxChannelLayer) -> None:
        scope = {"url_route": {"kwargs": {"room": "tea"}}}
        async with Browser(consumer, **scope) as ann, Browser(consumer, **scope) as ben:
            ann.send({"text": "Hello"})
            for browser in (ann, ben):
                assert await browser.receive() == {"text": "Hello"}
            assert layer.stats().memberships == 2
        assert layer.stats().memberships == 0

    drive(scenario)


def test_clock(read: Read) -> None:
    consumer = read("consumers.md")["ClockConsumer"]

    async def scenario(layer: MpxChannelLayer) -> None:
        async with Browser(consumer) as browser:
            assert await browser.receive() == {"seconds": 0}
        assert [task for task in asyncio.all_tasks() if "tick" in repr(task)] == []

    drive(scenario)


def test_the_order_of_the_mixin(read: Read) -> None:
    page = read("consumers.md")
    with pytest.raises(TypeError, match="before the consumer"):
        type("Wrong", (page["AsyncConsumer"], page["MpxConsumerMixin"]), {})


# -- broadcast ------------------------------------------------------------------------------------


def test_cursor(read: Read) -> None:
    consumer = read("broadcast.md")["CursorConsumer"]

    async def scenario(layer: MpxChannelLayer) -> None:
        async with Browser(consumer) as ann, Browser(consumer) as ben:
            ann.send({"x": 1, "y": 2})
            assert await ben.receive() == {"x": 1, "y": 2}
            ben.send({"x": 3, "y": 4})
            assert await ann.receive() == {"x": 3, "y": 4}

    drive(scenario)


def test_scores_and_ticks(read: Read) -> None:
    page = read("broadcast.md")

    async def scenario(layer: MpxChannelLayer) -> None:
        async with layer.subscribe(groups=["match-1", "match-2"]) as events:
            await page["publish_scores"]({1: "2:0", 2: "1:1"})
            assert [(await anext(events))["score"] for _ in range(2)] == ["2:0", "1:1"]
        async with Browser(page["TickerConsumer"]) as ours, Browser(page["StockConsumer"]) as stock:
            await page["tick"](2400)
            await page["tick_at"](2401)
            for browser in (ours, stock):
                assert await browser.receive() == {"price": 2400}
                assert set(await browser.receive()) == {"price", "at"}

    drive(scenario)


# -- subscriptions --------------------------------------------------------------------------------


def test_prices(read: Read, client: redis.Redis) -> None:
    page = read("subscriptions.md")

    async def scenario(layer: MpxChannelLayer) -> None:
        async with (
            Browser(page["PriceConsumer"]) as browser,
            Browser(page["DashboardConsumer"]) as dashboard,
        ):
            assert client.publish("prices:gold", "2400") == 2  # the channel, and the pattern
            assert await browser.receive() == {"channel": "prices:gold", "price": "2400"}
            assert await dashboard.receive() == {"prices:gold": "2400"}
            browser.send({"metal": "silver"})
            await eventually(lambda: client.pubsub_numsub("prices:silver")[0][1])
            client.publish("prices:silver", "28")
            assert await browser.receive() == {"channel": "prices:silver", "price": "28"}

    drive(scenario)


def test_moderator(read: Read) -> None:
    consumer = read("subscriptions.md")["ModeratorConsumer"]

    async def scenario(layer: MpxChannelLayer) -> None:
        async with Browser(consumer) as browser:
            for room in ("tea", "cake"):
                message = {"type": "chat.message", "text": f"I like {room}"}
                await layer.group_send(f"chat.{room}", message)
                assert await browser.receive() == {
                    "room": f"chat.{room}",
                    "text": f"I like {room}",
                }

    drive(scenario)


def test_server_sent_events(read: Read, client: redis.Redis) -> None:
    view = read("subscriptions.md")["prices"]

    async def scenario(layer: MpxChannelLayer) -> None:
        response = await view(RequestFactory().get("/prices/"))
        lines = response.streaming_content
        first = asyncio.ensure_future(anext(lines))
        await eventually(lambda: client.publish("prices:gold", "2400"))
        async with asyncio.timeout(PATIENCE):
            assert await first == b"data: 2400\n\n"
        await lines.aclose()

    drive(scenario)


# -- promises -------------------------------------------------------------------------------------


def test_checkout(read: Read) -> None:
    page = read("promises.md")

    def webhook(order: str, **data: str) -> bytes:
        query = QueryDict(mutable=True)
        query.update(data)
        content: bytes = page["payment_webhook"](SimpleNamespace(POST=query), order).content
        return content

    async def scenario(layer: MpxChannelLayer) -> None:
        async with Browser(page["CheckoutConsumer"]) as browser:
            for order in ("1", "2"):
                browser.send({"order": order})
            await eventually(lambda: (stats := layer.stats()) and stats.promises == 2)
            answer = await asyncio.to_thread(webhook, "1", state="paid", number="N-7")
            assert answer == b"1 waited for this"
            assert await browser.receive() == {"order": "1", "receipt": {"number": "N-7"}}
            await asyncio.to_thread(webhook, "2", state="failed")
            assert await browser.receive() == {"order": "2", "declined": "the bank says no"}
            answer = await asyncio.to_thread(webhook, "2", state="failed")
            assert answer == b"0 waited for this"

            browser.send({"order": "3"})
            await eventually(lambda: layer.stats().promises == 1)
        assert layer.stats().promises == 0

    drive(scenario)


def test_device(read: Read) -> None:
    page = read("promises.md")
    devices: list[Any] = []

    class Device(page["DeviceConsumer"]):  # type: ignore[misc]
        async def connect(self) -> None:
            devices.append(self)
            await self.accept()

    async def scenario(layer: MpxChannelLayer) -> None:
        async with Browser(Device):
            assert await page["battery"](devices[0]) == 80
        with pytest.raises(RequestFailed, match="nobody has the channel"):
            await page["battery"](devices[0])

    drive(scenario)


# -- hooks ----------------------------------------------------------------------------------------


def test_a_gap(read: Read, client: redis.Redis) -> None:
    page = read("hooks.md")
    message = {"id": 1, "text": "The kettle is on"}

    async def scenario(layer: MpxChannelLayer) -> None:
        async with (
            Browser(page["RoomConsumer"]) as browser,
            Browser(page["SimpleConsumer"]) as simple,
        ):
            assert await browser.receive() == message
            client.client_kill_filter(_type="pubsub")
            assert await browser.receive() == {"live": False}
            assert await browser.receive() == message
            assert await browser.receive() == {"live": True}
            assert await simple.receive() == {"type": "reload"}

    drive(scenario)


# -- workers --------------------------------------------------------------------------------------


def test_thumbnails_and_prices(read: Read) -> None:
    page = read("workers.md")
    made: list[int] = []
    page["make_thumbnail"] = made.append  # the consumer's own global

    async def scenario(layer: MpxChannelLayer) -> None:
        async def quotes(scope: Any, receive: Any, send: Any) -> None:
            await page["PriceConsumer"]()(scope, receive, send)

        workers = {"thumbnails": page["application"], "prices": quotes}
        tasks = [
            asyncio.ensure_future(MpxWorker(application, [channel], layer).listener(channel))
            for channel, application in workers.items()
        ]
        try:
            assert await page["quote"](3) == {"price": 60}
            for number in range(5):
                await layer.send("thumbnails", {"type": "thumbnail.make", "photo": number})
            await eventually(lambda: len(made) == 5)
            assert made == [0, 1, 2, 3, 4]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    drive(scenario)


def test_what_plain_channels_refuse(read: Read) -> None:
    async def scenario(layer: MpxChannelLayer) -> None:
        with pytest.raises(PlainChannel):
            await layer.group_add("room", "thumbnails")
        await layer.flush()
        for _ in range(100):
            await layer.send("full", {"type": "x"})
        with pytest.raises(ChannelFull):
            await layer.send("full", {"type": "x"})
        await layer.flush()

    read("workers.md")
    drive(scenario)


# -- synchronous code -----------------------------------------------------------------------------


def test_promises_of_synchronous_code(read: Read) -> None:
    layer = read("sync.md")["layer"]
    with pytest.raises(TimeoutError):
        layer.sync.promise("nobody-keeps-this", timeout=0.01)
    with pytest.raises(TimeoutError):
        async_to_sync(layer.promise)("nobody-keeps-this", timeout=0.01)
    assert layer.sync.reject("nobody-waits-for-this", "no") == 0


def test_the_table_of_synchronous_methods_is_complete(read: Read) -> None:
    table = (DOCS / "sync.md").read_text().partition("| | |")[2].partition("\n\n")[0]
    there = [name for name in vars(type(get_channel_layer().sync)) if not name.startswith("_")]
    assert [name for name in there if f"`{name}`" not in table] == []


# -- coming from channels_redis -------------------------------------------------------------------


def test_what_the_migration_page_says_of_us(read: Read) -> None:
    read("migration.md")

    async def scenario(layer: MpxChannelLayer) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        values = {"keys": {1: "one"}, "set": {1}, "bytes": b"x"}
        await layer.group_send("room", {"type": "x", **values})
        event = await layer.receive(channel)
        assert event == {"type": "x", "keys": {1: "one"}, "set": [1], "bytes": b"x"}
        for _ in range(101):
            await layer.send(channel, {"type": "x"})
        await eventually(lambda: layer.stats().drops["full"] == 1)
        promise = await layer.new_promise("p", timeout=PATIENCE)
        await layer.reject("p", "no")
        with pytest.raises(PromiseRejected, match="no"):
            await promise

    drive(scenario)


# -- permissions ----------------------------------------------------------------------------------


# -- presence -------------------------------------------------------------------------------------


def test_who_is_in_the_room(read: Read) -> None:
    page = read("presence.md")

    def user(pk: int, name: str) -> SimpleNamespace:
        return SimpleNamespace(pk=pk, get_username=lambda: name)

    async def scenario(layer: MpxChannelLayer) -> None:
        await layer.flush()  # those of the page linger
        consumer = page["RoomConsumer"]
        async with Browser(consumer, user=user(1, "Ann")) as ann:
            here, joined = sorted([await ann.receive(), await ann.receive()], key=sorted)
            assert here == {"here": [{"name": "Ann"}]}
            assert joined == {"joined": {"1": {"name": "Ann"}}, "left": {}, "members": 1}
            async with Browser(consumer, user=user(2, "Ben")) as ben:
                frames = [await ben.receive(), await ben.receive()]
                assert {"here": [{"name": "Ann"}, {"name": "Ben"}]} in frames
                told = {"joined": {"2": {"name": "Ben"}}, "left": {}, "members": 2}
                assert await ann.receive() == told
            assert await asyncio.to_thread(page["how_many"], "tea") == 2

    drive(scenario)


def test_a_stream_is_present_until_its_browser_leaves(read: Read) -> None:
    page = read("presence.md")

    async def scenario(layer: MpxChannelLayer) -> None:
        await layer.flush()
        stream = Socket(page["RoomStream"], type="http", user=SimpleNamespace(pk=7))
        stream.push({"type": "http.request"})
        assert (await stream.next())["type"] == "http.response.start"
        assert (await stream.next())["more_body"]
        assert await layer.presence_count("room-tea") == PresenceCount(1, 1)
        stream.push({"type": "http.disconnect"})
        await stream.ended()
        async with asyncio.timeout(PATIENCE):
            while await layer.presence_count("room-tea") != PresenceCount(1, 0):  # it lingers
                pass

    drive(scenario)


def test_the_permissions_on_the_page_are_enough(
    read: Read, settings: Any, client: redis.Redis, redis_url: str
) -> None:
    page = (DOCS / "layer.md").read_text()
    (command,) = re.findall(r"^```text\n(ACL SETUSER .+?)```$", page, re.MULTILINE | re.DOTALL)
    url = redis_url.replace("redis://", "redis://chat:secret@")
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mpx_channels.layer.MpxChannelLayer",
            "CONFIG": {"hosts": [url]},
        }
    }

    async def everything(layer: MpxChannelLayer) -> None:
        async with layer.subscribe(groups=["room"]) as events:
            await layer.group_send("room", {"type": "x"})
            assert await anext(events) == {"type": "x"}
            assert (await layer.fleet_stats()).incomplete == {}
        channel = await layer.new_channel()
        await layer.presence_join("room", channel, "ann")
        assert (await layer.presence("room")).members == {"ann": {}}
        await layer.presence_leave("room", channel, "ann")
        promise = await layer.new_promise("order-42", timeout=PATIENCE)
        assert await layer.resolve("order-42") == 1
        await promise
        async with asyncio.timeout(PATIENCE):
            readers = [asyncio.ensure_future(layer.receive(name)) for name in ("one", "two")]
            for name, reader in zip(("two", "one"), reversed(readers), strict=True):
                await layer.send(name, {"type": name})
                assert await reader == {"type": name}
        await layer.flush()

    try:
        client.execute_command(*command.split())
        drive(everything)
    finally:
        client.acl_deluser("chat")
