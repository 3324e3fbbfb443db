"""Drains at odd moments: several at once, for who has gone already, and from within a handler."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mpx_channels.generic.http import AsyncHttpConsumer
from mpx_channels.generic.websocket import WebsocketConsumer
from mpx_channels.layer import MpxChannelLayer
from mpx_channels.loops.doors import doors
from tests.conftest import eventually

from .test_drain import LONG, RESTART, Member, Stream, answer_closes, open_again

__all__ = ["open_again"]

Connected = Callable[..., Any]


async def test_who_has_gone_by_itself_was_not_drained(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    class Leaves(Member):
        async def leave(self, event: Any) -> None:
            await self.close(4000)

    install(layer)
    socket = await connected(Leaves)
    await layer.group_send("room", {"type": "leave"})
    assert (await socket.next())["code"] == 4000
    draining = asyncio.create_task(layer.drain(over=0))
    await eventually(lambda: doors.draining)
    assert not draining.done()  # it is there still
    await socket.disconnect(4000)
    await draining
    assert layer.local_stats().total.drained == 0


async def test_a_stream_of_what_the_layer_brings(
    layer: MpxChannelLayer, install: Any, opened: Any
) -> None:
    """None of its handlers runs when it is ended; its `disconnect` does then, as ever."""

    class Feed(AsyncHttpConsumer):
        async def http_request(self, message: Any) -> None:
            await self.channel_layer.group_add("room", self.channel_name)
            await self.send_headers(headers=[(b"Content-Type", b"text/event-stream")])
            await self.send_body(b"data: 1\n\n", more_body=True)

        async def say(self, event: Any) -> None:
            await self.send_body(event["text"].encode(), more_body=True)

        async def disconnect(self) -> None:
            ended.append(self.channel_name)

    ended: list[str] = []
    install(layer)
    socket = opened(Feed, type="http")
    socket.push({"type": "http.request"})
    assert (await socket.next())["type"] == "http.response.start"
    await socket.next()
    await layer.group_send("room", {"type": "say", "text": "data: 2"})
    assert (await socket.next())["body"] == b"data: 2"
    draining = asyncio.create_task(layer.drain(over=0))
    assert await socket.next() == {"type": "http.response.body", "body": b"", "more_body": False}
    await draining
    await socket.ended()
    assert len(ended) == 1


async def test_twice_in_one_moment(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    """The last one counts, also if no loop has begun with the one before."""
    install(layer)
    sockets = [await connected(Member) for _ in range(2)]
    draining = asyncio.gather(layer.drain(over=LONG), layer.drain(over=0))
    await answer_closes(*sockets)
    await draining


async def test_a_stream_that_begins_meanwhile(
    layer: MpxChannelLayer, install: Any, opened: Any
) -> None:
    """It is served, and sent away by the next one."""
    install(layer)
    await (await opened(Member).connect()).disconnect()
    await layer.drain(over=0)
    stream = opened(Stream, type="http")
    stream.push({"type": "http.request"})
    assert (await stream.next())["status"] == 200
    await stream.next()
    draining = asyncio.create_task(layer.drain(over=0))
    assert await stream.next() == {"type": "http.response.body", "body": b"", "more_body": False}
    await stream.ended()
    await draining
    assert (doors.state.total, doors.state.left) == (1, 0)


async def test_taken_back_and_begun_again_in_one_moment(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    install(layer)
    socket = await connected(Member)
    first = doors.begin(LONG)
    layer.undrain()
    assert first.done()
    second = doors.begin(0)
    await answer_closes(socket)
    await asyncio.wrap_future(second)
    assert doors.draining


async def refused_now_and_done_beside(
    layer: MpxChannelLayer, connected: Connected, restarts: Any, says: str
) -> None:
    """A consumer's handler `now` waits for a drain; `beside` has it done elsewhere."""
    socket = await connected(restarts)
    await layer.group_send("room", {"type": "now"})
    with pytest.raises(RuntimeError, match=says):
        await socket.ended()
    assert not doors.draining
    socket = await connected(restarts)
    await layer.group_send("room", {"type": "beside"})
    assert await socket.next() == RESTART
    await socket.disconnect(1012)


async def test_a_handler_cannot_wait_for_its_own_end(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    class Restarts(Member):
        async def now(self, event: Any) -> None:
            await self.channel_layer.drain(over=0)

        async def beside(self, event: Any) -> None:
            self.start_task(self.channel_layer.drain(over=0))

    install(layer)
    await refused_now_and_done_beside(
        layer, connected, Restarts, r"self\.start_task\(layer\.drain\(\)\)"
    )


async def test_nor_can_the_handler_of_a_sync_consumer(
    layer: MpxChannelLayer, install: Any, connected: Connected
) -> None:
    class Restarts(WebsocketConsumer):
        groups = ["room"]

        def now(self, event: Any) -> None:
            self.channel_layer.sync.drain(over=0)

        def beside(self, event: Any) -> None:
            threads.append(threading.Thread(target=self.channel_layer.sync.drain, args=[0]))
            threads[0].start()

    threads: list[threading.Thread] = []
    install(layer)
    await refused_now_and_done_beside(layer, connected, Restarts, r"target=layer\.sync\.drain")
    await asyncio.to_thread(threads[0].join)
