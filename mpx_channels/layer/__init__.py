"""The channel layer: Channels' specification on top of the multiplexer."""

from .codec import UnserializableMessage
from .config import InvalidConfig
from .core import ForeignChannel, MpxChannelLayer
from .stats import LayerStats

__all__ = [
    "ForeignChannel",
    "InvalidConfig",
    "LayerStats",
    "MpxChannelLayer",
    "UnserializableMessage",
]
