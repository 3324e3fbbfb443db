"""A consumer with much to do leaves the event loop to others now and then."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

import pytest

from mpx_channels.consumers.turns import ALONE, TOGETHER, Turns
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
    assert await burst(2 * ALONE) == list(range(BURST))


async def test_quick_handlers_share_a_turn(burst: Callable[[float], Any]) -> None:
    """A turn for each message would cost more than most handlers do."""
    assert len(await burst(0.0)) < BURST / 2


async def test_a_turn_of_all_begins_with_the_first_that_is_used_up() -> None:
    loop = asyncio.get_running_loop()
    turns = Turns.of(loop)
    assert turns is Turns.of(loop)
    assert turns.end == inf
    before = monotonic()
    turns.used(loop)
    end = turns.end
    assert before < end - (TOGETHER - ALONE) < monotonic()
    turns.used(loop)
    assert turns.end == end
    await asyncio.sleep(0)
    assert turns.end == inf


def test_a_loop_that_ended_is_not_kept() -> None:
    loop = asyncio.new_event_loop()
    turns = weakref.ref(Turns.of(loop))
    loop.close()
    del loop
    gc.collect()
    assert turns() is None


async def test_many_consumers_with_much_to_do(
    default: MpxChannelLayer, connected: Connected, gate: Gate
) -> None:
    """They hold up a task beside them for a turn of all and a message each."""
    handled: list[int] = []

    class Consumer(Noticeboard):
        work = ALONE / 5
        seen: list[int] = []

        async def note(self, event: Any) -> None:
            await super().note(event)
            handled.append(event["n"])

    Consumer.gate = gate
    for _ in range(60):
        socket = await connected(Consumer)
        await default.group_add("all", await socket.text())
    await default.group_send("all", {"type": "hold"})
    await gate.reached.wait()
    for number in range(BURST - 30, BURST):
        await default.group_send("all", {"type": "note", "n": number})
    await eventually(lambda: default.stats().unread == 60 * 30)
    gate.open()
    steps = [0]
    while len(handled) < 60 * 30:
        steps.append(len(handled))
        await asyncio.sleep(0)
    most = max(later - earlier for earlier, later in itertools.pairwise(steps))
    # A turn of all are a hundred of them, and each of the sixty has one more.
    assert most <= TOGETHER / Consumer.work + 2 * 60
