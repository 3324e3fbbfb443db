"""`exclude`, `group_send_many`, `group_broadcast`: variations of sending to a group."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer, UnserializableMessage
from mpx_channels.multiplexer import BacklogFull, CommandRefused, ConnectionLost
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.layer.conftest import MakeLayer
from tests.over import CLASSIC, CLUSTER

from .test_raw import unread


async def members(layer: MpxChannelLayer, group: str, count: int) -> list[str]:
    channels = [await layer.new_channel() for _ in range(count)]
    for channel in channels:
        await layer.group_add(group, channel)
    return channels


@pytest.mark.everywhere
@pytest.mark.parametrize("kind", [list, tuple, set, frozenset])
async def test_the_excluded_do_not_hear(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, kind: Any
) -> None:
    one, two, three = await members(layer, "room", 3)
    (four,) = await members(other_layer, "room", 1)
    await other_layer.group_send("room", {"type": "x"}, exclude=kind([one, four]))
    await other_layer.group_send("room", {"type": "y"}, exclude=kind([]))
    assert await unread(layer, one, by=other_layer) == [{"type": "y"}]
    assert await unread(layer, two, by=other_layer) == [{"type": "x"}, {"type": "y"}]
    assert await unread(layer, three, by=other_layer) == [{"type": "x"}, {"type": "y"}]
    assert await unread(other_layer, four) == [{"type": "y"}]


async def test_an_excluded_channel_hears_what_is_sent_to_it(layer: MpxChannelLayer) -> None:
    (channel,) = await members(layer, "room", 1)
    await layer.group_send("room", {"type": "x"}, exclude=[channel])
    await layer.send(channel, {"type": "y"})
    assert await unread(layer, channel) == [{"type": "y"}]


async def test_excluding_one_name_is_no_list(layer: MpxChannelLayer) -> None:
    for call in (layer.group_send("room", {"type": "x"}, exclude="specific.x!1"),
                 layer.group_broadcast("room", "x", exclude="specific.x!1")):  # fmt: skip
        with pytest.raises(
            TypeError, match=r"exclude must be a list .* not the str 'specific\.x!1'"
        ):
            await call


async def test_excluding_too_many_is_said(layer: MpxChannelLayer) -> None:
    channels = [f"specific.0123456789abcdef!{number:x}" for number in range(3000)]
    with pytest.raises(ValueError, match=r"exclude take \d+ bytes, over 65535"):
        await layer.group_send("room", {"type": "x"}, exclude=channels)
    await layer.group_send("room", {"type": "x"}, exclude=channels[:1000])


# -- many at once ---------------------------------------------------------------------------------


@pytest.mark.everywhere
async def test_many_messages_at_once(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, topology: str
) -> None:
    one = (await members(layer, "one", 1))[0]
    two = (await members(layer, "two", 1))[0]
    await layer.group_add("one", two)
    await other_layer.connect()
    await other_layer.group_send_many(
        [("one", {"type": "x", "n": 1}), ("two", {"type": "x", "n": 2}), ("one", {"type": "y"})]
    )
    assert other_layer.stats().messages_out == 3
    assert await unread(layer, one, by=other_layer) == [{"type": "x", "n": 1}, {"type": "y"}]
    got = await unread(layer, two, by=other_layer)
    if topology in (CLUSTER, CLASSIC):  # groups of several nodes have no common order
        got.sort(key=str)
    assert got == [{"type": "x", "n": 1}, {"type": "x", "n": 2}, {"type": "y"}]


async def test_many_is_any_iterable(layer: MpxChannelLayer) -> None:
    (channel,) = await members(layer, "room", 1)
    await layer.group_send_many(("room", {"type": "x", "n": n}) for n in range(3))
    await layer.group_send_many([])
    assert [event["n"] for event in await unread(layer, channel)] == [0, 1, 2]


async def test_many_leave_in_one_write(make_layer: MakeLayer, proxy: Any) -> None:
    """One after the other, each would wait for the answer to the last: a round trip each."""
    layer = make_layer(hosts=[proxy.url])
    await layer.group_send("warm-up", {"type": "x"})
    commands = layer.stats().multiplexer.commands_out
    proxy.to_client.freeze()
    sending = asyncio.create_task(
        layer.group_send_many([("room", {"type": "x", "n": n}) for n in range(50)])
    )
    await eventually(lambda: layer.stats().multiplexer.commands_out == commands + 50)
    await eventually(lambda: proxy.to_server.data.count(b":g:room") == 50)
    assert not sending.done()
    proxy.to_client.thaw()
    await sending


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (("not a group", {"type": "x"}), TypeError),
        (("room", {"type": "x", "value": object()}), UnserializableMessage),
        (("room", "no message"), TypeError),
    ],
)
async def test_all_are_checked_before_the_first_leaves(
    layer: MpxChannelLayer, bad: Any, error: Any
) -> None:
    (channel,) = await members(layer, "room", 1)
    with pytest.raises(error):
        await layer.group_send_many([("room", {"type": "x"}), bad])
    assert await unread(layer, channel) == []


async def test_what_redis_refuses_is_raised_and_the_rest_is_sent(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    url = restartable_server.start_with_user("resetchannels", "&asgi:p:*", "&asgi:g:room", "+@all")
    layer = make_layer(hosts=[url], prefix="asgi")
    (channel,) = await members(layer, "room", 1)
    with pytest.raises(CommandRefused):
        await layer.group_send_many(
            [("other", {"type": "x"}), ("room", {"type": "y"}), ("other", {"type": "z"})]
        )
    assert await unread(layer, channel) == [{"type": "y"}]


async def test_more_than_can_wait_is_none(
    make_layer: MakeLayer,
    restartable_server: RestartableServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the server is away: no half of them, and no failure that nobody asked for."""
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], max_backlog=10, max_backoff=0.02)
    (channel,) = await members(layer, "room", 1)
    await layer.group_send("room", {"type": "before"})
    await eventually(lambda: layer.stats().unread == 1)
    restartable_server.kill()
    await eventually(lambda: not layer.stats().multiplexer.connected)
    with pytest.raises(BacklogFull):  # noqa: PT012 - only one of the two calls raises it
        while True:
            # The first may meet the end of the connection.
            with contextlib.suppress(ConnectionLost):
                await layer.group_send_many([("room", {"type": "x"}) for _ in range(11)])
    restartable_server.start()
    await layer.group_add("room", channel)
    # Those that were taken back have their places until the publishing connection stands.
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(BacklogFull):
                await layer.group_send("room", {"type": "after"})
                break
            await asyncio.sleep(0.001)
    assert await unread(layer, channel) == [{"type": "before"}, {"type": "after"}]
    assert "never retrieved" not in caplog.text


