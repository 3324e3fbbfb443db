"""MpxChannelLayer: the layer as projects have it, and all of them that there are in a process."""

from __future__ import annotations

import functools

from channels.layers import channel_layers

from .existing import living_layers
from .extended import ExtendedLayer
from .sync import SyncLayer

__all__ = ["MpxChannelLayer", "layers"]


class MpxChannelLayer(ExtendedLayer):
    """A channel layer over Redis Pub/Sub, with two connections for each event loop.

    A process has one event loop for its consumers, and one for its synchronous code, if it has
    both.

    `LayerConfig` has the CONFIG keys. Rules not said here are those of
    https://github.com/django/channels/blob/main/docs/channel_layer_spec.rst.
    """

    @functools.cached_property
    def sync(self) -> SyncLayer:
        """The layer for synchronous code, without event loops."""
        return SyncLayer(self)


def layers() -> list[tuple[str, MpxChannelLayer]]:
    """Every layer of the process, under its alias in CHANNEL_LAYERS, else its prefix; thread-safe.

    Those of CHANNEL_LAYERS are there from their first use. A layer is not kept for this: one that
    nobody holds any more is not listed.
    """
    aliases = {id(layer): alias for alias, layer in list(channel_layers.backends.items())}
    return [
        (aliases.get(id(layer), layer.prefix), layer)
        for layer in living_layers()
        if isinstance(layer, MpxChannelLayer)
    ]
