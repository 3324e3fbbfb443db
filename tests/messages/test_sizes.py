"""Large messages, and too large ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mpx_channels.layer import MessageTooLarge, MpxChannelLayer
from mpx_channels.messages.wrapping import DEFAULT_MAX_MESSAGE_SIZE
from tests.layer.conftest import MakeLayer

Send = Callable[[MpxChannelLayer, dict[str, Any]], Awaitable[object]]


@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_a_megabyte_and_more(make_layer: MakeLayer, format: str, keys: Any) -> None:
    layer = make_layer(serializer_format=format, symmetric_encryption_keys=keys)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for size in (1_000_000, DEFAULT_MAX_MESSAGE_SIZE - 100):
        message = {"type": "x", "text": "y" * size}
        await layer.send(channel, message)
        assert await layer.receive(channel) == message
        await layer.group_send("room", message)
        assert await layer.receive(channel) == message
    many = {"type": "x", "rows": [{"n": n, "name": "somebody"} for n in range(40_000)]}
    await layer.group_send("room", many)
    assert await layer.receive(channel) == many


@pytest.mark.parametrize("format", ["msgpack", "json"])
@pytest.mark.parametrize(
    "send",
    [
        lambda layer, message: layer.send("specific.0123456789abcdef!1", message),
        lambda layer, message: layer.group_send("room", message),
        lambda layer, message: layer.group_send_many([("room", {"a": 1}), ("room", message)]),
        lambda layer, message: layer.group_broadcast("room", message),
        lambda layer, message: layer.resolve("promise", message),
        lambda layer, message: layer.reject("promise", message["text"]),
        lambda layer, message: layer.request("specific.0123456789abcdef!1", message),
        lambda layer, message: layer.reply({"mpx_reply_to": ["0" * 16, 1]}, message),
        lambda layer, message: layer.send("plain", message),
    ],
    ids=[
        "send", "group_send", "group_send_many", "group_broadcast", "resolve", "reject", "request",
        "reply", "plain",
    ],
)  # fmt: skip
async def test_too_large_is_said_to_the_sender(
    make_layer: MakeLayer, send: Send, format: str
) -> None:
    layer = make_layer(max_message_size=2000, serializer_format=format)
    with pytest.raises(MessageTooLarge, match=r"of 2\d\d\d bytes is over max_message_size \(2000"):
        await send(layer, {"type": "x", "text": "y" * 2000})
    assert layer.stats() is None or layer.stats().multiplexer.commands_out <= 1


def test_the_limit_is_inclusive_and_counts_bytes() -> None:
    layer = MpxChannelLayer(max_message_size=1024)
    room = 1024 - len(layer.wrapping.encode({"text": "y" * 900})) + 900
    layer.serialize({"text": "y" * room})
    with pytest.raises(MessageTooLarge) as caught:
        layer.serialize({"text": "y" * (room + 1)})
    assert (caught.value.size, caught.value.limit) == (1025, 1024)
    with pytest.raises(MessageTooLarge):
        layer.serialize({"text": "ä" * (room // 2 + 1)})


def test_the_default_fits_into_redis_buffers() -> None:
    assert MpxChannelLayer().wrapping.max_message_size == DEFAULT_MAX_MESSAGE_SIZE
    # Soft limit of client-output-buffer-limit pubsub.
    assert 1_000_000 < DEFAULT_MAX_MESSAGE_SIZE <= 8 * 1024 * 1024 / 2


def test_synchronous_code_is_told_at_the_call(settings: Any) -> None:
    layer = MpxChannelLayer(max_message_size=2000)
    with pytest.raises(MessageTooLarge):
        layer.sync.group_send("room", {"type": "x", "text": "y" * 2000}, on_commit=True)
