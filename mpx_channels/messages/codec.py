"""Messages to bytes and back, as MessagePack or JSON; and what becomes of values of other types.

What arrives is made of the types of Channels' specification, whatever was sent, and is the same
in both formats:

=====================================  ============================================
sent                                   arrives as
=====================================  ============================================
None, bool, int of 64 bits, str        themselves
float                                  itself; NaN and the infinities not in JSON
bytes, bytearray, memoryview           bytes; not in JSON
dict, and its subclasses               dict; the order of the keys is kept
list, tuple, set, frozenset, deque     list
SafeString, lazy translations          str
other subclasses of str, int, ...      what they are subclasses of
datetime, date, time                   str, ISO 8601; with ``Z`` for UTC
timedelta                              str, ISO 8601 (``P1DT2S``)
UUID, Decimal                          str
Enum, IntEnum, TextChoices, ...        the member's value
dataclass, attrs class, msgspec.Struct dict
namedtuple                             list
=====================================  ============================================

The keys of a dict may be of any such type in MessagePack (a tuple stays a tuple there, as it has
to be hashable), and arrive as the values do; in JSON they must become str.

A date becomes a str, and not a date again, because the receiver is most often a consumer that
passes the event on to a browser as JSON. MessagePack could carry times with a time zone but none
without: an event's type would hang on USE_TZ.

All else is refused at the sender, with the path to the value: other objects, ints beyond 64 bits,
lone surrogates in a str, what "not in JSON" stands at above.
"""

from __future__ import annotations

import datetime
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
from django.utils.functional import Promise as LazyString

from mpx_channels.multiplexer.exceptions import describe

from .exceptions import UnserializableMessage

__all__ = [
    "Message",
    "decode",
    "decode_json",
    "encode",
    "encode_json",
    "is_flat",
    "refusal",
    "require_dict",
]

Message = dict[str, Any]

# Errors name the path to a value this far down, and no further.
DEEPEST_PATH = 100


# -- MessagePack ----------------------------------------------------------------------------------


def _as_plain(value: object) -> object:
    """What msgspec does not know, but a Django project is full of, as what msgspec knows."""
    for kind, convert in _CONVERSIONS:
        if isinstance(value, kind):
            return convert(value)
    raise TypeError(f"it is an object of type {type(value).__name__}")


def _plain_datetime(value: datetime.datetime) -> datetime.datetime:
    return datetime.datetime.combine(
        datetime.date(value.year, value.month, value.day), _time(value)
    )


def _time(value: datetime.datetime | datetime.time) -> datetime.time:
    return datetime.time(
        value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
    )


# Subclasses, which msgspec refuses where it takes the class itself. The order matters: a datetime
# is a date, a bool an int.
_CONVERSIONS: tuple[tuple[type, Callable[[Any], object]], ...] = (
    (str, str.__str__),
    (LazyString, lambda value: str.__str__(str(value))),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes(memoryview(value))),
    (bytearray, bytes),
    (deque, list),
    (datetime.datetime, _plain_datetime),
    (datetime.date, lambda value: datetime.date(value.year, value.month, value.day)),
    (datetime.time, _time),
    (datetime.timedelta, lambda v: datetime.timedelta(v.days, v.seconds, v.microseconds)),
    (uuid.UUID, lambda value: str(uuid.UUID(int=value.int))),
    (Decimal, lambda value: format(Decimal(value))),
)

_encode = msgspec.msgpack.Encoder(enc_hook=_as_plain).encode
_decode: Callable[[bytes | memoryview], Message] = msgspec.msgpack.Decoder(dict).decode

_try_json = msgspec.json.Encoder(enc_hook=_as_plain).encode

# A message of str keys and these has nothing in it that could be changed, or that does not arrive
# as it was sent.
_SCALARS = frozenset({str, int, float, bool, bytes, type(None)})

# How MessagePack's timestamps begin: the extension of type -1 in 4, 8 and 12 bytes.
_TIMESTAMPS = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")


