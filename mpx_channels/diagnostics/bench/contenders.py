"""The layers that are measured: ours, and those of channels_redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from django.conf import settings

from mpx_channels import __version__, embedded
from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.diagnostics.subcommand import FOUND, Refusal
from mpx_channels.layer import Hooks, MpxChannelLayer, ProcessStats
from mpx_channels.multiplexer.exceptions import describe

from .room import Room

__all__ = ["AGAINST", "NOT_IN_CLUSTER", "Contender", "Ours", "Theirs", "find"]

# What can be named after --against, and the class that it stands for.
AGAINST = {
    "channels_redis": "channels_redis.pubsub.RedisPubSubChannelLayer",
    "channels_redis.core": "channels_redis.core.RedisChannelLayer",
}
# Keys of CONFIG that channels_redis has, too; not its events, which would join the messages.
SHARED = (
    "expiry", "capacity", "channel_capacity", "symmetric_encryption_keys",
    "random_prefix_length", "serializer_format",
)  # fmt: skip
EVENTS = ("on_disconnect", "on_reconnect")
# Those that cannot use a cluster at all: their scripts have keys of several slots.
NOT_IN_CLUSTER = ("channels_redis.core",)
# Seconds after which Redis forgets what channels_redis.core stores of groups, should this process
# be killed: longer than any run.
GROUP_EXPIRY = 3600
LINK_LOST = "mpx.bench.link.lost"


class Contender(ABC):
    """A layer and its room.

    ``name``: as users know it; ``path``: of its class; ``version``: of its package. Its load is how
    many ``clients`` and ``groups`` there are, and the ``burst`` of calls at once.
    """

    name: str
    path: str
    version: str

    def __init__(self, layer: Any, clients: int, groups: int, burst: int) -> None:
        self.layer = layer
        self.room = Room(layer, clients, groups, burst)

    async def open(self) -> None:
        """Connect, and let the clients in; raises `Refusal` if they hear nothing."""
        if not await self.room.open():
            raise Refusal(f"{self.name}: not all clients get what is sent to their groups")

    @abstractmethod
    async def close(self) -> None:
        """Leave nothing on the server."""

    def trouble(self, what: str) -> AbstractContextManager[None]:
        """Around all that is asked of the layer: makes sentences of foreign exceptions."""
        return contextlib.nullcontext()

    def drops(self) -> dict[str, int] | None:
        """Messages that it dropped, by cause; None if it does not count them."""
        return None


class Ours(Contender):
    """A layer as the project's, but under a prefix of its own."""

    name = "mpx_channels"
    version = __version__

    def __init__(
        self,
        class_: type[MpxChannelLayer],
        config: Mapping[str, Any],
        prefix: str,
        **load: int,
    ) -> None:
        kept = {key: value for key, value in config.items() if key not in EVENTS}
        # Groups that were left would otherwise be unsubscribed in the middle of a later turn.
        layer = class_(**kept | {"prefix": prefix, "unsubscribe_delay": 0})
        super().__init__(layer, **load)
        self.path = f"{class_.__module__}.{class_.__qualname__}"

    async def open(self) -> None:
        await self.layer.connect()
        await super().open()

    async def lost(self) -> str:
        """Wait until the link breaks; returns why."""
        mailbox = await self.layer.open_channel(hooks=Hooks(disconnect=(LINK_LOST,)))
        event = await mailbox.get()
        return str(event["reason"])

    async def close(self) -> None:
        await self.room.close()
        await self.layer.close()
        config = self.layer.config
        if config.cluster:
            # It is for all processes of a prefix, of which there are none any more.
            key = ClusterNames(config.prefix, config.partitions).partitions
            async with config.multiplexer(agree=False) as multiplexer:
                await multiplexer.command(b"UNLINK", key.encode())

    def drops(self) -> dict[str, int]:
        stats = self.layer.stats()
        counts = ProcessStats.of("", stats, None).drops if stats is not None else {}
        return {cause: count for cause, count in counts.items() if count}


class Theirs(Contender):
    """A layer of channels_redis, with the project's CONFIG as far as it knows it."""

    version = ""

    def __init__(
        self,
        name: str,
        class_: Any,
        config: Mapping[str, Any],
        prefix: str,
        **load: int,
    ) -> None:
        self.name = name
        self.path = AGAINST[name]
        self.version = version("channels_redis")
        kept = {key: config[key] for key in SHARED if key in config}
        hosts = [_started(host) for host in config.get("hosts") or ()] or None
        if config.get("cluster") and hosts is not None:
            # To it several nodes are servers of their own; by one of them, PUBLISH reaches all.
            hosts = hosts[:1]
        with self.trouble("cannot use this CONFIG"):
            layer = class_(hosts=hosts, prefix=prefix, group_expiry=GROUP_EXPIRY, **kept)
        super().__init__(layer, **load)
        self._prefix = prefix
        # What goes wrong is said in a sentence, where it stops us.
        logging.getLogger("channels_redis").addHandler(logging.NullHandler())

    @contextlib.contextmanager
    def trouble(self, what: str) -> Iterator[None]:
        # Of any kind: none of them is our fault, and all are told in a sentence.
        try:
            yield
        except (Refusal, TimeoutError):
            raise
        except Exception as error:
            raise Refusal(f"{self.name} {what}: {describe(error)}") from error

    async def open(self) -> None:
        # It leaves tasks behind whose errors nobody fetches.
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await super().open()

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            if hasattr(self.layer, "close_pools"):
                await self._close_core()
            else:
                # First the connections: each reader would otherwise unsubscribe for itself.
                await self.layer.flush()
        await self.room.close()

    async def _close_core(self) -> None:
        """Its flush() asks for KEYS, which stops a large server: delete by name instead."""
        room, layer = self.room, self.layer
        await room.close()
        await room.leave(list(room.memberships))
        await layer.wait_received()
        if room.channels:
            inbox = layer.non_local_name(room.channels[0])
            connection = layer.connection(layer.consistent_hash(inbox))
            key = self._prefix + inbox
            await connection.delete(key, f"{key}$inflight")
        await layer.close_pools()


def find(name: str) -> Any:
    """The class that ``--against`` means; raises `Refusal` when it is not installed."""
    module, _, class_ = AGAINST[name].rpartition(".")
    try:
        return getattr(import_module(module), class_)
    except ImportError as error:
        raise Refusal(
            f"--against {name} needs the package channels_redis, which cannot be imported "
            f"({error}): pip install channels_redis",
            FOUND,
        ) from error


def _started(host: Any) -> Any:
    """The URL of the embedded server, which channels_redis knows nothing of; others as they are."""
    base = getattr(settings, "BASE_DIR", None)
    folder = Path(base) if base is not None else None
    if isinstance(host, str) and embedded.is_embedded_cluster(host):
        return embedded.start_cluster(host, base_dir=folder)[0]
    if isinstance(host, str) and embedded.is_embedded(host):
        return embedded.start(host, base_dir=folder)
    return host
