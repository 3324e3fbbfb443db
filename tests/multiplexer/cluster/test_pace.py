"""When the cluster is looked at."""

from __future__ import annotations

import asyncio

import pytest

from mpx_channels.multiplexer import Node
from mpx_channels.multiplexer.cluster import pace as pace_module
from mpx_channels.multiplexer.cluster.pace import LEAST, SLOWEST, Pace


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it slept; it does not wait for it."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(pace_module.asyncio, "sleep", at_once)
    monkeypatch.setattr(pace_module.random, "uniform", lambda low, high: high)
    return slept


async def test_in_trouble_it_slows_down(slept: list[float]) -> None:
    pace = Pace()
    for _ in range(10):
        pace.soon()  # there is always a cause
        pace.begins()
        await pace.rest(news=False, well=False)
    assert slept[0] == 2 * LEAST
    assert slept == sorted(slept)
    assert slept[-1] == SLOWEST
    await pace.rest(news=True, well=False)
    assert slept[-1] == LEAST


async def test_when_all_is_well_it_waits_for_a_cause(slept: list[float]) -> None:
    pace = Pace()
    node = Node()
    pace.begins()
    resting = asyncio.create_task(pace.rest(news=True, well=True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not resting.done()
    pace.soon(node)
    pace.soon()
    await asyncio.wait_for(resting, 10)
    assert pace.begins() is node
    assert pace.begins() is None


async def test_a_cause_while_it_looked_counts(slept: list[float]) -> None:
    pace = Pace()
    pace.begins()
    pace.soon()
    await asyncio.wait_for(pace.rest(news=True, well=True), 10)


async def test_after_a_quiet_time_it_is_prompt_again(
    slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace_module, "EVERY", 0.01)
    pace = Pace()
    for _ in range(5):
        await pace.rest(news=False, well=False)
    pace.begins()
    await pace.rest(news=False, well=True)
    await pace.rest(news=False, well=False)
    assert slept[-1] == slept[0]


async def test_whoever_waits_for_a_look_waits_for_one(slept: list[float]) -> None:
    pace = Pace()
    pace.looked()
    one, other = (asyncio.create_task(pace.next_look()) for _ in range(2))
    await asyncio.sleep(0)
    other.cancel()
    await asyncio.wait([other])
    assert not one.done()
    pace.looked()
    await asyncio.wait_for(one, 10)
