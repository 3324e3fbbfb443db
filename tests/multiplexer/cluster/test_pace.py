"""When the cluster is looked at."""

from __future__ import annotations

import asyncio

import pytest

from mpx_channels.multiplexer import Node
from mpx_channels.multiplexer.cluster import pace as pace_module
from mpx_channels.multiplexer.cluster.pace import LEAST, SLOWEST, SOON, Pace

# What it waits for events by, for monkeypatch.
IN_TIME = "_in_time"


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it waited, each time; nobody waits for it."""
    waited: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    async def in_time(event: asyncio.Event, seconds: float) -> bool:
        waited[-1] += 0.0 if event.is_set() else seconds
        return event.is_set()

    monkeypatch.setattr(pace_module.asyncio, "sleep", at_once)
    monkeypatch.setattr(pace_module, IN_TIME, in_time)
    monkeypatch.setattr(pace_module.random, "uniform", lambda low, high: high)
    return waited


async def test_in_trouble_it_slows_down(waited: list[float]) -> None:
    pace = Pace()
    for _ in range(10):
        pace.begins()
        pace.soon()  # there is always a cause
        await pace.rest(news=False, well=False)
    assert waited[0] == 2 * LEAST
    assert waited == sorted(waited)
    assert waited[-1] == SLOWEST
    await pace.rest(news=True, well=False)
    assert waited[-1] == LEAST


async def test_when_a_node_says_that_something_has_moved_it_is_prompt(waited: list[float]) -> None:
    pace = Pace()
    for _ in range(10):
        await pace.rest(news=False, well=False)
    pace.soon(Node())
    await pace.rest(news=False, well=False)
    assert waited[-1] == SOON
    pace.begins()
    await pace.rest(news=False, well=False)
    assert waited[-1] == SLOWEST


async def test_when_all_is_well_it_waits_for_a_cause() -> None:
    pace = Pace()
    node = Node()
    pace.begins()
    resting = asyncio.create_task(pace.rest(news=True, well=True))
    await asyncio.sleep(3 * LEAST)
    assert not resting.done()
    pace.soon(node)
    pace.soon()
    await asyncio.wait_for(resting, 10)
    assert pace.begins() is node
    assert pace.begins() is None


async def test_a_cause_while_it_looked_counts() -> None:
    pace = Pace()
    pace.begins()
    pace.soon()
    await asyncio.wait_for(pace.rest(news=True, well=True), 10)


async def test_after_a_quiet_time_it_is_prompt_again(waited: list[float]) -> None:
    pace = Pace()
    for _ in range(5):
        await pace.rest(news=False, well=False)
    pace.begins()
    await pace.rest(news=False, well=True)
    await pace.rest(news=False, well=False)
    assert waited[-1] == waited[0]


async def test_whoever_waits_for_a_look_waits_for_one() -> None:
    pace = Pace()
    pace.looked()
    one, other = (asyncio.create_task(pace.next_look()) for _ in range(2))
    await asyncio.sleep(0)
    other.cancel()
    await asyncio.wait([other])
    assert not one.done()
    pace.looked()
    await asyncio.wait_for(one, 10)
