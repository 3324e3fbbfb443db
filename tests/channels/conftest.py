"""Layers, as those of tests/layer have them: channels are looked at through their methods, too."""

from __future__ import annotations

from tests.layer.conftest import layer, make_layer, other_layer, prefix

__all__ = ["layer", "make_layer", "other_layer", "prefix"]
