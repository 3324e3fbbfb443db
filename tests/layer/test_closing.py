"""`close`, and event loops that come and go in many threads."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.multiplexer import NotConnected
from tests.conftest import eventually
from tests.proxy import Proxy

from .conftest import MakeLayer


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_loops_that_come_and_go_in_many_threads(redis_url: str, quick_switches: None) -> None:
    layer = MpxChannelLayer(hosts=[redis_url])
    errors: list[BaseException] = []

    async def use() -> None:
        await layer.new_channel()
        await layer.close()

    async def leave() -> None:
        await layer.new_channel()

    def run() -> None:
        try:
            for number in range(10):
                asyncio.run(use() if number % 2 else leave())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


async def test_nobody_is_left_waiting(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A join that Redis has not confirmed when the layer is closed will never be."""
    layer = make_layer(hosts=[proxy.url])
    channel = await layer.new_channel()
    proxy.to_client.freeze()
    joins: list[asyncio.Task[Any]] = [
        asyncio.create_task(add("name", channel))
        for add in (layer.group_add, layer.group_pattern_add, layer.channel_add, layer.pattern_add)
    ]
    await eventually(lambda: layer.stats().patterns == 2)
    await layer.close()
    for join in joins:
        with pytest.raises(NotConnected, match=r"closed before .* confirmed"):
            await asyncio.wait_for(join, 10)
    proxy.to_client.thaw()
