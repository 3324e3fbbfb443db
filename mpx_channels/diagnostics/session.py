"""The layer that a subcommand looks at, on the event loop that it runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from channels.layers import channel_layers
from django.conf import settings
from django.utils.module_loading import import_string

from mpx_channels.checks import OURS, TRACED, is_meant_to_be_ours
from mpx_channels.layer import MpxChannelLayer, NotConnected
from mpx_channels.multiplexer.topology import Node

__all__ = ["NotOurs", "Session", "entry"]

# Seconds that a server has to be reached: who sits at a terminal does not want to wait longer.
PATIENCE = 2.0
# With TLS, those after half of `connect_timeout`: a port that speaks none says nothing until then,
# and is asked in plain words what it is.
PATIENCE_WITH_TLS = 2.0
# How often a process id is drawn that belongs to a server that is there: with two, one of which is
# away, fewer than one in two hundred look in vain.
TRIES = 8
PATIENCE_EACH = 0.5


class NotOurs(Exception):
    """There is no such layer in the settings, or not one of ours; the text is a sentence."""


def entry(alias: str) -> Mapping[str, Any]:
    """The entry in CHANNEL_LAYERS of a layer that is ours; raises `NotOurs`."""
    layers = getattr(settings, "CHANNEL_LAYERS", None) or {}
    if alias not in layers:
        there = ", ".join(map(repr, layers)) or "none"
        raise NotOurs(f"there is no layer {alias!r} in CHANNEL_LAYERS: it has {there}")
    if not isinstance(layers[alias], Mapping):
        raise NotOurs(f"CHANNEL_LAYERS[{alias!r}] must be a dict, not {layers[alias]!r}")
    backend = layers[alias].get("BACKEND")
    if not isinstance(backend, str):
        raise NotOurs(f"CHANNEL_LAYERS[{alias!r}] needs a BACKEND, the path of a class")
    try:
        class_ = import_string(backend)
    except Exception as error:  # whatever a module raises when it is imported
        nearly = is_meant_to_be_ours(backend) and backend not in (OURS, TRACED)
        fix = f'; write "{OURS}"' if nearly else ""
        raise NotOurs(
            f"the BACKEND of CHANNEL_LAYERS[{alias!r}] cannot be imported: {error}{fix}"
        ) from error
    if not (isinstance(class_, type) and issubclass(class_, MpxChannelLayer)):
        raise NotOurs(
            f"CHANNEL_LAYERS[{alias!r}] is {backend}, and this command is for "
            "mpx_channels.layer.MpxChannelLayer"
        )
    result: Mapping[str, Any] = layers[alias]
    return result


class Session:
    """The layer with an alias, as the project's settings have it."""

    def __init__(self, alias: str, note: Callable[[str], object] = lambda text: None) -> None:
        """``note`` shows the user a line that is beside the matter."""
        entry(alias)
        self.alias = alias
        # Whether all servers were there, and whether there are several.
        self.complete = True
        self._several = False
        self._note = note

    @property
    def layer(self) -> MpxChannelLayer:
        """The layer; raises `InvalidConfig` and its like at the first use."""
        layer: MpxChannelLayer = channel_layers[self.alias]
        return layer

    def nodes(self) -> list[Node]:
        """The servers of the layer; an embedded one is started."""
        return self.layer.nodes()

    async def connect(self) -> MpxChannelLayer:
        """The layer, connected; raises `NotConnected` with the reason if that takes too long."""
        layer = self.layer
        patience = min(PATIENCE, layer.config.connect_timeout)
        try:
            await self._connect_or_say_why(patience)
        except NotConnected as error:
            if len(layer.servers) < 2 or not await self._connect_to_some(patience):
                raise
            self.complete = False
            self._note(f"Warning: going on without one of the servers: {error}")
        self._several = len(layer.servers) > 1
        return layer

    async def _connect_or_say_why(self, patience: float) -> None:
        """Connect; take longer where TLS is spoken, and it is not known yet why nobody answers."""
        layer = self.layer
        try:
            await layer.connect(patience)
        except NotConnected as error:
            timeout = layer.config.connect_timeout
            more = min(timeout, timeout / 2 + PATIENCE_WITH_TLS) - patience
            by_tls = any(str(node).startswith("rediss") for node in layer.nodes())
            if error.__cause__ is not None or not by_tls or more <= 0:
                raise
            await layer.connect(more)

    async def stay_connected(self, patience: float) -> None:
        """See that the layer is connected still; of several servers some may be away by now.

        Raises `NotConnected` with the reason if it is not, and cannot be in ``patience`` seconds.
        """
        layer = self.layer
        try:
            await layer.connect(patience, every_host=not self._several)
        except NotConnected:
            if not self._several or not await self._connect_to_some(PATIENCE):
                raise

    async def _connect_to_some(self, patience: float) -> bool:
        """Of several servers one is away: be a process whose own inbox is on another."""
        for _ in range(TRIES):
            try:
                await self.layer.connect(min(patience, PATIENCE_EACH), every_host=False)
            except NotConnected:
                await self.layer.close()  # the next has another id, and perhaps another server
            else:
                return True
        return False

    async def close(self) -> None:
        """Let go of the layer's connections."""
        layer = channel_layers.backends.get(self.alias)
        if layer is not None:
            await layer.close()
