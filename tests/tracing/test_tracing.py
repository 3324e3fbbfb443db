"""Spans of what is sent and what handles it, and how they know each other."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.generic import websocket as stock
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from mpx_channels.consumers.dispatch import Dispatch
from mpx_channels.generic import websocket as ours
from mpx_channels.layer import PromiseRejected, RequestFailed
from mpx_channels.tracing import TracedChannelLayer
from mpx_channels.tracing.carrier import is_carrying
from tests.docs.pages import DOCS, ROOT, blocks
from tests.inside import multiplexer_of
from tests.layer.conftest import MakeLayer

from .conftest import Spans

tracer = trace.get_tracer("test")


def consumer(base: Any) -> Any:
    class Room(base):
        groups = ["room"]

        async def say(self, event: dict[str, Any]) -> None:
            assert set(event) <= {"type", "text", "mpx_reply_to", "mpx_position"}
            await self.send(event.get("text", self.channel_name))

        async def fail(self, event: dict[str, Any]) -> None:
            raise ValueError("no")

        async def answer(self, event: dict[str, Any]) -> None:
            await self.reply(event, 42)

    return Room


class SyncRoom(ours.WebsocketConsumer):
    groups = ["room"]

    def say(self, event: dict[str, Any]) -> None:
        self.send(event["text"])


class StockSyncRoom(stock.WebsocketConsumer):
    groups = ["room"]

    def say(self, event: dict[str, Any]) -> None:
        self.send(event["text"])


@pytest.mark.parametrize(
    "room",
    [
        consumer(ours.AsyncWebsocketConsumer),
        consumer(stock.AsyncWebsocketConsumer),
        SyncRoom,
        StockSyncRoom,
    ],
)
async def test_a_group(traced: TracedChannelLayer, spans: Spans, connected: Any, room: Any) -> None:
    sockets = [await connected(room) for _ in range(2)]
    with tracer.start_as_current_span("view") as view:
        await traced.group_send("room", {"type": "say", "text": "hello"})
    for socket in sockets:
        assert await socket.text() == "hello"
        await socket.disconnect()
    sent = await spans.one("send say")
    assert sent.parent.span_id == view.get_span_context().span_id
    assert sent.kind == SpanKind.PRODUCER
    assert dict(sent.attributes) == {
        "messaging.system": "redis",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "room",
        "mpx_channels.message.type": "say",
    }
    handled = spans.of("process say")
    assert len(handled) == 2
    for span in handled:
        assert (span.kind, span.parent) == (SpanKind.CONSUMER, None)
        (link,) = span.links
        assert link.context.span_id == sent.context.span_id
        assert span.attributes["messaging.operation.type"] == "process"
        assert span.attributes["messaging.destination.name"] == "room"
        assert span.attributes["code.function.name"].endswith("Room.say")


async def test_an_event_can_be_copied(traced: TracedChannelLayer) -> None:
    """As handlers and their helpers do it, which know of no trace."""
    channel = await traced.new_channel()
    with tracer.start_as_current_span("view"):
        await traced.send(channel, {"type": "say", "to": ["Ann", {"n": 1}]})
    event = await traced.receive(channel)
    for made in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert made == event == {"type": "say", "to": ["Ann", {"n": 1}]}
        assert made is not event
    copied = copy.deepcopy(event)
    assert copied.carried is event.carried
    assert copied["to"] is not event["to"]
    await traced.send(channel, copied)
    assert await traced.receive(channel) == event


async def test_a_channel(traced: TracedChannelLayer, spans: Spans, connected: Any) -> None:
    """For one reader: one trace."""
    socket = await connected(consumer(ours.AsyncWebsocketConsumer))
    await traced.group_send("room", {"type": "say"})
    channel = await socket.text()
    await traced.send(channel, {"type": "say", "text": "you"})
    assert await socket.text() == "you"
    await socket.disconnect()
    sent, handled = spans.of("send say")[1], spans.of("process say")[1]
    assert handled.parent.span_id == sent.context.span_id
    assert handled.context.trace_id == sent.context.trace_id
    assert sent.attributes["messaging.destination.name"] == channel
    assert sent.attributes["messaging.destination.temporary"] is True


async def test_a_plain_channel(traced: TracedChannelLayer, spans: Spans) -> None:
    await traced.send("jobs", {"type": "job"})
    event = await traced.receive("jobs")
    assert event == {"type": "job"}
    sent = await spans.one("send job")
    assert event.carried.span_context.span_id == sent.context.span_id
    assert "messaging.destination.temporary" not in sent.attributes


async def test_a_request(traced: TracedChannelLayer, spans: Spans, connected: Any) -> None:
    socket = await connected(consumer(ours.AsyncWebsocketConsumer))
    await traced.group_send("room", {"type": "say"})
    channel = await socket.text()
    assert await traced.request(channel, {"type": "answer"}) == 42
    with pytest.raises(RequestFailed):
        await traced.request(channel, {"type": "fail"})
    with pytest.raises(ValueError, match="no"):
        await socket.ended()
    asked, answered = spans.of("request answer")[0], spans.of("process answer")[0]
    assert (asked.kind, asked.status.status_code) == (SpanKind.CLIENT, StatusCode.UNSET)
    assert answered.parent.span_id == asked.context.span_id
    for name in ("request fail", "process fail"):
        (failed,) = spans.of(name)
        assert failed.status.status_code == StatusCode.ERROR
        assert failed.events[0].name == "exception"
    assert spans.of("process fail")[0].attributes["error.type"] == "ValueError"


async def test_promises(traced: TracedChannelLayer, spans: Spans) -> None:
    promise = await traced.new_promise("tea")
    assert await traced.resolve("tea", 1) == 1
    assert await promise == 1
    waited, resolved = await spans.one("receive promise"), await spans.one("resolve promise")
    assert (waited.kind, resolved.kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)
    assert waited.links[0].context.span_id == resolved.context.span_id
    assert waited.attributes["messaging.destination.name"] == "tea"


@pytest.mark.parametrize(("end", "error"), [("reject", PromiseRejected), ("time", TimeoutError)])
async def test_promises_that_fail(
    traced: TracedChannelLayer, spans: Spans, end: str, error: type[Exception]
) -> None:
    await traced.connect()
    promise = await traced.new_promise("tea", 5 if end == "reject" else 0.05)
    if end == "reject":
        await traced.reject("tea", "none left")
    with pytest.raises(error):
        await promise
    waited = await spans.one("receive promise")
    assert waited.attributes["error.type"] == error.__qualname__


async def test_many_at_once(traced: TracedChannelLayer, spans: Spans, connected: Any) -> None:
    socket = await connected(consumer(ours.AsyncWebsocketConsumer))
    await traced.group_send_many(("room", {"type": "say", "text": text}) for text in "ab")
    assert await socket.texts(2) == ["a", "b"]
    await socket.disconnect()
    sent = await spans.one("send many")
    assert sent.attributes["messaging.batch.message_count"] == 2
    assert "mpx_channels.message.type" not in sent.attributes
    for span in spans.of("process say"):
        assert span.links[0].context.span_id == sent.context.span_id


async def test_what_has_no_type_is_named_by_the_operation(
    traced: TracedChannelLayer, spans: Spans
) -> None:
    channel = await traced.new_channel()
    await traced.send(channel, {"text": "hello"})
    with pytest.raises(TypeError):
        await traced.send(channel, "hello")  # type: ignore[arg-type]
    assert len(spans.of("send")) == 2


@pytest.mark.parametrize(
    "config",
    [{"symmetric_encryption_keys": ["a key"]}, {"history": {"*": {"size": 10, "ttl": 60}}}],
)
async def test_in_other_envelopes(
    redis_url: str, prefix: str, spans: Spans, config: dict[str, Any]
) -> None:
    layer = TracedChannelLayer(hosts=[redis_url], prefix=prefix, **config)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "say", "nested": [{"a": 1}]}, exclude=["specific.x!1"])
    event = await layer.receive(channel)
    assert event["nested"] == [{"a": 1}]
    sent = await spans.one("send say")
    assert event.carried.span_context.span_id == sent.context.span_id
    assert event.carried.destination == "group:room"
    await layer.close()


async def test_layers_that_are_not_traced(
    traced: TracedChannelLayer, spans: Spans, make_layer: MakeLayer
) -> None:
    plain = make_layer()
    channels = [await layer.new_channel() for layer in (plain, traced)]
    await plain.group_add("room", channels[0])
    await traced.group_add("room", channels[1])
    for layer in (plain, traced):
        await layer.group_send("room", {"type": "say"})
        assert await plain.receive(channels[0]) == {"type": "say"}
        event = await traced.receive(channels[1])
        assert event == {"type": "say"}
        assert (type(event) is dict) is (layer is plain)
    await plain.send(channels[1], {"type": "say"})
    assert type(await traced.receive(channels[1])) is dict


async def test_from_synchronous_code(traced: TracedChannelLayer, spans: Spans) -> None:
    channel = await traced.new_channel()

    def send() -> None:
        with tracer.start_as_current_span("view"):
            async_to_sync(traced.send)(channel, {"type": "one"})
            traced.sync.send(channel, {"type": "two"})
            async_to_sync(traced.group_send)("room", {"type": "three"})

    await asyncio.to_thread(send)
    view = await spans.one("view")
    for name in ("one", "two", "three"):
        sent = await spans.one(f"send {name}")
        assert sent.parent.span_id == view.context.span_id
    for _ in range(2):
        event = await traced.receive(channel)
        sent = await spans.one(f"send {event['type']}")
        assert event.carried.span_context.span_id == sent.context.span_id


async def test_what_connects_belongs_to_no_span(
    traced: TracedChannelLayer, spans: Spans, prefix: str
) -> None:
    """The tasks that the first message starts live on, and what they do later is not its work."""
    await traced.group_send("room", {"type": "first"})
    heard: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    multiplexer = multiplexer_of(traced)
    subscription = multiplexer.new_channel_subscription(
        lambda name, data: heard.set_result((trace.get_current_span(), is_carrying()))
    )
    subscription.add(f"{prefix}:anything")
    await subscription.wait_for_activation(f"{prefix}:anything")
    await multiplexer.publish(f"{prefix}:anything", b"")
    span, carries = await heard
    assert not span.get_span_context().is_valid
    assert not carries
    subscription.close()


OTHER = """
import asyncio, json, sys
from django.conf import settings
settings.configure()
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
from mpx_channels.tracing import TracedChannelLayer

