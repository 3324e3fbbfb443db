"""Requests: send to a channel and wait for its answer. Consumers' side: tests/consumers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from mpx_channels.layer import (
    REPLY_TO,
    MpxChannelLayer,
    RequestFailed,
    RequestTimeout,
    UnserializableMessage,
)
from mpx_channels.multiplexer import NotConnected, PromiseDisconnected
from tests.conftest import RestartableServer, eventually
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy


async def asked(
    layer: MpxChannelLayer, channel: str, ask: Awaitable[Any], answer: Callable[[Any], Any]
) -> Any:
    """What comes back for a request when the reader of its channel does `answer`."""
    asking = asyncio.ensure_future(ask)
    event = await layer.receive(channel)
    assert await answer(event)
    return await asking


@pytest.mark.parametrize("value", [None, 0, "grüße", b"\x00", [1, {"a": [None]}], {"error": "no"}])
async def test_a_reply(layer: MpxChannelLayer, other_layer: MpxChannelLayer, value: Any) -> None:
    channel = await layer.new_channel()
    ask = other_layer.request(channel, {"type": "make", "size": [1, 2]})
    asking = asyncio.ensure_future(ask)
    event = await layer.receive(channel)
    assert (event["type"], event["size"]) == ("make", [1, 2])
    assert await layer.reply(event, value) is True
    assert await asking == value
    assert other_layer.stats().promises == 0


async def test_a_failure(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    with pytest.raises(RequestFailed, match=r"^no such size$"):
        await asked(
            layer,
            channel,
            other_layer.request(channel, {"type": "make"}),
            lambda event: layer.reply_error(event, "no such size"),
        )
    assert other_layer.stats().promises == 0


@pytest.mark.everywhere(classic=True)
async def test_many_at_once(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    """Answers find their questions, in whatever order they come."""
    channel = await layer.new_channel()
    asking = [
        asyncio.create_task(other_layer.request(channel, {"type": "make", "n": n}))
        for n in range(50)
    ]
    events = [await layer.receive(channel) for _ in asking]
    for event in reversed(events):
        await layer.reply(event, event["n"] * 2)
    assert [await each for each in asking] == [n * 2 for n in range(50)]


async def test_only_who_asks_hears_the_answer(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, make_layer: MakeLayer
) -> None:
    channel = await layer.new_channel()
    bystander = make_layer()
    await bystander.new_channel()
    before = bystander.stats().multiplexer.messages_in
    await asked(layer, channel, other_layer.request(channel, {"type": "make"}), layer.reply)
    # What is sent later arrives later.
    await layer.send(await bystander.new_channel(), {"type": "x"})
    await eventually(lambda: bystander.stats().unread == 1)
    assert bystander.stats().multiplexer.messages_in == before + 1


async def test_nobody_answers_in_time(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    await other_layer.new_channel()  # connected: the question leaves at once
    with pytest.raises(RequestTimeout, match=rf"no answer from '{channel}' in 0\.01 s"):
        await other_layer.request(channel, {"type": "make"}, timeout=0.01)
    with pytest.raises(TimeoutError):
        await other_layer.request(channel, {"type": "make"}, timeout=0)
    # An answer that comes too late is dropped; who gave it is not told, as we still live.
    assert await layer.reply(await layer.receive(channel), "late") is True
    await eventually(lambda: other_layer.stats().drops["unroutable"] == 1)
    assert other_layer.stats().promises == 0


async def test_a_second_answer_is_dropped(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    channel = await layer.new_channel()
    asking = asyncio.create_task(other_layer.request(channel, {"type": "make"}))
    event = await layer.receive(channel)
    assert await layer.reply(event, 1)
    assert await layer.reply_error(event, "2")
    assert await asking == 1


@pytest.mark.everywhere
async def test_the_channel_is_gone(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, make_layer: MakeLayer
) -> None:
    channel = await layer.new_channel()
    async with layer.subscribe() as events:
        gone = events.channel_name
    with pytest.raises(RequestFailed, match=f"nobody has the channel '{gone}'"):
        await other_layer.request(gone, {"type": "make"}, timeout=60)
    closed = make_layer()
    channel = await closed.new_channel()
    await closed.close()
    with pytest.raises(RequestFailed, match=f"no process has the channel '{channel}'"):
        await other_layer.request(channel, {"type": "make"}, timeout=60)


async def test_the_channel_is_full(make_layer: MakeLayer, other_layer: MpxChannelLayer) -> None:
    layer = make_layer(capacity=1)
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x"})
    with pytest.raises(RequestFailed, match="is full"):
        await other_layer.request(channel, {"type": "make"}, timeout=60)


async def test_cancelled(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    asking = asyncio.create_task(other_layer.request(channel, {"type": "make"}))
    await layer.receive(channel)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert other_layer.stats().promises == 0


async def test_a_reply_to_a_process_that_is_gone(
    layer: MpxChannelLayer, make_layer: MakeLayer, outside: Outside, prefix: str
) -> None:
    channel = await layer.new_channel()
    asker = make_layer()
    asking = asyncio.create_task(asker.request(channel, {"type": "make"}))
    event = await layer.receive(channel)
    await asker.close()
    with pytest.raises(PromiseDisconnected):
        await asking
    # The server sees the end of a connection a moment later.
    await eventually(lambda: len(outside.channels(f"{prefix}:p:*")) == 1)
    assert await layer.reply(event, "made") is False


async def test_what_is_no_request_has_no_answer(layer: MpxChannelLayer) -> None:
    for event in (
        {"type": "make"},
        {"type": "make", REPLY_TO: None},
        {"type": "make", REPLY_TO: ["short", 1]},
        {"type": "make", REPLY_TO: ["0123456789abcdef"]},
        {"type": "make", REPLY_TO: "0123456789abcdef"},
    ):
        with pytest.raises(ValueError, match="'make' is no request"):
            await layer.reply(event, 1)
        with pytest.raises(ValueError, match="'make' is no request"):
            await layer.reply_error(event, "no")


async def test_what_is_asked_is_checked(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    with pytest.raises(TypeError, match="must be a dict, not 'make'"):
        await layer.request(channel, "make")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mpx_reply_to"):
        await layer.request(channel, {"type": "make", REPLY_TO: 1})
    with pytest.raises(UnserializableMessage, match="'bad'"):
        await layer.request(channel, {"type": "make", "bad": object()})
    with pytest.raises(ValueError, match="timeout"):
        await layer.request(channel, {"type": "make"}, timeout=-1)
    with pytest.raises(TypeError, match="Channel name"):
        await layer.request("no spaces", {"type": "make"})
    assert layer.stats().promises == 0


async def test_an_answer_that_cannot_be_sent(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    channel = await layer.new_channel()
    asking = asyncio.create_task(other_layer.request(channel, {"type": "make"}))
    event = await layer.receive(channel)
    with pytest.raises(UnserializableMessage):
        await layer.reply(event, object())
    await layer.reply(event, "second try")
    assert await asking == "second try"


# -- the link -------------------------------------------------------------------------------------


async def test_the_link_breaks(
    make_layer: MakeLayer, other_layer: MpxChannelLayer, proxy: Proxy
) -> None:
    layer = make_layer(hosts=[proxy.url])
    channel = await other_layer.new_channel()
    asking = asyncio.create_task(layer.request(channel, {"type": "make"}))
    await other_layer.receive(channel)
    proxy.cut()
    with pytest.raises(PromiseDisconnected, match="before the answer came"):
        await asking
    assert layer.stats().promises == 0


async def test_the_link_is_down(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """The timeout is for the whole, however long the layer would wait for its server."""
    layer = make_layer(hosts=[restartable_server.url], connect_timeout=0.3, max_backoff=0.02)
    channel = "specific.0123456789abcdef!1"
    for name in (channel, "plain"):
        with pytest.raises(NotConnected, match=r"no connection .* in 0.1 s: .*Connect call failed"):
            await layer.request(name, {"type": "make"}, timeout=0.1)
        with pytest.raises(NotConnected):
            await layer.request(name, {"type": "make"}, timeout=60)
    assert layer.stats().promises == 0
    restartable_server.start()
    channel = await layer.new_channel()
    assert await asked(layer, channel, layer.request(channel, {"type": "x"}), layer.reply) is None


async def test_the_server_stands_still(make_layer: MakeLayer, proxy: Proxy) -> None:
    """Nobody knows whether the question will come to somebody: it is no outage for certain."""
    layer = make_layer(hosts=[proxy.url])
    channel = await layer.new_channel()
    proxy.freeze()
    for name in (channel, "plain"):
        with pytest.raises(RequestTimeout, match="Redis has not said that it has the question"):
            await layer.request(name, {"type": "make"}, timeout=0.2)
    proxy.thaw()


async def test_redis_goes_away_in_between(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """What was never sent is nobody's silence; what was sent, and has no answer, is."""
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url])
    channel = await layer.new_channel()
    with pytest.raises(RequestTimeout):
        await layer.request(channel, {"type": "make"}, timeout=0.1)
    restartable_server.kill()
    await eventually(lambda: not layer.stats().multiplexer.connected)
    with pytest.raises(NotConnected):
        await layer.request(channel, {"type": "make"}, timeout=0.2)
    with pytest.raises(NotConnected):
        await layer.promise("order-42", timeout=0.2)
    assert layer.stats().promises == 0


