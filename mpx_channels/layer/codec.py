"""Messages to bytes and back: MessagePack by msgspec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from django.utils.functional import Promise as LazyString

from mpx_channels.multiplexer import MpxError

__all__ = ["Message", "UnserializableMessage", "decode", "encode", "is_flat"]

Message = dict[str, Any]


class UnserializableMessage(MpxError, TypeError):
    """A message holds a value that cannot be sent; the text gives the path to it."""


def _as_plain(value: object) -> object:
    """What msgspec does not know but Django is full of: SafeString and lazy translations."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, LazyString):
        return str.__str__(str(value))
    raise TypeError(f"a {type(value).__name__} cannot be sent")


_encoder = msgspec.msgpack.Encoder(enc_hook=_as_plain)
_decoder = msgspec.msgpack.Decoder(dict)


def encode(message: Message) -> bytes:
    """The message as MessagePack; raises `UnserializableMessage` with the path to the culprit."""
    if not isinstance(message, dict):
        raise TypeError(f"a message must be a dict, not {message!r}")
    try:
        return _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        path, reason = next(_culprits(message, "message"), ("message", str(error)))
        raise UnserializableMessage(f"{path} cannot be sent: {reason}") from error


def decode(data: bytes | memoryview) -> Message:
    """The message in these bytes; raises `msgspec.DecodeError` when there is none."""
    message: Message = _decoder.decode(data)
    return message


def is_flat(message: Message) -> bool:
    """Whether a shallow copy shares nothing that could be changed."""
    return not any(type(value) in _MUTABLE for value in message.values())


_MUTABLE = frozenset({dict, list, bytearray})


def _culprits(value: object, path: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every place below `value` that cannot be encoded, innermost first, with the reason."""
    if depth > 100:
        yield path, "it is nested too deeply"
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _culprits(item, f"{path}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _culprits(item, f"{path}[{index}]", depth + 1)
    try:
        _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        yield path, str(error)
