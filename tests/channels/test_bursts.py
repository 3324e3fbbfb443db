"""What arrives in one piece: more than a mailbox holds, for a reader that had no turn yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually
from tests.inside import full_buffers, hub_of, names_of
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy

COUNTS = [150, 300, 1000, 10_000]


def publish(outside: Outside, layer: MpxChannelLayer, group: str, count: int) -> None:
    """Send to a group all at once, without a turn of the loop: it is there in one piece."""
    name = names_of(layer).group(group)
    wrap = layer.wrapping.wrap
    messages = [wrap(name, {"type": "x", "n": number}) for number in range(count)]
    outside.publish_as_layers(name, *messages)


@pytest.fixture
def reader(layer: MpxChannelLayer) -> Any:
    return reading(layer)


def reading(layer: MpxChannelLayer) -> Callable[[str], list[int]]:
    """Reads a channel for as long as the test lasts, and does nothing else."""
    tasks = []

    def read(channel: str) -> list[int]:
        got: list[int] = []

        async def go_on() -> None:
            while True:
                got.append((await layer.receive(channel))["n"])

        tasks.append(asyncio.create_task(go_on()))
        return got

    return read


def full(layer: MpxChannelLayer) -> int:
    stats = layer.stats()
    assert stats is not None
    return stats.drops["full"]


@pytest.mark.parametrize("count", COUNTS)
async def test_to_a_group(
    layer: MpxChannelLayer, reader: Any, outside: Outside, count: int
) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    got = reader(channel)
    await asyncio.sleep(0)
    publish(outside, layer, "room", count)
    await eventually(lambda: len(got) == count)
    assert got == list(range(count))
    assert full(layer) == 0


@pytest.mark.parametrize("count", COUNTS)
async def test_to_a_subscription(layer: MpxChannelLayer, count: int) -> None:
    """From the same process, by way of Redis."""
    async with layer.subscribe(groups=["room"]) as events:
        await layer.group_send_many([("room", {"type": "x", "n": n}) for n in range(count)])
        assert [(await anext(events))["n"] for _ in range(count)] == list(range(count))
    assert full(layer) == 0


@pytest.mark.parametrize("count", COUNTS)
async def test_to_an_inbox(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, reader: Any, count: int
) -> None:
    channel = await layer.new_channel()
    got = reader(channel)
    for sender in (layer, other_layer):
        got.clear()
        await asyncio.gather(*[sender.send(channel, {"type": "x", "n": n}) for n in range(count)])
        await eventually(lambda: len(got) == count)
        assert got == list(range(count))
    assert full(layer) == 0


@pytest.mark.parametrize("capacity", [1, 2, 100])
async def test_a_reader_that_takes_turns(
    make_layer: MakeLayer, outside: Outside, capacity: int
) -> None:
    layer = make_layer(capacity=capacity)
    async with layer.subscribe(groups=["room"]) as events:
        publish(outside, layer, "room", 300)
        for number in range(300):
            assert (await anext(events))["n"] == number
            for _ in range(5):
                await asyncio.sleep(0)
    assert full(layer) == 0


async def test_the_whole_group_is_waited_for(
    layer: MpxChannelLayer, reader: Any, outside: Outside
) -> None:
    channels = [await layer.new_channel() for _ in range(50)]
    for channel in channels:
        await layer.group_add("room", channel)
    got = [reader(channel) for channel in channels]
    await asyncio.sleep(0)
    publish(outside, layer, "room", 1000)
    await eventually(lambda: all(len(each) == 1000 for each in got))
    assert full(layer) == 0


async def test_a_handler_that_blocks_loses_nothing(
    layer: MpxChannelLayer, outside: Outside
) -> None:
    """It blocks the loop again and again, also while its mailbox is full and it is waited for."""
    async with layer.subscribe(groups=["room"]) as events:
        publish(outside, layer, "room", 1000)
        for round_ in range(6):
            for number in range(1000):
                assert (await anext(events))["n"] == number
                if number == 150 and round_ < 5:
                    publish(outside, layer, "room", 1000)
    assert full(layer) == 0


async def test_nobody_waits_long_for_who_does_not_read(
    layer: MpxChannelLayer, reader: Any, outside: Outside
) -> None:
    never, prompt = await layer.new_channel(), await layer.new_channel()
    for channel in (never, prompt):
        await layer.group_add("room", channel)
    got = reader(prompt)
    await asyncio.sleep(0)
    publish(outside, layer, "room", 1000)
    await eventually(lambda: len(got) == 1000)
    hub = hub_of(layer)
    mailbox = hub.mailboxes[never]
    assert (len(mailbox), full(layer)) == (100, 900)
    # Now that it is known for slow, not for a turn.
    publish(outside, layer, "room", 1000)
    held = 0
    while len(got) < 2000:
        held += mailbox in full_buffers(hub.multiplexer.flow)
        await asyncio.sleep(0)
    assert held == 0
    # Once it has worked off what it had, it is as good as any other.
    for _ in range(100):
        await layer.receive(never)
    before = full(layer)
    late = reader(never)
    await asyncio.sleep(0)
    publish(outside, layer, "room", 1000)
    await eventually(lambda: len(late) == 1000)
    assert full(layer) == before


async def test_who_waits_for_redis_in_a_handler_is_not_waited_for_in_vain(
    layer: MpxChannelLayer, outside: Outside
) -> None:
    """The answer is behind the messages that wait for the handler's end."""
    async with layer.subscribe(groups=["room"]) as events:
        publish(outside, layer, "room", 300)
        await anext(events)
        await layer.group_add("another", events.channel_name)
        assert (await anext(events))["n"] == 1


async def test_over_several_connections(
    make_layer: MakeLayer, redis_url: str, proxy: Proxy
) -> None:
    """Two that are two servers to us fill one mailbox in the same turn."""
    layer = make_layer(hosts=[redis_url, proxy.url])
    async with layer.subscribe() as events:
        hub = hub_of(layer)
        names: dict[Any, str] = {}
        for number in range(100):
            node = hub.multiplexer.node_of(names_of(layer).group(f"room-{number}"))
            names.setdefault(node, f"room-{number}")
        assert len(names) == 2
        for group in names.values():
            await layer.group_add(group, events.channel_name)
        await layer.group_send_many(
            [(group, {"type": group, "n": n}) for n in range(2000) for group in names.values()]
        )
        got = [await anext(events) for _ in range(4000)]
        for group in names.values():
            assert [each["n"] for each in got if each["type"] == group] == list(range(2000))
    assert full(layer) == 0


@pytest.mark.classic
async def test_a_tap(layer: MpxChannelLayer, outside: Outside) -> None:
    async with layer.tap(groups=["room"], max_messages=50) as passing:
        publish(outside, layer, "room", 1000)
        for number in range(1000):
            tapped: Any = await anext(passing)
            assert tapped.message["n"] == number
            await asyncio.sleep(0)
    size = 10 * len(layer.wrapping.wrap("", {"type": "x", "n": 1}))
    async with layer.tap(groups=["room"], max_bytes=size) as passing:
        publish(outside, layer, "room", 1000)
        for number in range(1000):
            tapped = await anext(passing)
            assert tapped.message["n"] == number
