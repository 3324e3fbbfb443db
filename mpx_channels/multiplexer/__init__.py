"""Redis Pub/Sub multiplexing: all subscriptions of a process over one connection.

Nothing here knows of Django.
"""

from .exceptions import (
    BacklogFull,
    CommandRefused,
    ConnectionLost,
    InactiveSubscription,
    MpxError,
    MultiplexerStopped,
    NotConnected,
    PromiseDisconnected,
    SubscriptionClosed,
    SubscriptionRefused,
)
from .multiplexer import Multiplexer
from .promises import Promise, PromiseSubscription, escape_glob
from .stats import MultiplexerStats
from .subscriptions import ChannelSubscription, PatternSubscription

__all__ = [
    "BacklogFull",
    "ChannelSubscription",
    "CommandRefused",
    "ConnectionLost",
    "InactiveSubscription",
    "MpxError",
    "Multiplexer",
    "MultiplexerStats",
    "MultiplexerStopped",
    "NotConnected",
    "PatternSubscription",
    "Promise",
    "PromiseDisconnected",
    "PromiseSubscription",
    "SubscriptionClosed",
    "SubscriptionRefused",
    "escape_glob",
]
