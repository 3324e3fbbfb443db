"""Channels and groups in separate calls of `async_to_sync`, and by `layer.sync`."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncJsonWebsocketConsumer as TheirConsumer
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator

from mpx_channels.channels import mailboxes as mailboxes_module
from mpx_channels.generic.websocket import AsyncJsonWebsocketConsumer as OurConsumer
from mpx_channels.layer import ForeignChannel, MpxChannelLayer
from mpx_channels.layer.hub import Hub
from mpx_channels.loops.portal import portal
from tests.conftest import PATIENCE
from tests.inside import shared_hub_of
from tests.over import Outside

from .test_sync import in_thread, run

MakeSyncLayer = Callable[..., MpxChannelLayer]


@pytest.fixture
def make_sync_layer(layer_config: dict[str, Any], prefix: str) -> Iterator[MakeSyncLayer]:
    """Makes layers for tests without an event loop."""
    layers: list[MpxChannelLayer] = []

    def make(**config: Any) -> MpxChannelLayer:
        layer = MpxChannelLayer(**{**layer_config, "prefix": prefix, **config})
        layers.append(layer)
        return layer

    yield make
    for layer in layers:
        layer.sync.close()


@pytest.fixture
def sync_layer(make_sync_layer: MakeSyncLayer) -> MpxChannelLayer:
    return make_sync_layer()


def shared_hub(layer: MpxChannelLayer) -> Hub:
    hub = shared_hub_of(layer)
    assert hub is not None
    return hub


def wait_until(predicate: Callable[[], Any]) -> None:
    """`tests.conftest.eventually`, without an event loop."""
    deadline = time.monotonic() + PATIENCE
    while not predicate():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.001)


def test_calls_meet(sync_layer: MpxChannelLayer) -> None:
    layer = sync_layer
    first = async_to_sync(layer.new_channel)()
    second = async_to_sync(layer.new_channel)("mine.")
    async_to_sync(layer.group_add)("room", first)
    async_to_sync(layer.group_add)("room", second)
    async_to_sync(layer.send)(first, {"type": "one"})
    async_to_sync(layer.group_send)("room", {"type": "two"})
    receive = async_to_sync(layer.receive)
    assert receive(second) == {"type": "two"}
    async_to_sync(layer.group_discard)("room", second)
    async_to_sync(layer.group_send_many)([("room", {"type": "three"})])
    assert [receive(first)["type"] for _ in range(3)] == ["one", "two", "three"]
    async_to_sync(layer.send)(second, {"type": "by.its.beginning"})
    assert receive(second.partition("!")[0] + "!") == {"type": "by.its.beginning"}

    async_to_sync(layer.send)("plain", {"type": "four"})
    assert receive("plain") == {"type": "four"}

    async_to_sync(layer.flush)()
    async_to_sync(layer.group_send)("room", {"type": "nobody.is.in.it"})
    async_to_sync(layer.send)(first, {"type": "last"})
    assert receive(first) == {"type": "last"}


def test_the_direct_face(sync_layer: MpxChannelLayer) -> None:
    sync = sync_layer.sync
    channel = sync.new_channel("mine.")
    assert channel.startswith("mine.")
    sync.group_add("room", channel)
    sync.group_send("room", {"type": "one"})
    assert sync.receive(channel, timeout=PATIENCE) == {"type": "one"}
    sync.group_discard("room", channel)
    sync.group_send("room", {"type": "two"})
    with pytest.raises(TimeoutError, match="nothing came to 'mine"):
        sync.receive(channel, timeout=0.01)
    # Both are the same channels.
    async_to_sync(sync_layer.group_add)("room", channel)
    sync.group_send("room", {"type": "three"})
    assert async_to_sync(sync_layer.receive)(channel) == {"type": "three"}
    stats = shared_hub(sync_layer).stats()
    assert (stats.channels, stats.groups, stats.deliveries) == (1, 1, 2)
    sync.flush()
    stats = shared_hub(sync_layer).stats()
    assert stats.groups == 0


@pytest.mark.everywhere
@pytest.mark.classic
def test_other_subscriptions(sync_layer: MpxChannelLayer, outside: Outside, prefix: str) -> None:
    layer = sync_layer
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.channel_add)(f"{prefix}-raw", channel)
    async_to_sync(layer.pattern_add)(f"{prefix}-?", channel)
    async_to_sync(layer.group_pattern_add)("room-*", channel)
    outside.publish(f"{prefix}-raw", b"1")
    outside.publish(f"{prefix}-x", b"2")
    layer.sync.group_send("room-7", {"type": "three"})
    got = [layer.sync.receive(channel, PATIENCE) for _ in range(3)]
    assert {event["type"] for event in got} == {"channel.message", "pattern.message", "three"}
    async_to_sync(layer.channel_discard)(f"{prefix}-raw", channel)
    async_to_sync(layer.pattern_discard)(f"{prefix}-?", channel)
    async_to_sync(layer.group_pattern_discard)("room-*", channel)
    stats = shared_hub(layer).stats()
    assert (stats.raw_channels, stats.patterns) == (0, 0)


def test_two_thousand_calls_open_two_connections(
    make_sync_layer: MakeSyncLayer, client: Any
) -> None:
    layer = make_sync_layer(capacity=10_000)

    def accepted() -> int:
        return int(client.info("stats")["total_connections_received"])

    before = accepted()
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("room", channel)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for number in range(500):
        async_to_sync(layer.group_send)("room", {"type": "x", "n": number})
        async_to_sync(layer.send)(channel, {"type": "x", "n": number})
        assert async_to_sync(layer.receive)(channel)["n"] == number
        assert async_to_sync(layer.receive)(channel)["n"] == number
    assert accepted() - before <= 2
    # asgiref's threads end a moment after their calls.
    wait_until(lambda: threading.active_count() <= threads)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files)

    for _ in range(10):
        async_to_sync(layer.send)("plain", {"type": "x"})
        async_to_sync(layer.receive)("plain")
    assert accepted() - before == 3


@pytest.mark.parametrize("kind", ["own", "plain"])
def test_receive_that_times_out_loses_nothing(make_sync_layer: MakeSyncLayer, kind: str) -> None:
    layer, sender = make_sync_layer(capacity=1000), make_sync_layer(capacity=1000)
    channel = layer.sync.new_channel() if kind == "own" else "plain"
    count = 150

    def send() -> None:
        for number in range(count):
            sender.sync.send(channel, {"type": "x", "n": number})

    async def receive(timeout: float) -> int:
        return (await asyncio.wait_for(layer.receive(channel), timeout))["n"]  # type: ignore[no-any-return]

    thread = threading.Thread(target=send)
    thread.start()
    got: list[int] = []
    turn = 0
    deadline = time.monotonic() + 3 * PATIENCE
    while len(got) < count and time.monotonic() < deadline:
        turn += 1
        try:
            got.append(async_to_sync(receive)(turn % 7 / 2000))
            got.append(layer.sync.receive(channel, turn % 5 / 2000)["n"])
        except TimeoutError:
            pass
    thread.join()
    assert got == list(range(count))


@pytest.mark.parametrize("kind", ["own", "plain"])
def test_what_was_taken_for_a_cancelled_reader_comes_first(
    make_sync_layer: MakeSyncLayer, kind: str
) -> None:
    layer = make_sync_layer()
    sync = layer.sync
    channel = sync.new_channel() if kind == "own" else "plain"

    async def give_up_too_late() -> None:
        reading = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        # This loop stands still meanwhile: the message is taken over there, and not handed over.
        sync_send = threading.Thread(target=sync.send, args=(channel, {"type": "x", "n": [1]}))
        sync_send.start()
        sync_send.join()
        wait_until(lambda: not background_reads())
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    def background_reads() -> bool:
        loop = portal.running_loop
        assert loop is not None
        names = (task.get_coro().__qualname__ for task in asyncio.all_tasks(loop))  # type: ignore[union-attr]
        return any("_take" in name for name in names)

    async_to_sync(give_up_too_late)()
    sync.send(channel, {"type": "x", "n": [2]})
    assert [sync.receive(channel, PATIENCE)["n"] for _ in range(2)] == [[1], [2]]


def test_interrupted_receive_loses_nothing(sync_layer: MpxChannelLayer) -> None:
    channel = sync_layer.sync.new_channel()
    mailbox = shared_hub(sync_layer).mailboxes[channel]

    def interrupt() -> None:
        wait_until(lambda: mailbox.waited_for)
        time.sleep(0.05)  # until the main thread waits for it
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        sync_layer.sync.receive(channel)
    thread.join()
    wait_until(lambda: not mailbox.waited_for)
    sync_layer.sync.send(channel, {"type": "x"})
    assert sync_layer.sync.receive(channel, PATIENCE) == {"type": "x"}


async def test_channels_of_synchronous_code_from_another_loop(layer: MpxChannelLayer) -> None:
    shared = await in_thread(layer.sync.new_channel)
    own = await layer.new_channel()
    await layer.group_add("room", shared)
    await in_thread(layer.sync.group_add, "room", own)
    await layer.group_send("room", {"type": "one"})
    assert await layer.receive(shared) == {"type": "one"}
    assert await layer.receive(own) == {"type": "one"}
    await layer.group_discard("room", shared)
    await in_thread(layer.sync.group_discard, "room", own)
    await layer.group_send("room", {"type": "nobody.is.in.it"})
    await layer.send(shared, {"type": "two"})
    await in_thread(layer.sync.send, own, {"type": "two"})
    assert await layer.receive(shared) == {"type": "two"}
    assert await layer.receive(own) == {"type": "two"}
    # A loop's own channel is read there: only it knows when its reader is done.
    with pytest.raises(ForeignChannel):
        await in_thread(layer.sync.receive, own, 1)


async def test_cancelled_receive_from_another_loop(layer: MpxChannelLayer) -> None:
    shared = await in_thread(layer.sync.new_channel)
    await layer.new_channel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(layer.receive(shared), 0.01)
    await layer.send(shared, {"type": "x"})
    assert await layer.receive(shared) == {"type": "x"}


class Echo:
    """A consumer in a room; with either package's base class."""

    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)  # type: ignore[attr-defined]
        await self.accept()  # type: ignore[attr-defined]

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event["text"])  # type: ignore[attr-defined]