async def main():
    layer = TracedChannelLayer(hosts=[sys.argv[1]], prefix=sys.argv[2])
    with trace.get_tracer("x").start_as_current_span("there") as span:
        await layer.group_send("room", {"type": "say", "text": "from afar"})
        print(json.dumps(span.get_span_context().trace_id))
    await layer.close()

asyncio.run(main())
"""


def program(text: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_across_processes(
    traced: TracedChannelLayer, spans: Spans, connected: Any, redis_url: str, prefix: str
) -> None:
    socket = await connected(consumer(ours.AsyncWebsocketConsumer))
    told = await asyncio.to_thread(program, OTHER, redis_url, prefix)
    assert await socket.text() == "from afar"
    await socket.disconnect()
    handled = await spans.one("process say")
    assert handled.links[0].context.trace_id == json.loads(told)


def test_without_it_nothing_is_there() -> None:
    text = """
import sys
from django.conf import settings
settings.configure()
import mpx_channels.layer, mpx_channels.generic.websocket, mpx_channels.worker
from mpx_channels.consumers.dispatch import Dispatch
mpx_channels.layer.MpxChannelLayer()
print([name for name in sys.modules if name.startswith("mpx_channels.tracing")])
print(Dispatch.dispatch.__module__)
"""
    assert program(text) == "[]\nmpx_channels.consumers.dispatch\n"


async def test_what_is_installed_goes_again(traced: TracedChannelLayer) -> None:
    from mpx_channels.tracing.handlers import install, uninstall

    wrapped = Dispatch.dispatch
    install()
    assert Dispatch.dispatch is wrapped
    uninstall()
    assert Dispatch.dispatch is not wrapped


def test_without_an_sdk(redis_url: str, prefix: str) -> None:
    text = OTHER.replace("trace.set_tracer_provider(TracerProvider())", "")
    assert program(text, redis_url, prefix) == "0\n"


def test_without_the_package(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ModuleNotFoundError(name='opentelemetry')")
    text = """
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["mpx_channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "mpx_channels.tracing.TracedChannelLayer"}},
)
import django
django.setup()
from django.core.checks import run_checks
(found,) = run_checks()
print(found.id, found.hint)
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    said = program(text, PYTHONPATH=path)
    assert said == "mpx_channels.W002 Install it: pip install 'mpx-channels[otel]'\n"


def test_the_page(redis_url: str) -> None:
    (block,) = [each for each in blocks(DOCS / "opentelemetry.md") if each.caption == "traced.py"]
    assert program(block.text.replace("redis://localhost:6379", redis_url)) == block.output
