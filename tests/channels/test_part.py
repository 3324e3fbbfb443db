"""What parts share, and what a part need not define."""

from __future__ import annotations

import logging

import pytest

from mpx_channels.channels.part import Part
from mpx_channels.layer import MpxChannelLayer, UndecryptableMessage, UnreadableMessage
from mpx_channels.multiplexer import LinkLost
from tests.inside import hub_of


async def test_a_part_defines_what_it_has_need_of() -> None:
    part = Part()
    part.started()
    part.lost(LinkLost("closed"))
    part.clear()
    part.abandon()
    await part.close(0.0)
    assert part.counts() == {}


async def test_what_is_none_of_ours_is_counted_and_said_once(
    layer: MpxChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    await layer.connect()
    context = hub_of(layer).context
    name = layer.prefix + ":g:room"
    with caplog.at_level(logging.WARNING, "mpx_channels.layer"):
        for _ in range(3):
            context.unreadable(name, UnreadableMessage("rubbish"))
        context.unreadable(name, UndecryptableMessage("another key"))
    assert context.counters.dropped_unreadable == 3
    assert context.counters.dropped_undecryptable == 1
    node = context.multiplexer.server_of(name)
    assert caplog.messages == [
        f"Dropped an unreadable message on {name} from {node}: rubbish",
        f"Dropped an undecryptable message on {name} from {node}: another key",
    ]
