"""A hub for each event loop: made at its first use, and gone with its loop."""

from __future__ import annotations

import asyncio
import gc

from asgiref.sync import async_to_sync

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.loops.portal import portal
from tests.inside import hub_of, hubs_of, shared_hub_of

from .conftest import MakeLayer
from .test_sync import in_thread


async def test_a_loop_has_one_and_another_loop_another(layer: MpxChannelLayer) -> None:
    hubs = hubs_of(layer)
    assert (hubs.here, len(hubs)) == (None, 0)
    first, again = await asyncio.gather(hubs.open(), hubs.open())
    assert first is again is hubs.here is hub_of(layer)

    async def other() -> bool:
        opened = await hubs.open()
        try:
            return opened is not first and opened is hubs.here
        finally:
            await layer.close()

    assert await asyncio.to_thread(asyncio.run, other())
    assert len(hubs) == 1
    await layer.close()
    assert (hubs.here, len(hubs)) == (None, 0)


async def test_a_loop_for_one_call_gets_none(layer: MpxChannelLayer) -> None:
    hubs = hubs_of(layer)
    seen = []

    async def look() -> None:
        seen.append((hubs.for_one_call, hubs.here))
        await layer.group_send("room", {"type": "x"})
        seen.append((hubs.for_one_call, hubs.here))
        await layer.open_channel()  # a mailbox on this very loop
        seen.append((hubs.for_one_call, hubs.here is not None))

    def call() -> None:
        async_to_sync(look)()

    assert not hubs.for_one_call
    await in_thread(call)
    assert seen == [(True, None), (True, None), (False, True)]
    # What it did without one was done in the portal.
    shared = shared_hub_of(layer)
    assert shared is not None
    assert shared.loop is portal.running_loop


async def test_work_is_done_where_the_hub_is(layer: MpxChannelLayer) -> None:
    hubs = hubs_of(layer)

    async def where(hub: object) -> asyncio.AbstractEventLoop:
        assert hub is hubs.here
        return asyncio.get_running_loop()

    assert await hubs.run(where) is asyncio.get_running_loop()

    def call() -> asyncio.AbstractEventLoop:
        return async_to_sync(hubs.run)(where)

    assert await in_thread(call) is portal.running_loop


async def test_a_loop_that_was_closed_leaves_none(make_layer: MakeLayer) -> None:
    layer = make_layer()
    hubs = hubs_of(layer)

    def use() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(layer.group_send("room", {"type": "x"}))
        loop.close()

    for _ in range(3):
        await asyncio.to_thread(use)
    gc.collect()
    assert len(hubs) == 0
    assert layer.local_stats().total.messages_out == 3


async def test_closing_all_closes_the_shared_one_too(layer: MpxChannelLayer) -> None:
    await layer.connect()
    await in_thread(lambda: layer.sync.group_send("room", {"type": "x"}))
    assert shared_hub_of(layer) is not None
    await hubs_of(layer).close_all()
    assert shared_hub_of(layer) is None
    assert len(hubs_of(layer)) == 0
