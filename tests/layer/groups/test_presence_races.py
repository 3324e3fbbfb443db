"""Presence where two things happen at once: joins that are given up, answers that are late, crashes
that are noticed halfway, and events that come while messages are replayed."""

from __future__ import annotations

import asyncio

import pytest

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.presence.values import PresenceCount
from tests.conftest import eventually
from tests.layer.conftest import MakeLayer
from tests.proxy import Proxy

from .presences import change, listener, members, next_of


def connections(layer: MpxChannelLayer) -> int:
    stats = layer.stats()
    assert stats is not None
    return stats.presence_connections


# -- joins that are given up ----------------------------------------------------------------------


async def test_a_join_that_is_given_up_ends_nobodys_linger(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    """As by two reloads in a row: the second page is gone before Redis has answered."""
    layer, cut_off = make_layer(), make_layer(hosts=[proxy.url])
    hears = await listener(layer)
    ended = await layer.open_channel()
    await layer.presence_join("room", ended.channel, "ann")
    assert await next_of(hears) == change(1, {"ann": {}})
    layer.close_channel(ended)
    async with asyncio.timeout(30):
        while await layer.presence_count("room") != PresenceCount(1, 0):
            pass
    mailbox = await cut_off.open_channel()
    await cut_off.presence_count("room")
    proxy.freeze()
    joining = asyncio.ensure_future(cut_off.presence_join("room", mailbox.channel, "ann"))
    await eventually(lambda: connections(cut_off) == 1)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert connections(cut_off) == 0
    proxy.thaw()
    await cut_off.presence_join("room", mailbox.channel, "bob")
    assert await next_of(hears) == change(2, {"bob": {}})
    assert await layer.presence_count("room") == PresenceCount(2, 1)


async def test_of_two_joins_of_a_channel_one_is_given_up(
    make_layer: MakeLayer, proxy: Proxy, layer: MpxChannelLayer
) -> None:
    cut_off = make_layer(hosts=[proxy.url])
    mailbox = await cut_off.open_channel()
    await cut_off.presence_count("room")
    proxy.freeze()
    first, second = [
        asyncio.ensure_future(cut_off.presence_join("room", mailbox.channel, "ann", {"n": n}))
        for n in range(2)
    ]
    await eventually(lambda: connections(cut_off) == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    proxy.thaw()
    await second
    assert await layer.presence_count("room") == PresenceCount(1, 1)
    assert await members(layer) == {"ann": {"n": 1}}
    await cut_off.presence_leave("room", mailbox.channel, "ann")
    assert await layer.presence_count("room") == PresenceCount(0, 0)
