"""CONFIG, checked: what a project writes in CHANNEL_LAYERS, as values the layer can rely on."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from django.conf import settings

from mpx_channels import embedded
from mpx_channels.channels.mailbox import Hooks
from mpx_channels.channels.partitions import DEFAULT_PARTITIONS
from mpx_channels.history.settings import wrong_histories
from mpx_channels.messages.exceptions import SerializerDoesNotExist
from mpx_channels.messages.serializers import make_format, registry
from mpx_channels.messages.wrapping import DEFAULT_MAX_MESSAGE_SIZE, Wrapping
from mpx_channels.multiplexer import Multiplexer, Node
from mpx_channels.multiplexer.hosts import Host, nearest, parse_hosts
from mpx_channels.multiplexer.topology import without_password
from mpx_channels.presence.settings import PresenceSetting

from .clusters import cluster_multiplexer, wrong_cluster
from .exceptions import InvalidConfig

__all__ = ["LayerConfig"]

# What the layer itself sends has to fit, too.
LEAST_MAX_MESSAGE_SIZE = 1024


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """The CONFIG keys, with their defaults. Every CONFIG of channels_redis 4.3 is one of ours.

    - ``hosts``: a list, mostly with one entry: a URL (``redis://``, ``rediss://`` for TLS,
      ``unix://``), a ``(host, port)`` pair, or a dict of redis-py's connection keywords, with the
      URL under ``address`` if there is one. Default: ``["redis://localhost:6379"]``.
      ``embedded://`` starts a server for development. A dict with ``sentinels`` (a list of ``(host,
      port)``), ``master_name`` and perhaps ``sentinel_kwargs`` is for a master that Redis Sentinels
      know. ``connection_class`` may be a subclass of one of redis-py's asyncio connections. With
      several entries, each name belongs to one of them, chosen by its CRC as in channels_redis: all
      processes need the same entries in the same order. Each costs two connections per event loop.
      Entries that differ in ``db`` are one server to Pub/Sub, so name its address the same way in
      each. In a dict, ``socket_connect_timeout`` and ``health_check_interval`` stand for
      ``connect_timeout`` and ``ping_interval``, if CONFIG does not have these; options of
      redis-py's pools, retries and decoding (``max_connections``, ``socket_timeout``,
      ``retry_on_timeout``, ``decode_responses``, ...) are ignored.
    - ``prefix`` ("asgi"): begins every name in Redis; layers with different prefixes never hear
      each other, whatever their database numbers (Redis' Pub/Sub knows no databases).
    - ``expiry`` (seconds, 60): a message that waited longer for its reader is dropped.
    - ``capacity`` (100): how many messages may wait for one channel's reader; above that the newest
      is dropped, once the reader has had its turn. ``channel_capacity``: a dict of channel name
      globs or compiled regexes to capacities, the first match counts.
    - ``max_message_size`` (bytes, 4 MiB): over it `MessageTooLarge` is raised at the sender;
      measured as encoded, before encryption. Redis buffers what a subscriber has not read yet, and
      disconnects it when that reaches 32 MiB, or stays above 8 MiB for a minute
      (``client-output-buffer-limit pubsub 32mb 8mb 60``). All processes with members in a group get
      its messages at once, so a burst that is too large disconnects all of them, and everything
      else on its way to them is lost. Raise this only together with that limit.
    - ``serializer_format`` ("msgpack"): "json" is for other programs that read along, and for
      people: it is slower, and refuses bytes, NaN and keys that are not str. Other formats:
      `mpx_channels.layer.serializers`. All processes of a prefix need the same; messages in
      another are dropped and counted. `mpx_channels.messages.codec` has a table of what
      becomes of values of all types.
    - ``symmetric_encryption_keys`` (None, no encryption): a list of passphrases (str or bytes).
      Everything that travels is encrypted with the first, and opened with any, so keys change
      without downtime: add the new one at the end, in all processes; then move it to the front;
      then, after ``expiry`` seconds, and when what histories keep has expired, remove the old
      one. A message is bound to the group or
      channel it was sent to, and for ``expiry`` and 30 seconds to its time: clocks of machines
      must not differ by more than these 30. A process with keys drops (and counts) what is not
      encrypted, and one without drops what is. The names of groups and channels stay readable in
      Redis. Costs a few microseconds a message; needs ``pip install
      'mpx-channels[encryption]'``. See `mpx_channels.messages.crypto`.
    - ``on_disconnect``, ``on_reconnect``: types of events for every channel of the process when
      the link to Redis breaks, and when it stands again with all subscriptions live; None for
      no events. A consumer needs a handler for them.
    - ``ping_interval`` (seconds, 30), ``min_backoff`` and ``max_backoff`` (seconds, 0.008 and
      0.512), ``connect_timeout`` (seconds, 5), ``unsubscribe_delay`` (seconds, 1),
      ``max_backlog`` (10,000 messages), ``backlog_timeout`` (seconds, 5): see `Multiplexer`.
    - ``probe_interval`` (seconds, 30; 0 is off): when no message has come over a connection for
      this long, the process publishes to itself. If it does not hear that in ``connect_timeout``
      seconds, twice, the connection is made anew. Costs a publish and a message per interval.
    - ``group_expiry`` (seconds, 86400): a channel with unread messages that nobody takes ends after
      this time (Channels' own consumers leave one behind when a handler of a layer's message
      raises), and so does a channel of `layer.sync` or `async_to_sync` that nobody reads. It has no
      other use: membership lives in the process and ends with it.
    - ``history`` (None): which groups keep their messages in Redis, to replay what was missed: a
      dict of group name globs or compiled regexes to ``{"size": 1000, "ttl": 300}``, the first
      match counts. ``size`` in messages, ``ttl`` in seconds after the last one. All
      processes of a prefix need the same. A message to such a group costs Redis a script instead of
      a PUBLISH, and the group its messages' memory.
    - ``recovery_limit`` (1000): how many messages of one group are replayed at most; a consumer
      that missed more gets none of them, and is told so.
    - ``cluster`` (False): Redis or Valkey Cluster; ``hosts`` are some of its nodes; one of them has
      to answer. Each master costs two connections per event loop. ``partitions`` (128): a power of
      two; the groups are divided into this many partitions, and the partitions among the nodes: see
      `mpx_channels.channels.partitions`. All processes need the same. ``sharded_pubsub`` (True):
      only the nodes of a group hear of its messages; False for servers before Redis 7, and for
      wildcard groups; the same in all processes, too. ``address_remap`` (None): a function from
      the ``(host, port)`` that a node announces to one at which this process reaches it, as
      redis-py takes it.
    - ``presence_linger`` (seconds, 15): how long a member stays present after its last connection
      to a group has ended, so that a reload is not seen. 0 tells it at once.
    - ``presence_lease`` (seconds, 30): the members of a killed process are removed within this
      time. Each process with members, or with consumers that hear of them, sends a command every
      sixth of it. A link may be down for half of it before its process is taken for dead.
    - ``presence_events`` (500): in a group with more members, events say only how many there are,
      once a second at most, and not who. All processes of a prefix need the same three.
    - ``max_consumers`` (None, any number): consumers of mpx_channels that one process serves at a
      time, on WebSockets and HTTP. Above that a new WebSocket is accepted and closed with 1013
      ("try again later"), and a request is answered with 503. Stock consumers are neither counted
      nor refused.
    - ``random_prefix_length`` (12): checked and ignored. channels_redis needs it to tell equal
      messages apart.
    """

    hosts: Iterable[object] | None = field(default=None, repr=False)
    prefix: str = "asgi"
    expiry: float = 60
    group_expiry: float = 86400
    capacity: int = 100
    channel_capacity: Mapping[Any, int] | None = None
    symmetric_encryption_keys: Iterable[str | bytes] | None = field(default=None, repr=False)
    random_prefix_length: int = 12
    serializer_format: str = "msgpack"
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE
    on_disconnect: str | None = None
    on_reconnect: str | None = None
    ping_interval: float = 30.0
    min_backoff: float = 0.008
    max_backoff: float = 0.512
    connect_timeout: float = 5.0
    unsubscribe_delay: float = 1.0
    max_backlog: int = 10_000
    backlog_timeout: float = 5.0
    history: Mapping[Any, Mapping[str, Any]] | None = None
    recovery_limit: int = 1000
    probe_interval: float = 30.0
    cluster: bool = False
    partitions: int = DEFAULT_PARTITIONS
    sharded_pubsub: bool = True
    address_remap: Callable[[tuple[str, int]], tuple[str, int]] | None = None
    presence_linger: float = 15.0
    presence_lease: float = 30.0
    presence_events: int = 500
    max_consumers: int | None = None

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> LayerConfig:
        """CONFIG as a checked value; raises `InvalidConfig` with everything that is wrong."""
        if not isinstance(config, Mapping):
            raise InvalidConfig(f"CONFIG must be a dict, not {config!r}")
        known = list(inspect.signature(cls).parameters)
        problems = [
            f"unknown CONFIG key {key!r}{nearest(key, known)}" for key in config if key not in known
        ]
        given = values = {key: config[key] for key in config if key in known}
        for name in ("hosts", "symmetric_encryption_keys"):
            # Read more than once, which an iterator would not survive.
            if isinstance(values.get(name), Iterator):
                values[name] = list(values[name])
        with contextlib.suppress(ValueError):  # which is said below
            for host in reversed(parse_hosts(values.get("hosts"))):  # the first one counts
                values = {**values, **host.settings, **given}
        try:
            checked = cls(**values)
        except InvalidConfig as error:
            problems += error.problems
        if problems:
            raise InvalidConfig(*problems)
        return checked

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise InvalidConfig(*problems)

    @property
    def parsed_hosts(self) -> Sequence[Host]:
        """The entries of ``hosts``, or the default one."""
        try:
            return parse_hosts(self.hosts)
        except ValueError as error:
            raise InvalidConfig(str(error)) from error

    def wrapping(self, class_: type[Wrapping] = Wrapping) -> Wrapping:
        """What messages become on their way to Redis, and back."""
        return class_(
            self.serializer_format,
            keys=self.symmetric_encryption_keys,
            max_message_size=self.max_message_size,
            expiry=self.expiry,
        )

    def hooks(self) -> Hooks | None:
        """The events of the link that all channels get."""
        if not (self.on_disconnect or self.on_reconnect):
            return None
        return Hooks(
            disconnect=(self.on_disconnect,) if self.on_disconnect else (),
            reconnect=(self.on_reconnect,) if self.on_reconnect else (),
        )

    def presence(self) -> PresenceSetting:
        """The numbers of presence."""
        return PresenceSetting(self.presence_lease, self.presence_linger, self.presence_events)

    def check_embedded(self) -> None:
        """Raise what stands in the way of starting an embedded server, if one is wanted."""
        for host in self.parsed_hosts:
            if embedded.is_embedded(host.url) or embedded.is_embedded_cluster(host.url):
                embedded.check(host.url)

    def multiplexer(self, *, agree: bool = True) -> Multiplexer:
        """A multiplexer for the hosts, not started; an embedded server is running then.

        ``agree``: whether one for a cluster sees first that all processes have the same partitions.
        """
        hosts = [each for host in self.parsed_hosts for each in _started(host)]
        options: dict[str, Any] = {
            "ping_interval": self.ping_interval,
            "min_backoff": self.min_backoff,
            "max_backoff": self.max_backoff,
            "connect_timeout": self.connect_timeout,
            "unsubscribe_delay": self.unsubscribe_delay,
            "max_backlog": self.max_backlog,
            "backlog_timeout": self.backlog_timeout,
            "probe_interval": self.probe_interval,
        }
        try:
            nodes = [host.node(self.connect_timeout) for host in hosts]
            if self.cluster:
                return cluster_multiplexer(self, nodes, agree=agree, **options)
            return Multiplexer(nodes, **options)
        except (TypeError, ValueError) as error:
            raise InvalidConfig(str(error)) from error

    # -- checks -------------------------------------------------------------------------------

    def _problems(self) -> Iterator[str]:
        """A sentence for everything that is wrong; nothing here connects."""
        given: Any = self  # of any type at all
        if not isinstance(given.prefix, str):
            yield f"prefix must be a str, not {given.prefix!r}"
        yield from self._wrong_numbers()
        for key in ("on_disconnect", "on_reconnect"):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, str) and value):
                yield f"{key} must be the type of an event (a str), not {value!r}"
        yield from self._wrong_capacities()
        yield from wrong_histories(self.history)
        yield from self._wrong_serializer()
        yield from self._wrong_keys()
        nodes: list[Node] = []
        try:
            hosts = parse_hosts(self.hosts)
            for host in hosts:
                clustered = embedded.is_embedded_cluster(host.url)
                if clustered and self.cluster is not True:
                    yield f"{host.url} is a cluster: set 'cluster': True as well"
                elif clustered and len(hosts) > 1:
                    yield f"{host.url} is a cluster of its own: have nothing else in hosts"
                elif embedded.is_embedded(host.url) and self.cluster is True:
                    yield f"{host.url} is one server: a cluster is embedded+cluster://"
                elif clustered or embedded.is_embedded(host.url):
                    pass
                elif meant := embedded.meant(host.url):
                    shown = without_password(host.url)
                    yield f"bad Redis URL {shown!r}; did you mean {meant!r}?"
                else:
                    # Without our numbers, which were checked above.
                    nodes.append(host.node())
        except (TypeError, ValueError) as error:
            yield str(error)
        yield from wrong_cluster(self, nodes)

    def _wrong_numbers(self) -> Iterator[str]:
        above_0 = ("expiry", "group_expiry", "ping_interval", "min_backoff", "max_backoff")
        for key in (*above_0, "connect_timeout", "presence_lease"):
            value = getattr(self, key)
            if not _is_number(value) or value <= 0:
                yield f"{key} must be a number of seconds above 0, not {value!r}"
        for key in ("unsubscribe_delay", "backlog_timeout", "probe_interval", "presence_linger"):
            value = getattr(self, key)
            if not _is_number(value) or value < 0:
                yield f"{key} must be a number of seconds from 0 up, not {value!r}"
        for key, unit, least in (
            ("max_backlog", "messages", 1),
            ("recovery_limit", "messages", 1),
            ("presence_events", "members", 0),
            ("max_message_size", "bytes", LEAST_MAX_MESSAGE_SIZE),
            ("random_prefix_length", "bytes", 0),
        ):
            value = getattr(self, key)
            if not _is_whole(value) or value < least:
                yield f"{key} must be a whole number of {unit} from {least} up, not {value!r}"
        if self.max_consumers is not None and (
            not _is_whole(self.max_consumers) or self.max_consumers < 1
        ):
            yield (
                "max_consumers must be a whole number of consumers from 1 up, or None, not "
                f"{self.max_consumers!r}"
            )
        lowest, highest = self.min_backoff, self.max_backoff
        if _is_number(lowest) and _is_number(highest) and lowest > highest:
            yield f"min_backoff ({lowest}) must not be above max_backoff ({highest})"

    def _wrong_capacities(self) -> Iterator[str]:
        capacities: dict[str, object] = {"capacity": self.capacity}
        by_channel: Any = self.channel_capacity
        if not isinstance(by_channel, Mapping | None):
            yield (
                "channel_capacity must be a dict of globs or regexes to numbers, "
                f"not {by_channel!r}"
            )
        else:
            for pattern, capacity in (by_channel or {}).items():
                if not isinstance(pattern, str) and not hasattr(pattern, "match"):
                    yield f"channel_capacity key {pattern!r} must be a glob (str) or a regex"
                capacities[f"channel_capacity[{pattern!r}]"] = capacity
        for key, value in capacities.items():
            if not _is_whole(value) or value < 1:  # type: ignore[operator]
                yield f"{key} must be a whole number of messages from 1 up, not {value!r}"

    def _wrong_serializer(self) -> Iterator[str]:
        name: Any = self.serializer_format
        if not isinstance(name, str):
            yield f"serializer_format must be the name of a format (a str), not {name!r}"
            return
        try:
            make_format(name, expiry=self.expiry)
        except SerializerDoesNotExist:
            yield (
                f"serializer_format {name!r} is not registered{nearest(name, registry.formats)} "
                "(see mpx_channels.layer.serializers)"
            )
        except Exception as error:
            yield f"serializer_format {name!r}: its class raised {error!r}"

    def _wrong_keys(self) -> Iterator[str]:
        # No value here: a wrong key is a secret all the same.
        keys: Any = self.symmetric_encryption_keys
        if not keys:
            return
        what = "symmetric_encryption_keys"
        if isinstance(keys, str | bytes | bytearray | Mapping) or not isinstance(keys, Iterable):
            yield f"{what} must be a list of keys, even if there is only one, not a {_type(keys)}"
            return
        wrong = False
        for number, key in enumerate(keys):
            if not isinstance(key, str | bytes):
                wrong = True
                yield f"{what}[{number}] must be a str or bytes, not a {_type(key)}"
            elif not key:
                wrong = True
                yield f"{what}[{number}] is empty"
        if not wrong and _is_number(self.expiry):
            try:
                Wrapping(keys=keys, expiry=self.expiry)
            except (ImportError, TypeError, ValueError) as error:
                yield f"{what}: {error}"


def _started(host: Host) -> list[Host]:
    """What a host is that is no embedded server, or what one that is started now is."""
    folder = _project_folder()
    if embedded.is_embedded_cluster(host.url):
        urls = embedded.start_cluster(host.url, base_dir=folder)
        return [replace(host, url=url) for url in urls]
    if not embedded.is_embedded(host.url):
        return [host]
    # Should it die, whoever connects starts it again.
    class_ = embedded.reviving(host.url, base_dir=folder)
    url = embedded.start(host.url, base_dir=folder)
    return [replace(host, url=url, options={"connection_class": class_, **host.options})]


def _project_folder() -> Path | None:
    """Django's convention for a project's folder, or None where there is none."""
    base = getattr(settings, "BASE_DIR", None) if settings.configured else None
    return Path(base) if base is not None else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _type(value: object) -> str:
    return type(value).__name__
