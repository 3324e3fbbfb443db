"""What a multiplexer counts, and the snapshot it hands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .link import describe
from .registry import CHANNEL, PATTERN

if TYPE_CHECKING:
    from .publisher import Publishers
    from .subscriber import Subscribers
    from .topology import Topology

__all__ = ["Counters", "MultiplexerStats", "NodeStats", "snapshot"]


@dataclass(slots=True)
class Counters:
    """Running totals since the multiplexer was made; the hot paths add to them, nothing else."""

    messages_in: int = 0
    deliveries: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    commands_out: int = 0
    callback_errors: int = 0
    dropped_no_listener: int = 0
    dropped_no_promise: int = 0
    dropped_queue_full: int = 0
    dropped_backlog_full: int = 0
    dropped_backlog_timeout: int = 0
    dropped_unreadable: int = 0

    def drops(self) -> dict[str, int]:
        """The drops by their cause; every cause is there, also at zero."""
        return {
            "no_listener": self.dropped_no_listener,
            "no_promise": self.dropped_no_promise,
            "queue_full": self.dropped_queue_full,
            "backlog_full": self.dropped_backlog_full,
            "backlog_timeout": self.dropped_backlog_timeout,
            "unreadable": self.dropped_unreadable,
        }


@dataclass(frozen=True, slots=True)
class NodeStats:
    """One node of a multiplexer at one moment.

    - ``address``: of the server, without credentials; ``db``: the number of its database.
    - ``connected``: whether the subscribing connection stands; ``connected_since``: since when, as
      Unix time in seconds; ``reconnects``: how many there were after the first. Nodes that are
      databases of one server share it.
    - ``publishing``: whether the publishing connection stands; ``backlog``: commands that wait for
      it.
    - ``last_error``: why there is no connection, or None.
    """

    address: str
    db: int
    connected: bool
    connected_since: float | None
    reconnects: int
    publishing: bool
    backlog: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class MultiplexerStats:
    """A multiplexer at one moment; the counts run from its making, over every connection it had.

    - ``connected``: whether the subscribing connection stands; with several servers, all of them.
    - ``connected_since``: since when, as Unix time in seconds; None while it does not.
    - ``names_wanted``, ``names_confirmed``: channel names with listeners, and those that Redis
      confirmed; ``patterns``: patterns with listeners, those of promises included.
    - ``listeners``: pairs of a name or pattern and a subscription that listens to it; a pattern
      counts at every server.
    - ``messages_in``: messages from Redis; ``deliveries``: messages handed to subscriptions.
    - ``bytes_in``, ``bytes_out``, ``commands_out``: on all connections, handshakes left out.
    - ``reconnects``: subscribing connections after the first.
    - ``callback_errors``: callbacks that raised; each was logged.
    - ``drops``: what was dropped, by cause. ``no_listener``: a message for a name that nobody
      listens to any more; ``no_promise``: a message without a promise; ``queue_full``: a
      subscription's queue was full, and its reader slow; ``backlog_full`` and
      ``backlog_timeout``: a command that found too many before it, or no connection in time (its
      sender got the error);
      ``unreadable``: a reply that was none of Redis' known ones.
    - ``nodes``: the nodes one by one, in the order of their URLs.
    """

    connected: bool
    connected_since: float | None
    names_wanted: int
    names_confirmed: int
    patterns: int
    listeners: int
    messages_in: int
    deliveries: int
    bytes_in: int
    bytes_out: int
    commands_out: int
    reconnects: int
    callback_errors: int
    drops: Mapping[str, int]
    nodes: tuple[NodeStats, ...] = ()


def snapshot(
    topology: Topology, subscribers: Subscribers, publishers: Publishers, counters: Counters
) -> MultiplexerStats:
    """What there is now; it walks over the names."""
    registries = [each.registry for each in subscribers.all]
    links = [each.link for each in subscribers.all]
    others = [each.link for each in (*publishers.all, *publishers.blocking)]
    wires = [link.wire for link in (*links, *others) if link.wire is not None]
    nodes = []
    for node in topology.nodes:
        link = subscribers.of_node(node).link
        publisher = publishers.of(node)
        error = link.last_error or publisher.link.last_error
        nodes.append(
            NodeStats(
                address=str(node),
                db=node.db,
                connected=link.wire is not None,
                connected_since=link.connected_at,
                reconnects=max(0, link.connections - 1),
                publishing=publisher.link.wire is not None,
                backlog=publisher.waiting,
                last_error=None if error is None else describe(error),
            )
        )
    since = [link.connected_at for link in links if link.connected_at is not None]
    return MultiplexerStats(
        connected=all(link.wire is not None for link in links),
        connected_since=max(since) if len(since) == len(links) else None,
        names_wanted=sum(each.wanted(CHANNEL) for each in registries),
        names_confirmed=sum(each.confirmed(CHANNEL) for each in registries),
        # Each is wanted at every server.
        patterns=registries[0].wanted(PATTERN),
        listeners=sum(each.listeners() for each in registries),
        messages_in=counters.messages_in,
        deliveries=counters.deliveries,
        bytes_in=counters.bytes_in + sum(wire.bytes_in for wire in wires),
        bytes_out=counters.bytes_out + sum(wire.bytes_out for wire in wires),
        commands_out=counters.commands_out,
        reconnects=sum(max(0, link.connections - 1) for link in links),
        callback_errors=counters.callback_errors,
        drops=counters.drops(),
        nodes=tuple(nodes),
    )
