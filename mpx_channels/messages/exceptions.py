"""What can go wrong with a message on its way into bytes, and back."""

from __future__ import annotations

from channels.exceptions import MessageTooLarge as ChannelsMessageTooLarge

from mpx_channels.multiplexer import MpxError

__all__ = [
    "EncryptionUnavailable",
    "InvalidSerializer",
    "MessageTooLarge",
    "SerializerDoesNotExist",
    "UndecryptableMessage",
    "UnreadableMessage",
    "UnserializableMessage",
]


class SerializerDoesNotExist(KeyError):
    """No serializer is registered under this name."""


class InvalidSerializer(TypeError, AssertionError):
    """What is to be registered is no serializer; the text says what one has.

    An `AssertionError`, too, for code that was written for channels_redis.
    """


class UnserializableMessage(MpxError, TypeError):
    """A message holds a value that cannot be sent; the text gives the path to it."""


class MessageTooLarge(MpxError, ChannelsMessageTooLarge, ValueError):
    """A message is over ``max_message_size``; `size` and `limit` are in bytes."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"a message of {size} bytes is over max_message_size ({limit} bytes): send a reference "
            "to what is large, or raise the limit after reading about it in LayerConfig"
        )
        self.size = size
        self.limit = limit


class EncryptionUnavailable(MpxError, ImportError):
    """The package ``cryptography`` is not installed; the text says what to do."""


class UnreadableMessage(MpxError, ValueError):
    """These bytes are no message of a channel layer like ours."""


class UndecryptableMessage(UnreadableMessage):
    """A message of a channel layer, but not one with our keys, for this place, of this time."""
