"""A node that Sentinels know the address of: the master of a service, wherever it is now."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from redis.asyncio.client import Redis
from redis.asyncio.connection import AbstractConnection, Connection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from .exceptions import NotConnected, describe
from .providers import asked
from .tls import host_and_port, look_closer, trouble_of
from .tls_options import Trouble, refuse_tls_options, tls_options, wants_tls
from .topology import (
    Node,
    connection_class,
    host_name,
    port_number,
    require_provider,
    without_password,
)
from .wire import hang_up

__all__ = ["AnySentinel", "SentinelNode"]

Address = tuple[str, int]

# Ours to time: see `SentinelNode.master_address`.
_TIMEOUTS = ("socket_timeout", "socket_connect_timeout")


class SentinelNode(Node):
    """The master of a service that Redis Sentinels watch over.

    ``sentinels`` are ``(host, port)`` pairs, ``master_name`` is the service's name, and
    ``sentinel_kwargs`` are keywords of redis-py's client for connections to the Sentinels
    (``password``, ``ssl``, ...). ``options`` are for connections to the master; ``ssl=True`` among
    them is for TLS. Every connection asks the Sentinels first, beginning with the one that knew
    last time, and is used only if the server says that it is a master
    (https://redis.io/docs/latest/develop/reference/sentinel-clients/).

    Raises `TypeError` and `ValueError` as `Node`.
    """

    def __init__(
        self,
        sentinels: Sequence[Sequence[Any]],
        master_name: str,
        *,
        sentinel_kwargs: Mapping[str, Any] | None = None,
        connect_timeout: float = 5.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(master_name, str) or not master_name:
            raise TypeError(f"master_name must be a non-empty str, not {master_name!r}")
        self.master_name = master_name
        # What the Sentinels said last.
        self.master: Address | None = None
        # How often they said so without being asked.
        self._news = 0
        self._sentinels = _addresses(sentinels)
        given = {**(options or {})}
        for name in ("host", "port"):  # which only Sentinels know
            given.pop(name, None)
        tls = wants_tls(given)
        given.pop("ssl", None)
        # redis-py's own class for this: it asks its pool for the address and connects there.
        by_tls = SentinelManagedSSLConnection if tls else SentinelManagedConnection
        self._sentinel_kwargs = {
            **(sentinel_kwargs or {}),
            # The link tries again, all Sentinels and at its own pace.
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
            "protocol": 2,
            **dict.fromkeys(_TIMEOUTS),
        }
        try:
            _require_ours(sentinel_kwargs or {})
            require_provider(self._sentinel_kwargs)
            self._sentinel_kwargs = asked(self._sentinel_kwargs, "sentinel_kwargs")
            if wants_tls(self._sentinel_kwargs):
                self._sentinel_kwargs = tls_options(self._sentinel_kwargs)
            else:
                # redis-py's client would pass over them, and send the password for all to read.
                refuse_tls_options(
                    self._sentinel_kwargs, "set 'ssl': True there, or leave them out"
                )
        except (TypeError, ValueError) as error:
            raise type(error)(f"sentinel_kwargs: {error}") from None
        patience = [(sentinel_kwargs or {}).get(name) for name in _TIMEOUTS]
        # One Sentinel that does not answer must leave time for the others, and for the master.
        share = connect_timeout / (len(self._sentinels) + 1)
        self._patience = min([share, *[float(seconds) for seconds in patience if seconds]])
        try:
            self.sentinel_connection(0)
        except TypeError as error:
            raise TypeError(f"redis-py does not take these sentinel_kwargs: {error}") from None
        except RedisError as error:
            raise ValueError(f"redis-py refuses these sentinel_kwargs: {error}") from None
        class_ = connection_class(given.get("connection_class") or by_tls)
        if not issubclass(class_, SentinelManagedConnection):
            raise TypeError(
                "with sentinels, connection_class must be a subclass of redis.asyncio's "
                f"SentinelManagedConnection, not {class_!r}"
            )
        self._prepare(by_tls, {}, given, connect_timeout)

    def connection(self) -> AbstractConnection:
        """A fresh connection of redis-py; connecting, it asks the Sentinels where to."""
        make: Callable[..., AbstractConnection] = self._class
        made: Any = make(connection_pool=_AddressPool(self), **self._options)
        made.host = ""  # until it knows: redis-py has it begin with localhost
        return cast("AbstractConnection", made)

    async def check(self, connection: AbstractConnection) -> None:
        """Raise `NotConnected` if this is no master: Sentinels may be late to know.

        Where an ACL forbids ROLE, what the Sentinels say has to do.
        """
        await connection.send_command("ROLE")
        try:
            role = (await connection.read_response())[0]
        except ResponseError:
            role = b"master"
        # After the last wait: from now on whoever has news finds the connection in use.
        if self.address(connection) != self.master:
            raise self.moved()
        if role != b"master":
            at = host_and_port(*self.address(connection))
            said = role.decode(errors="replace") if isinstance(role, bytes) else role
            raise NotConnected(f"{at} is no master of {self.master_name!r}, but a {said}")

    def address(self, connection: AbstractConnection) -> Address:
        """Where a connection went."""
        assert isinstance(connection, SentinelManagedConnection)
        return connection.host, int(connection.port)

    def moved(self) -> NotConnected:
        """What is wrong with connections to another server than `master`."""
        at = host_and_port(*(self.master or ("", 0)))
        return NotConnected(f"{self.master_name!r} has another master now: {at}")

    def hear(self, master: Address, sentinel: Address) -> None:
        """A Sentinel told of another master: it is the one to ask, as others may be late to know.

        Nor does an answer count any more that is on its way to us.
        """
        self.master = master
        self._news += 1
        if sentinel in self._sentinels:
            self._ask_first(sentinel)

    def _ask_first(self, sentinel: Address) -> None:
        self._sentinels.remove(sentinel)
        self._sentinels.insert(0, sentinel)

    @property
    def sentinels(self) -> Sequence[Address]:
        """All of them, the one to ask first before the others."""
        return tuple(self._sentinels)

    async def master_address(self) -> Address:
        """Where the master is now; raises `NotConnected` when no Sentinel says."""
        said = []
        for sentinel in self.sentinels:
            news = self._news
            answer = await self.ask(sentinel)
            if isinstance(answer, str):
                said.append(answer)
                continue
            if news != self._news and self.master is not None:
                return self.master
            self._ask_first(sentinel)
            self.master = answer
            return answer
        raise NotConnected(
            f"no Sentinel knows a master of {self.master_name!r} ({'; '.join(said)})"
        )

    async def ask(self, sentinel: Address) -> Address | str:
        """Where the master is, as one Sentinel says, or in words why it does not."""
        at = host_and_port(*sentinel)
        try:
            address = await self._address_from(sentinel)
        except TimeoutError:
            return f"{at}: no answer in {self._patience:g} s"
        except NotConnected as error:
            text = str(error)
            return text if at in text else f"{at}: {text}"  # what is wrong with TLS names it
        except Exception as error:
            # Also of what is no Sentinel: another may do better.
            return f"{at}: {describe(error)}"
        return address or f"{at}: knows no such service"

    async def _address_from(self, sentinel: Address) -> Address | None:
        """What one Sentinel says; None when it knows no such service."""
        connection = self._sentinel_connection(sentinel)
        try:
            async with asyncio.timeout(self._patience):
                # redis-py has no annotations here.
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command(
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name
                )
                said = await connection.read_response()
        except Exception as error:
            # Where none was reached yet, what is wrong may be in the settings.
            looked = look_closer(error, connection) if self.master is None else None
            trouble = trouble_of(error, connection) if looked is None else await looked
            if trouble is not None:
                raise _of_sentinel(trouble).error() from error
            raise
        finally:
            hang_up(connection)
        return (said[0].decode(), int(said[1])) if said else None

    def sentinel_connection(self, number: int) -> AbstractConnection:
        """A fresh connection to a Sentinel, not connected yet; each `number` is for another."""
        return self._sentinel_connection(self._sentinels[number % len(self._sentinels)])

    def _sentinel_connection(self, sentinel: Address) -> AbstractConnection:
        # As `redis.asyncio.Sentinel` asks, but without its clients: what they connect is left open
        # when they are cancelled, and what they raise has their options in it, passwords and all.
        host, port = sentinel
        pool = Redis(host=host, port=port, **self._sentinel_kwargs).connection_pool
        connection: AbstractConnection = pool.connection_class(**pool.connection_kwargs)
        return connection

    def __str__(self) -> str:
        """The address for people: no credentials in it."""
        sentinels = ",".join(host_and_port(*each) for each in sorted(self._sentinels))
        return f"{self._scheme}+sentinel://{sentinels}/{self.master_name}"


class AnySentinel(Node):
    """One of the Sentinels of a node; whichever answers."""

    def __init__(self, node: SentinelNode) -> None:
        self._node = node
        self._numbers = itertools.count()

    def connection(self) -> AbstractConnection:
        """A fresh connection of redis-py, not connected yet; to another Sentinel each time."""
        return self._node.sentinel_connection(next(self._numbers))

    def address(self, connection: AbstractConnection) -> Address:
        """Which one a connection went to."""
        assert isinstance(connection, Connection)
        return connection.host, int(connection.port)

    def __str__(self) -> str:
        return f"a Sentinel of {self._node}"


class _AddressPool:
    """What a Sentinel-managed connection takes for a pool: it asks it for its address."""

    is_master = True
    check_connection = False

    def __init__(self, node: SentinelNode) -> None:
        self._node = node

    async def get_master_address(self) -> Address:
        return await self._node.master_address()


def _require_ours(kwargs: Mapping[str, Any]) -> None:
    """Raise what is wrong with those that say where a Sentinel is, and how long to wait for it."""
    for name in ("connection_pool", "host", "port", "unix_socket_path"):
        if kwargs.get(name) is not None:
            raise TypeError(f"{name!r} is not an option here: sentinels has the addresses")
    for name in _TIMEOUTS:
        seconds = kwargs.get(name)
        if seconds and (not isinstance(seconds, int | float) or not seconds > 0):
            raise ValueError(f"{name} must be a number of seconds above 0, not {seconds!r}")


def _of_sentinel(trouble: Trouble) -> Trouble:
    """What is wrong with TLS, with the options at their place: those in hosts are the master's."""
    todo = trouble.todo.replace("rediss:// (or 'ssl': True)", "'ssl': True")
    return trouble._replace(todo=todo.replace("in hosts", "in sentinel_kwargs"))


def _addresses(sentinels: object) -> list[Address]:
    if not isinstance(sentinels, list | tuple) or not sentinels:
        raise TypeError(
            f"sentinels must be a list of (host, port) pairs, at least one, and not "
            f"{'empty' if sentinels == [] else f'a {type(sentinels).__name__}'}"
        )
    addresses = []
    for each in sentinels:
        match each:
            case [str(host), int() | str() as port] if not isinstance(port, bool):
                try:
                    name = host_name(host)
                except ValueError as error:
                    shown = without_password(host)
                    raise ValueError(f"a Sentinel's host must be {error}, not {shown!r}") from None
                try:
                    addresses.append((name, port_number(port)))
                except ValueError as error:
                    raise ValueError(f"a Sentinel's port must be {error}, not {port!r}") from None
            case _:
                raise TypeError(
                    f"a Sentinel must be a (host, port) pair, not a {type(each).__name__}"
                )
    return addresses
