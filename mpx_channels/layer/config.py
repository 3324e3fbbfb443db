"""CONFIG, checked: what a project writes in CHANNEL_LAYERS, as values the layer can rely on."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from mpx_channels.multiplexer import MpxError, Multiplexer

__all__ = ["Host", "InvalidConfig", "LayerConfig"]

DEFAULT_HOST = "redis://localhost:6379"


class InvalidConfig(MpxError, ImproperlyConfigured):
    """A value in CHANNEL_LAYERS is wrong; the message names it and the fix."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where a Redis server is: a URL, and keywords for redis-py's connections."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """The CONFIG keys, with their defaults.

    - ``hosts``: a list with one entry: a URL, a ``(host, port)`` pair, or a dict of redis-py's
      connection keywords, with the URL under ``address`` if there is one. Default:
      ``["redis://localhost:6379"]``. ``embedded://`` starts a server for development.
    - ``prefix`` ("asgi"): begins every name in Redis; layers with different prefixes never hear
      each other, whatever their database numbers (Redis' Pub/Sub knows no databases).
    - ``expiry`` (seconds, 60): a message that waited longer for its reader is dropped.
    - ``capacity`` (100): messages that wait for one channel's reader; over it the newest is
      dropped. ``channel_capacity``: a dict of channel name globs or compiled regexes to
      capacities, the first match counts.
    - ``group_expiry`` (seconds, 86400): accepted for the specification's sake. Membership lives
      in the process and ends with it, so nothing is left to expire.
    - ``on_disconnect``, ``on_reconnect``: types of events for every channel of the process when
      the link to Redis breaks, and when it stands again with all subscriptions live; None for
      no events. A consumer needs a handler for them.
    - ``ping_interval``, ``min_backoff``, ``max_backoff``, ``connect_timeout``,
      ``unsubscribe_delay``, ``max_backlog``, ``backlog_timeout``: see `Multiplexer`.
    """

    hosts: Sequence[object] | None = None
    prefix: str = "asgi"
    expiry: float = 60
    group_expiry: float = 86400
    capacity: int = 100
    channel_capacity: Mapping[Any, int] | None = None
    on_disconnect: str | None = None
    on_reconnect: str | None = None
    ping_interval: float = 30.0
    min_backoff: float = 0.008
    max_backoff: float = 0.512
    connect_timeout: float = 5.0
    unsubscribe_delay: float = 1.0
    max_backlog: int = 10_000
    backlog_timeout: float = 5.0

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> LayerConfig:
        """CONFIG as a checked value; raises `InvalidConfig` for the first thing that is wrong."""
        known = list(inspect.signature(cls).parameters)
        for key in config:
            if key not in known:
                raise InvalidConfig(f"unknown CONFIG key {key!r}{_nearest(key, known)}")
        return cls(**config)

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or not self.prefix:
            raise InvalidConfig(f"prefix must be a non-empty str, not {self.prefix!r}")
        for key in ("expiry", "group_expiry"):
            value = getattr(self, key)
            if not _is_number(value) or value <= 0:
                raise InvalidConfig(f"{key} must be a number of seconds above 0, not {value!r}")
        for key in ("on_disconnect", "on_reconnect"):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, str) and value):
                raise InvalidConfig(f"{key} must be the type of an event (a str), not {value!r}")
        _require_capacity("capacity", self.capacity)
        if not isinstance(self.channel_capacity, Mapping | None):
            raise InvalidConfig(
                "channel_capacity must be a dict of globs or regexes to numbers, "
                f"not {self.channel_capacity!r}"
            )
        for pattern, capacity in (self.channel_capacity or {}).items():
            if not isinstance(pattern, str) and not hasattr(pattern, "match"):
                raise InvalidConfig(
                    f"channel_capacity key {pattern!r} must be a glob (str) or a compiled regex"
                )
            _require_capacity(f"channel_capacity[{pattern!r}]", capacity)
        host = self.host
        if not host.url.startswith("embedded:"):
            self.multiplexer(host.url)

    @property
    def host(self) -> Host:
        """The one host."""
        hosts = self.hosts if self.hosts is not None else [DEFAULT_HOST]
        if isinstance(hosts, str | bytes | Mapping) or not isinstance(hosts, Sequence):
            raise InvalidConfig(
                f"hosts must be a list, even if there is only one: hosts=[{hosts!r}]"
            )
        if len(hosts) != 1:
            raise InvalidConfig(
                f"hosts must name one server, not {len(hosts)}: sharding is not supported yet"
            )
        return _parse_host(hosts[0])

    def multiplexer(self, url: str) -> Multiplexer:
        """A multiplexer for the server at `url` with these options, not started."""
        try:
            return Multiplexer(
                url,
                ping_interval=self.ping_interval,
                min_backoff=self.min_backoff,
                max_backoff=self.max_backoff,
                connect_timeout=self.connect_timeout,
                unsubscribe_delay=self.unsubscribe_delay,
                max_backlog=self.max_backlog,
                backlog_timeout=self.backlog_timeout,
                **self.host.options,
            )
        except (TypeError, ValueError) as error:
            raise InvalidConfig(str(error)) from error


def _parse_host(entry: object) -> Host:
    if isinstance(entry, str):
        return Host(entry)
    if isinstance(entry, Mapping):
        options = dict(entry)
        address = options.pop("address", None)
        if address is not None:
            host = _parse_host(address)
            return Host(host.url, {**host.options, **options})
        if "path" in options:
            url = f"unix://{options.pop('path')}"
        elif "master_name" in options or "sentinels" in options:
            raise InvalidConfig(f"Sentinel is not supported yet: {sorted(options)}")
        else:
            scheme = "rediss" if options.pop("ssl", False) else "redis"
            url = f"{scheme}://"
        return Host(url, options)
    if isinstance(entry, tuple | list) and len(entry) == 2:
        host, port = entry
        if isinstance(host, str) and isinstance(port, int):
            return Host("redis://", {"host": host, "port": port})
    raise InvalidConfig(
        f"a host must be a URL, a (host, port) pair or a dict of connection options, not {entry!r}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_capacity(key: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidConfig(f"{key} must be a whole number of messages from 1 up, not {value!r}")


def _nearest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(known)}"
