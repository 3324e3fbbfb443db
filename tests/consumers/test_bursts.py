"""A consumer that does nothing but take what comes gets all of it, whoever's it is."""

from __future__ import annotations

from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.multiplexer import flow
from tests.conftest import eventually

from .conftest import Generic


@pytest.mark.parametrize("count", [150, 1000])
async def test_a_burst(
    default: MpxChannelLayer,
    other_layer: MpxChannelLayer,
    connected: Any,
    generic: Generic,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a loaded machine, a trip of Channels' dispatch to another thread may take very long.
    monkeypatch.setattr(flow, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(flow, "LONGEST_WAIT", 60.0)
    got: list[int] = []

    class Prompt(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        groups = ["room"]

        async def x(self, event: Any) -> None:
            got.append(event["n"])

    socket = await connected(Prompt)
    for sender in (default, other_layer):
        got.clear()
        await sender.group_send_many([("room", {"type": "x", "n": n}) for n in range(count)])
        await eventually(lambda: len(got) == count)
        assert got == list(range(count))
    assert default.stats().drops["full"] == 0
    await socket.disconnect()
