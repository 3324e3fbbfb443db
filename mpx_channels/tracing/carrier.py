"""How a trace travels: in the envelope's header there, and with the event here.

The header has W3C's trace context, under ``tp`` and ``ts``, and under ``td`` what the message was
sent to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from copy import deepcopy
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mpx_channels.messages.codec import Message
from mpx_channels.messages.wrapping import Wrapping

__all__ = ["Carried", "TracedMessage", "TracedWrapping", "carrying", "is_carrying"]

_propagator = TraceContextTextMapPropagator()
# What is put into the header of all that is sent now.
_header: ContextVar[Mapping[str, str] | None] = ContextVar("mpx_channels_trace", default=None)


class Carried:
    """What a message says of its sender."""

    __slots__ = ("context", "destination", "span_context")

    def __init__(self, header: Mapping[str, Any]) -> None:
        carrier = {"traceparent": header["tp"], "tracestate": header.get("ts", "")}
        # Without a valid one, a context without a span: nobody there was traced.
        self.context: Context = _propagator.extract(carrier, Context())
        self.span_context: SpanContext = get_current_span(self.context).get_span_context()
        self.destination: str = header.get("td", "")


class TracedMessage(dict[str, Any]):
    """An event that knows where it comes from; to handlers it is a dict like any other."""

    __slots__ = ("carried",)
    carried: Carried

    def copy(self) -> TracedMessage:
        """As `dict.copy`: each reader gets one."""
        return self._with(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> TracedMessage:
        """What handlers may do with an event; OpenTelemetry's contexts cannot be copied."""
        return self._with(deepcopy(dict(self), memo))

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """For pickle: what is kept elsewhere has no sender any more."""
        return dict, (dict(self),)

    def _with(self, values: dict[str, Any]) -> TracedMessage:
        copied = TracedMessage(values)
        copied.carried = self.carried
        return copied


class _Body(bytes):
    """A body between `unwrap` and `decode`."""

    carried: Carried


class TracedWrapping(Wrapping):
    """Puts the trace into what is sent, and takes it out of what comes."""

    __slots__ = ()

    def wrap(
        self,
        name: str,
        message: Message,
        header: Mapping[str, Any] | None = None,
        *,
        limit: bool = True,
    ) -> bytes:
        """As `Wrapping.wrap`."""
        return super().wrap(name, message, _with_trace(header), limit=limit)

    def seal(self, name: str, body: bytes, header: Mapping[str, Any] | None = None) -> bytes:
        """As `Wrapping.seal`."""
        return super().seal(name, body, _with_trace(header))

    def unwrap(
        self, name: str, data: bytes, expiry: float | None = None
    ) -> tuple[dict[str, Any], bytes | memoryview]:
        """As `Wrapping.unwrap`; the body has the trace."""
        header, body = super().unwrap(name, data, expiry)
        if "tp" in header:
            traced = _Body(body)
            traced.carried = Carried(header)
            body = traced
        return header, body

    def decode(self, body: bytes | memoryview) -> Message:
        """As `Wrapping.decode`; the message has the trace."""
        message = super().decode(body)
        if type(body) is not _Body:
            return message
        traced = TracedMessage(message)
        traced.carried = body.carried
        return traced


def _with_trace(header: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    trace = _header.get()
    return header if trace is None else {**(header or {}), **trace}


def is_carrying() -> bool:
    """Whether what is sent now gets a trace already: from who has called us in another thread."""
    return _header.get() is not None


@contextlib.contextmanager
def carrying(destination: str) -> Iterator[None]:
    """Have all that is sent here get the trace of the current span."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    header = {"td": destination}
    if "traceparent" in carrier:
        header["tp"] = carrier["traceparent"]
    if carrier.get("tracestate"):
        header["ts"] = carrier["tracestate"]
    token = _header.set(header if "tp" in header else {})
    try:
        yield
    finally:
        _header.reset(token)
