"""Layers as a project has them, by CHANNEL_LAYERS."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.layers import channel_layers, get_channel_layer

from mpx_channels.layer import MpxChannelLayer

Configure = Callable[..., list[MpxChannelLayer]]


@pytest.fixture
async def configure(settings: Any, redis_url: str) -> AsyncIterator[Configure]:
    """Sets CHANNEL_LAYERS to these aliases and makes their layers; closed after the test."""

    def configure(*aliases: str, **config: Any) -> list[MpxChannelLayer]:
        prefix = f"test-{uuid.uuid4().hex[:8]}"
        settings.CHANNEL_LAYERS = {
            alias: {
                "BACKEND": "mpx_channels.layer.MpxChannelLayer",
                "CONFIG": {"hosts": [redis_url], "prefix": f"{prefix}-{alias}", **config},
            }
            for alias in aliases
        }
        return [get_channel_layer(alias) for alias in aliases]

    yield configure
    for layer in list(channel_layers.backends.values()):
        await layer.close()


@pytest.fixture
def layer(configure: Configure) -> MpxChannelLayer:
    """The layer with the alias "default"."""
    return configure("default")[0]
