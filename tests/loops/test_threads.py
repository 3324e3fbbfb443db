"""The thread of synchronous code: where it cannot start, and among greenlets."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.loops.portal import portal
from tests.conftest import PATIENCE, missing
from tests.layer.test_sync import run

MESSAGE = {"type": "x"}

AMONG_GREENLETS = """
import gevent.monkey
gevent.monkey.patch_all()
import sys
import gevent
from django.conf import settings
settings.configure()
from asgiref.sync import async_to_sync
from mpx_channels.layer import MpxChannelLayer

layer = MpxChannelLayer(
    hosts=[sys.argv[1].replace("127.0.0.1", "localhost")], prefix=sys.argv[2], capacity=10_000
)
# The first of all, while nothing else goes on; then again.
for _ in range(3):
    async_to_sync(layer.group_send)("nobody", {"type": "x"})
    layer.sync.group_send("nobody", {"type": "x"})

channel = layer.sync.new_channel()
layer.sync.group_add("room", channel)
got = []
turns = 0

def read():
    for _ in range(1000):
        got.append(tuple(layer.sync.receive(channel, 30)["n"]))

def send(sender):
    for number in range(50):
        layer.sync.group_send("room", {"type": "x", "n": [sender, number]})

def call():
    for _ in range(20):
        async_to_sync(layer.group_send)("nobody", {"type": "x"})

def count_turns():
    global turns
    while True:
        gevent.sleep(0.001)  # with 0 it would keep the interpreter's lock from the other thread
        turns += 1

counting = gevent.spawn(count_turns)
working = [gevent.spawn(read), gevent.spawn(call), *[gevent.spawn(send, n) for n in range(20)]]
gevent.joinall(working, raise_error=True)
assert turns > 20, "the other greenlets stood still"
counting.kill()
assert sorted(got) == [(sender, number) for sender in range(20) for number in range(50)]
for sender in range(20):
    assert [n for s, n in got if s == sender] == list(range(50))

# Who is killed, or runs out of time, loses nothing.
for _ in range(20):
    reading = gevent.spawn(layer.sync.receive, channel)
    gevent.sleep(0)
    reading.kill()
try:
    with gevent.Timeout(0.01):
        layer.sync.receive(channel)
except gevent.Timeout:
    pass
layer.sync.group_send("room", {"type": "last"})
assert layer.sync.receive(channel, 30) == {"type": "last"}

async def misuse():
    layer.sync.group_send("nobody", {"type": "x"})

try:
    async_to_sync(misuse)()
except Exception as error:
    assert type(error).__name__ == "SynchronousOnlyOperation", error
else:
    raise AssertionError("it would have stopped that event loop")

# From Python 3.13 on, gevent joins all pools' greenlets at exit, and complains of those that are
# another thread's: here of the one that looked the host's name up.
if sys.version_info >= (3, 13):
    import os
    os._exit(0)
"""

AMONG_OTHERS = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
import sys
from django.conf import settings
settings.configure()
from asgiref.sync import async_to_sync
from mpx_channels.layer import GreenletsUnsupported, MpxChannelLayer
from mpx_channels.multiplexer import MpxError

layer = MpxChannelLayer(hosts=[sys.argv[1]], prefix=sys.argv[2])
for send in [async_to_sync(layer.group_send), layer.sync.group_send] * 2:
    try:
        send("room", {"type": "x"})
    except GreenletsUnsupported as error:
        assert isinstance(error, MpxError) and "gthread" in str(error), error
    else:
        raise AssertionError("sent")
"""


@pytest.mark.parametrize(
    ("package", "program"), [("gevent", AMONG_GREENLETS), ("eventlet", AMONG_OTHERS)]
)
async def test_greenlets(redis_url: str, prefix: str, package: str, program: str) -> None:
    """As in the pools of Gunicorn and Celery that are named after them."""
    if importlib.util.find_spec(package) is None:
        missing(f"{package} is not installed")
    await run(program, redis_url, prefix)


def no_thread(monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == "mpx-portal":
            gate.wait(PATIENCE)
            raise RuntimeError("not now")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def no_loop(monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> None:
    make = asyncio.new_event_loop

    def refuse() -> asyncio.AbstractEventLoop:
        if threading.current_thread().name == "mpx-portal":
            gate.wait(PATIENCE)
            raise RuntimeError("not now")
        return make()

    monkeypatch.setattr(asyncio.events, "new_event_loop", refuse)


def loop_that_does_not_run(monkeypatch: pytest.MonkeyPatch, gate: threading.Event) -> None:
    run_forever = asyncio.BaseEventLoop.run_forever

    def refuse(self: asyncio.BaseEventLoop) -> None:
        # Only the first time: what ends the loop's life runs it again, for a moment.
        if threading.current_thread().name == "mpx-portal" and not gate.is_set():
            gate.wait(PATIENCE)
            raise RuntimeError("not now")
        run_forever(self)

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_forever", refuse)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("broken", [no_thread, no_loop, loop_that_does_not_run])
@pytest.mark.parametrize("called", ["sync", "async_to_sync"])
def test_what_does_not_start_fails_all_who_wait(
    sync_layer: MpxChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[pytest.MonkeyPatch, threading.Event], None],
    called: str,
) -> None:
    layer = sync_layer
    send: Any = layer.sync.group_send if called == "sync" else async_to_sync(layer.group_send)
    portal.stop()
    together = threading.Barrier(8)
    gate = threading.Event()

    def first_use() -> None:
        together.wait(PATIENCE)
        send("room", MESSAGE)

    with monkeypatch.context() as patch, ThreadPoolExecutor(7) as pool:
        calls = [pool.submit(first_use) for _ in range(7)]
        broken(patch, gate)
        together.wait(PATIENCE)
        threading.Timer(0.05, gate.set).start()  # until the others wait, too
        for call in calls:
            with pytest.raises(RuntimeError, match="not now"):
                call.result(PATIENCE)
    assert portal.running_loop is None
    send("room", MESSAGE)
    assert portal.running_loop is not None


def test_stopped_while_it_starts(
    sync_layer: MpxChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = asyncio.new_event_loop
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> asyncio.AbstractEventLoop:
        if threading.current_thread().name == "mpx-portal":
            begun.set()
            assert go_on.wait(PATIENCE)
        return make()

    monkeypatch.setattr(asyncio.events, "new_event_loop", slowly)
    portal.stop()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(sync_layer.sync.group_send, "room", MESSAGE)
        assert begun.wait(PATIENCE)
        portal.stop()
        go_on.set()
        with pytest.raises(RuntimeError, match="stopped"):
            call.result(PATIENCE)
    sync_layer.sync.group_send("room", MESSAGE)
