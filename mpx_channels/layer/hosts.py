"""The entries of ``hosts``: what channels_redis and redis-py take, as one form."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import parse_url as redis_parse_url

__all__ = ["DEFAULT_HOST", "IGNORED_OPTIONS", "Host", "nearest", "parse_hosts"]

DEFAULT_HOST = "redis://localhost:6379"

# Options of redis-py's pools and clients that there is nothing to do with: the layer has its two
# connections, reads bytes, and reconnects and times things by itself.
IGNORED_OPTIONS = frozenset(
    {
        "auto_close_connection_pool",
        "decode_responses",
        "encoder_class",
        "encoding",
        "encoding_errors",
        "max_connections",
        "parser_class",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "single_connection_client",
        "socket_timeout",
    }
)
# Those that a key of CONFIG does the work of.
TRANSLATED_OPTIONS = {
    "health_check_interval": "ping_interval",
    "socket_connect_timeout": "connect_timeout",
}
_SCHEMES = {Connection: "redis", SSLConnection: "rediss", UnixDomainSocketConnection: "unix"}


@dataclass(frozen=True, slots=True)
class Host:
    """Where a Redis server is: a URL, and keywords for redis-py's connections.

    ``settings`` are values for keys of CONFIG that are not given there.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)


def parse_hosts(hosts: object) -> Host:
    """The one host of ``hosts``; raises `ValueError` for what is none."""
    if hosts is None:
        return Host(DEFAULT_HOST)
    if isinstance(hosts, str | bytes | Mapping) or not isinstance(hosts, Iterable):
        raise ValueError(f"hosts must be a list, even if there is only one: [{_shown(hosts)}]")
    entries = list(hosts)
    if not entries:
        return Host(DEFAULT_HOST)
    if len(entries) != 1:
        raise ValueError(
            f"hosts must name one server, not {len(entries)}: sharding is not supported yet"
        )
    return _parse_host(entries[0])


def _parse_host(entry: object) -> Host:
    if isinstance(entry, str):
        return Host(entry)
    if isinstance(entry, Mapping):
        return _parse_options(dict(entry))
    if isinstance(entry, tuple | list) and len(entry) >= 2:
        host, port = entry[:2]
        if isinstance(host, str):
            return Host("redis://", {"host": host, "port": _port(port)})
    raise ValueError(
        "a host must be a URL, a (host, port) pair or a dict of connection options, "
        f"not {_shown(entry)}"
    )


def _parse_options(options: dict[str, Any]) -> Host:
    sentinel = [key for key in ("master_name", "sentinels") if options.get(key) is not None]
    if sentinel:
        raise ValueError(f"Sentinel is not supported yet: {', '.join(sentinel)}")
    options.pop("master_name", None)
    class_ = options.pop("connection_class", None)
    address = options.pop("address", None)
    if address is not None:
        host = _parse_host(address)
        url = host.url
        # As with redis-py: what the URL says, no option changes.
        options = {**options, **host.options}
        for key in _said_by(url):
            options.pop(key, None)
    else:
        url = f"{_scheme(class_, options)}://"
        if url == "unix://":
            url += str(options.pop("path", ""))
    if "port" in options:
        options["port"] = _port(options["port"])
    settings = {}
    for key, instead in TRANSLATED_OPTIONS.items():
        value = options.pop(key, None)
        if value:  # neither None nor 0, which mean that redis-py does nothing
            settings[instead] = value
    for key in list(options):
        if key in IGNORED_OPTIONS:
            del options[key]
        elif key not in _known_options():
            raise ValueError(f"unknown host option {key!r}{nearest(key, _known_options())}")
    return Host(url, options, settings)


def _scheme(class_: object, options: dict[str, Any]) -> str:
    tls = options.pop("ssl", False)
    if not isinstance(tls, bool):
        raise ValueError(
            f"ssl must be True or False, not {tls!r}: further keys (ssl_ca_certs, ...) say more"
        )
    if class_ is None:
        return "unix" if "path" in options else "rediss" if tls else "redis"
    if class_ not in _SCHEMES:
        raise ValueError(f"connection_class {class_!r} is not supported: the layer reads by itself")
    return _SCHEMES[class_]


def _port(port: object) -> int:
    if isinstance(port, int | str) and not isinstance(port, bool):
        try:
            return int(port)
        except ValueError:
            pass
    raise ValueError(f"a host's port must be a number, not {port!r}")


def _said_by(url: str) -> Collection[str]:
    try:
        return set(redis_parse_url(url))
    except (TypeError, ValueError):
        return ()  # embedded://, or a bad one, which is said elsewhere


@cache
def _known_options() -> tuple[str, ...]:
    """What redis-py's connections take."""
    classes = {parent for class_ in _SCHEMES for parent in class_.__mro__}
    names = {name for class_ in classes for name in inspect.signature(class_).parameters}
    own = {"address", "connection_class", "ssl", *TRANSLATED_OPTIONS, *IGNORED_OPTIONS}
    return tuple(sorted((names | own) - {"args", "kwargs"}))


def nearest(key: object, known: Collection[str]) -> str:
    """The end of a sentence about an unknown key."""
    near = difflib.get_close_matches(str(key), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(known)}"


def _shown(value: object) -> str:
    """A value as errors may show it: without passwords."""
    if isinstance(value, Mapping):
        return "a dict with the keys " + ", ".join(map(repr, value))
    if isinstance(value, str | bytes):
        text = value if isinstance(value, str) else value.decode(errors="replace")
        try:
            password = urlsplit(text).password
        except ValueError:
            return f"a {type(value).__name__}"
        return repr(text.replace(f":{password}@", ":***@") if password else text)
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"