def encode(message: Message) -> bytes:
    """The message as MessagePack; raises `UnserializableMessage` with the path to the culprit."""
    if type(message) is not dict:
        require_dict(message)
    try:
        body: bytes = _encode(message)
        for key, value in message.items():
            if type(value) not in _SCALARS or type(key) is not str:
                return _verified(message, body)
        return body
    except Exception as error:
        raise refusal(message, _encode_verified, error) from error


def _encode_verified(message: Message) -> bytes:
    return _verified(message, _encode(message))


def _verified(message: Message, body: bytes) -> bytes:
    """What is not plainly flat: with times as str, and sure to be decodable."""
    if 0xFF in body and any(mark in body for mark in _TIMESTAMPS):
        plain = msgspec.to_builtins(
            message, builtin_types=(bytes, bytearray, memoryview), enc_hook=_as_plain
        )
        body = _encode(plain)
    try:
        # msgspec writes keys as MessagePack that it cannot read, such as dataclasses; as JSON it
        # does not. To let it try takes half the time of decoding, and finds nothing as a rule.
        _try_json(message)
    except Exception:
        _decode(body)
    return body


def decode(data: bytes | memoryview) -> Message:
    """The message in MessagePack; raises `msgspec.MsgspecError` when there is none."""
    return _decode(data)


def is_flat(message: Message) -> bool:
    """Whether a shallow copy shares nothing that could be changed."""
    return _SCALARS.issuperset(map(type, message.values()))


# -- JSON -----------------------------------------------------------------------------------------

_encode_json = msgspec.json.Encoder().encode
_decode_json: Callable[[bytes | memoryview], Message] = msgspec.json.Decoder(dict).decode


def encode_json(message: Message) -> bytes:
    """The message as JSON, UTF-8; raises as `encode`, also for what JSON has no words for.

    It is decoded here and compared: JSON encoders make null of NaN, and base64 of bytes.
    """
    require_dict(message)
    try:
        return _encode_json_verified(message)
    except Exception as error:
        raise refusal(message, _encode_json_verified, error) from error


def _encode_json_verified(message: Message) -> bytes:
    plain = _decode(_encode_verified(message))
    body: bytes = _encode_json(plain)
    if _decode_json(body) != plain:
        raise TypeError(
            "JSON has no bytes, no NaN and no infinity, and only str as keys "
            "(serializer_format 'msgpack' has them)"
        )
    return body


def decode_json(data: bytes | memoryview) -> Message:
    """The message in JSON; raises `msgspec.MsgspecError` when there is none."""
    return _decode_json(data)


# -- errors ---------------------------------------------------------------------------------------


def require_dict(message: object) -> None:
    """Raise `TypeError` for what is no message at all."""
    if not isinstance(message, dict):
        raise TypeError(f"a message must be a dict, not {message!r}")


def refusal(
    message: Message, encoder: Callable[[Message], bytes], error: Exception
) -> UnserializableMessage:
    """The error for a message that `encoder` raised `error` for, with the path to the culprit."""
    path, cause = "message", error
    value: object = message
    for _ in range(DEEPEST_PATH):
        step = _wrong_child(value, encoder)
        if step is None:
            break
        what, value, cause = step
        path += what
    return UnserializableMessage(f"{path} cannot be sent: {describe(cause)}")


def _wrong_child(
    value: object, encoder: Callable[[Message], bytes]
) -> tuple[str, object, Exception] | None:
    """The first key or value of a container that cannot be encoded, and the step to it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if error := _error(encoder, {key: None}):
                return f" has the key {key!r} that", None, error
            if error := _error(encoder, {"value": item}):
                return f"[{key!r}]", item, error
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for index, item in enumerate(value):
            if error := _error(encoder, {"value": item}):
                at = f"[{index}]" if isinstance(value, list | tuple | deque) else f" (its {item!r})"
                return at, item, error
    return None


def _error(encoder: Callable[[Message], bytes], message: dict[Any, Any]) -> Exception | None:
    try:
        encoder(message)
    except Exception as error:
        return error
    return None
