"""Statistics of a layer in all event loops of the process, from any thread."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from channels.layers import channel_layers, get_channel_layer

from mpx_channels.layer import LayerStats, MpxChannelLayer, layers
from mpx_channels.layer.processes import ledger as ledger_module
from mpx_channels.layer.processes.ledger import NOTHING, LocalStats, add, counts_of
from mpx_channels.loops.portal import portal
from tests.conftest import eventually
from tests.inside import accounts_of, hub_of, hubs_of
from tests.layer.conftest import MakeLayer
from tests.layer.test_sync import run


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def stop(self) -> None:
        """Stop the loop, without a word to who is on it."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(10)

    def end(self) -> None:
        """End it as `asyncio.run` would."""
        if not self.loop.is_closed():
            self.stop()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks))
            self.loop.close()


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.end()


async def chat(layer: MpxChannelLayer, count: int = 1) -> str:
    """Join, send and receive so many messages; the channel, which stays."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for number in range(count):
        await layer.group_send("room", {"type": "x", "n": number})
        assert (await layer.receive(channel))["n"] == number
    return channel


async def test_nothing_before_its_use(layer: MpxChannelLayer) -> None:
    stats = layer.local_stats()
    assert stats == LocalStats({}, NOTHING)
    assert stats.total == NOTHING
    assert not stats.total.multiplexer.connected


async def test_the_running_loop_sees_what_stats_says(layer: MpxChannelLayer) -> None:
    await chat(layer, 3)
    stats = layer.local_stats()
    assert list(stats.loops.values()) == [layer.stats()]
    assert stats.total == layer.stats()
    assert stats.total.multiplexer.connected
    assert stats.total.deliveries == 3


async def test_loops_add_up(layer: MpxChannelLayer, loop_thread: LoopThread, prefix: str) -> None:
    await chat(layer, 2)
    await asyncio.to_thread(layer.sync.group_send, "empty", {"type": "x"})  # the background's
    other_channel = await asyncio.to_thread(loop_thread.run, layer.new_channel())
    await layer.send(other_channel, {"type": "unread"})

    def unread() -> bool:
        return layer.local_stats().total.unread == 1

    await eventually(unread)
    stats = await asyncio.to_thread(layer.local_stats)
    assert len(stats.loops) == 3
    assert stats.total.channels == 2
    assert stats.total.messages_out == 2 + 1 + 1
    engines = [each.multiplexer for each in stats.loops.values()]
    assert stats.total.multiplexer.bytes_in == sum(engine.bytes_in for engine in engines)
    assert stats.total.multiplexer.connected
    since = max(engine.connected_since or 0 for engine in engines)
    assert stats.total.multiplexer.connected_since == since
    assert stats.ended == NOTHING


def end_in_order(thread: LoopThread, layer: MpxChannelLayer) -> None:
    thread.run(layer.close())


def end_with_its_tasks(thread: LoopThread, layer: MpxChannelLayer) -> None:
    thread.end()


def close_in_silence(thread: LoopThread, layer: MpxChannelLayer) -> None:
    thread.stop()
    thread.loop.close()


@pytest.mark.parametrize("end", [end_in_order, end_with_its_tasks, close_in_silence])
async def test_counts_outlive_their_loop(
    layer: MpxChannelLayer,
    loop_thread: LoopThread,
    end: Callable[[LoopThread, MpxChannelLayer], None],
) -> None:
    await asyncio.to_thread(loop_thread.run, chat(layer, 5))
    before = await asyncio.to_thread(layer.local_stats)
    assert before.total.deliveries == 5
    await asyncio.to_thread(end, loop_thread, layer)
    await eventually(lambda: not layer.local_stats().loops)
    after = layer.local_stats()
    assert after.total.deliveries == after.total.messages_in == 5
    assert after.total.multiplexer.bytes_in >= before.total.multiplexer.bytes_in
    # What it held is gone with it.
    assert after.total == counts_of(after.total)
    assert not after.total.multiplexer.connected
    await chat(layer, 2)
    assert layer.local_stats().total.deliveries == 7
    # An end is counted once.
    await asyncio.to_thread(loop_thread.end)
    assert layer.local_stats().total.deliveries == 7


async def test_a_layer_that_is_used_while_it_closes(layer: MpxChannelLayer) -> None:
    """It has two hubs for a moment: the old one's end is not the new one's."""
    await chat(layer)
    closing = asyncio.create_task(layer.close())
    await asyncio.sleep(0)
    assert not hubs_of(layer)
    joining = asyncio.create_task(layer.new_channel())
    await asyncio.sleep(0)
    assert len(layer.local_stats().loops) == 2
    await closing
    channel = await joining
    assert len(layer.local_stats().loops) == 1
    await layer.send(channel, {"type": "still here"})
    assert await layer.receive(channel) == {"type": "still here"}


async def test_many_short_loops(layer: MpxChannelLayer) -> None:
    """One after another, as in a script: they are added up, not piled up."""
    for number in range(1, 6):
        await asyncio.to_thread(asyncio.run, chat(layer, 2))
        assert layer.local_stats().total.deliveries == 2 * number
    assert len(accounts_of(hubs_of(layer).ledger)) <= 3


async def test_an_ended_hub_is_not_kept(layer: MpxChannelLayer) -> None:
    await chat(layer)
    hub = weakref.ref(hub_of(layer))
    await layer.close()
    gc.collect()
    assert hub() is None
    assert layer.local_stats().total.deliveries == 1


def counters(stats: LayerStats) -> list[int]:
    """Every figure that only grows."""
    found: list[int] = []
    for each in (stats, stats.multiplexer):
        for field in fields(each):
            value = getattr(each, field.name)
            found += value.values() if isinstance(value, dict) else []
            found += [value] if type(value) is int else []
    return found


async def test_counts_never_go_down_while_others_look(make_layer: MakeLayer, proxy: Any) -> None:
    """Under load, with connections that break, and loops that come and go."""
    layer = make_layer(hosts=[proxy.url])
    over = threading.Event()

    def look() -> list[LayerStats]:
        seen = []
        while not over.is_set():
            seen.append(counts_of(layer.local_stats().total))
        return seen

    watchers = [asyncio.create_task(asyncio.to_thread(look)) for _ in range(2)]
    try:
        for number in range(5):
            await chat(layer, 20)
            await asyncio.to_thread(asyncio.run, chat(layer, 20))
            reconnects = layer.stats().multiplexer.reconnects
            proxy.cut()
            await eventually(
                lambda before=reconnects: layer.stats().multiplexer.reconnects > before
            )
            if number == 2:
                await layer.close()
    finally:
        over.set()
        looks = await asyncio.gather(*watchers)
    final = layer.local_stats().total
    assert final.messages_out == 200
    for seen in looks:
        assert len(seen) > 10
        columns = list(zip(*map(counters, [*seen, counts_of(final)]), strict=True))
        assert [list(column) for column in columns] == [sorted(column) for column in columns]


async def test_a_loop_that_is_blocked_is_seen_all_the_same(
    layer: MpxChannelLayer, loop_thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "LOOPS_HAVE", 0.01)
    await asyncio.to_thread(loop_thread.run, chat(layer, 3))
    blocked, release = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(10)

    loop_thread.loop.call_soon_threadsafe(block)
    await asyncio.to_thread(blocked.wait, 10)
    try:
        assert layer.local_stats().total.deliveries == 3
    finally:
        release.set()
    await asyncio.to_thread(loop_thread.run, asyncio.sleep(0))  # the late answer harms nobody


async def test_a_loop_that_stands_still_is_read(
    layer: MpxChannelLayer, loop_thread: LoopThread
) -> None:
    await asyncio.to_thread(loop_thread.run, chat(layer, 3))
    await asyncio.to_thread(loop_thread.stop)
    start = time.monotonic()
    assert layer.local_stats().total.deliveries == 3
    assert time.monotonic() - start < ledger_module.LOOPS_HAVE


class Restless:
    """A hub whose dictionaries change under who looks, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def stats(self) -> str:
        self.times -= 1
        if self.times >= 0:
            raise RuntimeError("dictionary changed size during iteration")
        return "a snapshot"


