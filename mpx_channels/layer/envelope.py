"""The envelope that every message of the layer travels in, with room for metadata.

2 bytes   0xC1, then the version. 0xC1 begins no MessagePack value and no text, so foreign
          bytes on our names are told at the first byte.
2 bytes   length of the header, big-endian
header    a MessagePack map, or nothing: "to" is the name of the channel
body      the message
"""

from __future__ import annotations

from typing import Any

import msgspec

from mpx_channels.multiplexer import MpxError

__all__ = ["UnreadableEnvelope", "address", "seal", "unseal"]

_MARK = b"\xc1\x01"
_BARE = _MARK + b"\x00\x00"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
_NO_HEADER: dict[str, Any] = {}


class UnreadableEnvelope(MpxError, ValueError):
    """These bytes are no message of a channel layer like ours."""


def seal(body: bytes) -> bytes:
    """A message to a group."""
    return _BARE + body


def address(channel: str, body: bytes) -> bytes:
    """A message to one channel of the process whose inbox it goes to."""
    header = _encode({"to": channel})
    return b"".join((_MARK, len(header).to_bytes(2, "big"), header, body))


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
