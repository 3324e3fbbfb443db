"""Groups with a history, and what their members get."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from mpx_channels.layer import History, Hooks, Mailbox, MpxChannelLayer
from tests.conftest import PATIENCE, eventually
from tests.inside import hub_of
from tests.proxy import Proxy

HISTORY = {"room-*": {"size": 1000, "ttl": 60}, "short-*": {"size": 10, "ttl": 60}}
GAP = Hooks(gap=("mpx.gap",))


async def send(layer: MpxChannelLayer, group: str, *numbers: int) -> list[str | None]:
    return await layer.group_send_many([(group, {"type": "x", "n": n}) for n in numbers])


def numbers(history: History) -> list[int]:
    return [message["n"] for message in history.messages]


async def got(mailbox: Mailbox, count: int) -> list[Any]:
    """The next events: their numbers, or what gaps say."""
    events = []
    for _ in range(count):
        async with asyncio.timeout(PATIENCE):
            event = await mailbox.get()
        if event["type"] == "mpx.gap":
            events.append((event["reason"], event["groups"], event["recovered"], event["dropped"]))
        else:
            events.append(event["n"])
    return events


async def nothing_more(mailbox: Mailbox) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            pytest.fail(f"unexpected: {await mailbox.get()}")


def all_known(layer: MpxChannelLayer) -> bool:
    tracks: list[Any] = [topic.track for topic in hub_of(layer).groups.topics.values()]
    return all(track is None or track.position is not None for track in tracks)


@contextlib.asynccontextmanager
async def away(layer: MpxChannelLayer, proxy: Proxy) -> Any:
    """The layer has no connection meanwhile."""
    proxy.refuse()
    proxy.cut()
    stats = layer.stats
    await eventually(lambda: not stats().multiplexer.connected)  # type: ignore[union-attr]
    yield
    await proxy.accept()
