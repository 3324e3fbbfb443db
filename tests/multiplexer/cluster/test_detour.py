"""What waits for its slot: in which order it goes on, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mpx_channels.multiplexer import BacklogFull, CommandRefused, NotConnected
from mpx_channels.multiplexer.cluster.detour import Detour
from mpx_channels.multiplexer.counters import EngineCounters
from mpx_channels.multiplexer.publisher import Sent
from tests.conftest import eventually

New = Callable[..., Detour]


@pytest.fixture
def counters() -> EngineCounters:
    return EngineCounters()


@pytest.fixture
def new(counters: EngineCounters) -> New:
    def new(*, most: int = 100, timeout: float = 30.0) -> Detour:
        return Detour({1}, counters, most=most, timeout=timeout, cause=lambda: ": all are away")

    return new


def sent(command: bytes, *, in_doubt: bool = False) -> Sent:
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    again = (lambda: b"again") if in_doubt else None
    return Sent(future, command, again, in_doubt)


def commands(found: list[Sent]) -> list[bytes]:
    return [each.command for each in found]


async def test_what_came_back_goes_first_and_doubts_before_all(new: New) -> None:
    detour = new()
    detour.submit(b"5")
    detour.came_back(sent(b"3"), 7)
    detour.submit(b"6")
    detour.came_back(sent(b"1", in_doubt=True), 9)
    # It was at another node, which took its time.
    detour.came_back(sent(b"2"), 4)
    detour.came_back(sent(b"0", in_doubt=True), 2)
    detour.came_back(sent(b"4"), 11)
    assert len(detour) == 7
    assert commands(detour.drain()) == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]
    assert len(detour) == 0
    assert detour.drain() == []


async def test_what_finds_out_whether_it_ran_goes_along(new: New) -> None:
    detour = new()
    detour.submit(b"a", lambda: b"again")
    detour.submit(b"b")
    came_back = Sent(asyncio.get_running_loop().create_future(), b"c", lambda: b"other")
    detour.came_back(came_back, 0)
    first, second, third = detour.drain()
    assert first == came_back
    assert second.again is not None
    assert second.again() == b"again"
    assert third.again is None
    assert not third.in_doubt


async def test_it_takes_so_many(new: New, counters: EngineCounters) -> None:
    detour = new(most=2)
    detour.submit(b"a")
    detour.came_back(sent(b"b"), 0)
    with pytest.raises(BacklogFull, match="2 commands wait for the cluster already: all are away"):
        detour.submit(b"c")
    detour.came_back(sent(b"d"), 1)  # that was taken before
    assert counters.dropped_backlog_full == 1
    assert commands(detour.drain()) == [b"b", b"d", b"a"]


async def test_it_waits_for_so_long_but_in_doubt_without_an_end(
    new: New, counters: EngineCounters
) -> None:
    detour = new(timeout=0.02)
    doubt, back = sent(b"doubt", in_doubt=True), sent(b"back")
    detour.came_back(doubt, 0)
    detour.came_back(back, 1)
    late = detour.submit(b"late", lambda: b"again")
    cancelled = detour.submit(b"cancelled")
    cancelled.cancel()
    for future in (late, back.future):
        with pytest.raises(NotConnected, match=r"no node .* took this in 0.02 s: all are away"):
            await future
    await eventually(lambda: len(detour) == 1)
    assert counters.dropped_backlog_timeout == 2
    assert detour.drain() == [doubt]
    assert not doubt.future.done()


async def test_what_was_overtaken_is_dropped(new: New) -> None:
    detour = new()
    one, doubt, other = sent(b"one"), sent(b"one", in_doubt=True), sent(b"other")
    for turn, each in enumerate((one, doubt, other)):
        detour.came_back(each, turn)
    detour.submit(b"one")  # submitted since
    detour.drop(lambda command: command == b"one", CommandRefused("CLUSTERDOWN"))
    with pytest.raises(CommandRefused):
        await one.future
    assert commands(detour.drain()) == [b"one", b"other", b"one"]
    assert not doubt.future.done()


async def test_a_refusal_is_raised_at_once(new: New) -> None:
    detour = new()
    detour.refusal = CommandRefused("another number of partitions")
    with pytest.raises(CommandRefused, match="another number"):
        detour.submit(b"a")
