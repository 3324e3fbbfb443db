"""What is done in a forked child; see tests/layer/test_sync.py for what becomes of layers there."""

from __future__ import annotations

import sys

import pytest

from tests.layer.test_sync import run

PROGRAM = """
import gc, os, weakref
from mpx_channels.loops.fork import in_forked_child, leave_behind

class Thing: pass

called, thing = [], Thing()
kept = weakref.ref(thing)

def first():
    global thing
    leave_behind(thing)
    thing = None
    called.append("first")

in_forked_child(first)
in_forked_child(lambda: called.append("second"))
assert called == []
if (pid := os.fork()) == 0:
    gc.collect()
    os._exit(0 if called == ["first", "second"] and kept() is not None else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert called == []
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
async def test_the_child_is_told_in_order_and_the_parent_is_not() -> None:
    await run(PROGRAM)
