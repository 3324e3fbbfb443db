"""Layers, as those of tests/layer have them: synchronous code is theirs."""

from __future__ import annotations

from tests.layer.conftest import layer, make_layer, prefix
from tests.layer.test_sync_calls import make_sync_layer, sync_layer

__all__ = ["layer", "make_layer", "make_sync_layer", "prefix", "sync_layer"]