def test_changes_during_a_look_are_looked_past() -> None:
    assert ledger_module.look(Restless(ledger_module.LOOKS - 1)) == "a snapshot"
    with pytest.raises(RuntimeError):
        ledger_module.look(Restless(ledger_module.LOOKS))


def test_adding_up() -> None:
    one = replace(NOTHING, unread=1, drops={"full": 1, "old": 2})
    other = replace(NOTHING, unread=2, drops={"full": 3, "new": 4})
    total = add(one, other)
    assert total.unread == 3
    assert total.drops == {"full": 4, "old": 2, "new": 4}
    assert add(NOTHING, NOTHING) == NOTHING
    assert add(True, False) is False


def test_connected_is_all_of_them() -> None:
    def at(since: float | None) -> LayerStats:
        engine = replace(NOTHING.multiplexer, connected=since is not None, connected_since=since)
        return replace(NOTHING, multiplexer=engine)

    def total(*loops: LayerStats) -> tuple[bool, float | None]:
        stats = LocalStats(dict(zip("abc", loops, strict=False)), NOTHING).total.multiplexer
        return stats.connected, stats.connected_since

    assert total() == (False, None)
    assert total(at(2.0)) == (True, 2.0)
    assert total(at(2.0), at(3.0), at(1.0)) == (True, 3.0)
    assert total(at(2.0), at(None)) == total(at(None), at(2.0)) == (False, None)
    assert total(at(None)) == (False, None)


