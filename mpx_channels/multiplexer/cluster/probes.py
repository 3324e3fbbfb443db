"""The probes of a cluster's masters, each over a name of a slot that is there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable
from time import monotonic

from ..entries import CHANNEL, SHARDED, Entry
from ..exceptions import LinkLost, MpxError
from ..health import Host
from ..packing import pack_publish, pack_spublish
from ..probe import Probe
from ..slots import slot_of
from ..subscriber import Subscriber
from ..topology import Node
from .publishers import ClusterPublishers
from .subscribers import ClusterSubscribers
from .topology import ClusterTopology

__all__ = ["ClusterProbes"]


class ClusterProbes:
    """A probe at each master; at home only, where names are not sharded.

    The name itself is subscribed to at home as well: whoever looks for it finds it there.
    """

    def __init__(
        self,
        topology: ClusterTopology,
        subscribers: ClusterSubscribers,
        publishers: ClusterPublishers,
        name: bytes,
        *,
        interval: float,
        patience: float,
    ) -> None:
        self._topology = topology
        self._subscribers = subscribers
        self._publishers = publishers
        self._name = name
        self._interval = interval
        self._patience = patience
        self._of: dict[Subscriber, tuple[Probe, bytes]] = {}
        # How many have ended, as their slots have moved, or their nodes have gone.
        self.replaced = 0
        if topology.sharded:
            subscribers.of(name, CHANNEL).add(CHANNEL, name, self)
        subscribers.subscriptions.add(self)
        self.follow()

    def entries(self) -> Iterable[Entry]:
        """What stays where it is, whoever has the slots."""
        return [probe.entry for probe, _ in self._of.values()]

    def host(self, node: Node) -> Host:
        """A node, with a probe that hears what is published there."""
        subscriber = self._subscribers.of_node(
            node if self._topology.sharded else self._topology.home
        )
        return Host(node, self._of[subscriber][0], subscriber, self._publishers.of(node))

    def fences(self, published: float, nodes: Iterable[Node]) -> list[asyncio.Future[None]]:
        """Done once what these nodes have published by now has come home; as `Fences.ask`.

        A PING at home says nothing of what is on its way there from other nodes. It comes in order,
        so a probe that is published there comes behind it.
        """
        if published < monotonic() - self._patience:
            return []
        home = self._topology.home
        return [
            asyncio.ensure_future(self._has_come(node))
            for node in nodes
            if node is not home and node in self._publishers
        ]

    async def _has_come(self, node: Node) -> None:
        found = self._of.get(self._subscribers.of_node(self._topology.home))
        publisher = self._publishers.of(node)
        if found is None or not found[0].listens or not publisher.ready:
            return  # nothing comes from there now
        with contextlib.suppress(MpxError, TimeoutError):
            async with asyncio.timeout(self._patience):
                await found[0].round_trip(publisher)

    def follow(self) -> None:
        """Slots have moved, or nodes: have a probe wherever there is to be one."""
        topology = self._topology
        wanted = topology.nodes if topology.sharded else (topology.home,)
        for subscriber, (probe, name) in tuple(self._of.items()):
            gone = subscriber.node not in wanted
            if gone or (topology.sharded and topology.node_of(name) is not subscriber.node):
                probe.close()
                self.replaced += 1
                del self._of[subscriber]
        for node in wanted:
            subscriber = self._subscribers.of_node(node)
            if subscriber is not self._subscribers.limbo and subscriber not in self._of:
                name = self._name_at(node)
                self._of[subscriber] = self._make(subscriber, name), name

    def _make(self, subscriber: Subscriber, name: bytes) -> Probe:
        sharded = self._topology.sharded
        return Probe(
            subscriber,
            self._publishers.of(subscriber.node),
            name,
            interval=self._interval,
            patience=self._patience,
            kind=SHARDED if sharded else CHANNEL,
            packed=pack_spublish if sharded else pack_publish,
        )

    def _name_at(self, node: Node) -> bytes:
        if not self._topology.sharded:
            return self._name
        for number in itertools.count():
            name = b"%b:{%d}" % (self._name, number)
            if self._topology.owner(slot_of(name)) is node:
                return name
        raise AssertionError

    def disconnected(self, loss: LinkLost, subscriber: Subscriber) -> None:
        """The link to a master broke, or names were taken away from it."""
        if subscriber in self._of and loss.includes(self._of[subscriber][1].decode()):
            self._of[subscriber][0].lost(loss)

    def server_added(self, subscriber: Subscriber) -> None:
        pass

    def server_removed(self, subscriber: Subscriber) -> None:
        if subscriber in self._of:
            self._of.pop(subscriber)[0].close()
            self.replaced += 1

    # -- Listener, of the name at home ----------------------------------------------------------

    def deliver(self, name: str, data: bytes) -> None:
        pass

    def activated(self, entry: Entry) -> None:
        pass

    def refused(self, entry: Entry) -> None:
        pass
