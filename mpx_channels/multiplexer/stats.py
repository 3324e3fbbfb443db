"""What a multiplexer holds and has counted, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .counters import EngineCounters
from .entries import CHANNEL, SHARDED
from .exceptions import describe
from .figures import counter, gauge
from .publisher import Publisher
from .publishers import Publishers
from .subscriber import Subscriber
from .subscribers import Subscribers
from .topology import Node, Topology

__all__ = ["MultiplexerStats", "NodeStats", "snapshot"]


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
    - ``names_refused``: names and patterns that are wanted, and that Redis refused when it was last
      asked; it is asked again. ``refusal``: why it refused one of them, or None.
    """

    address: str
    db: int
    connected: bool
    connected_since: float | None
    reconnects: int
    publishing: bool
    backlog: int
    last_error: str | None
    names_refused: int = 0
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class MultiplexerStats:
    """A multiplexer at one moment; the counts run from its making, over every connection it had.

    - ``connected``: whether the subscribing connection stands; with several servers, all of them.
      In a cluster every slot that something is wanted of has to have a master as well.
    - ``connected_since``: since when, as Unix time in seconds; None while it does not.
    - ``names_wanted``, ``names_confirmed``: channel names with listeners, and those that Redis
      confirmed; ``patterns``: patterns with listeners, those of promises included.
    - ``listeners``: pairs of a name or pattern and a subscription that listens to it; a pattern
      counts at every server.
    - ``messages_in``: messages from Redis; ``deliveries``: messages handed to subscriptions.
    - ``bytes_in``, ``bytes_out``, ``commands_out``: on all connections, handshakes left out.
    - ``reconnects``: subscribing connections after the first; ``probe_reconnects``: those that
      were made because the one before stood and delivered nothing.
    - ``slots_moved``: slots of a cluster that have changed their master; ``redirections``: commands
      that a node of a cluster did not do, as their slot was another's, or on its way to one, and
      that were sent on.
    - ``callback_errors``: callbacks that raised; each was logged.
    - ``drops``: what was dropped, by cause. ``no_listener``: a message for a name that nobody
      listens to any more; ``no_promise``: a message without a promise; ``queue_full``: a
      subscription's queue was full, and its reader slow; ``backlog_full``: a command that found
      too many before it, and ``backlog_timeout``: a command that found no connection in time (its
      sender got the error);
      ``unreadable``: a reply that was none of Redis' known ones.
    - ``nodes``: the nodes one by one, in the order of their URLs; of a cluster the masters that
      there are now. What belongs to a slot without a master, or to a cluster of which nobody has
      said yet who is one, is at a node that stands for all of it, and is never connected.
    - ``names_refused``: names and patterns that are wanted, and that Redis refused when it was last
      asked, for lack of a permission mostly; it is asked again. The nodes say why.
    """

    connected: bool = gauge(
        "mpx_channels_connected",
        "Whether the subscribing connection to Redis stands, in every event loop that has one.",
        "0 or 1",
    )
    connected_since: float | None = gauge(
        "mpx_channels_connected_timestamp_seconds",
        "Unix time since when it stands, in every event loop; not there while it does not.",
        "seconds",
    )
    names_wanted: int = gauge(
        "mpx_channels_redis_names_wanted", "Names of Redis channels that have listeners.", "names"
    )
    names_confirmed: int = gauge(
        "mpx_channels_redis_names_confirmed",
        "Names of Redis channels that Redis has confirmed.",
        "names",
    )
    patterns: int = gauge(
        "mpx_channels_redis_patterns",
        "Redis patterns that have listeners, those of promises included.",
        "patterns",
    )
    listeners: int = gauge(
        "mpx_channels_redis_listeners",
        "Pairs of a name or pattern and a subscription that listens to it.",
        "listeners",
    )
    messages_in: int = counter(
        "mpx_channels_redis_messages_received_total",
        "Pub/Sub messages from Redis; one that matches patterns comes several times.",
        "messages",
    )
    deliveries: int = counter(
        "mpx_channels_redis_deliveries_total",
        "Pub/Sub messages handed to subscriptions.",
        "messages",
    )
    bytes_in: int = counter(
        "mpx_channels_redis_received_bytes_total",
        "Bytes read from Redis, without handshakes.",
        "bytes",
    )
    bytes_out: int = counter(
        "mpx_channels_redis_sent_bytes_total",
        "Bytes written to Redis, without handshakes.",
        "bytes",
    )
    commands_out: int = counter(
        "mpx_channels_redis_commands_total",
        "Commands sent to Redis, without handshakes.",
        "commands",
    )
    reconnects: int = counter(
        "mpx_channels_reconnects_total", "Subscribing connections after the first.", "connections"
    )
    probe_reconnects: int = counter(
        "mpx_channels_probe_reconnects_total",
        "Subscribing connections that were replaced as a probe showed that they delivered nothing.",
        "connections",
    )
    slots_moved: int = counter(
        "mpx_channels_cluster_slots_moved_total",
        "Slots of a cluster that have changed their master.",
        "slots",
    )
    redirections: int = counter(
        "mpx_channels_cluster_redirections_total",
        "Commands that a node of a cluster did not run, as their slot was another's; they were "
        "sent there.",
        "commands",
    )
    callback_errors: int = counter(
        "mpx_channels_callback_errors_total", "Callbacks of subscriptions that raised.", "errors"
    )
    drops: Mapping[str, int] = counter(
        "mpx_channels_redis_dropped_total",
        "Pub/Sub messages and commands dropped by the engine, by cause.",
        "messages, commands",
        by="cause",
    )
    nodes: tuple[NodeStats, ...] = gauge(
        "mpx_channels_node_connected",
        "Whether the subscribing connections to each server stand, in every event loop.",
        "0 or 1",
        by="node",
        default=(),
    )
    names_refused: int = gauge(
        "mpx_channels_redis_names_refused",
        "Names and patterns that Redis refuses; it is asked again.",
        "names",
        default=0,
    )


