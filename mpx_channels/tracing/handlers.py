"""Handlers as spans. Their `dispatch` is wrapped when a traced layer is made, and not before."""

from __future__ import annotations

import functools
from inspect import getattr_static
from typing import Any

from channels.consumer import AsyncConsumer, SyncConsumer, get_handler_name
from opentelemetry.trace import Link, SpanKind

from mpx_channels.consumers.dispatch import Dispatch

from .carrier import TracedMessage
from .spans import attributes, span

__all__ = ["install", "uninstall"]

# Where messages come to their handlers: in our consumers, and in Channels'.
CLASSES: tuple[type, ...] = (Dispatch, AsyncConsumer, SyncConsumer)
_originals: dict[type, Any] = {}


def install() -> None:
    """Have every handler of a message with a trace be a span; harmless if it is so."""
    for class_ in CLASSES:
        if class_ not in _originals:
            _originals[class_] = original = getattr_static(class_, "dispatch")
            setattr(class_, "dispatch", _traced(original))  # noqa: B010 - not a method to mypy


def uninstall() -> None:
    """As it was before."""
    for class_, original in _originals.items():
        setattr(class_, "dispatch", original)  # noqa: B010
    _originals.clear()


def _traced(original: Any) -> Any:
    async def dispatch(self: Any, message: dict[str, Any]) -> None:
        call = original.__get__(self, type(self))
        if type(message) is not TracedMessage:
            # Of the socket, or from somebody who is not traced.
            await call(message)
            return
        carried = message.carried
        sender = carried.span_context
        kind, _, destination = carried.destination.partition(":")
        type_ = message.get("type")
        said = attributes("process", "process", destination, type_)
        said["code.function.name"] = f"{type(self).__qualname__}.{_handler(message)}"
        with span(
            f"process {type_}",
            SpanKind.CONSUMER,
            said,
            # A message to a channel is for one reader, whose work is a part of the sender's trace.
            # One to a group is for any number, each of which goes on with its own.
            context=carried.context if kind == "channel" and sender.is_valid else None,
            links=[Link(sender)] if sender.is_valid else (),
        ):
            await call(message)

    functools.update_wrapper(dispatch, original, updated=())
    return dispatch


def _handler(message: dict[str, Any]) -> str:
    try:
        name: str = get_handler_name(message)
    except ValueError:
        return ""
    return name
