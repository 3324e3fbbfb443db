"""A message's way into bytes for Redis and back: format, size limit, encryption, envelope."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .codec import Message
from .envelope import BARE, seal, unseal
from .exceptions import EncryptionUnavailable, MessageTooLarge, UnreadableMessage
from .serializers import make_format

if TYPE_CHECKING:
    from .crypto import Cipher

__all__ = ["DEFAULT_MAX_MESSAGE_SIZE", "Wrapping"]

# 4 MiB, an eighth of what Redis lets wait for a subscriber before it disconnects it at once
# ("client-output-buffer-limit pubsub 32mb 8mb 60"), and half of what it lets wait for a minute.
DEFAULT_MAX_MESSAGE_SIZE = 4 * 1024 * 1024


class Wrapping:
    """How one layer's messages become bytes; made once per layer, for all threads and loops.

    A message is bound to the `name` of the Redis channel or key that it is sent to: with
    encryption, `unwrap` opens it for that name only. The limit is for messages of users;
    ``limit=False`` is for what processes tell each other of themselves, which is bounded already.
    """

    __slots__ = ("_cipher", "_decode", "_encode", "max_message_size")

    def __init__(
        self,
        format: str = "msgpack",
        *,
        keys: Iterable[str | bytes] | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        expiry: float = 60,
    ) -> None:
        chosen = make_format(format, expiry=expiry)
        self._encode = chosen.encode
        self._decode = chosen.decode
        self.max_message_size = max_message_size
        self._cipher = _make_cipher(keys, expiry) if keys else None

    @property
    def encrypts(self) -> bool:
        return self._cipher is not None

    def wrap(
        self,
        name: str,
        message: Message,
        header: Mapping[str, Any] | None = None,
        *,
        limit: bool = True,
    ) -> bytes:
        """A message ready for Redis.

        Raises `TypeError` for what is no dict, `UnserializableMessage` and `MessageTooLarge`.
        """
        body = self._encode(message)
        if limit and len(body) > self.max_message_size:
            raise MessageTooLarge(len(body), self.max_message_size)
        if self._cipher is None:
            return BARE + body if header is None else seal(body, header)
        return self._cipher.seal(name, body, header)

    def encode(self, message: Message, *, limit: bool = True) -> bytes:
        """The first half of `wrap`, with all that can go wrong: the body for `seal`."""
        body = self._encode(message)
        if limit and len(body) > self.max_message_size:
            raise MessageTooLarge(len(body), self.max_message_size)
        return body

    def seal(self, name: str, body: bytes, header: Mapping[str, Any] | None = None) -> bytes:
        """The second half of `wrap`."""
        if self._cipher is None:
            return seal(body, header)
        return self._cipher.seal(name, body, header)

    def unwrap(
        self, name: str, data: bytes, expiry: float | None = None
    ) -> tuple[dict[str, Any], bytes | memoryview]:
        """The header, and the body for `decode`, of what came from `name`.

        ``expiry`` is how old it may be (seconds), if that differs from other messages; it is known
        of encrypted ones only. Raises `UnreadableMessage`, or its subclass `UndecryptableMessage`.
        """
        if self._cipher is None:
            return unseal(data)
        return self._cipher.unseal(name, data, expiry)

    def digests(self, name: str, text: str) -> list[bytes]:
        """What stands for a text in a key of Redis, where equal texts have to be equal.

        With encryption one digest for each of the keys, the first for the first.
        """
        if self._cipher is None:
            return [text.encode()]
        return self._cipher.digests(name, text)

    def decode(self, body: bytes | memoryview) -> Message:
        """The message in a body; raises `UnreadableMessage`."""
        try:
            return self._decode(body)
        except Exception as error:
            raise UnreadableMessage(f"not in this layer's serializer_format: {error}") from error


def _make_cipher(keys: Iterable[str | bytes], expiry: float) -> Cipher:
    try:
        from .crypto import Cipher
    except ImportError as error:
        raise EncryptionUnavailable(
            "encryption needs the package 'cryptography': pip install 'mpx-channels[encryption]'"
        ) from error
    return Cipher(keys, expiry)
