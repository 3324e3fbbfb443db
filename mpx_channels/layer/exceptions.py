"""What can go wrong in the layer, besides what `mpx_channels.multiplexer` raises."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

from mpx_channels.multiplexer import ConnectionLost, MpxError, NotConnected

__all__ = [
    "OUTAGES",
    "ForeignChannel",
    "InvalidConfig",
    "NotInSharded",
    "PlainChannel",
    "PromiseRejected",
    "RequestFailed",
    "RequestTimeout",
]


# What is raised because Redis is away, or the way there is broken.
OUTAGES = (NotConnected, ConnectionLost)


class InvalidConfig(MpxError, ImproperlyConfigured, ValueError):
    """Values in CHANNEL_LAYERS are wrong; the text names them and the fix.

    `problems` has a sentence for each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class ForeignChannel(MpxError, ValueError, AssertionError):
    """The channel belongs to another process, or another event loop of this one.

    An `AssertionError`, too, for code that was written for channels_redis.
    """


class NotInSharded(MpxError, ValueError):
    """Sharded channels of a cluster cannot do this; the text names the setting."""


class PlainChannel(MpxError, ValueError):
    """A plain channel cannot do this: it belongs to no process."""


class PromiseRejected(MpxError):
    """Somebody rejected the promise; the text is the reason."""


class RequestFailed(MpxError):
    """The request was answered with a failure, or reached nobody; the text says what."""


class RequestTimeout(MpxError, TimeoutError):
    """No answer to the request came in time."""