class OurEcho(Echo, OurConsumer):
    pass


class TheirEcho(Echo, TheirConsumer):
    pass


@pytest.mark.parametrize("consumer", [OurEcho, TheirEcho])
@pytest.mark.parametrize("used_before", [False, True])
def test_consumers_within_one_call(
    sync_layer: MpxChannelLayer,
    consumer: type[Any],
    used_before: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(channel_layers.backends, "default", sync_layer)

    async def test() -> None:
        if used_before:
            await sync_layer.group_send("room", {"type": "chat.message", "text": "too early"})
        communicator = WebsocketCommunicator(consumer.as_asgi(), "/")
        connected, _ = await communicator.connect()
        assert connected
        await sync_layer.group_send("room", {"type": "chat.message", "text": "hello"})
        assert await communicator.receive_json_from() == "hello"
        # What this call makes, and what the last one made, are of use here.
        channel = await sync_layer.new_channel()
        for name in (channel, shared):
            await sync_layer.group_add("room", name)
        await sync_layer.group_send("room", {"type": "chat.message", "text": "all"})
        assert await communicator.receive_json_from() == "all"
        for name in (channel, shared):
            assert (await sync_layer.receive(name))["text"] == "all"
        await communicator.disconnect()

    shared = async_to_sync(sync_layer.new_channel)()
    async_to_sync(test)()


def test_close_pools_leaves_the_channels_of_synchronous_code(sync_layer: MpxChannelLayer) -> None:
    async def send_and_close() -> None:
        await sync_layer.send(channel, {"type": "x"})
        await sync_layer.close_pools()

    channel = async_to_sync(sync_layer.new_channel)()
    async_to_sync(send_and_close)()
    assert async_to_sync(sync_layer.receive)(channel) == {"type": "x"}
    async_to_sync(sync_layer.close)()
    assert shared_hub_of(sync_layer) is None
    with pytest.raises(ForeignChannel):
        async_to_sync(sync_layer.receive)(channel)


def test_unread_channels_end_after_a_time(make_sync_layer: MakeSyncLayer) -> None:
    # Not after "expiry", as those of readers that are cancelled on a loop of their own.
    layer = make_sync_layer(expiry=0.01, group_expiry=0.3)
    channels = [layer.sync.new_channel() for _ in range(2)]
    layer.sync.group_add("room", channels[0])
    mailboxes = shared_hub(layer).mailboxes
    with pytest.raises(TimeoutError):
        layer.sync.receive(channels[0], timeout=0.05)
    assert set(mailboxes) == set(channels)
    wait_until(lambda: not mailboxes)
    stats = shared_hub(layer).stats()
    assert stats.groups == 0


def test_unread_channels_are_limited(
    sync_layer: MpxChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mailboxes_module, "SHARED_IDLE", 2)
    caplog.set_level("INFO", "mpx_channels.layer")
    first = sync_layer.sync.new_channel()
    second = sync_layer.sync.new_channel()
    with pytest.raises(TimeoutError):
        sync_layer.sync.receive(first, timeout=0.001)  # so the second is the oldest now
    third = sync_layer.sync.new_channel()
    mailboxes = shared_hub(sync_layer).mailboxes
    assert set(mailboxes) == {first, third}
    assert second in caplog.text

    # Not one that is being read.
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.append(sync_layer.sync.receive(first)))
    reader.start()
    wait_until(lambda: mailboxes[first].waited_for)
    for _ in range(3):
        sync_layer.sync.new_channel()
    sync_layer.sync.send(first, {"type": "x"})
    reader.join(PATIENCE)
    assert got == [{"type": "x"}]


