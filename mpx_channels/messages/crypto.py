"""Encryption of messages, bound to where they were sent and when: AES-256-GCM.

Redis, and whoever reads its memory or its wire, sees the names of groups and channels, the header
(which names channels), times and sizes; not the messages. Whoever can publish to Redis but has no
key cannot make a message, change one, deliver one of another group or channel, or deliver one
again later. A message can be delivered again to the same place while it would not have expired.

    2 bytes    0xC1 0x02
    2 bytes    length of the header, big-endian
    header     as in a plain envelope; readable, but not to be changed
    8 bytes    the key's id
    8 bytes    when it was sent: milliseconds since 1970, big-endian
    12 bytes   the nonce, from the operating system's random source
    the rest   the message, encrypted, with a tag of 16 bytes

Everything before the nonce, and the name in Redis that the message is published to, is
authenticated with the message (associated data).

Keys. A passphrase of any length (a str counts as its UTF-8) becomes a master key by HKDF-SHA256,
with the salt ``mpx-channels``, and the master key becomes an id of 8 bytes and a key for each hour
of the frames' time by HKDF-Expand. HKDF does not slow down guessing: take a passphrase that nobody
guesses, such as 32 random bytes or Django's SECRET_KEY. A key for each hour keeps the number of
random nonces under one key, across all processes, far below the 2**32 that AES-GCM allows (NIST
SP 800-38D, 8.3): that would be 1.2 million messages a second.

What has to be found again in Redis, the ids of presence, stands there as HMAC-SHA256 of the name
and the text, the first 16 bytes, with one more key made of the master key: equal ids of a group are
seen to be equal, and nothing else.
"""

from __future__ import annotations

import hmac
import os
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from .envelope import ENCRYPTED, MARK_LENGTH, POSITION_LENGTH, POSITIONED, Header, begin, split
from .exceptions import UndecryptableMessage

__all__ = ["CLOCK_ALLOWANCE", "Cipher"]

# How far the clocks of two machines may differ (seconds) before they refuse each other's messages.
CLOCK_ALLOWANCE = 30.0

ID_LENGTH = 8
NONCE_LENGTH = 12
TAG_LENGTH = 16
DIGEST_LENGTH = 16
HOUR = 3600
_SALT = b"mpx-channels"
# Between the header and the nonce: the key's id, the time in milliseconds.
_KEY_AND_TIME = struct.Struct(f">{ID_LENGTH}sQ")
# Keys of hours that are kept: those of an ordinary expiry, and then some.
HOURS_KEPT = 48


class Key:
    """One of the passphrases, and the keys made of it."""

    __slots__ = ("_digests", "_hours", "_master", "id")

    def __init__(self, passphrase: str | bytes) -> None:
        secret = passphrase.encode() if isinstance(passphrase, str) else passphrase
        self._master = HKDF(SHA256(), length=32, salt=_SALT, info=b"master").derive(secret)
        self.id = _expand(self._master, b"id", ID_LENGTH)
        self._digests = _expand(self._master, b"digest", 32)
        self._hours: dict[int, AESGCM] = {}

    def digest(self, text: bytes) -> bytes:
        """What stands for a text."""
        return hmac.digest(self._digests, text, "sha256")[:DIGEST_LENGTH]

    def at(self, hour: int) -> AESGCM:
        """The key of that hour since 1970."""
        key = self._hours.get(hour)
        if key is None:
            if len(self._hours) >= HOURS_KEPT:
                self._hours.clear()
            key = AESGCM(_expand(self._master, b"hour %d" % hour, 32))
            self._hours[hour] = key
        return key


class Cipher:
    """Seals with the first of the keys, and opens what was sealed with any of them.

    `expiry` is in seconds: a message older than that, by ``CLOCK_ALLOWANCE`` and more, is refused,
    as is one from further in the future than the allowance.

    Raises `TypeError` and `ValueError` for what is no key.
    """

    def __init__(
        self,
        passphrases: Iterable[str | bytes],
        expiry: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        keys = []
        for number, passphrase in enumerate(passphrases):
            if not isinstance(passphrase, str | bytes):
                # Never the value: it may be a secret, if of the wrong type.
                raise TypeError(
                    f"key {number} must be a str or bytes, not a {type(passphrase).__name__}"
                )
            if not passphrase:
                raise ValueError(f"key {number} is empty")
            keys.append(Key(passphrase))
        if not keys:
            raise ValueError("there must be one key at least")
        self._first = keys[0]
        self._keys = {key.id: key for key in reversed(keys)}
        self._max_age = expiry + CLOCK_ALLOWANCE
        self._clock = clock

    def seal(self, name: str, body: bytes, header: Header | None = None) -> bytes:
        """A message for the Redis channel or key `name`, ready for Redis."""
        now = self._clock()
        key = self._first
        front = begin(ENCRYPTED, header) + _KEY_AND_TIME.pack(key.id, int(now * 1000))
        nonce = os.urandom(NONCE_LENGTH)
        sealed = key.at(int(now // HOUR)).encrypt(nonce, body, front + _encoded(name))
        return b"".join((front, nonce, sealed))

    def unseal(
        self, name: str, data: bytes, expiry: float | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """The header and the body of what came from `name`; raises `UnreadableMessage`.

        ``expiry`` (seconds) is for what may be older than other messages.
        """
        mark = data[:MARK_LENGTH]
        if mark == POSITIONED:
            data = data[POSITION_LENGTH:]
            mark = data[:MARK_LENGTH]
        if mark != ENCRYPTED:
            raise UndecryptableMessage(
                f"not an encrypted message, and this layer takes no others: {data[:16]!r}"
            )
        header, end = split(data)
        front_end = end + _KEY_AND_TIME.size
        body_start = front_end + NONCE_LENGTH
        if len(data) < body_start + TAG_LENGTH:
            raise UndecryptableMessage("a truncated message")
        key_id, sent = _KEY_AND_TIME.unpack_from(data, end)
        key = self._keys.get(key_id)
        if key is None:
            raise UndecryptableMessage(
                f"encrypted with a key (id {key_id.hex()}) that is not in symmetric_encryption_keys"
            )
        age = self._clock() - sent / 1000
        max_age = self._max_age if expiry is None else expiry + CLOCK_ALLOWANCE
        if not -CLOCK_ALLOWANCE <= age <= max_age:
            raise UndecryptableMessage(
                f"sent {age:.0f} s ago by its time: replayed, or the machines' clocks differ"
            )
        try:
            body = key.at(sent // (HOUR * 1000)).decrypt(
                data[front_end:body_start],
                memoryview(data)[body_start:],
                data[:front_end] + _encoded(name),
            )
        except InvalidTag:
            raise UndecryptableMessage(
                "changed on its way, or sent to another channel or group"
            ) from None
        return header, body

    def digests(self, name: str, text: str) -> list[bytes]:
        """What stands for a text of the key `name` where Redis has to compare it, by each key."""
        whole = _encoded(name) + b"\0" + text.encode()
        first = self._first
        others = (key for key in self._keys.values() if key is not first)
        return [first.digest(whole), *(key.digest(whole) for key in others)]


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _expand(master: bytes, info: bytes, length: int) -> bytes:
    return HKDFExpand(SHA256(), length=length, info=info).derive(master)
