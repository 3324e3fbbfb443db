"""The channel layer: Channels' specification on top of the multiplexer."""

from mpx_channels.multiplexer import (
    CommandRefused,
    ConnectionLost,
    MpxError,
    NotConnected,
    PromiseDisconnected,
    SubscriptionRefused,
)

from .answers import REPLY_TO, PromiseRejected, RequestFailed, RequestTimeout
from .asking import LayerPromise
from .base import ForeignChannel, PlainChannel
from .broadcasts import BROADCAST
from .codec import UnserializableMessage
from .config import InvalidConfig
from .core import MpxChannelLayer
from .existing import layers
from .ledger import LocalStats
from .listening import Subscription
from .mailbox import Event, Failure, Hooks, Mailbox
from .processes import ClusterStats, ProcessStats
from .stats import LayerStats
from .tapping import Tap, TapEvent, Tapped
from .threads import GreenletsUnsupported
from .wrapping import MessageTooLarge, UndecryptableMessage, UnreadableMessage

__all__ = [
    "BROADCAST",
    "REPLY_TO",
    "ClusterStats",
    "CommandRefused",
    "ConnectionLost",
    "Event",
    "Failure",
    "ForeignChannel",
    "GreenletsUnsupported",
    "Hooks",
    "InvalidConfig",
    "LayerPromise",
    "LayerStats",
    "LocalStats",
    "Mailbox",
    "MessageTooLarge",
    "MpxChannelLayer",
    "MpxError",
    "NotConnected",
    "PlainChannel",
    "ProcessStats",
    "PromiseDisconnected",
    "PromiseRejected",
    "RequestFailed",
    "RequestTimeout",
    "Subscription",
    "SubscriptionRefused",
    "Tap",
    "TapEvent",
    "Tapped",
    "UndecryptableMessage",
    "UnreadableMessage",
    "UnserializableMessage",
    "layers",
]
