"""Process-local channels: new_channel, send, receive."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from channels.layers import BaseChannelLayer
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from mpx_channels.layer import ForeignChannel, MpxChannelLayer, UnserializableMessage
from mpx_channels.multiplexer import NotConnected
from tests.conftest import RestartableServer, eventually
from tests.inside import hub_of, names_of
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy


async def receives_nothing(layer: MpxChannelLayer, channel: str) -> bool:
    """Whether the channel is empty once all that was sent before has arrived."""
    marker = {"type": "marker", "at": time.monotonic()}
    await layer.send(channel, marker)
    return await layer.receive(channel) == marker


async def test_is_a_channels_layer(layer: MpxChannelLayer) -> None:
    assert isinstance(layer, BaseChannelLayer)
    assert set(layer.extensions) == {"groups", "flush"}
    assert layer.group_expiry == 86400
    assert (layer.expiry, layer.capacity) == (60, 100)


async def test_a_message_comes_back_as_it_was(layer: MpxChannelLayer) -> None:
    message = {
        "type": "test.message",
        "text": "grüße 🎉",
        "bytes": b"\x00\xff",
        "int": -(2**63),
        "float": 0.1,
        "bool": True,
        "none": None,
        "list": [1, [2, {"three": 3}]],
        "dict": {"a": {"b": {}}},
    }
    channel = await layer.new_channel()
    await layer.send(channel, message)
    assert await layer.receive(channel) == message


async def test_tuples_arrive_as_lists(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x", "pair": (1, 2)})
    assert await layer.receive(channel) == {"type": "x", "pair": [1, 2]}


async def test_djangos_kinds_of_str_arrive_as_str(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x", "safe": mark_safe("<b>"), "lazy": gettext_lazy("Yes")})
    message = await layer.receive(channel)
    assert message == {"type": "x", "safe": "<b>", "lazy": "Yes"}
    assert type(message["safe"]) is str


async def test_names_are_unique_and_follow_the_prefix(layer: MpxChannelLayer) -> None:
    names = [await layer.new_channel() for _ in range(50)]
    assert len(set(names)) == 50
    assert all(name.startswith("specific.") and "!" in name for name in names)
    assert (await layer.new_channel("other.")).startswith("other.")
    odd = await layer.new_channel("odd")
    await layer.send(odd, {"type": "x"})
    assert await layer.receive(odd) == {"type": "x"}
    with pytest.raises(TypeError, match="valid unicode string"):
        await layer.new_channel("no spaces please")


@pytest.mark.everywhere
async def test_order_is_kept(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    for number in range(80):
        await layer.send(channel, {"type": "x", "n": number})
    assert [(await layer.receive(channel))["n"] for _ in range(80)] == list(range(80))


@pytest.mark.everywhere(classic=True)
async def test_another_process_can_send(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    channel = await layer.new_channel()
    await other_layer.send(channel, {"type": "hello"})
    assert await layer.receive(channel) == {"type": "hello"}


async def test_each_channel_hears_only_its_own(layer: MpxChannelLayer) -> None:
    one, two = await layer.new_channel(), await layer.new_channel()
    await layer.send(one, {"type": "for.one"})
    assert await layer.receive(one) == {"type": "for.one"}
    assert await receives_nothing(layer, two)


async def test_a_cancelled_receive_loses_nothing(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(layer.receive(channel), 0.01)
    await layer.send(channel, {"type": "after"})
    assert await layer.receive(channel) == {"type": "after"}


async def test_two_readers_share_a_channel(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    readers = [asyncio.create_task(layer.receive(channel)) for _ in range(2)]
    await asyncio.sleep(0)
    await layer.send(channel, {"type": "x", "n": 1})
    await layer.send(channel, {"type": "x", "n": 2})
    assert sorted([(await reader)["n"] for reader in readers]) == [1, 2]


async def test_a_full_mailbox_drops_the_newest(
    make_layer: MakeLayer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mpx_channels.layer")
    layer = make_layer(capacity=3)
    channel = await layer.new_channel()
    for number in range(10):
        await layer.send(channel, {"type": "x", "n": number})
    await eventually(lambda: layer.stats().messages_in == 10)
    assert [(await layer.receive(channel))["n"] for _ in range(3)] == [0, 1, 2]
    assert await receives_nothing(layer, channel)
    assert layer.stats().drops["full"] == 7
    assert len([record for record in caplog.records if channel in record.getMessage()]) == 1


async def test_channel_capacity_by_glob(make_layer: MakeLayer) -> None:
    layer = make_layer(capacity=2, channel_capacity={"big.*": 20})
    big, small = await layer.new_channel("big."), await layer.new_channel()
    for channel in (big, small):
        for _ in range(10):
            await layer.send(channel, {"type": "x"})
    await eventually(lambda: layer.stats().messages_in == 20)
    assert layer.stats().unread == 12


async def test_expired_messages_are_not_delivered(make_layer: MakeLayer) -> None:
    layer = make_layer(expiry=0.05)
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "old"})
    await eventually(lambda: layer.stats().unread == 1)
    loop = asyncio.get_running_loop()
    sent = loop.time()
    await eventually(lambda: loop.time() > sent + 0.1)
    await layer.send(channel, {"type": "new"})
    assert await layer.receive(channel) == {"type": "new"}
    assert layer.stats().drops["expired"] == 1


@pytest.mark.everywhere(classic=True)
async def test_the_first_message_of_a_process_has_arrived(make_layer: MakeLayer) -> None:
    """It is known at once who has a channel, from whichever node."""
    layer = make_layer()
    channel = await layer.new_channel()
    for _ in range(10):
        fresh = make_layer()
        await fresh.send(channel, {"type": "x"})
        assert await layer.receive(channel) == {"type": "x"}
        assert fresh.stats().drops["unroutable"] == 0
        await fresh.close()


@pytest.mark.everywhere
async def test_a_channel_nobody_has_is_counted(layer: MpxChannelLayer) -> None:
    await layer.send("specific.0123456789abcdef!1", {"type": "x"})
    assert layer.stats().drops["unroutable"] == 1
    channel = await layer.new_channel()
    await layer.send(channel.partition("!")[0] + "!nobody", {"type": "x"})
    await eventually(lambda: layer.stats().drops["unroutable"] == 2)


async def test_a_foreign_channel_cannot_be_read(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    channel = await other_layer.new_channel()
    with pytest.raises(ForeignChannel, match="belongs to another process"):
        await layer.receive(channel)


@pytest.mark.parametrize("name", ["", "ä", "two words", "a!b!c", "x" * 100, 17, None, b"bytes!x"])
async def test_invalid_channel_names(layer: MpxChannelLayer, name: Any) -> None:
    for call in (layer.send(name, {"type": "x"}), layer.receive(name)):
        with pytest.raises(TypeError, match="Channel name must be a valid unicode string"):
            await call


@pytest.mark.parametrize("message", ["text", None, [("type", "x")], 1])
async def test_a_message_must_be_a_dict(layer: MpxChannelLayer, message: Any) -> None:
    channel = await layer.new_channel()
    with pytest.raises(TypeError, match="must be a dict"):
        await layer.send(channel, message)
    with pytest.raises(TypeError, match="must be a dict"):
        await layer.group_send("room", message)


async def test_what_cannot_be_sent_is_named_at_the_sender(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    with pytest.raises(UnserializableMessage, match=r"message\['a'\]\[1\]\['b'\].*object"):
        await layer.send(channel, {"type": "x", "a": [0, {"b": object()}]})
    with pytest.raises(UnserializableMessage, match=r"message\['n'\]"):
        await layer.send(channel, {"type": "x", "n": 2**70})
    loop: dict[str, Any] = {"type": "x"}
    loop["self"] = loop
    with pytest.raises(UnserializableMessage):
        await layer.send(channel, loop)
    assert await receives_nothing(layer, channel)


async def test_a_large_message(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    message = {"type": "x", "blob": b"\x01" * 3_000_000}
    await layer.send(channel, message)
    assert await layer.receive(channel) == message


@pytest.mark.everywhere
async def test_foreign_bytes_kill_nobody(
    layer: MpxChannelLayer, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    names = names_of(layer)
    inbox = names.inbox(channel[9:25])
    poison = [b"", b"hello", b"\xc1", b"\xc1\x01", b"\xc1\x01\xff\xff", b"\xc1\x01\x00\x01\xc1"]
    poison += [b"\xc1\x01\x00\x00", b"\xc1\x01\x00\x00\x93", b"\xc1\x01\x00\x00\x01"]
    for name in (inbox, names.group("room")):
        assert outside.numsub(name) == 1
        outside.publish_as_layers(name, *poison)
    await layer.send(channel, {"type": "fine"})
    assert await layer.receive(channel) == {"type": "fine"}
    await layer.group_send("room", {"type": "fine, too"})
    assert await layer.receive(channel) == {"type": "fine, too"}
    await eventually(lambda: layer.stats().drops["unreadable"] == 2 * len(poison))
    assert len([r for r in caplog.records if "unreadable" in r.getMessage()]) == 1


async def test_an_abandoned_channel_is_taken_down(make_layer: MakeLayer) -> None:
    layer = make_layer(expiry=0.05)
    channel = await layer.new_channel()
    kept = await layer.new_channel()
    await layer.group_add("room", channel)
    reader = asyncio.create_task(layer.receive(channel))
    still_reading = asyncio.create_task(layer.receive(kept))
    await asyncio.sleep(0)
    reader.cancel()
    await eventually(lambda: layer.stats().channels == 1)
    assert layer.stats().groups == 0
    assert not still_reading.done()
    still_reading.cancel()


async def test_a_reader_that_comes_back_keeps_its_channel(make_layer: MakeLayer) -> None:
    layer = make_layer(expiry=0.2)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    loop = asyncio.get_running_loop()
    until = loop.time() + 0.6
    while loop.time() < until:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.02)
    await layer.group_send("room", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}


async def test_the_bare_prefix_reads_every_channel_of_the_process(layer: MpxChannelLayer) -> None:
    one, two = await layer.new_channel(), await layer.new_channel()
    prefix = one.partition("!")[0] + "!"
    await layer.group_add("room", two)
    await layer.send(one, {"type": "before"})
    await eventually(lambda: layer.stats().unread == 1)
    assert await layer.receive(prefix) == {"type": "before"}
    await layer.send(one, {"type": "to.one"})
    await layer.group_send("room", {"type": "to.group"})
    await layer.send(prefix + "nobody-opened-this", {"type": "to.any"})
    await layer.send(await layer.new_channel(), {"type": "to.new"})
    got = [(await layer.receive(prefix))["type"] for _ in range(4)]
    assert got == ["to.one", "to.group", "to.any", "to.new"]
    reader = asyncio.create_task(layer.receive(one))
    await asyncio.sleep(0)
    await layer.send(one, {"type": "who.waits.goes.first"})
    assert await reader == {"type": "who.waits.goes.first"}


async def test_without_a_server_the_error_names_it(restartable_server: RestartableServer) -> None:
    url = restartable_server.url
    layer = MpxChannelLayer(hosts=[url], connect_timeout=0.4, backlog_timeout=0.4, max_backoff=0.02)
    try:
        with pytest.raises(NotConnected, match=url):
            await layer.new_channel()
        with pytest.raises(NotConnected, match=url):
            await layer.group_send("room", {"type": "x"})
        restartable_server.start()
        hub = hub_of(layer)
        await hub.multiplexer.wait_connected(10)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "x"})
        assert await layer.receive(channel) == {"type": "x"}
    finally:
        await layer.close()


async def test_a_stuck_reader_costs_no_more_than_its_capacity(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    stuck, well = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", stuck)
    for _ in range(200):
        await asyncio.gather(*[other_layer.group_send("room", {"type": "x"}) for _ in range(100)])
    await eventually(lambda: layer.stats().messages_in == 20_000)
    assert layer.stats().unread == layer.capacity
    assert layer.stats().drops["full"] == 20_000 - layer.capacity
    assert await receives_nothing(layer, well)


async def test_a_prefix_that_is_no_str(layer: MpxChannelLayer) -> None:
    with pytest.raises(TypeError, match="prefix must be a str, not 5"):
        await layer.new_channel(5)  # type: ignore[arg-type]


async def test_a_channel_that_nobody_reads_for_long_ends(make_layer: MakeLayer) -> None:
    layer = make_layer(expiry=0.05, group_expiry=0.2)
    left, read, quiet = [await layer.new_channel() for _ in range(3)]
    for channel in (left, read):
        await layer.group_add("room", channel)

    async def go_on_reading() -> None:
        while True:
            await layer.receive(read)

    reader = asyncio.create_task(go_on_reading())
    # As when a handler of Channels' own consumers raises: the next `receive` never comes.
    await layer.group_send("room", {"type": "x"})
    await layer.receive(left)
    assert await layer.group_size("room") == 2
    await layer.group_send("room", {"type": "x"})
    await eventually(lambda: layer.stats().memberships == 1)  # type: ignore[union-attr]
    assert layer.stats().channels == 2  # type: ignore[union-attr]
    assert not reader.done()
    await layer.send(quiet, {"type": "y"})
    reader.cancel()


async def test_a_channel_that_has_news_of_the_link_alone_ends(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    """News never expire; a channel in which nobody reads them ends all the same."""
    layer = make_layer(hosts=[proxy.url], expiry=0.05, group_expiry=0.2, on_disconnect="link.lost")
    left, read = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", left)

    async def go_on_reading() -> None:
        while True:
            await layer.receive(read)

    reader = asyncio.create_task(go_on_reading())
    await asyncio.sleep(0)
    proxy.cut()
    await eventually(lambda: layer.stats().unread == 1)
    await eventually(lambda: layer.stats().channels == 1)
    assert layer.stats().memberships == 0
    assert not reader.done()
    reader.cancel()
