"""A consumer with much to do leaves the event loop to others now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from mpx_channels.consumers.dispatch import TURN
from mpx_channels.generic.websocket import AsyncWebsocketConsumer
from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually

from .conftest import Gate

BURST = 60  # below the capacity of a mailbox

Connected = Callable[..., Any]


class Noticeboard(AsyncWebsocketConsumer):
    """Its handler shows the latest message to a task beside it."""

    work = 0.0  # seconds that a message takes

    async def connect(self) -> None:
        self.latest: Any = None
        self.news = asyncio.Event()
        await self.accept()
        await self.send(text_data=self.channel_name)

    async def hold(self, event: Any) -> None:
        self.start_task(self.watch())
        await self.gate.passed()

    async def note(self, event: Any) -> None:
        done = monotonic() + self.work
        while monotonic() < done:
            pass
        self.latest = event["n"]
        self.news.set()
        if event["n"] == BURST - 1:
            await self.send(text_data="done")

    async def watch(self) -> None:
        while True:
            await self.news.wait()
            self.news.clear()
            self.seen.append(self.latest)


@pytest.fixture
def burst(default: MpxChannelLayer, connected: Connected, gate: Gate) -> Callable[[float], Any]:
    """Handles a burst of messages of so much work; what the task beside has seen of it."""

    async def burst(work_: float) -> list[int]:
        class Consumer(Noticeboard):
            work = work_
            seen: list[int] = []

        Consumer.gate = gate
        socket = await connected(Consumer)
        channel = await socket.text()
        await default.send(channel, {"type": "hold"})
        await gate.reached.wait()
        for number in range(BURST):
            await default.send(channel, {"type": "note", "n": number})
        await eventually(lambda: default.stats().unread == BURST)
        gate.open()
        assert await socket.text() == "done"
        await eventually(lambda: BURST - 1 in Consumer.seen)
        return Consumer.seen

    return burst


async def test_a_task_beside_the_handlers_sees_every_message_that_takes_its_time(
    burst: Callable[[float], Any],
) -> None:
    assert await burst(2 * TURN) == list(range(BURST))


async def test_quick_handlers_share_a_turn(burst: Callable[[float], Any]) -> None:
    """A turn for each message would cost more than most handlers do."""
    assert len(await burst(0.0)) < BURST / 2
