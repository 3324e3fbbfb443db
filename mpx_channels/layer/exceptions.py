"""What can go wrong in the layer, besides what `mpx_channels.multiplexer` raises."""

from __future__ import annotations

from channels.exceptions import MessageTooLarge as ChannelsMessageTooLarge
from django.core.exceptions import ImproperlyConfigured

from mpx_channels.multiplexer import MpxError

__all__ = [
    "EncryptionUnavailable",
    "ForeignChannel",
    "GreenletsUnsupported",
    "InvalidConfig",
    "InvalidSerializer",
    "MessageTooLarge",
    "PlainChannel",
    "PromiseRejected",
    "RequestFailed",
    "RequestTimeout",
    "SerializerDoesNotExist",
    "UndecryptableMessage",
    "UnreadableMessage",
    "UnserializableMessage",
]


class InvalidConfig(MpxError, ImproperlyConfigured, ValueError):
    """Values in CHANNEL_LAYERS are wrong; the text names them and the fix.

    `problems` has a sentence for each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class SerializerDoesNotExist(KeyError):
    """No serializer is registered under this name."""


class InvalidSerializer(TypeError, AssertionError):
    """What is to be registered is no serializer; the text says what one has.

    An `AssertionError`, too, for code that was written for channels_redis.
    """


class ForeignChannel(MpxError, ValueError, AssertionError):
    """The channel belongs to another process, or another event loop of this one.

    An `AssertionError`, too, for code that was written for channels_redis.
    """


class PlainChannel(MpxError, ValueError):
    """A plain channel cannot do this: it belongs to no process."""


class GreenletsUnsupported(MpxError, RuntimeError):
    """eventlet has patched Python's threads, which synchronous code of the layer needs."""


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


class PromiseRejected(MpxError):
    """Somebody rejected the promise; the text is the reason."""


class RequestFailed(MpxError):
    """The request was answered with a failure, or reached nobody; the text says what."""


class RequestTimeout(MpxError, TimeoutError):
    """No answer to the request came in time."""
