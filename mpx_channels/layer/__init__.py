"""The channel layer: Channels' specification on top of the multiplexer."""

from mpx_channels.channels.layer_stats import LayerStats
from mpx_channels.channels.mailbox import Event, Failure, Hooks, Mailbox
from mpx_channels.history.positions import History, Recovery
from mpx_channels.loops.doors import Draining
from mpx_channels.loops.exceptions import GreenletsUnsupported
from mpx_channels.messages.broadcasts import BROADCAST
from mpx_channels.messages.exceptions import (
    MessageTooLarge,
    UndecryptableMessage,
    UnreadableMessage,
    UnserializableMessage,
)
from mpx_channels.multiplexer import (
    CommandRefused,
    ConnectionLost,
    Health,
    MpxError,
    NotConnected,
    PromiseDisconnected,
    SubscriptionRefused,
)
from mpx_channels.presence.values import Presence, PresenceCount

from .answers.promises import LayerPromise
from .answers.requests import REPLY_TO
from .exceptions import (
    ForeignChannel,
    InvalidConfig,
    NotInSharded,
    PlainChannel,
    PromiseRejected,
    RequestFailed,
    RequestTimeout,
)
from .layer import MpxChannelLayer, layers
from .processes.fleet import FleetStats, ProcessStats
from .processes.ledger import LocalStats
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
    "Draining",
    "Event",
    "Failure",
    "FleetStats",
    "ForeignChannel",
    "GreenletsUnsupported",
    "Health",
    "History",
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
    "NotInSharded",
    "PlainChannel",
    "Presence",
    "PresenceCount",
    "ProcessStats",
    "PromiseDisconnected",
    "PromiseRejected",
    "Recovery",
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
