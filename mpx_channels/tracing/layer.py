"""The layer whose messages are spans."""

from __future__ import annotations

import contextlib
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any

from opentelemetry.trace import SpanKind

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.layer.hub import Hub
from mpx_channels.messages.codec import Message

from .carrier import TracedWrapping, carrying, is_carrying
from .handlers import install
from .promises import TracedPromise
from .spans import attributes, span

__all__ = ["TracedChannelLayer"]


class TracedChannelLayer(MpxChannelLayer):
    """`MpxChannelLayer` with a span for each message that is sent, and for each handler.

    What it sends has the trace of its span in the header, and layers that are not traced leave it
    there. Needs ``pip install 'mpx-channels[otel]'``, and an SDK that is configured.
    """

    wrapping_class = TracedWrapping

    def __init__(self, *args: Any, **config: Any) -> None:
        super().__init__(*args, **config)
        install()

    async def send(self, channel: str, message: Message) -> None:
        """As `MpxChannelLayer.send`."""
        if is_carrying():  # for a caller of async_to_sync, who has the span
            await super().send(channel, message)
            return
        async with self._sending("send", channel, message):
            await super().send(channel, message)

    async def group_send(
        self,
        group: str,
        message: Message,
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> str | None:
        """As `MpxChannelLayer.group_send`."""
        async with self._sending("send", group, message, to="group"):
            return await super().group_send(
                group, message, exclude=exclude, idempotency_key=idempotency_key
            )

    async def group_send_many(self, messages: Iterable[tuple[str, Message]]) -> list[str | None]:
        """As `MpxChannelLayer.group_send_many`, with one span for all."""
        listed = list(messages)
        said = {"messaging.batch.message_count": len(listed)}
        async with self._sending("send", "", None, to="group", called="many", more=said):
            return await super().group_send_many(listed)

    async def request(self, channel: str, message: Message, timeout: float | None = 10.0) -> Any:
        """As `MpxChannelLayer.request`; the span ends with the answer."""
        async with self._sending("request", channel, message, kind=SpanKind.CLIENT):
            return await super().request(channel, message, timeout)

    async def _settle(self, name: str, answer: Message) -> int:
        async with self._sending("resolve", name, None, to="promise", called="promise"):
            return await super()._settle(name, answer)

    def _make_hub(self, shared: bool) -> Hub:
        hub = super()._make_hub(shared)
        hub.promises.promise_class = TracedPromise
        return hub

    @contextlib.asynccontextmanager
    async def _sending(
        self,
        operation: str,
        destination: str,
        message: Any,
        *,
        to: str = "channel",
        kind: SpanKind = SpanKind.PRODUCER,
        called: str = "",
        more: dict[str, Any] | None = None,
    ) -> AsyncIterator[None]:
        if self._hub_by_loop.get(get_running_loop()) is None and not self._hubs.for_one_call:
            # Now, or else its tasks would live with our context, as if they belonged to this span.
            await self._hubs.open()
        type_ = message.get("type") if isinstance(message, dict) else None
        said = attributes(operation, "send", destination, type_) | (more or {})
        if isinstance(type_, str):
            called = type_
        with span(f"{operation} {called}".strip(), kind, said), carrying(f"{to}:{destination}"):
            yield
