"""Spans by OpenTelemetry's conventions for messaging systems.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/. Spans are named by the type
of their message, as there are as many groups as rooms, and names of spans are to be few.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from channels.exceptions import StopConsumer
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, get_tracer

from mpx_channels import __version__

__all__ = ["attributes", "failed", "span", "tracer"]

tracer = get_tracer("mpx_channels", __version__)


def attributes(operation: str, kind: str, destination: str, type_: object = None) -> dict[str, Any]:
    """What a span says: the operation and its kind in the conventions, and where to or from."""
    found: dict[str, Any] = {
        "messaging.system": "redis",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
    }
    if destination:
        found["messaging.destination.name"] = destination
    if "!" in destination:  # of a process
        found["messaging.destination.temporary"] = True
        found["messaging.destination.anonymous"] = True
    if isinstance(type_, str):
        found["mpx_channels.message.type"] = type_
    return found


@contextlib.contextmanager
def span(
    name: str,
    kind: SpanKind,
    said: dict[str, Any],
    *,
    context: Context | None = None,
    links: Sequence[Link] = (),
) -> Iterator[Span]:
    """The current span, until the end of the block; an exception is recorded."""
    with tracer.start_as_current_span(
        name,
        context,
        kind,
        said,
        links,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except StopConsumer:
            raise  # how consumers end
        except Exception as error:
            failed(current, error)
            raise


def failed(current: Span, error: BaseException) -> None:
    """The span's work has ended with an exception."""
    current.record_exception(error)
    current.set_attribute("error.type", type(error).__qualname__)
    current.set_status(Status(StatusCode.ERROR, str(error)))
