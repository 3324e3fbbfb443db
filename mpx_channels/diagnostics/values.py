"""Values of messages and names, as JSON and on a terminal can show them."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["as_json", "as_text", "encodable", "escaped", "milliseconds", "plain"]


def plain(value: Any) -> Any:
    """A value that JSON has words for.

    bytes become ``{"base64": "..."}``; NaN, the infinities, keys that are no str and whatever else
    a serializer of the project may give become str.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): plain(value[key]) for key in value}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


def as_json(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON that a terminal can be shown."""
    return escaped(json.dumps(plain(value), ensure_ascii=False, indent=indent))


def escaped(text: str) -> str:
    """The text without what moves a terminal's cursor, or no encoding has: that is as in JSON.

    Line feeds stay.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)


def encodable(text: str, encoding: str) -> str:
    """The text as an encoding, which may be ASCII, has it: the rest is escaped as in JSON."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(char if char.isascii() else _escape(char) for char in text)
    return text


def as_text(data: bytes) -> str:
    """Bytes as a person reads them: a text in double quotes, or else ``b'...'`` with escapes."""
    try:
        return escaped(json.dumps(data.decode(), ensure_ascii=False))
    except UnicodeDecodeError:
        return repr(data)


def milliseconds(seconds: float, digits: int = 1) -> str:
    """A time as one reads it, where it is short."""
    return f"{seconds * 1000:.{digits}f} ms"


def _escape(char: str) -> str:
    return json.dumps(char)[1:-1]
