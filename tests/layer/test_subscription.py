"""`subscribe`: listening for code that is no consumer."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually
from tests.over import CLUSTER, Outside
from tests.users import needs_more

from .conftest import MakeLayer
from .groups.test_raw import unread
from .groups.test_wildcards import of


@pytest.mark.everywhere
@pytest.mark.classic
async def test_subscribe(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, outside: Outside, prefix: str
) -> None:
    async with layer.subscribe(
        groups=["hall"],
        group_patterns=["room-*"],
        channels=[f"{prefix}/raw"],
        patterns=[f"{prefix}/p*"],
    ) as events:
        await other_layer.group_send("hall", {"type": "x", "n": 1})
        await other_layer.group_send("room-1", {"type": "x", "n": 2})
        await other_layer.send(events.channel_name, {"type": "direct"})
        outside.publish(f"{prefix}/raw", "3")
        outside.publish(f"{prefix}/p4", "4")
        got = set()
        async for event in events:
            got.add((event["type"], event.get("mpx_group"), event.get("data")))
            if len(got) == 5:
                break
        # In a cluster, what others publish may come over another node.
        assert got == {
            ("x", "hall", None),
            ("x", "room-1", None),
            ("direct", None, None),
            ("channel.message", None, b"3"),
            ("pattern.message", None, b"4"),
        }
        await other_layer.group_send("hall", {"type": "x"}, exclude=[events.channel_name])
        assert await unread(layer, events.channel_name, by=other_layer) == []
    stats = layer.stats()
    assert (stats.channels, stats.groups, stats.patterns, stats.raw_channels) == (0, 0, 0, 0)


async def test_subscribing_to_many_names(layer: MpxChannelLayer, topology: str) -> None:
    async with layer.subscribe(groups=[f"group-{number}" for number in range(200)]) as events:
        await layer.group_send_many(
            [(f"group-{number}", {"type": "x", "n": number}) for number in range(0, 200, 2)]
        )
        got = [(await anext(events))["n"] for _ in range(100)]
    if topology == CLUSTER:  # groups of several nodes have no common order
        got.sort()
    assert got == list(range(0, 200, 2))


async def test_a_subscription_that_fails_leaves_nothing(layer: MpxChannelLayer) -> None:
    subscription = layer.subscribe(groups=["fine"], group_patterns=["not fine"])
    for _ in range(2):
        with pytest.raises(TypeError, match="group pattern"):
            async with subscription:
                pytest.fail("it was entered")
    assert (layer.stats().channels, layer.stats().groups) == (0, 0)
    with pytest.raises(RuntimeError, match="between 'async with' and its end"):
        await anext(subscription)


async def test_a_subscription_is_open_once(layer: MpxChannelLayer) -> None:
    subscription = layer.subscribe(groups=["room"])
    with pytest.raises(RuntimeError, match="between 'async with' and its end"):
        assert subscription.channel_name
    with pytest.raises(RuntimeError, match="between 'async with' and its end"):
        await anext(subscription)
    async with subscription:
        with pytest.raises(RuntimeError, match="open already"):
            await subscription.__aenter__()
    assert layer.stats().channels == 0
    async with subscription as events:
        await layer.group_send("room", {"type": "x"})
        assert await anext(events) == {"type": "x"}


async def test_the_end_of_a_subscription_ends_its_iterations(layer: MpxChannelLayer) -> None:
    got = []

    async def read(events: Any) -> None:
        async for event in events:
            got.append(event)

    async with layer.subscribe(groups=["room"]) as events:
        readers = [asyncio.create_task(read(events)) for _ in range(3)]
        await layer.group_send("room", {"type": "x"})
        await eventually(lambda: got)
    await asyncio.wait_for(asyncio.gather(*readers), 10)
    assert got == [{"type": "x"}]


async def test_a_cancelled_iteration_loses_nothing(layer: MpxChannelLayer) -> None:
    async with layer.subscribe(groups=["room"]) as events:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.01)
        await layer.group_send("room", {"type": "x"})
        assert await anext(events) == {"type": "x"}


@pytest.mark.classic
async def test_from_sync_code(layer: MpxChannelLayer, make_layer: MakeLayer) -> None:
    sync_layer = make_layer()

    async def listen() -> Any:
        async with sync_layer.subscribe(groups=["room"], group_patterns=["roo*"]) as events:
            await sync_layer.group_send("ready", {"type": "x"})
            return await anext(events)

    async with layer.subscribe(groups=["ready"]) as ready:
        listening = asyncio.create_task(asyncio.to_thread(async_to_sync(listen)))
        await anext(ready)
        await layer.group_send("room", {"type": "x", "n": 1})
        assert await listening == of("room")


LISTENER = """
import asyncio, json, sys
from django.conf import settings
settings.configure()
from mpx_channels.layer import MpxChannelLayer

async def main(config, prefix):
    asyncio.get_running_loop().slow_callback_duration = 60  # the machine may be busy
    layer = MpxChannelLayer(**json.loads(config), prefix=prefix)
    async with layer.subscribe(groups=["room-1"], group_patterns=["room-*", "*-1"]) as events:
        await layer.group_send("ready", {"type": "ready"})
        async for event in events:
            if event["type"] == "stop":
                break
            print(event["mpx_group"], event["n"], flush=True)
    await layer.close()

asyncio.run(main(*sys.argv[1:]), debug=True)
"""


@pytest.mark.classic
@needs_more  # rules for the patterns of another process
async def test_from_a_process_of_its_own(
    layer: MpxChannelLayer, layer_json: str, prefix: str
) -> None:
    async with layer.subscribe(groups=["ready"]) as ready:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", LISTENER, layer_json, prefix,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await anext(ready)
    for group in ("room-1", "room-1", "room-2", "hall-1"):
        await layer.group_send(group, {"type": "x", "n": 1})
    await layer.group_send("room-1", {"type": "stop"})
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert output.decode().split("\n") == ["room-1 1", "room-1 1", "room-2 1", "hall-1 1", ""]
