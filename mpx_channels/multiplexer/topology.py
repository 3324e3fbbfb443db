"""Where names live: how to reach a node, and which node a name belongs to.

Today every name lives on the one node. Several hosts, Sentinel and Cluster change this file: a
registry, a link and a publisher belong to a node already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.asyncio.connection import parse_url as redis_parse_url
from redis.exceptions import RedisError

__all__ = ["Node"]

# Ours to set: the multiplexer reads bytes, reconnects by itself and watches over idle connections.
OWN_OPTIONS = {
    "connection_class": "the URL's scheme chooses it",
    "connection_pool": "the multiplexer owns its connections",
    "decode_responses": "data stays bytes",
    "encoding": "names are UTF-8 and data stays bytes",
    "encoding_errors": "names are UTF-8 and data stays bytes",
    "health_check_interval": "use ping_interval",
    "max_connections": "the multiplexer holds two connections",
    "parser_class": "the multiplexer reads by itself",
    "retry": "use min_backoff and max_backoff",
    "retry_on_error": "the multiplexer reconnects by itself",
    "retry_on_timeout": "the multiplexer reconnects by itself",
    "socket_connect_timeout": "use connect_timeout",
    "socket_timeout": "use connect_timeout and ping_interval",
}


class Node:
    """One Redis server as redis-py is to reach it.

    ``url`` is any URL redis-py takes (``redis://``, ``rediss://``, ``unix://``), ``options`` are
    further keywords of redis-py's connection classes and win over the URL's.

    Raises `ValueError` for a bad URL and `TypeError` for an option that redis-py or we refuse.
    """

    def __init__(
        self, url: str, *, connect_timeout: float, options: Mapping[str, Any] | None = None
    ) -> None:
        if not isinstance(url, str):
            raise TypeError(f"the Redis URL must be a str such as 'redis://host:6379', not {url!r}")
        try:
            parsed: dict[str, Any] = dict(redis_parse_url(url))
        except ValueError as error:
            raise ValueError(f"bad Redis URL {_without_password(url)!r}: {error}") from None
        self._class: type[AbstractConnection] = parsed.pop("connection_class", Connection)
        for name, instead in OWN_OPTIONS.items():
            if name in (options or {}):
                raise TypeError(f"{name!r} is not an option of the multiplexer: {instead}")
            parsed.pop(name, None)
        # RESP2 unless asked otherwise: it needs no HELLO, and Pub/Sub frames are the same lists.
        self._options = {"protocol": 2, **parsed, **(options or {})}
        if str(self._options["protocol"]) not in ("2", "3"):
            raise ValueError(f"protocol must be 2 or 3, not {self._options['protocol']!r}")
        self._options |= {
            "decode_responses": False,
            # With a timeout redis-py sends through asyncio.wait_for(), which up to Python 3.11 can
            # swallow a cancellation: stop() then waited for ever. The link bounds the handshake.
            "socket_timeout": None,
            "socket_connect_timeout": connect_timeout,
        }
        try:
            self.connection()
        except TypeError as error:
            raise TypeError(
                f"redis-py's {self._class.__name__} does not take these options: {error}"
            ) from None
        except RedisError as error:
            raise ValueError(f"redis-py refuses these options: {error}") from None

    def connection(self) -> AbstractConnection:
        """A fresh connection of redis-py, not connected yet."""
        return self._class(**self._options)

    def __str__(self) -> str:
        """The address for people: no credentials in it."""
        if issubclass(self._class, UnixDomainSocketConnection):
            return f"unix://{self._options.get('path', '')}"
        scheme = "rediss" if "SSL" in self._class.__name__ else "redis"
        host = self._options.get("host", "localhost")
        return f"{scheme}://{host}:{self._options.get('port', 6379)}"


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.password is None:
            return url
        return url.replace(f":{parts.password}@", ":***@")
    except ValueError:
        return "(unreadable)"
