"""The envelope that every message of the layer travels in, with room for metadata.

    2 bytes   0xC1, then the version. 0xC1 begins no MessagePack value and no text, so foreign
              bytes on our names are told at the first byte.
    2 bytes   length of the header, big-endian
    header    a MessagePack map, or nothing
    body      the message

Keys of the header: ``to``, the channel that a message in an inbox is for; ``not``, the channels
that a message to a group is not for; ``re``, the number of the question that this answers;
``by`` and ``id``, whose question this is and its number there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mpx_channels.multiplexer import MpxError

__all__ = ["UnreadableEnvelope", "seal", "unseal"]

_MARK = b"\xc1\x01"
_BARE = _MARK + b"\x00\x00"
_LONGEST_HEADER = 0xFFFF
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
_NO_HEADER: dict[str, Any] = {}


class UnreadableEnvelope(MpxError, ValueError):
    """These bytes are no message of a channel layer like ours."""


def seal(body: bytes, header: Mapping[str, Any] | None = None) -> bytes:
    """A message ready for Redis; raises `ValueError` if the header takes more than 64 KiB."""
    if not header:
        return _BARE + body
    packed = _encode(header)
    if len(packed) > _LONGEST_HEADER:
        raise ValueError(f"the names to exclude take {len(packed)} bytes, over {_LONGEST_HEADER}")
    return b"".join((_MARK, len(packed).to_bytes(2, "big"), packed, body))


def unseal(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header and the body; raises `UnreadableEnvelope`."""
    if data[:4] == _BARE:
        return _NO_HEADER, memoryview(data)[4:]
    if data[:2] != _MARK or len(data) < 4:
        raise UnreadableEnvelope(f"not a message of a channel layer: {data[:16]!r}")
    end = 4 + int.from_bytes(data[2:4], "big")
    if len(data) < end:
        raise UnreadableEnvelope("a truncated message")
    try:
        return _decode(memoryview(data)[4:end]), memoryview(data)[end:]
    except msgspec.MsgspecError as error:
        raise UnreadableEnvelope(f"a message with a broken header: {error}") from None
