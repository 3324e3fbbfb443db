"""What can go wrong in the multiplexer; everything descends from `MpxError`.

Errors about the connection and refusals by the server are redis-py's too, so that code written
around redis-py (``except redis.ConnectionError``) goes on working.
"""

import redis.exceptions

__all__ = [
    "BacklogFull",
    "CommandRefused",
    "ConnectionLost",
    "InactiveSubscription",
    "LinkLost",
    "MpxError",
    "MultiplexerStopped",
    "NotConnected",
    "PromiseDisconnected",
    "SubscriptionClosed",
    "SubscriptionRefused",
    "describe",
]


class MpxError(Exception):
    """The root of every exception that this package defines."""


class MultiplexerStopped(MpxError):
    """The multiplexer is not running: it was not started yet, or it was stopped."""


class SubscriptionClosed(MpxError):
    """The subscription was closed; make a new one."""


class InactiveSubscription(MpxError):
    """Redis has not confirmed the subscription, or the name is not in it."""


class ConnectionLost(MpxError, redis.exceptions.ConnectionError):
    """The connection broke while a command was waiting for its answer: it may have run or not."""


class LinkLost(ConnectionLost):
    """A subscribing connection broke; the text says why.

    ``names``: those that it carried, or None for all names there are. ``patterns``: whether it
    carried patterns. With several servers these are on each of them, so such a loss concerns all.
    """

    def __init__(
        self, text: str, names: frozenset[str] | None = None, *, patterns: bool = False
    ) -> None:
        super().__init__(text)
        self.names = names
        self.patterns = patterns or names is None

    def includes(self, name: str) -> bool:
        """Whether what is published to this name was missed since."""
        return self.names is None or name in self.names


class NotConnected(MpxError, redis.exceptions.ConnectionError):
    """No connection came up in time; the command was not sent."""


class BacklogFull(NotConnected):
    """Too many commands wait for a connection already; this one was not sent."""


class CommandRefused(MpxError, redis.exceptions.ResponseError):
    """Redis answered a command with an error, such as a missing ACL permission."""


class SubscriptionRefused(CommandRefused):
    """Redis refused to subscribe to a name; it is asked again for as long as the name is wanted."""


class PromiseDisconnected(ConnectionLost):
    """The connection broke while the promise was waiting: its message may have been missed."""


def describe(error: BaseException) -> str:
    """An error in a line: its text, or its class where it has none."""
    return str(error) or type(error).__name__