PREFORK = """
import json, multiprocessing, os, sys
from django.conf import settings
settings.configure()
from asgiref.sync import async_to_sync
from mpx_channels.layer import ForeignChannel, MpxChannelLayer

layer = MpxChannelLayer(**json.loads(sys.argv[1]), prefix=sys.argv[2])

def task(number):
    own = async_to_sync(layer.new_channel)()
    layer.sync.group_add("room", own)
    async_to_sync(layer.group_send)("room", {"type": "from.child", "n": number})
    while layer.sync.receive(own, 10)["n"] != number:
        pass
    layer.sync.group_discard("room", own)
    try:
        layer.sync.receive(parents, 10)
    except ForeignChannel:
        return os.getpid()

parents = layer.sync.new_channel()
layer.sync.group_add("room", parents)
with multiprocessing.get_context("fork").Pool(3, maxtasksperchild=4) as pool:
    pids = pool.map(task, range(20), chunksize=1)
assert None not in pids and len(set(pids)) >= 3 and os.getpid() not in pids
got = sorted(layer.sync.receive(parents, 10)["n"] for _ in range(20))
assert got == list(range(20)), got
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
async def test_a_pool_of_forked_workers(layer_json: str, prefix: str) -> None:
    """As Celery's prefork: the parent has used the layer, and its children come and go."""
    await run(PREFORK, layer_json, prefix)


def test_too_late_to_start_a_thread(
    sync_layer: MpxChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python has it at the end of a process; a coroutine that never ran would be a warning."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    portal.stop()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="interpreter shutdown"):
            sync_layer.sync.group_send("room", {"type": "x"})
    gc.collect()
