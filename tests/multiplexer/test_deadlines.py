"""What is due after a while: in order, with one timer, and not once it was taken away."""

from __future__ import annotations

import asyncio

import pytest

from mpx_channels.multiplexer.deadlines import Deadlines, DueOrder
from tests.conftest import eventually


def test_what_is_due_comes_in_order() -> None:
    order: DueOrder[str] = DueOrder()
    for due, thing in enumerate("abcd"):
        order.add(thing, due)
    order.discard("b")
    order.discard("never there")
    order.add("a", 4.0)  # anew, and so last
    assert (order.first, order.next_due(), len(order)) == ("c", 2, 3)
    assert list(order.pop_due(1.9)) == []
    assert list(order.pop_due(3.0)) == ["c", "d"]
    assert "a" in order
    order.clear()
    assert (len(order), order.next_due()) == (0, None)
    with pytest.raises(StopIteration):
        _ = order.first


def test_what_is_added_while_others_come_due_waits_its_turn() -> None:
    order: DueOrder[str] = DueOrder()
    order.add("a", 1.0)
    order.add("b", 1.0)
    taken = []
    for thing in order.pop_due(1.0):
        taken.append(thing)
        if thing == "a":
            order.discard("b")
            order.add("c", 2.0)
    assert (taken, list(order.pop_due(2.0))) == (["a"], ["c"])


async def test_each_comes_due_once() -> None:
    due: list[int] = []
    deadlines: Deadlines[int] = Deadlines(due.append, 0.01)
    for number in range(100):
        deadlines.add(number)
    for number in range(0, 100, 2):
        deadlines.discard(number)
    await eventually(lambda: len(due) == 50)
    assert due == list(range(1, 100, 2))
    # A timer that had ended is set again.
    deadlines.add(100)
    await eventually(lambda: due[-1] == 100)


async def test_a_timer_that_is_too_early_is_set_anew() -> None:
    due: list[str] = []
    deadlines: Deadlines[str] = Deadlines(due.append, 3600)
    now = asyncio.get_running_loop().time()
    deadlines.add("first", now + 0.01)
    deadlines.add("second", now + 0.02)
    deadlines.discard("first")
    await eventually(lambda: due)
    assert due == ["second"]


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
def test_first_of_all_before_what_is_due_at_once(loops: str) -> None:
    """The handle of what uvloop calls at once does not know when that is."""
    factory = asyncio.new_event_loop
    if loops == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop

    async def run() -> list[str]:
        due: list[str] = []
        deadlines: Deadlines[str] = Deadlines(due.append, 0.0)
        deadlines.add("second")
        deadlines.add_first("first", 0.0)
        await eventually(lambda: len(due) == 2)
        deadlines.add("late", asyncio.get_running_loop().time() + 3600)
        deadlines.add_first("early", 0.0)
        await eventually(lambda: len(due) == 3)
        deadlines.close()
        return due

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(run()) == ["first", "second", "early"]


async def test_closed_it_times_nothing_and_keeps_what_is_there() -> None:
    due: list[str] = []
    deadlines: Deadlines[str] = Deadlines(due.append, 0.0)
    deadlines.add("a")
    deadlines.close()
    deadlines.close()
    loop = asyncio.get_running_loop()
    later = loop.create_future()
    loop.call_later(0.01, later.set_result, None)  # timers fire in their order
    await later
    assert (due, "a" in deadlines) == ([], True)
    deadlines.add("b")
    await eventually(lambda: due == ["a", "b"])


async def test_adding_again_from_what_came_due() -> None:
    due: list[int] = []

    def again(number: int) -> None:
        due.append(number)
        if number < 3:
            deadlines.add(number + 1)

    deadlines: Deadlines[int] = Deadlines(again, 0.001)
    deadlines.add(1)
    await eventually(lambda: due == [1, 2, 3])
