"""Requests that consumers answer. What `layer.request` does: tests/layer/answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from channels.exceptions import StopConsumer

from mpx_channels.generic.websocket import AsyncWebsocketConsumer
from mpx_channels.layer import REPLY_TO, MpxChannelLayer, RequestFailed, RequestTimeout
from tests.conftest import eventually

from .conftest import AnyLayer, MakeLayer

Connected = Callable[..., Any]


class Maker(AsyncWebsocketConsumer):
    """Answers requests."""

    async def connect(self) -> None:
        await self.accept()
        await self.send(text_data=self.channel_name)

    async def make(self, event: Any) -> None:
        assert await self.reply(event, {"made": event["what"]})

    async def make_later(self, event: Any) -> None:
        async def later() -> None:
            await asyncio.sleep(0)
            await self.reply(event, "later")

        self.start_task(later())

    async def refuse(self, event: Any) -> None:
        await self.reply_error(event, "no such size")

    async def fail(self, event: Any) -> None:
        raise LookupError(event["reason"])

    async def answer_and_fail(self, event: Any) -> None:
        await self.reply(event, "an answer")
        raise LookupError("afterwards")

    async def answer_nonsense(self, event: Any) -> None:
        await self.reply(event, object())

    async def answer_and_stop(self, event: Any) -> None:
        await self.reply(event, "goodbye")
        raise StopConsumer

    async def say_nothing(self, event: Any) -> None:
        pass

    async def answer_nobody(self, event: Any) -> None:
        with pytest.raises(ValueError, match=r"'answer\.nobody' is no request"):
            await self.reply(event, 1)
        await self.send(text_data="nobody asked")


async def test_an_answer(
    default: MpxChannelLayer, other_layer: MpxChannelLayer, connected: Connected
) -> None:
    socket = await connected(Maker)
    channel = await socket.text()
    for layer in (default, other_layer):
        assert await layer.request(channel, {"type": "make", "what": [1]}) == {"made": [1]}
        assert await layer.request(channel, {"type": "make.later"}) == "later"
    await socket.disconnect()


async def test_a_failure_on_purpose(default: MpxChannelLayer, connected: Connected) -> None:
    socket = await connected(Maker)
    channel = await socket.text()
    with pytest.raises(RequestFailed, match=r"^no such size$"):
        await default.request(channel, {"type": "refuse"})
    assert await default.request(channel, {"type": "make", "what": 1}) == {"made": 1}


@pytest.mark.parametrize(
    ("message", "told", "error"),
    [
        ({"type": "fail", "reason": "no way"}, "LookupError: no way", LookupError),
        ({"type": "no.handler"}, r"No handler for message type no\.handler", ValueError),
        ({"type": "_private"}, "Malformed type", ValueError),
        ({"typo": "make"}, "no 'type'", ValueError),
        ({"type": "answer.nonsense"}, "a object cannot be sent|object", TypeError),
    ],
)
async def test_a_handler_that_raises(
    default: MpxChannelLayer, connected: Connected, message: Any, told: str, error: Any
) -> None:
    """Who asked is told, and the server, too."""
    socket = await connected(Maker)
    with pytest.raises(RequestFailed, match=told):
        await default.request(await socket.text(), message, timeout=60)
    with pytest.raises(error):
        await socket.ended()


async def test_answered_and_failed(default: MpxChannelLayer, connected: Connected) -> None:
    socket = await connected(Maker)
    assert await default.request(await socket.text(), {"type": "answer.and.fail"}) == "an answer"
    with pytest.raises(LookupError, match="afterwards"):
        await socket.ended()


async def test_answered_and_stopped(default: MpxChannelLayer, connected: Connected) -> None:
    socket = await connected(Maker)
    assert await default.request(await socket.text(), {"type": "answer.and.stop"}) == "goodbye"
    await socket.ended()


async def test_no_answer(default: MpxChannelLayer, connected: Connected) -> None:
    socket = await connected(Maker)
    channel = await socket.text()
    with pytest.raises(RequestTimeout):
        await default.request(channel, {"type": "say.nothing"}, timeout=0.05)
    await socket.disconnect()
    with pytest.raises(RequestFailed, match="nobody has the channel"):
        await default.request(channel, {"type": "make", "what": 1}, timeout=60)


async def test_nobody_asked(default: MpxChannelLayer, connected: Connected) -> None:
    socket = await connected(Maker)
    await default.send(await socket.text(), {"type": "answer.nobody"})
    assert await socket.text() == "nobody asked"


async def test_a_consumer_asks_another(default: MpxChannelLayer, connected: Connected) -> None:
    class Customer(AsyncWebsocketConsumer):
        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            made = await self.channel_layer.request(text_data, {"type": "make", "what": "tea"})
            await self.send(text_data=made["made"])

    maker, customer = await connected(Maker), await connected(Customer)
    customer.say(await maker.text())
    assert await customer.text() == "tea"


async def test_a_failure_that_cannot_be_told_hides_nothing(
    default: MpxChannelLayer, connected: Connected, caplog: pytest.LogCaptureFixture
) -> None:
    """The server gets the handler's exception, not that of the answer."""
    socket = await connected(Maker)
    channel = await socket.text()
    await default.send(channel, {"type": "fail", "reason": "no way", REPLY_TO: "nonsense"})
    with pytest.raises(LookupError, match="no way"):
        await socket.ended()
    assert "Could not answer a request with its failure" in caplog.text


async def test_on_another_layer_the_key_means_nothing(
    any_layer: AnyLayer, connected: Connected
) -> None:
    socket = await connected(Maker)
    message = {"type": "fail", "reason": "no way", REPLY_TO: ["0123456789abcdef", 1]}
    await any_layer.send(await socket.text(), message)
    with pytest.raises(LookupError, match="no way"):
        await socket.ended()


async def test_the_link_is_down_when_the_handler_raises(
    make_layer: MakeLayer,
    other_layer: MpxChannelLayer,
    install: Any,
    proxy: Any,
    connected: Connected,
) -> None:
    layer = install(make_layer(hosts=[proxy.url], backlog_timeout=0.05, connect_timeout=0.2))

    class Cut(Maker):
        async def fail(self, event: Any) -> None:
            proxy.refuse()
            proxy.cut()
            await eventually(lambda: not layer.stats().multiplexer.connected)
            raise LookupError("no way")

    socket = await connected(Cut)
    channel = await socket.text()
    with pytest.raises(RequestTimeout):
        await other_layer.request(channel, {"type": "fail"}, timeout=1)
    with pytest.raises(LookupError, match="no way"):
        await socket.ended()
