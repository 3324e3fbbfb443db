"""What the layer logs when much goes wrong at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.multiplexer.logs import MOST_KINDS
from mpx_channels.worker import MpxWorker
from tests.conftest import eventually
from tests.inside import multiplexer_of, names_of
from tests.over import Outside

from .conftest import MakeLayer


async def test_each_full_mailbox_is_one_line(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mpx_channels.layer")
    layer = make_layer(capacity=1)
    channels = [await layer.new_channel() for _ in range(20)]
    for channel in channels:
        await layer.group_add("room", channel)
    for _ in range(3):
        await layer.group_send("room", {"type": "x"})
    await eventually(lambda: layer.stats().drops["full"] == 40)
    for channel in channels:
        assert sum(f"Channel {channel} has" in text for text in caplog.messages) == 1
    assert len(caplog.messages) == 20


async def test_very_many_full_mailboxes_share_a_line(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mpx_channels.layer")
    layer = make_layer(capacity=1)
    for _ in range(MOST_KINDS + 50):
        await layer.group_add("room", await layer.new_channel())
    for _ in range(3):
        await layer.group_send("room", {"type": "x"})
    await eventually(lambda: layer.stats().drops["full"] == 2 * (MOST_KINDS + 50))
    assert len(caplog.messages) <= MOST_KINDS + 2
    await layer.close()
    # What was held back is not lost.
    assert any("(and 9" in text and "more in the last" in text for text in caplog.messages)


async def test_poison_names_the_server_and_the_cause(
    layer: MpxChannelLayer, outside: Outside, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    name = names_of(layer).group("room")
    for number in range(10):
        outside.publish_as_layers(name, b"poison %d" % number)
    await eventually(lambda: layer.stats().drops["unreadable"] == 10)
    assert len(caplog.messages) == 1
    node = multiplexer_of(layer).server_of(name)
    start = f"Dropped an unreadable message on {name} from {node}: "
    assert caplog.messages[0].startswith(start)
    assert len(caplog.messages[0]) > len(start)
    await layer.close()
    assert "(and 8 more in the last" in caplog.messages[1]


@pytest.mark.only_single("the worker's log says the first ones once in a process")
async def test_a_worker_whose_consumer_always_fails(
    layer: MpxChannelLayer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpx_channels.worker.PAUSE", 0)
    handled = []

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        handled.append(await receive())
        raise LookupError("on purpose")

    worker = MpxWorker(fail, ["plain"], layer)
    for _ in range(12):
        await layer.send("plain", {"type": "x"})
    listener = asyncio.create_task(worker.listener("plain"))
    await eventually(lambda: len(handled) == 12)
    listener.cancel()
    await asyncio.wait([listener])
    records = [record for record in caplog.records if record.name == "mpx_channels.worker"]
    assert len(records) == 5
    assert all(record.exc_info for record in records)
    assert records[0].getMessage() == (
        "A consumer of the channel plain failed: LookupError('on purpose')"
    )