def snapshot(
    topology: Topology,
    subscribers: Subscribers,
    publishers: Publishers,
    counters: EngineCounters,
    nowhere: Subscriber | None = None,
    error: Exception | None = None,
) -> MultiplexerStats:
    """What there is now; it walks over the names.

    ``nowhere`` has the names of which nobody knows where they belong, for the reason ``error``.
    """
    links = [each.link for each in subscribers.all]
    others = [each.link for each in (*publishers.all, *publishers.blocking)]
    wires = [link.wire for link in (*links, *others) if link.wire is not None]
    nodes = [
        _node(node, subscribers.of_node(node), publishers.of(node), None) for node in topology.nodes
    ]
    registries = [each.registry for each in subscribers.all]
    if nowhere is not None and (nowhere.wanted or not nodes):
        registries.append(nowhere.registry)
        nodes.append(_node(nowhere.node, nowhere, None, error))
        links.append(nowhere.link)
    since = [link.connected_at for link in links if link.connected_at is not None]
    counts = counters.counts()
    # Of servers that are ours no more, and of connections that ended; the others count themselves.
    counts["messages_in"] += sum(each.messages_in for each in subscribers.all)
    counts["bytes_in"] += sum(wire.bytes_in for wire in wires)
    counts["bytes_out"] += sum(wire.bytes_out for wire in wires)
    counts["reconnects"] += sum(link.reconnects for link in links)
    patterns = (entry for each in registries for entry in each.patterns.values())
    return MultiplexerStats(
        connected=bool(links) and all(link.wire is not None for link in links),
        connected_since=max(since) if links and len(since) == len(links) else None,
        names_wanted=sum(each.wanted(CHANNEL) + each.wanted(SHARDED) for each in registries),
        names_confirmed=sum(
            each.confirmed(CHANNEL) + each.confirmed(SHARDED) for each in registries
        ),
        # Each is wanted at every server, or in a cluster at one.
        patterns=len({entry.name for entry in patterns if entry.wanted}),
        listeners=sum(each.listeners() for each in registries),
        **counts,
        drops=counters.drops(),
        nodes=tuple(nodes),
        names_refused=sum(len(each.refused()) for each in registries),
    )


def _node(
    node: Node, subscriber: Subscriber, publisher: Publisher | None, error: Exception | None
) -> NodeStats:
    link = subscriber.link
    refusals = [entry.refusal for entry in subscriber.registry.refused()]
    error = error or link.last_error
    if error is None and publisher is not None:
        error = publisher.link.last_error
    return NodeStats(
        address=str(node),
        db=node.db,
        connected=link.wire is not None,
        connected_since=link.connected_at,
        reconnects=link.reconnects,
        publishing=publisher is not None and publisher.link.wire is not None,
        backlog=publisher.waiting if publisher is not None else 0,
        last_error=None if error is None else describe(error),
        names_refused=len(refusals),
        refusal=describe(refusals[0]) if refusals and refusals[0] is not None else None,
    )
