"""Histories through a failover of Sentinel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import eventually
from tests.layer.conftest import MakeLayer
from tests.sentinels import Sentinels

from .histories import GAP, HISTORY, all_known, got, send


@pytest.fixture
def sentinels(server: object) -> Iterator[Sentinels]:
    with Sentinels(password="hush") as running:
        yield running


async def test_a_failover_is_told(make_layer: MakeLayer, sentinels: Sentinels) -> None:
    layer, sender = (make_layer(hosts=[sentinels.host], history=HISTORY) for _ in range(2))
    mailbox = await layer.open_channel(hooks=GAP)
    await layer.group_add("room-1", mailbox.channel)
    await layer.group_add("room-2", mailbox.channel)
    sent = await send(sender, "room-1", 0, 1)
    assert await got(mailbox, 2) == [0, 1]
    await eventually(lambda: all_known(layer))
    await asyncio.to_thread(sentinels.failover)
    # Also of the one that nothing was ever sent to.
    told: list[Any] = []
    while sum(len(event[1]) for event in told) < 2:
        told += await got(mailbox, 1)
    assert {event[0] for event in told} == {"failover"}
    assert not any(event[2] for event in told)
    again = await send(sender, "room-1", 2)
    assert await got(mailbox, 1) == [2]
    joined = await layer.open_channel()
    recovery = await layer.group_add("room-1", joined.channel, since=sent[0])
    assert recovery is not None
    assert (recovery.recovered, recovery.reason) == (False, "failover")
    assert recovery.position == again[0]
    assert await got(joined, 2) == [1, 2]
