"""The hub: what concerns all of its parts, and in which order they hear of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import fields

import pytest

from mpx_channels.channels.part import Part
from mpx_channels.layer import LayerStats, MpxChannelLayer
from mpx_channels.layer.groups.topics import Topics
from mpx_channels.layer.hub import Hub
from mpx_channels.multiplexer import LinkLost
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.inside import hub_of
from tests.proxy import Proxy

from .conftest import MakeLayer


class Noting(Part):
    """A part that notes what it is told, and holds one of everything that is counted."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def lost(self, loss: LinkLost) -> None:
        self.told.append("lost")

    def clear(self) -> None:
        self.told.append("clear")

    async def close(self, timeout: float) -> None:
        self.told.append("close")

    def counts(self) -> Mapping[str, int]:
        return {"groups": 1}


def added(hub: Hub) -> Noting:
    """A part more."""
    part = Noting()
    hub.parts = (*hub.parts, part)
    return part


async def test_a_part_hears_what_concerns_all(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    await layer.connect()
    hub = hub_of(layer)
    part = added(hub)
    await layer.group_add("room", await layer.new_channel())
    assert hub.stats().groups == 2  # what several hold is added up
    proxy.cut()
    await eventually(lambda: part.told)
    await layer.flush()
    await layer.close()
    assert list(dict.fromkeys(part.told)) == ["lost", "clear", "close"]


def kinds_of(part: type[Part]) -> set[type[Part]]:
    """The classes of parts that nothing of the library derives from."""
    below = [each for each in part.__subclasses__() if each.__module__.startswith("mpx_channels.")]
    return set().union(*map(kinds_of, below)) if below else {part}


async def test_every_part_is_in_the_list(layer: MpxChannelLayer) -> None:
    await layer.connect()
    kinds = [type(part) for part in hub_of(layer).parts]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == kinds_of(Part)


async def test_memberships_are_cut_before_channels_are_told(layer: MpxChannelLayer) -> None:
    """Who was in what is known to the former, and said by the latter."""
    await layer.connect()
    hub = hub_of(layer)
    order = hub.parts.index(hub.events)
    for number, part in enumerate(hub.parts):
        if isinstance(part, Topics):
            assert number < order


async def test_what_the_parts_hold_is_what_statistics_have(layer: MpxChannelLayer) -> None:
    await layer.connect()
    hub = hub_of(layer)
    held = {name for part in hub.parts for name in part.counts()}
    counted = {each.name for each in fields(hub.counters)}
    assert held == {each.name for each in fields(LayerStats)} - counted - {"drops", "multiplexer"}


async def test_a_figure_that_nobody_has_is_a_mistake(layer: MpxChannelLayer) -> None:
    await layer.connect()
    hub = hub_of(layer)
    held = [part.counts() for part in hub.parts]
    LayerStats.of(held, hub.counters, hub.multiplexer.stats())
    for wrong in ([*held, {"of_nobody": 1}], held[1:]):
        with pytest.raises(TypeError):
            LayerStats.of(wrong, hub.counters, hub.multiplexer.stats())


async def test_closing_has_one_deadline_for_all(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """However many parts have something to wait for, on a server that does not answer."""
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url])
    reader = asyncio.create_task(layer.receive("jobs"))
    promise = await layer.new_promise("order-42")
    joined = await layer.new_channel()
    restartable_server.freeze()
    try:
        joining = asyncio.create_task(layer.group_add("room", joined))
        sending = asyncio.create_task(layer.group_send("room", {"type": "x"}))
        await asyncio.sleep(0)
        before = time.monotonic()
        await layer.close()
        assert time.monotonic() - before < PATIENCE / 3
        results = await asyncio.gather(reader, joining, sending, promise, return_exceptions=True)
        assert all(isinstance(each, Exception | asyncio.CancelledError) for each in results)
    finally:
        restartable_server.thaw()