async def test_layers_by_alias_or_prefix(
    settings: Any, layer: MpxChannelLayer, redis_url: str, prefix: str
) -> None:
    entry = {
        "BACKEND": "mpx_channels.layer.MpxChannelLayer",
        "CONFIG": {"hosts": [redis_url], "prefix": "other"},
    }
    settings.CHANNEL_LAYERS = {
        "default": entry,
        "chat": entry,
        "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        "unused": entry,
    }
    mine = [get_channel_layer(), get_channel_layer("chat")]
    get_channel_layer("memory")
    there = [(label, each) for label, each in layers() if each is layer or each in mine]
    assert sorted(there, key=lambda pair: pair[0]) == sorted(
        [("default", mine[0]), ("chat", mine[1]), (prefix, layer)], key=lambda pair: pair[0]
    )
    assert set(channel_layers.backends) == {"default", "chat", "memory"}  # none made for this


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless_threads")
def test_layers_while_others_come_and_go() -> None:
    over = threading.Event()
    living = [MpxChannelLayer() for _ in range(1000)]

    def make() -> None:
        while not over.is_set():
            MpxChannelLayer()

    makers = [threading.Thread(target=make) for _ in range(2)]
    for maker in makers:
        maker.start()
    try:
        for _ in range(200):
            there = {id(layer) for _, layer in layers()}
            assert there >= set(map(id, living))
    finally:
        over.set()
        for maker in makers:
            maker.join()


FORK = """
import json, os, sys
from django.conf import settings
settings.configure()
from mpx_channels.layer import LayerStats, MpxChannelLayer, layers

layer = MpxChannelLayer(**json.loads(sys.argv[1]), prefix=sys.argv[2])
layer.sync.group_send("room", {"type": "parent"})
assert layer.local_stats().total.messages_out == 1
pid = os.fork()
if pid == 0:
    assert [each for _, each in layers()] == [layer]
    stats = layer.local_stats()
    assert not stats.loops
    assert stats.total.messages_out == 0
    layer.sync.group_send("room", {"type": "child"})
    layer.sync.group_send("room", {"type": "child"})
    assert layer.local_stats().total.messages_out == 2
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert layer.local_stats().total.messages_out == 1
assert len(layer.local_stats().loops) == 1
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.skipif(sys.platform == "darwin", reason="threads and forks do not mix there")
async def test_a_forked_child_starts_from_nothing(layer_json: str, prefix: str) -> None:
    await run(FORK, layer_json, prefix)


async def test_the_background_loop_ends(layer: MpxChannelLayer) -> None:
    await asyncio.to_thread(layer.sync.group_send, "room", {"type": "x"})
    await eventually(lambda: layer.local_stats().total.multiplexer.connected)
    await asyncio.to_thread(portal.stop)
    await eventually(lambda: not layer.local_stats().loops)
    assert layer.local_stats().total.messages_out == 1
