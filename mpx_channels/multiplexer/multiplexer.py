"""Multiplexer: what an event loop has, two connections to each node with everything on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from time import monotonic
from typing import Any, Self

from .callbacks import Again, Heard, OnActivation, OnDisconnect, OnMessage, unheard
from .counters import EngineCounters
from .exceptions import LinkLost, MultiplexerStopped, NotConnected, describe
from .failover import FailoverWatch
from .flow import Flow
from .health import Health, examine, require_timeout
from .link import LinkOptions
from .packing import pack, pack_publish
from .probes import Probes
from .promises import PromiseSubscription
from .publisher import LAST_ANSWERS
from .publishers import Publishers
from .sentinel import SentinelNode
from .stats import MultiplexerStats, snapshot
from .subscriber import Subscriber
from .subscribers import Subscribers
from .subscriptions import ChannelSubscription, PatternSubscription, encode_name
from .topology import Node, Topology, nodes_of

__all__ = ["Multiplexer"]


class Multiplexer:
    """Carries any number of subscriptions over one connection to Redis; publishes over another.

    It belongs to the event loop it was started on; call it from that loop's thread only.
    Subscriptions can be made, and names added and removed, before `start` and while the server
    is away: they count, and are sent when a connection stands.

    - ``url``: where Redis is: ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py has it.
      With a list of several servers, each name belongs to one of them: see `node_of`. An entry may
      also be a `Node` or `SentinelNode`.
    - ``ping_interval`` (seconds, 30): after this much silence the server is sent a PING. A shorter
      interval finds dead peers sooner and costs a packet each time.
    - ``min_backoff``, ``max_backoff`` (seconds, 0.008 and 0.512, as in go-mpx): exponential
      backoff with full jitter between attempts to connect.
    - ``connect_timeout`` (seconds, 5): for connecting with its handshake, and for the server's
      next answer, as long as there is a command or a PING that it has not answered.
    - ``unsubscribe_delay`` (seconds, 1): how long a name stays subscribed after its last
      listener went, so that a page that reloads costs Redis nothing.
    - ``max_queue`` (1000): how many messages may wait for one subscription's async callbacks, or
      for its iteration; above that, if the reader is slow, the newest is dropped and counted.
    - ``max_backlog`` (10,000), ``backlog_timeout`` (seconds, 5): how many commands wait for a
      connection, and for how long, before their senders get `NotConnected`. After a reconnect they
      go out when the subscriptions are confirmed again, within this time.
    - ``probe_interval`` (seconds, 30): for `probe_over`; 0 is off.
    - ``redis_options``: further keywords of redis-py's connections, for all that are given as a
      URL: ``username``, ``password``, ``credential_provider``, ``db``, ``ssl_ca_certs``,
      ``client_name``, ``protocol``, ...

    Raises `ValueError` or `TypeError`, naming the value, for a bad URL or option.
    """

    def __init__(
        self,
        url: str | Node | Sequence[str | Node] = "redis://localhost:6379",
        *,
        ping_interval: float = 30.0,
        min_backoff: float = 0.008,
        max_backoff: float = 0.512,
        connect_timeout: float = 5.0,
        unsubscribe_delay: float = 1.0,
        max_queue: int = 1000,
        max_backlog: int = 10_000,
        backlog_timeout: float = 5.0,
        probe_interval: float = 30.0,
        **redis_options: Any,
    ) -> None:
        options = LinkOptions(ping_interval, min_backoff, max_backoff, connect_timeout)
        for name, seconds in (
            ("unsubscribe_delay", unsubscribe_delay),
            ("backlog_timeout", backlog_timeout),
            ("probe_interval", probe_interval),
        ):
            if not seconds >= 0:
                raise ValueError(f"{name} must be 0 or more seconds, not {seconds!r}")
        for name, value in (("max_queue", max_queue), ("max_backlog", max_backlog)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value!r}")
        nodes = nodes_of(url, connect_timeout, redis_options)
        self._max_queue = max_queue
        self._counters = EngineCounters()
        self._probe_interval, self._probe_patience = probe_interval, connect_timeout
        self._compose(nodes, options, unsubscribe_delay, max_backlog, backlog_timeout)

    def _compose(
        self,
        nodes: Sequence[Node],
        options: LinkOptions,
        linger: float,
        max_backlog: int,
        backlog_timeout: float,
    ) -> None:
        """Make what it is made of, out of the nodes."""
        self._topology = Topology(nodes)
        self._subscribers = Subscribers(self._topology, options, self._counters, linger=linger)
        self._publishers = Publishers(
            self._topology,
            options,
            self._counters,
            max_backlog=max_backlog,
            backlog_timeout=backlog_timeout,
        )
        for publisher in self._publishers.all:
            publisher.follow(self._subscribers.of_node(publisher.link.node))
        self._watches = [
            FailoverWatch(
                [
                    server.link,
                    *[each.link for each in self._publishers.at(self._topology, server.link.node)],
                ],
                options,
            )
            for server in self._subscribers.all
            if isinstance(server.link.node, SentinelNode)
        ]
        self._probes: Probes | None = None
        # The subscriber and publisher, where there is but one node and nobody need look for it.
        self._subscriber: Subscriber = self._subscribers.all[0]
        self._publisher = self._publishers.only

    # Whether it is that of a cluster, and with sharded channels.
    cluster = False
    sharded = False

    def moved_lately(self, name: str | bytes) -> bool:
        """Whether those who listen to a name may be about to follow it to another server."""
        return False

    @property
    def counts_all(self) -> bool:
        """Whether the number that `publish` returns counts all receivers."""
        return True

    @property
    def flow(self) -> Flow:
        """What holds messages back for readers: whoever keeps messages in a buffer tells it."""
        return self._subscribers.flow

    # -- where ----------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """The node; the first of several."""
        return self._topology.nodes[0]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes, in the order of their URLs."""
        return self._topology.nodes

    @property
    def seeds(self) -> tuple[Node, ...]:
        """The nodes that it was made with."""
        return self._topology.nodes

    def node_of(self, name: str | bytes) -> Node:
        """The node that a channel name, or a key, lives on.

        That is the one at the CRC-32 of the name, scaled to the number of nodes, as with
        channels_redis: all processes need the same nodes in the same order.
        """
        if self._publisher is not None:
            return self.node
        return self._topology.node_of(encode_name(name))

    def server_of(self, name: str | bytes) -> Node:
        """The first of the nodes that are the same server as the node of `name`.

        Nodes that are databases of one server share its subscribing connection.
        """
        if self._subscribers.only is not None:
            return self.node
        return self._topology.server_of(encode_name(name))

    def place_of(self, name: str | bytes) -> Hashable:
        """Equal for keys that one command may have together: those of a node."""
        return self.node_of(name)

    def concerns(self, error: Exception, name: str | bytes) -> bool:
        """Whether the loss of a connection, as ``on_disconnect`` gets it, is that of `name`."""
        text = encode_name(name).decode("utf-8", "surrogateescape")
        return not isinstance(error, LinkLost) or error.includes(text)

    def on_lost(self, callback: Callable[[LinkLost], object]) -> None:
        """Have `callback` called once for each subscribing connection that breaks.

        That is after the ``on_disconnect`` of subscriptions: for whoever has many of them.
        """
        self._subscribers.on_lost(callback)

    # -- life ---------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._subscriber.link.running

    @property
    def last_error(self) -> Exception | None:
        """Why there is no connection; None while there is one, and before the first attempt.

        With several nodes, that of the first that has one.
        """
        errors = [each.link.last_error for each in self._subscribers.all]
        return next((error for error in errors if error is not None), None)

    def error_of(self, node: Node) -> Exception | None:
        """As `last_error`, of one node."""
        return self._subscribers.of_node(node).link.last_error

    def is_up(self, node: Node) -> bool:
        """Whether the subscribing connection to a node stands."""
        return self._subscribers.of_node(node).up.is_set()

    def is_reached(self, node: Node) -> bool:
        """Whether a command may be on its way to a node: what is sent waits for a connection."""
        publishers = (*self._publishers.all, *self._publishers.blocking)
        return any(each.link.wire is not None for each in publishers if each.link.node is node)

    async def start(self) -> None:
        """Begin to connect and return at once, even if the server is down."""
        if self.running:
            return
        self.flow.start()
        for subscriber in self._subscribers.all:
            subscriber.start()
        for publisher in self._publishers.all:
            publisher.start()
        for watch in self._watches:
            watch.start()

    async def stop(self, timeout: float = LAST_ANSWERS) -> None:
        """Let publishes out, close all connections. Subscriptions stay, for the next `start`.

        Subscriptions hear ``on_disconnect``, and outstanding promises fail with
        `PromiseDisconnected`. It waits for answers, ``timeout`` seconds in all (0.5), and for
        nothing else: it returns within a second.
        """
        deadline = monotonic() + timeout
        await asyncio.gather(*[each.stop(timeout) for each in self._publishers.all])
        await asyncio.gather(*[each.stop() for each in self._subscribers.all])
        # Last: while we are running, whoever lost a blocking command may open it again.
        left = max(0.0, deadline - monotonic())
        await asyncio.gather(*[each.stop(left) for each in self._publishers.blocking])
        await asyncio.gather(*[each.stop() for each in self._watches])

    def abandon(self) -> None:
        """The event loop was closed without `stop`: close the sockets without its help."""
        subscribing = [each.link for each in self._subscribers.all]
        publishing = [each.link for each in (*self._publishers.all, *self._publishers.blocking)]
        for link in (*subscribing, *publishing):
            link.abandon()
        for watch in self._watches:
            watch.abandon()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Return once the subscribing connection stands; with several servers, those to all.

        ``timeout`` is in seconds; None means no limit. Raises `NotConnected` when it is over, with
        the reason of the last attempt.
        """
        if not self.running:
            raise MultiplexerStopped("the multiplexer is not running: await start() first")
        link = self._subscriber.link
        try:
            async with asyncio.timeout(timeout):
                while missing := [each for each in self._subscribers.all if not each.up.is_set()]:
                    link = missing[0].link
                    await missing[0].up.wait()
            if not self.running:
                raise MultiplexerStopped("the multiplexer was stopped meanwhile")
        except TimeoutError:
            cause = f": {describe(link.last_error)}" if link.last_error is not None else ""
            raise NotConnected(
                f"no connection to {link.node} in {timeout} s{cause}"
            ) from link.last_error

    def probe_over(self, name: str | bytes) -> None:
        """Subscribe to a channel on every server, over which this process hears itself publish.

        Nobody else may publish to `name`. When no message has come from a server for
        ``probe_interval`` seconds, a message is published there. If that does not come back in
        ``connect_timeout`` seconds, twice in a row, the connection delivers nothing although it is
        open, and is replaced. If that does not help, the next connections get longer. A second call
        changes nothing.
        """
        key = encode_name(name)
        if self._probes is None:
            self._probes = Probes(
                self._subscribers,
                self._publishers,
                key,
                interval=self._probe_interval,
                patience=self._probe_patience,
            )

    async def healthy(self, timeout: float = 1.0) -> Health:
        """Whether what is published arrives, on every node, in `timeout` seconds.

        Needs `probe_over`. Raises `ValueError` without it, or if `timeout` is not a number above 0.
        """
        require_timeout(timeout)
        if self._probes is None:
            raise ValueError("healthy() needs a channel to publish to: call probe_over(name)")
        return await examine(map(self._probes.host, self.nodes), timeout)

    # -- talk ---------------------------------------------------------------------------------

    async def publish(self, name: str | bytes, data: bytes) -> int:
        """Publish `data` to the channel `name`; return how many clients received it, on that node.

        Raises `CommandRefused` (such as a missing ACL permission), `NotConnected` when no
        connection came up in time, `BacklogFull`, and `ConnectionLost` when the link broke before
        the answer came (the message may have gone out).
        """
        return await self.publish_soon(name, data)

    def publish_soon(
        self, name: str | bytes, data: bytes, *, classic: bool = False
    ) -> asyncio.Future[int]:
        """As `publish`, as a future: it leaves with this turn of the loop, awaited or not.

        ``classic`` makes a difference in a cluster only: see `ClusterMultiplexer`.
        """
        if type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data must be bytes, not {type(data).__name__}: encode it first")
            data = bytes(data)
        key = encode_name(name)
        publisher = self._publisher or self._publishers.of(self._topology.node_of(key))
        return publisher.submit(pack_publish(key, data))

    def numsub(self, name: str | bytes, *, classic: bool = False) -> list[asyncio.Future[Any]]:
        """How many clients subscribe to this very name: an answer from each node that knows some.

        Each answer is the name and a number. For sharded channels there is a third item: how many
        of these are onlookers (see `onlookers`). The futures fail as those of `command`.
        """
        key = encode_name(name)
        return [self.command(b"PUBSUB", b"NUMSUB", key, node=self.node_of(key))]

    @property
    def scripts_apart(self) -> bool:
        """Whether what a script publishes comes by another way than what is published here."""
        return False

    def fences(
        self, published: float, name: str | bytes | None = None, *, scripted: bool = False
    ) -> list[asyncio.Future[None]]:
        """Futures, done once all that was published to `name` so far has been delivered here.

        Without a name, to any, on every server. They are for what was awaited from `publish`, on
        whatever event loop, at the moment `published` (`time.monotonic`). If that is longer ago
        than ``connect_timeout``, after which they are done in any case, or before the last fence,
        there are none. They never fail: if the link breaks, what was on its way is lost. Cost: a
        PING, one for all who ask in a turn of the loop. ``scripted``: also for what scripts have
        published, which matters where there are `scripts_apart`.
        """
        subscribers = self._subscribers
        which = subscribers.all if name is None else (subscribers.of(encode_name(name)),)
        fences = [subscriber.fence(published) for subscriber in which]
        return [fence for fence in fences if fence is not None]

    def command(
        self, *words: bytes, node: Node | None = None, again: Again | None = None
    ) -> asyncio.Future[Any]:
        """Send any command that does not block, in order with what is published.

        ``node`` is one of `nodes`, such as the `node_of` a key; leave it out if there is only one.
        The future gets Redis' reply, and fails as `publish` does. If the answer is lost, it gets
        the reply to the command that ``again`` returns, which has to find out whether the first one
        ran. That command is sent over the next connection, however long that takes, before
        everything that was sent later.
        """
        in_doubt = None if again is None else lambda: pack(*again())
        return self._publishers.of(node).submit(pack(*words), in_doubt)

    def begin_with(self, *words: bytes, node: Node | None = None, heard: Heard = unheard) -> None:
        """Send a command as `command` does, and again as the first of each new connection.

        For example to load a script, so that later commands on that connection find it. It may run
        any number of times; ``heard`` is called with the outcome each time.
        """
        self._publishers.of(node).begin_with(pack(*words), heard)

    def blocking_command(self, *words: bytes, node: Node | None = None) -> asyncio.Future[Any]:
        """Send a command that may block for up to `LONGEST_BLOCK` seconds, such as BLPOP.

        Over a third connection, which the first such command to a node opens. One command at a
        time: the next waits behind it. Else as `command`.
        """
        blocker = self._publishers.blocking_of(node)
        if self.running and not blocker.link.running:
            blocker.start()
        return blocker.submit(pack(*words))

    def new_channel_subscription(
        self,
        on_message: OnMessage | None = None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
        *,
        classic: bool = False,
    ) -> ChannelSubscription:
        """A subscription to channels, none at first; without `on_message`, iterate over it.

        ``classic`` makes a difference in a cluster only: see `ClusterMultiplexer`.
        """
        return ChannelSubscription(
            self._subscribers, on_message, on_disconnect, on_activation, max_queue=self._max_queue
        )

    def new_pattern_subscription(
        self,
        pattern: str | bytes,
        on_message: OnMessage | None = None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
    ) -> PatternSubscription:
        """A subscription to one pattern; without `on_message`, iterate over it."""
        return PatternSubscription(
            self._subscribers,
            pattern,
            on_message,
            on_disconnect,
            on_activation,
            max_queue=self._max_queue,
        )

    def new_promise_subscription(self, prefix: str | bytes) -> PromiseSubscription:
        """Promises on the channels that begin with `prefix`."""
        return PromiseSubscription(self._subscribers, prefix, max_queue=self._max_queue)

    # -- look ---------------------------------------------------------------------------------

    def stats(self) -> MultiplexerStats:
        """A snapshot; it walks over all names, so take one a second, not one for each message."""
        return snapshot(self._topology, self._subscribers, self._publishers, self._counters)
