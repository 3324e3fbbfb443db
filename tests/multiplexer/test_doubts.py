"""Commands whose answers were lost: their order, whatever becomes of the next connections."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest

from mpx_channels.multiplexer.backlog import Backlog
from mpx_channels.multiplexer.doubts import Doubts

Future = asyncio.Future[Any]


def asked(doubts: Doubts, *names: bytes) -> list[Future]:
    """Commands that were written, and what finds out about them."""
    futures: list[Future] = []
    for name in names:
        future: Future = asyncio.get_running_loop().create_future()
        doubts.watch(future, lambda name=name: b"again " + name)  # type: ignore[misc]
        futures.append(future)
    return futures


async def test_those_that_were_not_written_again_come_first_again() -> None:
    doubts, backlog = Doubts(), Backlog(lambda waiting: None, 10.0)
    one, two, three = asked(doubts, b"1", b"2", b"3")
    new = asyncio.get_running_loop().create_future()
    assert list(doubts.lost([one, None, two, three, new])) == [new]
    assert [doubts.pop()[0] for _ in range(2)] == [one, two]
    # The kernel took neither of them, nor what was to leave behind them.
    unanswered: deque[Future | None] = deque([one, two, new])
    backlog.take_back([b"again 1", b"again 2", b"new"], unanswered, doubts, None)
    assert not unanswered
    assert [waiting.future for waiting in backlog] == [new]
    assert [doubts.pop() for _ in range(len(doubts))] == [
        (one, b"again 1"),
        (two, b"again 2"),
        (three, b"again 3"),
    ]
    backlog.close()


async def test_what_is_answered_is_in_doubt_no_more() -> None:
    doubts = Doubts()
    (one,) = asked(doubts, b"1")
    assert list(doubts.lost([one])) == []
    assert doubts.pop()[0] is one
    one.set_result(b"")
    await asyncio.sleep(0)
    assert not doubts.take_back(one, b"again 1")
    with pytest.raises(IndexError):
        doubts.pop()
