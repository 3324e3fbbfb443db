"""The envelope that every message of the layer travels in, with room for metadata.

    2 bytes   0xC1, then the version: 1 for what follows here, 2 for that of `crypto`. 3 is a
              position in a group's history (`history.positions`), with such an envelope behind it.
              4 is a change of who is in a group (`presence.values`), with such envelopes in it.
              0xC1 begins no MessagePack value and no text, so foreign bytes on our names are told
              at the first byte.
    2 bytes   length of the header, big-endian
    header    a MessagePack map, or nothing
    body      the message

Keys of the header: ``to``, the channel that a message in an inbox is for; ``not``, the channels
that a message to a group is not for; ``re``, the number of the question that this answers;
``by`` and ``id``, whose question this is and its number there; ``ours``, that a message to a
group is for consumers of ours, and no event for others; ``tp``, ``ts`` and ``td``, whose trace this
belongs to (see `mpx_channels.tracing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import msgspec

from .exceptions import UndecryptableMessage, UnreadableMessage

__all__ = [
    "BARE",
    "ENCRYPTED",
    "MARK_LENGTH",
    "OURS",
    "POSITIONED",
    "POSITION_LENGTH",
    "PRESENCE",
    "begin",
    "seal",
    "split",
    "unseal",
]

PLAIN = b"\xc1\x01"
ENCRYPTED = b"\xc1\x02"
POSITIONED = b"\xc1\x03"
PRESENCE = b"\xc1\x04"
MARK_LENGTH = 2
# All that stands before the envelope of a message with a position.
POSITION_LENGTH = 26
BARE = PLAIN + b"\x00\x00"
_LONGEST_HEADER = 0xFFFF
# The key of messages that consumers of ours alone are to see.
OURS = "ours"
_encode = msgspec.msgpack.Encoder().encode
# Checked here, for all who use it: a header that is not like this is poison. Other keys, which
# a later version may have, are left out.
_Keys = TypedDict(
    "_Keys",
    {
        "to": str,
        "not": list[str],
        "re": int,
        "by": str,
        "id": int,
        "ours": bool,
        "tp": str,
        "ts": str,
        "td": str,
    },
    total=False,
)
_decode: Callable[[memoryview], Any] = msgspec.msgpack.Decoder(_Keys).decode
_NO_HEADER: dict[str, Any] = {}

Header = Mapping[str, Any]


def begin(mark: bytes, header: Header | None) -> bytes:
    """The envelope up to the body; raises `ValueError` if the header takes more than 64 KiB."""
    if not header:
        return mark + b"\x00\x00"
    packed = _encode(header)
    if len(packed) > _LONGEST_HEADER:
        raise ValueError(f"the names to exclude take {len(packed)} bytes, over {_LONGEST_HEADER}")
    return b"".join((mark, len(packed).to_bytes(2, "big"), packed))


def split(data: bytes) -> tuple[dict[str, Any], int]:
    """The header, and where it ends; raises `UnreadableMessage`."""
    if len(data) < 4:
        raise UnreadableMessage(f"not a message of a channel layer: {data!r}")
    end = 4 + int.from_bytes(data[2:4], "big")
    if end == 4:
        return _NO_HEADER, end
    if len(data) < end:
        raise UnreadableMessage("a truncated message")
    try:
        return _decode(memoryview(data)[4:end]), end
    except Exception as error:  # MsgspecError, and UnicodeDecodeError
        raise UnreadableMessage(f"a message with a broken header: {error}") from None


def seal(body: bytes, header: Header | None = None) -> bytes:
    """A message ready for Redis; raises as `begin`."""
    if not header:
        return BARE + body
    return begin(PLAIN, header) + body


def unseal(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header and the body; raises `UnreadableMessage`."""
    if data[:4] == BARE:
        return _NO_HEADER, memoryview(data)[4:]
    mark = data[:MARK_LENGTH]
    if mark == POSITIONED:
        data = data[POSITION_LENGTH:]
        mark = data[:MARK_LENGTH]
    if mark == ENCRYPTED:
        raise UndecryptableMessage(
            "an encrypted message, and this layer has no symmetric_encryption_keys"
        )
    if mark != PLAIN:
        raise UnreadableMessage(f"not a message of a channel layer: {data[:16]!r}")
    header, end = split(data)
    return header, memoryview(data)[end:]
