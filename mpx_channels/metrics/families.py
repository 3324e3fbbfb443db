"""Every metric: its name, its meaning, and which figure of the statistics it is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: ``field`` is where its value stands in `LayerStats`, with dots.

    ``counter`` tells a count that only grows from a gauge, ``by_cause`` one that has a series for
    each cause, and ``by_node`` one that has a series for each Redis server, by its address.
    """

    name: str
    field: str
    help: str
    counter: bool = False
    by_cause: bool = False
    by_node: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels."""
        if self.by_node:
            return ("layer", "node")
        return ("layer", "cause") if self.by_cause else ("layer",)


def _counter(name: str, field: str, help: str) -> Family:
    return Family(name, field, help, counter=True)


def _drops(name: str, field: str, help: str) -> Family:
    return Family(name, field, help, counter=True, by_cause=True)


# Names by https://prometheus.io/docs/practices/naming/. Those with "redis" are the engine's, which
# counts what goes over the connections; those without count messages and channels of Channels.
FAMILIES = (
    Family("mpx_channels_channels", "channels", "Channels of this process that are open."),
    Family("mpx_channels_groups", "groups", "Groups with members in this process."),
    Family("mpx_channels_memberships", "memberships", "Pairs of a group and a channel in it."),
    Family(
        "mpx_channels_raw_channels", "raw_channels", "Redis channels that consumers subscribed to."
    ),
    Family(
        "mpx_channels_patterns",
        "patterns",
        "Redis patterns and wildcard groups that consumers subscribed to.",
    ),
    Family("mpx_channels_promises", "promises", "Promises and requests that wait for an answer."),
    Family("mpx_channels_unread_messages", "unread", "Messages in mailboxes, not yet received."),
    _counter(
        "mpx_channels_messages_sent_total", "messages_out", "Messages sent to channels and groups."
    ),
    _counter("mpx_channels_messages_received_total", "messages_in", "Messages that Redis sent us."),
    _counter("mpx_channels_deliveries_total", "deliveries", "Messages put into mailboxes."),
    _counter(
        "mpx_channels_gaps_total",
        "gaps",
        "How often a channel may have missed messages because the connection to Redis broke.",
    ),
    _drops("mpx_channels_dropped_messages_total", "drops", "Messages dropped, by cause."),
    Family(
        "mpx_channels_connected",
        "multiplexer.connected",
        "Whether the subscribing connection to Redis stands, in every event loop that has one.",
    ),
    Family(
        "mpx_channels_node_connected",
        "multiplexer.nodes",
        "The same for each of several hosts.",
        by_node=True,
    ),
    Family(
        "mpx_channels_connected_timestamp_seconds",
        "multiplexer.connected_since",
        "Unix time since when it stands, in every event loop; not there while it does not.",
    ),
    _counter(
        "mpx_channels_reconnects_total",
        "multiplexer.reconnects",
        "Subscribing connections after the first.",
    ),
    Family(
        "mpx_channels_redis_names_wanted",
        "multiplexer.names_wanted",
        "Names of Redis channels that have listeners.",
    ),
    Family(
        "mpx_channels_redis_names_confirmed",
        "multiplexer.names_confirmed",
        "Names of Redis channels that Redis has confirmed.",
    ),
    Family(
        "mpx_channels_redis_names_refused",
        "multiplexer.names_refused",
        "Names and patterns that Redis refuses; it is asked again.",
    ),
    Family(
        "mpx_channels_redis_patterns",
        "multiplexer.patterns",
        "Redis patterns that have listeners, those of promises included.",
    ),
    Family(
        "mpx_channels_redis_listeners",
        "multiplexer.listeners",
        "Pairs of a name or pattern and a subscription that listens to it.",
    ),
    _counter(
        "mpx_channels_redis_messages_received_total",
        "multiplexer.messages_in",
        "Pub/Sub messages from Redis; one that matches patterns comes several times.",
    ),
    _counter(
        "mpx_channels_redis_deliveries_total",
        "multiplexer.deliveries",
        "Pub/Sub messages handed to subscriptions.",
    ),
    _counter(
        "mpx_channels_redis_received_bytes_total",
        "multiplexer.bytes_in",
        "Bytes read from Redis, without handshakes.",
    ),
    _counter(
        "mpx_channels_redis_sent_bytes_total",
        "multiplexer.bytes_out",
        "Bytes written to Redis, without handshakes.",
    ),
    _counter(
        "mpx_channels_redis_commands_total",
        "multiplexer.commands_out",
        "Commands sent to Redis, without handshakes.",
    ),
    _counter(
        "mpx_channels_callback_errors_total",
        "multiplexer.callback_errors",
        "Callbacks of subscriptions that raised.",
    ),
    _drops(
        "mpx_channels_redis_dropped_total",
        "multiplexer.drops",
        "Pub/Sub messages and commands dropped by the engine, by cause.",
    ),
)
