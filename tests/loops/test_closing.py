"""The end of an event loop, noticed by those whom it concerns."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest
import uvloop

from mpx_channels.loops.closing import when_closed

each_loop = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
NewLoop = Callable[[], asyncio.AbstractEventLoop]


class Told:
    def __init__(self) -> None:
        self.times = 0

    def closed(self) -> None:
        self.times += 1


@each_loop
def test_a_closed_loop_is_told_once(new_loop: NewLoop) -> None:
    loop, told = new_loop(), Told()
    when_closed(loop, told.closed)
    gc.collect()
    assert told.times == 0
    loop.run_until_complete(asyncio.sleep(0))
    assert told.times == 0
    loop.close()
    gc.collect()
    assert told.times == 1


@each_loop
def test_it_keeps_neither_the_object_nor_the_loop(new_loop: NewLoop) -> None:
    loop, told = new_loop(), Told()
    when_closed(loop, told.closed)
    gone = weakref.ref(told)
    del told
    assert gone() is None
    loop.close()
    loops_end = weakref.ref(loop)
    del loop
    gc.collect()
    assert loops_end() is None
