"""The subscribers of all servers, and which of them has a name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from .counters import EngineCounters
from .entries import CHANNEL, Kind
from .exceptions import LinkLost
from .flow import Flow
from .link import LinkOptions
from .logs import LimitedLog
from .subscriber import LinkListener, Subscriber
from .topology import Node, Topology

__all__ = ["Subscribers"]

logger = logging.getLogger("mpx_channels.multiplexer")


class Everywhere(LinkListener, Protocol):
    """A subscription, which may listen at any server."""

    def server_added(self, subscriber: Subscriber, /) -> None:
        """There is one more server."""

    def server_removed(self, subscriber: Subscriber, /) -> None:
        """There is one server less."""


class Subscribers:
    """The subscribers of all servers.

    Servers may come and go (`add`, `remove`): patterns follow, as they are on each of them.
    """

    def __init__(
        self, topology: Topology, options: LinkOptions, counters: EngineCounters, *, linger: float
    ) -> None:
        self.counters = counters
        # One for all: a buffer may be filled over any of the connections.
        self.flow = Flow()
        self.subscriptions: set[Everywhere] = set()
        self._on_lost: Callable[[LinkLost], object] = lambda loss: None
        self._topology = topology
        self._options = options
        self._linger = linger
        self._by_server: dict[Node, Subscriber] = {}
        self._counted()
        for server in topology.servers:
            self.add(server)
        # For what is about no server, such as callbacks.
        self.log = self.all[0].log if self.all else LimitedLog(logger)

    def add(self, server: Node) -> Subscriber:
        """Have one more server; whoever adds it while others run starts it."""
        subscriber = self._by_server[server] = self._make(server)
        self._counted()
        for subscription in tuple(self.subscriptions):
            subscription.server_added(subscriber)
        return subscriber

    def _make(self, server: Node) -> Subscriber:
        subscriber = Subscriber(
            server,
            self._options,
            self.counters,
            self.flow,
            self.subscriptions,
            linger=self._linger,
        )
        subscriber.on_lost = self._on_lost
        return subscriber

    def remove(self, server: Node) -> Subscriber:
        """Have one server less, not the last; whoever removes it stops it.

        Patterns let go of it. Its channels' names are for whoever knows where they are now.
        """
        subscriber = self._by_server.pop(server)
        self.counters.messages_in += subscriber.messages_in
        self.counters.reconnects += subscriber.link.reconnects
        self._counted()
        for subscription in tuple(self.subscriptions):
            subscription.server_removed(subscriber)
        return subscriber

    def _counted(self) -> None:
        self.all = tuple(self._by_server.values())
        # The one that has every name, if there is but one: nobody needs to look for it then.
        self.only = self.all[0] if len(self.all) == 1 else None
        for subscriber in self.all:
            subscriber.alone = self.only is not None

    def on_lost(self, callback: Callable[[LinkLost], object]) -> None:
        """Have `callback` called once for each link that breaks, also to servers yet to come."""
        self._on_lost = callback
        for subscriber in self.all:
            subscriber.on_lost = callback

    def of(self, name: bytes, kind: Kind = CHANNEL) -> Subscriber:
        """The one that has a channel's name."""
        return self.only or self._by_server[self._topology.server_of(name)]

    @property
    def for_patterns(self) -> Sequence[Subscriber]:
        """Those that a pattern is subscribed to on."""
        return self.all

    def of_node(self, node: Node) -> Subscriber:
        """The one that has the names of a node."""
        return self._by_server[self._topology.server(node)]
