"""The channel layer: Channels' specification on top of the multiplexer."""

from mpx_channels.multiplexer import (
    CommandRefused,
    ConnectionLost,
    MpxError,
    NotConnected,
    PromiseDisconnected,
    SubscriptionRefused,
)

from .answers.promises import LayerPromise
from .answers.requests import REPLY_TO
from .channels.mailbox import Event, Failure, Hooks, Mailbox
from .exceptions import (
    ForeignChannel,
    GreenletsUnsupported,
    InvalidConfig,
    MessageTooLarge,
    PlainChannel,
    PromiseRejected,
    RequestFailed,
    RequestTimeout,
    UndecryptableMessage,
    UnreadableMessage,
    UnserializableMessage,
)
from .layer import MpxChannelLayer, layers
from .messages.broadcasts import BROADCAST
from .processes.ledger import LocalStats
from .processes.stats import FleetStats, ProcessStats
from .stats import LayerStats
from .subscription import Subscription
from .taps import Tap, TapEvent, Tapped

# The older name of it.
ClusterStats = FleetStats

__all__ = [
    "BROADCAST",
    "REPLY_TO",
    "ClusterStats",
    "CommandRefused",
    "ConnectionLost",
    "Event",
    "Failure",
    "FleetStats",
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
