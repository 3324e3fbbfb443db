"""Tests of a project on a real server that nobody has to install, and apart from each other."""

from .isolation import isolated_channel_layers
from .unittest import ChannelLayersMixin

__all__ = ["ChannelLayersMixin", "isolated_channel_layers"]
