"""Redis Pub/Sub multiplexing: all subscriptions of an event loop over one connection.

Nothing here knows of Django.
"""

from .exceptions import (
    BacklogFull,
    CommandRefused,
    ConnectionLost,
    InactiveSubscription,
    LinkLost,
    MpxError,
    MultiplexerStopped,
    NotConnected,
    PromiseDisconnected,
    SubscriptionClosed,
    SubscriptionRefused,
)
from .health import Health
from .multiplexer import Multiplexer
from .promises import Promise, PromiseSubscription, escape_glob
from .sentinel import SentinelNode
from .stats import MultiplexerStats, NodeStats
from .subscriptions import ChannelSubscription, PatternSubscription
from .topology import Node

__all__ = [
    "BacklogFull",
    "ChannelSubscription",
    "CommandRefused",
    "ConnectionLost",
    "Health",
    "InactiveSubscription",
    "LinkLost",
    "MpxError",
    "Multiplexer",
    "MultiplexerStats",
    "MultiplexerStopped",
    "Node",
    "NodeStats",
    "NotConnected",
    "PatternSubscription",
    "Promise",
    "PromiseDisconnected",
    "PromiseSubscription",
    "SentinelNode",
    "SubscriptionClosed",
    "SubscriptionRefused",
    "escape_glob",
]
