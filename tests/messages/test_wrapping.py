"""A message's way into bytes and back, for one name."""

from __future__ import annotations

import math

import pytest

from mpx_channels.messages.exceptions import (
    MessageTooLarge,
    UndecryptableMessage,
    UnreadableMessage,
    UnserializableMessage,
)
from mpx_channels.messages.wrapping import Wrapping

MESSAGE = {"type": "x", "n": [1, 2]}
both = pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
each_format = pytest.mark.parametrize("format", ["msgpack", "json"])


@both
@each_format
@pytest.mark.parametrize("header", [None, {"to": "me"}])
def test_there_and_back(
    format: str, keys: list[str] | None, header: dict[str, object] | None
) -> None:
    wrapping = Wrapping(format, keys=keys)
    assert wrapping.encrypts == bool(keys)
    in_two = wrapping.seal("name", wrapping.encode(MESSAGE), header)
    for data in (wrapping.wrap("name", MESSAGE, header), in_two):
        found, body = wrapping.unwrap("name", data)
        assert (found, wrapping.decode(body)) == (header or {}, MESSAGE)


@both
def test_the_limit_is_for_messages_of_users(keys: list[str] | None) -> None:
    wrapping = Wrapping(keys=keys, max_message_size=100)
    large = {"type": "x", "text": "x" * 100}
    for call in (lambda: wrapping.wrap("name", large), lambda: wrapping.encode(large)):
        with pytest.raises(MessageTooLarge) as caught:
            call()
        assert (caught.value.limit, caught.value.size > 100) == (100, True)
    assert wrapping.wrap("name", large, limit=False)
    assert wrapping.encode(large, limit=False)


def test_what_cannot_be_sent_is_said() -> None:
    with pytest.raises(UnserializableMessage, match=r"message\['n'\] cannot be sent"):
        Wrapping().wrap("name", {"type": "x", "n": object()})
    with pytest.raises(UnserializableMessage):
        Wrapping("json").wrap("name", {"type": "x", "n": math.nan})


def test_encrypted_it_is_for_one_name() -> None:
    wrapping = Wrapping(keys=["secret"])
    with pytest.raises(UndecryptableMessage):
        wrapping.unwrap("another", wrapping.wrap("name", MESSAGE))


def test_another_format_is_unreadable() -> None:
    _, body = Wrapping().unwrap("name", Wrapping().wrap("name", MESSAGE))
    with pytest.raises(UnreadableMessage, match="not in this layer's serializer_format"):
        Wrapping("json").decode(body)