# -- broadcasts -----------------------------------------------------------------------------------


@pytest.mark.everywhere
@pytest.mark.parametrize(
    ("content", "key", "frame"),
    [
        ("text", "text", "text"),
        ("", "text", ""),
        (b"\x00\xff", "bytes", b"\x00\xff"),
        ({"a": [1, None]}, "text", '{"a": [1, null]}'),
        ([1], "text", "[1]"),
        (7, "text", "7"),
        (None, "text", "null"),
    ],
)
async def test_a_frame_is_encoded_where_it_is_sent(
    layer: MpxChannelLayer, content: Any, key: str, frame: Any
) -> None:
    one, two = await members(layer, "room", 2)
    await layer.group_broadcast("room", content)
    await layer.group_broadcast("room", content, exclude=[one])
    message = {"type": "mpx.broadcast", key: frame}
    assert await unread(layer, one) == [message]
    assert await unread(layer, two) == [message, message]
    if key == "text" and not isinstance(content, str):
        assert json.loads(frame) == content


async def test_what_cannot_be_encoded_is_not_sent(layer: MpxChannelLayer) -> None:
    (channel,) = await members(layer, "room", 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        await layer.group_broadcast("room", {"a": object()})
    with pytest.raises(TypeError, match="Group name"):
        await layer.group_broadcast("not a group", "x")
    assert await unread(layer, channel) == []
