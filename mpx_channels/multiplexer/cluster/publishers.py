"""The publishers of a cluster's masters, and which of them has a slot."""

from __future__ import annotations

from ..counters import EngineCounters
from ..link import LinkOptions
from ..publisher import OnRefusal
from ..publishers import Publishers
from ..slots import SLOTS
from ..topology import Node
from .detour import Detour
from .publisher import ClusterPublisher

__all__ = ["ClusterPublishers"]


class ClusterPublishers(Publishers):
    """A publisher for each master, and for a node that is about to be one.

    None for what blocks: a BLPOP could wait for keys of one slot only.
    """

    _by_node: dict[Node, ClusterPublisher]  # type: ignore[assignment]
    all: tuple[ClusterPublisher, ...]

    def __init__(
        self,
        options: LinkOptions,
        counters: EngineCounters,
        *,
        max_backlog: int,
        backlog_timeout: float,
        on_refusal: OnRefusal,
    ) -> None:
        self._options = options
        self._counters = counters
        self._max_backlog = max_backlog
        self._backlog_timeout = backlog_timeout
        self._on_refusal = on_refusal
        self._by_node = {}
        self._blocking_by_node = {}
        self.blocking = ()
        self.only = None
        self._counted()
        # Where what is for a slot goes. Until somebody starts us, nowhere.
        self.routes: list[ClusterPublisher | Detour] = []
        # And where classic messages go, which any node takes.
        self.home: ClusterPublisher | Detour | None = None

    def _counted(self) -> None:
        self.all = tuple(self._by_node.values())

    def __contains__(self, node: Node) -> bool:
        return node in self._by_node

    def add(self, node: Node) -> ClusterPublisher:
        """Have one more; whoever adds it starts it."""
        publisher = self._by_node[node] = ClusterPublisher(
            node,
            self._options,
            self._counters,
            max_backlog=self._max_backlog,
            backlog_timeout=self._backlog_timeout,
            on_refusal=self._on_refusal,
        )
        self._counted()
        return publisher

    def remove(self, node: Node) -> ClusterPublisher:
        """Have one less; whoever removes it stops it."""
        publisher = self._by_node.pop(node)
        self._counted()
        return publisher

    def of(self, node: Node | None) -> ClusterPublisher:
        publisher = self._by_node.get(node) if node is not None else None
        if publisher is None:
            nodes = ", ".join(map(str, self._by_node))
            raise ValueError(f"node must be one of the cluster's masters ({nodes}), not {node}")
        return publisher

    def lead(self, slots: set[int], route: ClusterPublisher | Detour) -> None:
        """Have what is for these slots go there from now on."""
        for slot in slots:
            self.routes[slot] = route

    def lead_all(self, route: Detour) -> None:
        """Have everything go there."""
        self.routes, self.home = [route] * SLOTS, route

    def lead_nowhere(self) -> None:
        """We are stopped."""
        self.routes, self.home = [], None
