"""The subscribers of a cluster's masters; names follow their slots from one to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..counters import EngineCounters
from ..entries import CHANNEL, PATTERN, SHARDED, Entry, Kind, Listener
from ..exceptions import LinkLost
from ..link import LinkOptions
from ..slots import slot_of
from ..subscriber import Subscriber
from ..subscribers import Subscribers
from ..topology import Node
from .topology import ClusterTopology

__all__ = ["ClusterSubscribers"]


class Limbo(Subscriber):
    """Has the names of slots that nobody has, or of which nobody knows who does. Never connects.

    ``refusal``: why nothing is subscribed to at all, or None.
    """

    refusal: Exception | None = None

    def add(self, kind: Kind, name: bytes, listener: Listener, text: str | None = None) -> Entry:
        entry = super().add(kind, name, listener, text)
        entry.refusal = self.refusal
        return entry

    def ask_again(self, entry: Entry) -> None:
        """Somebody waits for it: say at once that it is in vain."""
        if entry.refusal is not None and self._loop is not None:
            self._loop.call_soon(self._refuse, entry)

    def begin(self) -> None:
        """There is an event loop; there will be no link."""
        self.refusal = None
        self._begin()

    def refuse_all(self, refusal: Exception) -> None:
        """Nothing is subscribed to from here on."""
        self.refusal = refusal
        for table in self.registry.tables:
            for entry in table.values():
                entry.refusal = refusal
                self._refuse(entry)

    def _refuse(self, entry: Entry) -> None:
        for listener in entry.listeners:
            listener.refused(entry)


class ClusterSubscribers(Subscribers):
    """A subscriber for each master, as long as it is one.

    Sharded channels are at the master of their slot, classic ones and patterns at home.
    """

    def __init__(
        self,
        topology: ClusterTopology,
        options: LinkOptions,
        counters: EngineCounters,
        *,
        linger: float,
    ) -> None:
        self._cluster = topology
        super().__init__(topology, options, counters, linger=linger)
        self.limbo = Limbo(
            topology.unknown, options, counters, self.flow, self.subscriptions, linger=0.0
        )
        self.limbo.alone = False

    def of(self, name: bytes, kind: Kind = CHANNEL) -> Subscriber:
        cluster = self._cluster
        node = cluster.node_of(name) if kind is SHARDED else cluster.home
        return self._by_server.get(node, self.limbo)

    def of_node(self, node: Node) -> Subscriber:
        return self._by_server.get(node, self.limbo)

    @property
    def for_patterns(self) -> Sequence[Subscriber]:
        return (self.of_node(self._cluster.home),)

    def _counted(self) -> None:
        self.all = tuple(self._by_server.values())
        # There may be more of them in the next moment: whoever wants one has to look for it.
        self.only = None
        for subscriber in self.all:
            subscriber.alone = False

    def settle(self, pinned: Iterable[Entry] = ()) -> None:
        """Have every name at the master that it belongs to now, but those that are ``pinned``.

        Names that were live, and are not for a moment, are told lost, and no others.
        """
        stays = set(pinned)
        moves: dict[tuple[Subscriber, Subscriber], list[Entry]] = {}
        for source in (self.limbo, *self.all):
            for table in source.registry.tables:
                for entry in table.values():
                    if entry.wanted and entry not in stays:
                        target = self.of(entry.name, entry.kind)
                        if target is not source:
                            moves.setdefault((source, target), []).append(entry)
        losses = [self._move(*ends, entries) for ends, entries in moves.items()]
        # Not before all have moved: whoever hears of it may let go of others.
        for (_, target), loss in zip(moves, losses, strict=True):
            if loss is not None:
                target.tell_lost(loss)

    def _move(
        self, source: Subscriber, target: Subscriber, entries: list[Entry]
    ) -> LinkLost | None:
        """Returns what was lost by it."""
        live = [entry for entry in entries if entry.active]
        source.registry.release(entries)
        target.registry.adopt(entries)
        for entry in entries:
            entry.keeper = target
        source.taken_from()
        target.changed()
        if not live:
            return None
        names = frozenset(entry.text for entry in live if entry.kind is not PATTERN)
        patterns = any(entry.kind is PATTERN for entry in live)
        text = f"what {source.node} had moved to {target.node}"
        return LinkLost(text, names, patterns=patterns)

    def live_in(self, slots: set[int]) -> bool:
        """Whether everything that is wanted in these slots is confirmed, or refused."""
        for subscriber in self.all:
            for entry in subscriber.registry.shards.values():
                waits = entry.wanted and not entry.active and entry.refusal is None
                if waits and slot_of(entry.name) in slots:
                    return False
        return True
