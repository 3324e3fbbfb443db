"""The entries of ``hosts``: what channels_redis and redis-py take, as one form."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.connection import parse_url as redis_parse_url
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from .sentinel import SentinelNode
from .tls_options import wants_tls
from .topology import Node, host_name, port_number, without_password

__all__ = ["DEFAULT_HOST", "IGNORED_OPTIONS", "Host", "nearest", "parse_hosts"]

DEFAULT_HOST = "redis://localhost:6379"

# Options of redis-py's pools and clients that there is nothing to do with: the layer has its two
# connections, reads bytes, and reconnects and times things by itself.
IGNORED_OPTIONS = frozenset(
    {
        "auto_close_connection_pool",
        "check_connection",
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
# Those that say whom to ask for the server, and how.
SENTINEL_OPTIONS = ("master_name", "sentinels", "sentinel_kwargs", "is_master")
_CLASSES = (Connection, SSLConnection, UnixDomainSocketConnection)
_OWN_CLASSES = (None, *_CLASSES, SentinelManagedConnection, SentinelManagedSSLConnection)


@dataclass(frozen=True, slots=True)
class Host:
    """Where a Redis server is: a URL, and keywords for redis-py's connections.

    With ``sentinels``, keywords of `SentinelNode`, there is no URL. ``settings`` are values for
    keys of CONFIG that are not given there.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)
    sentinels: Mapping[str, Any] = field(default_factory=dict)

    def node(self, connect_timeout: float = 5.0) -> Node:
        """A node of the multiplexer; raises `TypeError` or `ValueError` for what is wrong."""
        if self.sentinels:
            return SentinelNode(
                **self.sentinels, connect_timeout=connect_timeout, options=self.options
            )
        return Node(self.url, connect_timeout=connect_timeout, options=self.options)


def parse_hosts(hosts: object) -> Sequence[Host]:
    """The entries of ``hosts``, at least one; raises `ValueError` for what is none."""
    if hosts is None:
        return [Host(DEFAULT_HOST)]
    if isinstance(hosts, str | bytes | Mapping) or not isinstance(hosts, Iterable):
        raise ValueError(f"hosts must be a list, even if there is only one: [{_shown(hosts)}]")
    return [_parse_host(entry) for entry in hosts] or [Host(DEFAULT_HOST)]


def _parse_host(entry: object) -> Host:
    if isinstance(entry, str):
        for option in _said_by(entry):
            if option not in _known_options():
                raise ValueError(
                    f"unknown option {option!r} in a host's URL{nearest(option, _known_options())}"
                )
        return Host(entry)
    if isinstance(entry, Mapping):
        return _parse_options(dict(entry))
    if isinstance(entry, tuple | list) and len(entry) >= 2:
        host, port = entry[:2]
        if isinstance(host, str):
            return Host("redis://", {"host": _name(host), "port": _port(port)})
    raise ValueError(
        "a host must be a URL, a (host, port) pair or a dict of connection options, "
        f"not {_shown(entry)}"
    )


def _parse_options(options: dict[str, Any]) -> Host:
    asked = {key: options.pop(key, None) for key in SENTINEL_OPTIONS}
    sentinels: dict[str, Any] = {}
    class_ = options.get("connection_class")
    if class_ is not None and not (
        inspect.isclass(class_) and issubclass(class_, AbstractConnection)
    ):
        raise ValueError(
            f"connection_class {class_!r} is no subclass of a connection in redis.asyncio"
        )
    address = options.pop("address", None)
    if asked["master_name"] is not None or asked["sentinels"] is not None:
        sentinels = _parse_sentinels(asked, address)
        url = ""
    elif address is not None:
        host = _parse_host(address)
        url = host.url
        # As with redis-py: what the URL says, no option changes.
        options = {**options, **host.options}
        for key in _said_by(url):
            options.pop(key, None)
        if "ssl" in options and class_ in _OWN_CLASSES:
            url = _with_tls(url, wants_tls(options))
            del options["ssl"]
    else:
        url = f"{_scheme(class_, options)}://"
        if class_ in _CLASSES:
            del options["connection_class"]  # the URL says it
        if url == "unix://":
            url += quote(str(options.pop("path", None) or ""))
    if "port" in options:
        options["port"] = _port(options["port"])
    if "host" in options and not sentinels:
        options["host"] = _name(options["host"])
    settings = {}
    for key, instead in TRANSLATED_OPTIONS.items():
        value = options.pop(key, None)
        if value:  # neither None nor 0, which mean that redis-py does nothing
            settings[instead] = value
    for key in list(options):
        if key in IGNORED_OPTIONS:
            del options[key]
        elif class_ in _OWN_CLASSES and key not in _known_options():
            # What a class of somebody else's takes, only that knows.
            raise ValueError(f"unknown host option {key!r}{nearest(key, _known_options())}")
    return Host(url, options, settings, sentinels)


def _parse_sentinels(asked: dict[str, Any], address: object) -> dict[str, Any]:
    """The keywords of `SentinelNode`, which checks the rest."""
    if address is not None:
        raise ValueError("a host has an address, or sentinels and a master_name, not both")
    for key, other in (("master_name", "sentinels"), ("sentinels", "master_name")):
        if asked[key] is None:
            raise ValueError(f"a host with {other} needs {key}, too")
    if asked["is_master"] not in (None, True):
        raise ValueError("is_master must be True: what is published to replicas does not spread")
    if not isinstance(asked["sentinel_kwargs"], Mapping | None):
        raise ValueError(
            "sentinel_kwargs must be a dict of connection options, not a "
            f"{type(asked['sentinel_kwargs']).__name__}"
        )
    return {key: value for key, value in asked.items() if key != "is_master"}


def _scheme(class_: type | None, options: dict[str, Any]) -> str:
    tls = wants_tls(options)
    options.pop("ssl", None)
    if class_ is None:
        if tls and "path" in options:
            raise ValueError("a Unix socket has no TLS: leave ssl or path out")
        return "unix" if "path" in options else "rediss" if tls else "redis"
    if issubclass(class_, UnixDomainSocketConnection):
        return "unix"
    return "rediss" if issubclass(class_, SSLConnection) else "redis"


def _with_tls(url: str, tls: bool) -> str:
    """The address of a host that has ``ssl``, too: the two have to say the same."""
    scheme = url.partition("://")[0].lower()
    if tls and url == "redis://":
        return "rediss://"  # of a (host, port) pair, which says nothing of it
    if tls != (scheme == "rediss"):
        raise ValueError(
            f"ssl is {tls}, and the address begins with {scheme}://: leave ssl out, and write "
            f"{'rediss' if tls else 'redis'}://"
        )
    return url


def _name(host: object) -> str:
    try:
        return host_name(host)
    except ValueError as error:
        raise ValueError(f"a host must be {error}, not {_shown(host)}") from None


def _port(port: object) -> int:
    try:
        return port_number(port)
    except ValueError as error:
        raise ValueError(f"a host's port must be {error}, not {port!r}") from None


def _said_by(url: str) -> Collection[str]:
    try:
        return set(redis_parse_url(url))
    except (TypeError, ValueError):
        return ()  # embedded://, or a bad one, which is said elsewhere


@cache
def _known_options() -> tuple[str, ...]:
    """What redis-py's connections take."""
    classes = {parent for class_ in _CLASSES for parent in class_.__mro__}
    names = {name for class_ in classes for name in inspect.signature(class_).parameters}
    own = {
        "address",
        "connection_class",
        "ssl",
        *SENTINEL_OPTIONS,
        *TRANSLATED_OPTIONS,
        *IGNORED_OPTIONS,
    }
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
        return repr(without_password(text))
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"
