"""The envelope: a mark, a header or none, and the body."""

from __future__ import annotations

import pytest

from mpx_channels.messages.envelope import BARE, seal, unseal
from mpx_channels.messages.exceptions import UndecryptableMessage, UnreadableMessage


@pytest.mark.parametrize("header", [{}, {"to": "specific.0!1"}, {"not": ["a", "b"], "id": 7}])
@pytest.mark.parametrize("body", [b"", b"body", b"\xc1" * 100_000])
def test_there_and_back(header: dict[str, object], body: bytes) -> None:
    found, rest = unseal(seal(body, header))
    assert (found, bytes(rest)) == (header, body)


def test_what_has_no_header_has_four_bytes_more() -> None:
    data = BARE + b"body"
    assert len(BARE) == 4
    assert seal(b"body") == data
    found, rest = unseal(data)
    assert (found, bytes(rest)) == ({}, b"body")


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"text", b"\x81\xa4type\xa1x", b"\xc1\x01\x00\xffx"]
)
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(UnreadableMessage):
        unseal(data)


def test_what_is_encrypted_is_told_apart() -> None:
    with pytest.raises(UndecryptableMessage, match="has no symmetric_encryption_keys"):
        unseal(b"\xc1\x02" + bytes(60))
