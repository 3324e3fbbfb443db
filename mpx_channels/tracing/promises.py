"""Promises as spans: from the moment they are in force to their end, linked to who settles them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind

from mpx_channels.layer import LayerPromise

from .carrier import TracedMessage
from .spans import attributes, failed, tracer

if TYPE_CHECKING:
    from mpx_channels.layer.answers.promises import Promises
    from mpx_channels.layer.answers.requests import Answer

__all__ = ["TracedPromise"]


class TracedPromise(LayerPromise):
    """A promise that is a span."""

    __slots__ = ("_span",)

    def __init__(
        self, promises: Promises, name: str, redis_name: str, timeout: float | None
    ) -> None:
        super().__init__(promises, name, redis_name, timeout)
        said = attributes("receive", "receive", name)
        self._span = tracer.start_span("receive promise", kind=SpanKind.CONSUMER, attributes=said)
        self._future.add_done_callback(self._ended)

    def settle(self, answer: Answer) -> bool:
        """As `LayerPromise.settle`."""
        if type(answer) is TracedMessage and answer.carried.span_context.is_valid:
            self._span.add_link(answer.carried.span_context)
        return super().settle(answer)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            failed(self._span, error)
        self._span.end()
