"""Which publisher a node has, and which one for what blocks."""

from __future__ import annotations

from dataclasses import replace

from .counters import EngineCounters
from .link import LinkOptions
from .publisher import Publisher
from .topology import Node, Topology

__all__ = ["LONGEST_BLOCK", "Publishers"]

# Seconds; more silence than this after a blocking command, and the connection counts as dead.
LONGEST_BLOCK = 10.0


class Publishers:
    """The publishers of all nodes, and those for commands that block, which start when needed."""

    def __init__(
        self,
        topology: Topology,
        options: LinkOptions,
        counters: EngineCounters,
        *,
        max_backlog: int,
        backlog_timeout: float,
    ) -> None:
        def make(node: Node, options: LinkOptions, label: str, longest: float) -> Publisher:
            return Publisher(
                node,
                options,
                counters,
                max_backlog=max_backlog,
                backlog_timeout=backlog_timeout,
                label=label,
                longest_command=longest,
            )

        # While a command blocks, a PING behind it is not answered.
        patient = replace(options, ping_interval=max(options.ping_interval, LONGEST_BLOCK))
        self._by_node = {node: make(node, options, "publishing", 0) for node in topology.nodes}
        self._blocking_by_node = {
            node: make(node, patient, "blocking", LONGEST_BLOCK) for node in topology.nodes
        }
        self.all = tuple(self._by_node.values())
        self.blocking = tuple(self._blocking_by_node.values())
        self.only = self.all[0] if len(self.all) == 1 else None

    def of(self, node: Node | None) -> Publisher:
        """That of a node; raises `ValueError` for one that is not ours."""
        return self._by_node[self._which(node)]

    def at(self, topology: Topology, server: Node) -> list[Publisher]:
        """All that go to a server, by its first node."""
        return [
            each
            for each in (*self.all, *self.blocking)
            if topology.server(each.link.node) is server
        ]

    def blocking_of(self, node: Node | None) -> Publisher:
        """As `of`, for commands that block."""
        return self._blocking_by_node[self._which(node)]

    def _which(self, node: Node | None) -> Node:
        if node is None and self.only is not None:
            return self.only.link.node
        if node is None or node not in self._by_node:
            nodes = ", ".join(map(str, self._by_node))
            raise ValueError(f"node must be one of this multiplexer's nodes ({nodes}), not {node}")
        return node
