"""Where names live: how to reach a node, and which node a name belongs to.

A registry and its link belong to a server, a publisher to a node; the multiplexer owns a set of
them, and `Topology` says which is whose.
"""

from __future__ import annotations

import copy
import inspect
import re
from binascii import crc32
from collections.abc import Hashable, Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.asyncio.connection import parse_url as redis_parse_url
from redis.exceptions import RedisError

from .providers import asked
from .tls import host_and_port
from .tls_options import refuse_tls_options, tls_options

__all__ = [
    "Node",
    "Topology",
    "connection_class",
    "host_name",
    "nodes_of",
    "port_number",
    "require_provider",
    "without_brackets",
    "without_password",
]

# Ours to set: the multiplexer reads bytes, reconnects by itself and watches over idle connections.
OWN_OPTIONS = {
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
# Options that do not tell one server from another.
_NOT_PLACE = frozenset({"db", "username", "password", "credential_provider", "client_name"})
_PASSWORD_OPTION = re.compile(r"((?:\b|ssl_)password=)[^&]*", re.IGNORECASE)
# What ends the part of a URL with the credentials, unless it is percent-encoded.
_ENDS_CREDENTIALS = re.compile(r"[/?#\[\]]")
SOCKET_PATH = "a Unix socket needs its path, with three slashes in a URL: unix:///run/redis.sock"
# Names are hashed to so many places, which the nodes share; channels_redis does the same.
RING = 4096


class Node:
    """One entry of the hosts: a Redis server, and a database of it, as redis-py is to reach it.

    ``url`` is any URL redis-py takes (``redis://``, ``rediss://``, ``unix://``), ``options`` are
    further keywords of redis-py's connection classes and win over the URL's. Among them,
    ``connection_class`` may be a subclass of redis-py's asyncio connections, instead of the one
    that the URL's scheme chooses. ``connect_timeout`` is in seconds.

    Raises `ValueError` for a bad URL and `TypeError` for an option that redis-py or we refuse.
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379",
        *,
        connect_timeout: float = 5.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(url, str):
            raise TypeError(f"the Redis URL must be a str such as 'redis://host:6379', not {url!r}")
        try:
            parsed: dict[str, Any] = dict(redis_parse_url(url))
        except ValueError as error:
            raise ValueError(
                f"bad Redis URL {without_password(url)!r}: {_why(error, url)}"
            ) from None
        by_scheme = parsed.pop("connection_class", Connection)
        if by_scheme is UnixDomainSocketConnection and urlsplit(url).hostname:
            # redis-py would leave the first folder out.
            raise ValueError(f"bad Redis URL {without_password(url)!r}: {SOCKET_PATH}")
        self._prepare(by_scheme, parsed, options or {}, connect_timeout)

    def _prepare(
        self,
        by_scheme: type[AbstractConnection],
        said: Mapping[str, Any],
        options: Mapping[str, Any],
        connect_timeout: float,
    ) -> None:
        """Take the options that were said in a URL and those that were not, and try them."""
        for name, instead in OWN_OPTIONS.items():
            if name in options:
                raise TypeError(f"{name!r} is not an option of the multiplexer: {instead}")
        given = {**options}
        self._class = connection_class(given.pop("connection_class", None) or by_scheme)
        passed_over = {"connection_class", *OWN_OPTIONS}
        from_url = {key: value for key, value in said.items() if key not in passed_over}
        # RESP2 unless asked otherwise: it needs no HELLO, and Pub/Sub frames are the same lists.
        self._options = {"protocol": 2, **from_url, **given}
        if str(self._options["protocol"]) not in ("2", "3"):
            raise ValueError(f"protocol must be 2 or 3, not {self._options['protocol']!r}")
        db = self._options.get("db")
        if db and (isinstance(db, bool | float) or not str(db).isdecimal()):
            raise ValueError(f"db must be the number of a database, not {db!r}")
        self._options |= {
            "decode_responses": False,
            # With a timeout redis-py sends through asyncio.wait_for(), which up to Python 3.11 can
            # swallow a cancellation: stop() then waited for ever. The link bounds the handshake.
            "socket_timeout": None,
            "socket_connect_timeout": connect_timeout,
        }
        require_provider(self._options)
        if self._class.__module__.startswith("redis."):
            self._options = asked(self._options, "hosts")
        if self._tls:
            self._options = tls_options(self._options)
        elif self._class.__module__.startswith("redis."):
            self._require_plain_options()
        try:
            self.connection()
        except TypeError as error:
            raise TypeError(
                f"redis-py's {self._class.__name__} does not take these options: {error}"
            ) from None
        except RedisError as error:
            raise ValueError(f"redis-py refuses these options: {error}") from None

    def _require_plain_options(self) -> None:
        """What connects without TLS needs, and has no use for."""
        if not issubclass(self._class, UnixDomainSocketConnection):
            todo = "write rediss:// in hosts (or 'ssl': True), or leave them out"
            refuse_tls_options(self._options, todo)
            return
        refuse_tls_options(self._options, "a Unix socket has none")
        if not self._options.get("path"):
            raise ValueError(SOCKET_PATH)

    def connection(self) -> AbstractConnection:
        """A fresh connection of redis-py, not connected yet."""
        return self._class(**self._options)

    @property
    def connection_type(self) -> type[AbstractConnection]:
        """The class of its connections."""
        return self._class

    @property
    def endpoint(self) -> tuple[str, int]:
        """Its host and port."""
        return self._options.get("host", "localhost"), int(self._options.get("port", 6379))

    def at(self, host: str, port: int) -> Node:
        """A node with the same options at another address."""
        other = copy.copy(self)
        vars(other)["_options"] = {**self._options, "host": host, "port": port}
        return other

    async def check(self, connection: AbstractConnection) -> None:
        """Raise what is wrong with a connection after its handshake, and before its use."""

    @property
    def db(self) -> int:
        """The number of the database; Pub/Sub knows none."""
        return int(self._options.get("db") or 0)

    @property
    def place(self) -> Hashable:
        """Equal for nodes that are one server, as far as their options tell."""
        if self._class.__module__.startswith("redis."):
            return str(self)
        # What the options of somebody else's class mean, only that class knows.
        rest = [(key, repr(value)) for key, value in self._options.items() if key not in _NOT_PLACE]
        return (self._class, *sorted(rest))

    def __str__(self) -> str:
        """The address for people: no credentials in it."""
        if issubclass(self._class, UnixDomainSocketConnection):
            return f"unix://{self._options.get('path', '')}"
        host, port = self._options.get("host", "localhost"), self._options.get("port", 6379)
        return f"{self._scheme}://{host_and_port(host, port)}"

    @property
    def _tls(self) -> bool:
        return any("SSL" in parent.__name__ for parent in self._class.__mro__)

    @property
    def _scheme(self) -> str:
        return "rediss" if self._tls else "redis"


class Topology:
    """The nodes of a multiplexer in their order, and on which of them a name lives.

    The rule is that of channels_redis: the CRC of the name, scaled to the number of nodes. So the
    order and number of the nodes have to be the same in all processes.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        places: dict[Hashable, Node] = {}
        # Several nodes may be databases of one server. Pub/Sub knows no databases: one subscribing
        # connection does for all of them, and two would hear every pattern's messages twice.
        self._servers = {node: places.setdefault(node.place, node) for node in self.nodes}
        # The first node of each server.
        self.servers = tuple(places.values())
        share = RING / len(self.nodes)
        self._ring = tuple(self.nodes[int(place / share)] for place in range(RING))

    def node_of(self, name: bytes) -> Node:
        """The node that a name is published to and a key is kept on."""
        return self._ring[crc32(name) & 0xFFF]

    def server_of(self, name: bytes) -> Node:
        """The first node of the server that a name is subscribed to on."""
        return self._servers[self.node_of(name)]

    def server(self, node: Node) -> Node:
        """The first node of a node's server."""
        return self._servers[node]


def nodes_of(
    url: str | Node | Sequence[str | Node], connect_timeout: float, options: Mapping[str, Any]
) -> list[Node]:
    """A URL or a node, or several, as nodes; the options are for all that are given as a URL.

    Raises as `Node`, and `ValueError` where there is none.
    """
    entries: Sequence[Any] = url if isinstance(url, list | tuple) else [url]
    if not entries:
        raise ValueError("a multiplexer needs at least one URL")
    return [
        each
        if isinstance(each, Node)
        else Node(each, connect_timeout=connect_timeout, options=options)
        for each in entries
    ]


def connection_class(chosen: object) -> type[AbstractConnection]:
    """A class that connections can be made of; raises `TypeError` for anything else."""
    if inspect.isclass(chosen) and issubclass(chosen, AbstractConnection):
        return chosen
    raise TypeError(f"connection_class {chosen!r} is no subclass of a connection in redis.asyncio")


def port_number(port: object) -> int:
    """A TCP port; raises `ValueError` with what it has to be for anything else."""
    if not isinstance(port, int | str) or isinstance(port, bool):
        raise ValueError("a number")
    try:
        number = int(port)
    except ValueError:
        raise ValueError("a number") from None
    if not 0 < number < 65536:
        raise ValueError("a number from 1 to 65535")
    return number


def host_name(host: object) -> str:
    """A host's name or address; raises `ValueError` with what it has to be for anything else."""
    if not isinstance(host, str) or not host:
        raise ValueError("a name or an address")
    bare = without_brackets(host)
    if ":" in bare:
        try:
            IPv6Address(bare)
        except ValueError:
            raise ValueError("a name or an address alone, without a port") from None
    return bare


def without_brackets(host: str) -> str:
    """A host; an IPv6 address stands in brackets in URLs, and nowhere else."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def require_provider(options: Mapping[str, Any]) -> None:
    """Raise `TypeError` for a ``credential_provider`` that cannot be asked."""
    provider = options.get("credential_provider")
    if provider is None:
        return
    if inspect.isclass(provider):
        raise TypeError(
            f"credential_provider must be an object, and not the class {provider.__name__}: "
            f"{provider.__name__}()"
        )
    if not callable(getattr(provider, "get_credentials", None)):
        raise TypeError(
            "credential_provider must be a redis.credentials.CredentialProvider, not a "
            f"{type(provider).__name__}"
        )


def without_password(url: str) -> str:
    """A URL as errors may show it, also one that cannot be read."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    credentials, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        at = f"{user}:***@" if colon else "***@"
        if _PASSWORD_OPTION.search(credentials):
            place = "***"  # it may be the rest of that one
    return scheme + mark + at + _PASSWORD_OPTION.sub(r"\1***", place)


def _why(error: ValueError, url: str) -> str:
    """What is wrong with a URL. What parsers say may have a part of its password in it."""
    credentials = url.partition("://")[2].rpartition("@")[0]
    if not _ENDS_CREDENTIALS.search(credentials):
        place = url.partition("://")[2].rpartition("@")[2].partition("/")[0]
        if place.count(":") > 1 and "[" not in place:
            return "an IPv6 address stands in brackets, as in redis://[::1]:6379"
        return str(error)
    return "in a user name or password, characters such as / ? # [ ] must be percent-encoded"
