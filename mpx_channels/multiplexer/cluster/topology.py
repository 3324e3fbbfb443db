"""Which node has a slot now; it follows what the nodes say."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from time import monotonic
from typing import Any

from redis.asyncio.connection import UnixDomainSocketConnection

from ..slots import SLOTS, slot_of
from ..topology import Node, Topology
from .view import Address, Share, View

__all__ = ["ClusterTopology", "Unknown", "require_cluster_node"]

# So many views in a row that would undo what newer ones said, and they are believed: the cluster
# was made anew, perhaps, under the same addresses.
MOST_STALE = 8
# Seconds after a slot has moved in which others may not have followed yet.
LATELY = 2.0


class Unknown(Node):
    """Stands for the node of a slot while nobody has said which one that is."""

    def __init__(self, seeds: Sequence[Node]) -> None:
        self._seeds = seeds

    @property
    def db(self) -> int:
        return 0

    def connection(self) -> Any:
        raise NotImplementedError("there is no node to connect to")

    def __str__(self) -> str:
        return f"the cluster of {', '.join(map(str, self._seeds))}"


class ClusterTopology(Topology):
    """The masters of a cluster, and on which of them a name or key is.

    ``home`` is the one over which a process has its classic Pub/Sub: what is published by PUBLISH
    on any node comes to all, so that two connections would hear it twice.
    """

    def __init__(self, seeds: Sequence[Node], *, sharded: bool) -> None:
        for seed in seeds:
            require_cluster_node(seed)
        # With what the first one has of user, password and TLS, as all other nodes.
        self.seeds = (seeds[0], *(seeds[0].at(*seed.endpoint) for seed in seeds[1:]))
        self.sharded = sharded
        self.unknown: Node = Unknown(self.seeds)
        self.home: Node = self.unknown
        self.nodes = self.servers = ()
        self._owners: list[Node] = [self.unknown] * SLOTS
        self._epochs = [-1] * SLOTS
        self._by_address: dict[Address, Node] = {}
        # When slots have moved, of those that have.
        self._moved_at: dict[int, float] = {}
        self._last: tuple[Share, ...] = ()
        self._stale = 0

    @property
    def complete(self) -> bool:
        """Whether every slot has a master."""
        return self.unknown not in self._owners

    def owner(self, slot: int) -> Node:
        """The master of a slot."""
        return self._owners[slot]

    def node_of(self, name: bytes) -> Node:
        return self._owners[slot_of(name)]

    def moved_lately(self, name: bytes) -> bool:
        """Whether the name's slot has another master than a moment ago."""
        return monotonic() - self._moved_at.get(slot_of(name), -math.inf) < LATELY

    def server_of(self, name: bytes) -> Node:
        return self.node_of(name) if self.sharded else self.home

    def server(self, node: Node) -> Node:
        return node

    def at(self, address: Address) -> Node:
        """The node at an address; a new one if nobody has named it yet."""
        node = self._by_address.get(address)
        if node is None:
            node = self._by_address[address] = self.seeds[0].at(*address)
        return node

    def believe(self, view: View) -> dict[Node, set[int]]:
        """Take over what a node says; returns slots that have another master now, by the old one.

        Not what is older than what another said: a node that was cut off goes on to claim slots.
        """
        if view.shares == self._last:
            self._stale = 0
            return {}
        changed: dict[Node, set[int]] = {}
        all_too_old = self._stale >= MOST_STALE
        stale = False
        owners, epochs = self._owners, self._epochs
        for share in view.shares:
            node = self.at(share.address)
            for slot in range(share.first, share.last + 1):
                if share.epoch < epochs[slot] and not all_too_old:
                    stale = stale or owners[slot] is not node
                    continue
                epochs[slot] = share.epoch
                if owners[slot] is not node:
                    changed.setdefault(owners[slot], set()).add(slot)
                    owners[slot] = node
        for node, slots in changed.items():
            if node is not self.unknown:
                self._moved_at.update(dict.fromkeys(slots, monotonic()))
        self._stale = self._stale + 1 if stale else 0
        self._last = () if stale else view.shares
        found = dict.fromkeys(each for each in owners if each is not self.unknown)
        self.nodes = self.servers = tuple(found)
        return changed

    def forget(self, node: Node) -> None:
        """Nobody uses it any more: at its address there may be another one."""
        self._by_address = {at: each for at, each in self._by_address.items() if each is not node}

    def choose_home(self, up: Sequence[Node], away: Sequence[Node]) -> None:
        """Have another home, if the one there is has gone or is away, among those that are up.

        One that is neither up nor away is about to connect.
        """
        if self.home in self.nodes and (self.home not in away or not up):
            return
        choice = [each for each in up if each in self.nodes] or self.nodes
        # By chance: the processes of a site share them.
        self.home = random.choice(choice) if choice else self.unknown


def require_cluster_node(seed: Node) -> None:
    """Raise `ValueError` for what is no address of a cluster's node."""
    if seed.db:
        raise ValueError(f"a cluster has database 0 only, and the URL of {seed} has {seed.db}")
    if type(seed) is not Node:
        raise ValueError(f"cluster: a seed must be the address of a node, not {seed}")
    if issubclass(seed.connection_type, UnixDomainSocketConnection):
        raise ValueError(f"cluster: a seed must be a host and a port, not {seed}")
