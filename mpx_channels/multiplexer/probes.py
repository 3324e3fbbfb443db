"""The probes of all servers, one each."""

from __future__ import annotations

from .exceptions import LinkLost
from .health import Host
from .probe import Probe
from .publishers import Publishers
from .subscriber import Subscriber
from .subscribers import Subscribers
from .topology import Node

__all__ = ["Probes"]


class Probes:
    """A probe at each server, for as long as it is ours; see `Multiplexer.probe_over`."""

    def __init__(
        self,
        subscribers: Subscribers,
        publishers: Publishers,
        name: bytes,
        *,
        interval: float,
        patience: float,
    ) -> None:
        self._subscribers = subscribers
        self._publishers = publishers
        self._name = name
        self._interval = interval
        self._patience = patience
        self._of: dict[Subscriber, Probe] = {}
        for subscriber in subscribers.all:
            self.server_added(subscriber)
        subscribers.subscriptions.add(self)

    def host(self, node: Node) -> Host:
        """A node, with the probe of its server."""
        subscriber = self._subscribers.of_node(node)
        return Host(node, self._of[subscriber], subscriber, self._publishers.of(node))

    def disconnected(self, loss: LinkLost, subscriber: Subscriber) -> None:
        """The link to a server broke, of one perhaps that is ours no more."""
        if subscriber in self._of:
            self._of[subscriber].lost(loss)

    def server_added(self, subscriber: Subscriber) -> None:
        """There is one more server."""
        self._of[subscriber] = Probe(
            subscriber,
            self._publishers.of(subscriber.node),
            self._name,
            interval=self._interval,
            patience=self._patience,
        )

    def server_removed(self, subscriber: Subscriber) -> None:
        """There is one server less."""
        self._of.pop(subscriber).close()