# -- from elsewhere -------------------------------------------------------------------------------


@pytest.mark.everywhere
async def test_from_sync_code(layer: MpxChannelLayer, make_layer: MakeLayer) -> None:
    sync_layer = make_layer()
    channel = await layer.new_channel()
    ask = asyncio.to_thread(async_to_sync(sync_layer.request), channel, {"type": "make"})
    asking = asyncio.create_task(ask)
    event = await layer.receive(channel)
    assert await asyncio.to_thread(async_to_sync(sync_layer.reply), event, "made") is True
    assert await asking == "made"


SERVER = """
import asyncio, json, sys
from django.conf import settings
settings.configure()
from mpx_channels.layer import MpxChannelLayer

async def main(config, prefix):
    asyncio.get_running_loop().slow_callback_duration = 60  # the machine may be busy
    layer = MpxChannelLayer(**json.loads(config), prefix=prefix)
    channel = await layer.new_channel()
    print(channel, flush=True)
    while (event := await layer.receive(channel))["type"] != "stop":
        if event["n"] < 0:
            await layer.reply_error(event, "negative")
        else:
            await layer.reply(event, event["n"] * 2)
    await layer.close()

asyncio.run(main(*sys.argv[1:]), debug=True)
"""


async def test_two_processes(layer: MpxChannelLayer, layer_json: str, prefix: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", SERVER, layer_json, prefix,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    channel = (await process.stdout.readline()).decode().strip()
    answers = await asyncio.gather(
        *[layer.request(channel, {"type": "double", "n": n}) for n in range(20)]
    )
    assert answers == [n * 2 for n in range(20)]
    with pytest.raises(RequestFailed, match="negative"):
        await layer.request(channel, {"type": "double", "n": -1})
    await layer.send(channel, {"type": "stop"})
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    with pytest.raises(RequestFailed, match="no process has"):
        await layer.request(channel, {"type": "double", "n": 1}, timeout=60)
