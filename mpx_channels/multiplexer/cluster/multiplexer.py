"""ClusterMultiplexer: the multiplexer of a Redis or Valkey Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from time import monotonic
from typing import Any

from ..callbacks import Again, Heard, OnActivation, OnDisconnect, OnMessage, unheard
from ..entries import CHANNEL, SHARDED
from ..exceptions import MultiplexerStopped, NotConnected, describe
from ..health import Health, examine, require_timeout
from ..link import LinkOptions
from ..multiplexer import Multiplexer
from ..onlookers import onlooker
from ..packing import key_of, pack, pack_publish, pack_spublish
from ..publisher import LAST_ANSWERS
from ..slots import slot_of
from ..stats import MultiplexerStats, snapshot
from ..subscriber import Subscriber
from ..subscriptions import ChannelSubscription, encode_name
from ..topology import Node
from .agreement import Agreement
from .detour import Detour
from .guide import Guide
from .probes import ClusterProbes
from .publisher import ClusterPublisher
from .publishers import ClusterPublishers
from .scout import Scout
from .subscribers import ClusterSubscribers
from .topology import ClusterTopology
from .view import Remap

__all__ = ["ClusterMultiplexer"]


class ClusterMultiplexer(Multiplexer):
    """A `Multiplexer` over a cluster, with two connections to each master.

    Names and keys follow their slots. When a slot moves, only the names in it are reported as lost.
    ``url`` lists nodes to begin with, of which one has to answer. Besides what `Multiplexer` takes:

    - ``sharded`` (True): names are sharded channels (SSUBSCRIBE, SPUBLISH: from Redis 7 on), which
      only the nodes of their slot know. If False, they are classic, and every node hears of them.
    - ``address_remap`` (None): from the ``(host, port)`` that a node announces to one at which it
      can be reached, as redis-py's clients take it.
    - ``agreement`` (None): settings that must be the same in all processes, checked before anything
      is sent.

    ``classic=True`` is for channels that other programs publish to. Patterns are always classic.
    Everything classic comes over one node.
    """

    cluster = True

    _topology: ClusterTopology
    _subscribers: ClusterSubscribers
    _publishers: ClusterPublishers
    _probes: ClusterProbes | None  # type: ignore[assignment]

    def __init__(
        self,
        url: str | Node | Sequence[str | Node] = "redis://localhost:6379",
        *,
        sharded: bool = True,
        address_remap: Remap | None = None,
        agreement: Agreement | None = None,
        **options: Any,
    ) -> None:
        self.sharded = sharded
        self._remap = address_remap
        self._agreement = agreement
        super().__init__(url, **options)

    def _compose(
        self,
        nodes: Sequence[Node],
        options: LinkOptions,
        linger: float,
        max_backlog: int,
        backlog_timeout: float,
    ) -> None:
        self._backlog_timeout = backlog_timeout
        self._topology = topology = ClusterTopology(nodes, sharded=self.sharded)
        self._subscribers = ClusterSubscribers(topology, options, self._counters, linger=linger)
        self._guide = Guide(
            topology,
            self._subscribers,
            self._counters,
            max_backlog=max_backlog,
            backlog_timeout=backlog_timeout,
            agreement=self._agreement,
            remap=self._remap,
        )
        self._publishers = ClusterPublishers(
            options,
            self._counters,
            max_backlog=max_backlog,
            backlog_timeout=backlog_timeout,
            on_refusal=self._guide.detours.refused,
        )
        patience = options.connect_timeout
        scout = Scout(topology, self._publishers, patience=patience, remap=self._remap)
        self._guide.set_out(self._publishers, scout)
        self._watches = []
        self._probes = None
        self._publisher = None

    # -- where ----------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """The node over which classic Pub/Sub goes; before it is known, one for the cluster."""
        return self._topology.home

    @property
    def seeds(self) -> tuple[Node, ...]:
        return self._topology.seeds

    def node_of(self, name: str | bytes) -> Node:
        """The master of the slot of a name or key, now."""
        return self._topology.node_of(encode_name(name))

    def server_of(self, name: str | bytes) -> Node:
        """The node that a name is subscribed to on."""
        return self._topology.server_of(encode_name(name))

    def place_of(self, name: str | bytes) -> Hashable:
        """Equal for keys that one command may name together: keys of one slot, on its node now."""
        key = encode_name(name)
        return self._topology.node_of(key), slot_of(key)

    def moved_lately(self, name: str | bytes) -> bool:
        return self.sharded and self._topology.moved_lately(encode_name(name))

    # -- life ---------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._guide.running

    @property
    def last_error(self) -> Exception | None:
        errors = [each.link.last_error for each in self._subscribers.all]
        first = next((error for error in errors if error is not None), None)
        return self._guide.last_error or first

    def error_of(self, node: Node) -> Exception | None:
        return self._subscribers.of_node(node).link.last_error or self._guide.last_error

    def is_reached(self, node: Node) -> bool:
        """As `Multiplexer.is_reached`, of any node: what is for one may be with another."""
        return any(publisher.link.wire is not None for publisher in self._publishers.all)

    async def start(self) -> None:
        """Begin to ask which node has which slots; return at once, even if all nodes are down."""
        if self.running:
            return
        self.flow.start()
        self._guide.start()

    async def stop(self, timeout: float = LAST_ANSWERS) -> None:
        """As `Multiplexer.stop`."""
        deadline = monotonic() + timeout
        await asyncio.gather(*[each.stop(timeout) for each in self._publishers.all])
        await self._guide.stop()
        left = max(0.0, deadline - monotonic())
        # Those that have begun since.
        await asyncio.gather(*[each.stop(left) for each in self._publishers.all])
        await asyncio.gather(*[each.stop() for each in self._subscribers.all])

    def abandon(self) -> None:
        self._guide.abandon()
        super().abandon()

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Return once the subscribing connections to all masters stand."""
        if not self.running:
            raise MultiplexerStopped("the multiplexer is not running: await start() first")
        missing: list[Subscriber] = []
        try:
            async with asyncio.timeout(timeout):
                await self._guide.found.wait()
                if self._guide.refusal is not None:
                    raise NotConnected(str(self._guide.refusal)) from self._guide.refusal
                while missing := [each for each in self._subscribers.all if not each.up.is_set()]:
                    await missing[0].up.wait()
            if not self.running:
                raise MultiplexerStopped("the multiplexer was stopped meanwhile")
        except TimeoutError:
            error = missing[0].link.last_error if missing else self._guide.last_error
            where = missing[0].node if missing else self._topology.unknown
            cause = f": {describe(error)}" if error is not None else ""
            raise NotConnected(f"no connection to {where} in {timeout} s{cause}") from error

    def probe_over(self, name: str | bytes) -> None:
        """As `Multiplexer.probe_over`, with a name derived from it for each master."""
        if self._probes is None:
            self._probes = ClusterProbes(
                self._topology,
                self._subscribers,
                self._publishers,
                encode_name(name),
                interval=self._probe_interval,
                patience=self._probe_patience,
            )
            self._guide.on_change = self._probes.follow
            self._guide.pinned = self._probes.entries

    async def healthy(self, timeout: float = 1.0) -> Health:
        """Whether what is published arrives, by every master, in `timeout` seconds."""
        require_timeout(timeout)
        if self._probes is None:
            raise ValueError("healthy() needs a channel to publish to: call probe_over(name)")
        deadline = monotonic() + timeout
        try:
            await self.wait_connected(timeout)
        except NotConnected as error:
            return Health(False, reason=str(error))
        if not self._topology.complete:
            return Health(False, reason=f"slots of {self._topology.unknown} have no master")
        while True:
            replaced = self._probes.replaced
            left = max(0.001, deadline - monotonic())
            health = await examine(map(self._probes.host, self.nodes), left)
            if health.ok or self._probes.replaced == replaced or monotonic() >= deadline:
                return health

    # -- talk ---------------------------------------------------------------------------------

    def publish_soon(
        self, name: str | bytes, data: bytes, *, classic: bool = False
    ) -> asyncio.Future[int]:
        """As `Multiplexer.publish_soon`; counts the subscribers that this node knows of.

        With sharded channels those are all. ``classic`` is for channels that are not sharded.
        """
        if type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data must be bytes, not {type(data).__name__}: encode it first")
            data = bytes(data)
        key = encode_name(name)
        if self.sharded and not classic:
            return self._route(key).submit(pack_spublish(key, data))
        # Over the node that we hear it from: so a PING there comes behind it.
        home = self._publishers.home
        where = home if home is not None else self._route(key)
        return where.submit(pack_publish(key, data))

    def numsub(self, name: str | bytes, *, classic: bool = False) -> list[asyncio.Future[Any]]:
        key = encode_name(name)
        if self.sharded and not classic:
            beside = encode_name(onlooker(key.decode("utf-8", "surrogateescape")))
            return [self._route(key).submit(pack(b"PUBSUB", b"SHARDNUMSUB", key, beside))]
        # Each node knows of its own clients only.
        asked = pack(b"PUBSUB", b"NUMSUB", key)
        if self._guide.found.is_set():
            return self._ask_all(asked)
        return [asyncio.ensure_future(self._ask_all_once_found(asked))]

    def _ask_all(self, asked: bytes) -> list[asyncio.Future[Any]]:
        """Ask all masters but those that are away; one that we begin to connect to is not."""
        return [each.submit(asked) for each in self._publishers.all if not each.link.last_error]

    async def _ask_all_once_found(self, asked: bytes) -> tuple[bytes, int]:
        """For as long as what is published meanwhile waits: the sum of the answers."""
        try:
            async with asyncio.timeout(self._backlog_timeout):
                await self._guide.found.wait()
        except TimeoutError:
            error = self._guide.last_error
            cause = f": {describe(error)}" if error is not None else ""
            raise NotConnected(f"no connection to {self._topology.unknown}{cause}") from error
        answers = await asyncio.gather(*self._ask_all(asked))
        return b"", sum(int(count) for _, count in answers)

    @property
    def counts_all(self) -> bool:
        """Of classic channels a node knows its own clients only."""
        return self.sharded

    @property
    def scripts_apart(self) -> bool:
        """Classic messages go over our home; a script runs at the node that has its keys."""
        return not self.sharded

    def fences(
        self, published: float, name: str | bytes | None = None, *, scripted: bool = False
    ) -> list[asyncio.Future[None]]:
        subscribers = self._subscribers
        kind = SHARDED if self.sharded else CHANNEL
        which = subscribers.all if name is None else (subscribers.of(encode_name(name), kind),)
        fences = [subscriber.fence(published) for subscriber in which]
        found = [fence for fence in fences if fence is not None]
        if scripted and self.scripts_apart and self._probes is not None:
            nodes = self.nodes if name is None else (self.node_of(name),)
            found += self._probes.fences(published, nodes)
        return found

    def command(
        self, *words: bytes, node: Node | None = None, again: Again | None = None
    ) -> asyncio.Future[Any]:
        """As `Multiplexer.command`: to the node that has the key, or, without one, to `node`."""
        in_doubt = None if again is None else lambda: pack(*again())
        key = key_of(*words)
        where = self._publishers.of(node) if key is None else self._route(key)
        return where.submit(pack(*words), in_doubt)

    def begin_with(self, *words: bytes, node: Node | None = None, heard: Heard = unheard) -> None:
        if node is not None and node in self._publishers:
            self._publishers.of(node).begin_with(pack(*words), heard)

    def blocking_command(self, *words: bytes, node: Node | None = None) -> asyncio.Future[Any]:
        """Not available in a cluster: it could only wait for keys of one slot."""
        raise NotImplementedError("commands that block are not for a cluster")

    def new_channel_subscription(
        self,
        on_message: OnMessage | None = None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
        *,
        classic: bool = False,
    ) -> ChannelSubscription:
        """As `Multiplexer.new_channel_subscription`; ``classic``: of channels not sharded."""
        return ChannelSubscription(
            self._subscribers,
            on_message,
            on_disconnect,
            on_activation,
            max_queue=self._max_queue,
            kind=SHARDED if self.sharded and not classic else CHANNEL,
        )

    def stats(self) -> MultiplexerStats:
        subscribers = self._subscribers
        return snapshot(
            self._topology,
            subscribers,
            self._publishers,
            self._counters,
            subscribers.limbo,
            self._guide.last_error,
        )

    def _route(self, key: bytes) -> ClusterPublisher | Detour:
        try:
            return self._publishers.routes[slot_of(key)]
        except IndexError:
            raise MultiplexerStopped(
                "the multiplexer is not running: await start() first"
            ) from None
