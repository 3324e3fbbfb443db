"""Layers under test, each with a prefix of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer

MakeLayer = Callable[..., MpxChannelLayer]


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def make_layer(layer_config: dict[str, Any], prefix: str) -> AsyncIterator[MakeLayer]:
    """Makes layers on what the test runs over; closed at the end of the test."""
    layers: list[MpxChannelLayer] = []

    def make(**config: Any) -> MpxChannelLayer:
        where = {} if "hosts" in config else layer_config
        layer = MpxChannelLayer(**{**where, "prefix": prefix, **config})
        layers.append(layer)
        return layer

    yield make
    for layer in layers:
        await layer.close()


@pytest.fixture
def layer(make_layer: MakeLayer) -> MpxChannelLayer:
    """One layer."""
    return make_layer()


@pytest.fixture
def other_layer(make_layer: MakeLayer) -> MpxChannelLayer:
    """A second one of the same configuration: to Redis, another process."""
    return make_layer()
