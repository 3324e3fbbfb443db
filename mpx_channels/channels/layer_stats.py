"""What a layer counts, and the snapshot it hands out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from mpx_channels.multiplexer import MultiplexerStats
from mpx_channels.multiplexer.figures import Counters, counter, drop, gauge

__all__ = ["LayerCounters", "LayerStats"]


@dataclass(slots=True)
class LayerCounters(Counters):
    """Running totals of a layer in one event loop; `LayerStats` says what they are."""

    messages_out: int = 0
    messages_in: int = 0
    deliveries: int = 0
    gaps: int = 0
    replayed: int = 0
    recoveries: int = 0
    failed_recoveries: int = 0
    closed_slow: int = 0
    refused: int = 0
    drained: int = 0
    dropped_full: int = drop(
        "the mailbox was at its capacity, and its reader slow: it had its turn, and left it full"
    )
    dropped_expired: int = drop("unread for longer than ``expiry``")
    dropped_unroutable: int = drop("nobody has such a channel any more")
    dropped_unreadable: int = drop("not a message of a layer like ours")
    dropped_undecryptable: int = drop(
        "encrypted with none of ``symmetric_encryption_keys``, for another name, or too long ago; "
        "or not encrypted although there are keys, or encrypted although there are none"
    )
    dropped_undelivered: int = drop(
        "a plain channel's message that could not be given back to Redis"
    )


@dataclass(frozen=True, slots=True)
class LayerStats:
    """A layer in one event loop, at one moment.

    - ``channels``: mailboxes of this process; ``groups``: groups with members here;
      ``memberships``: pairs of a group and a channel.
    - ``raw_channels``, ``patterns``: Redis channels and patterns that consumers subscribed to,
      wildcard groups among the latter; ``promises``: answers that are waited for.
    - ``messages_out``: messages sent to channels and groups; ``messages_in``: messages that came
      from Redis, but for questions of `fleet_stats` and its like; ``deliveries``: messages put
      into mailboxes.
    - ``unread``: messages in mailboxes now.
    - ``presence_members``: pairs of a group and an id that is in it by way of this process;
      ``presence_connections``: the channels that are in groups as these.
    - ``gaps``: how often a channel may have missed messages because the link to Redis broke.
    - ``replayed``: messages that were put into mailboxes out of a history; ``recoveries``: how
      often a channel missed messages, or asked whether it had, and gets all of them;
      ``failed_recoveries``: how often it does not.
    - ``closed_slow``: consumers that were closed because their clients took nothing for
      ``send_timeout``; ``refused``: connections that were refused because of ``max_consumers``;
      ``drained``: those that were closed, or not let in, because the process was drained.
    - ``drops``: what was dropped, by cause. ``full``: the mailbox was at its capacity,
      and its reader slow: it had its turn, and left it full;
      ``expired``: unread for longer than ``expiry``; ``unroutable``: nobody has such a channel
      any more; ``unreadable``: not a message of a layer like ours; ``undecryptable``: encrypted
      with none of ``symmetric_encryption_keys``, for another name, or too long ago; or not
      encrypted although there are keys, or encrypted although there are none;
      ``undelivered``: a plain channel's message that could not be given back to Redis.
    - ``multiplexer``: the engine's own `MultiplexerStats`.
    """

    channels: int = gauge(
        "mpx_channels_channels", "Channels of this process that are open.", "channels"
    )
    groups: int = gauge("mpx_channels_groups", "Groups with members in this process.", "groups")
    memberships: int = gauge(
        "mpx_channels_memberships", "Pairs of a group and a channel in it.", "memberships"
    )
    raw_channels: int = gauge(
        "mpx_channels_raw_channels", "Redis channels that consumers subscribed to.", "channels"
    )
    patterns: int = gauge(
        "mpx_channels_patterns",
        "Redis patterns and wildcard groups that consumers subscribed to.",
        "patterns",
    )
    promises: int = gauge(
        "mpx_channels_promises", "Promises and requests that wait for an answer.", "promises"
    )
    messages_out: int = counter(
        "mpx_channels_messages_sent_total", "Messages sent to channels and groups.", "messages"
    )
    messages_in: int = counter(
        "mpx_channels_messages_received_total", "Messages that Redis sent us.", "messages"
    )
    deliveries: int = counter(
        "mpx_channels_deliveries_total", "Messages put into mailboxes.", "messages"
    )
    unread: int = gauge(
        "mpx_channels_unread_messages", "Messages in mailboxes, not yet received.", "messages"
    )
    presence_members: int = gauge(
        "mpx_channels_presence_members",
        "Pairs of a group and an id that is in it by way of this process.",
        "members",
    )
    presence_connections: int = gauge(
        "mpx_channels_presence_connections",
        "Channels that are in groups as these members.",
        "connections",
    )
    gaps: int = counter(
        "mpx_channels_gaps_total",
        "How often a channel may have missed messages because the connection to Redis broke.",
        "gaps",
    )
    replayed: int = counter(
        "mpx_channels_replayed_messages_total",
        "Messages put into mailboxes out of a group's history.",
        "messages",
    )
    recoveries: int = counter(
        "mpx_channels_recoveries_total",
        "How often a channel missed messages, or asked whether it had, and gets all of them.",
        "recoveries",
    )
    failed_recoveries: int = counter(
        "mpx_channels_failed_recoveries_total",
        "How often what a channel missed could not be replayed to it in full.",
        "recoveries",
    )
    closed_slow: int = counter(
        "mpx_channels_slow_consumers_total",
        "Consumers that were closed because their clients took nothing for send_timeout.",
        "consumers",
    )
    refused: int = counter(
        "mpx_channels_refused_consumers_total",
        "Connections that were refused because of max_consumers.",
        "connections",
    )
    drained: int = counter(
        "mpx_channels_drained_consumers_total",
        "Connections that were closed, or not let in, because the process was drained.",
        "connections",
    )
    drops: Mapping[str, int] = counter(
        "mpx_channels_dropped_messages_total", "Messages dropped, by cause.", "messages", by="cause"
    )
    multiplexer: MultiplexerStats = field(kw_only=True)

    @classmethod
    def of(
        cls,
        held: Iterable[Mapping[str, int]],
        counters: LayerCounters,
        multiplexer: MultiplexerStats,
    ) -> Self:
        """What the parts of a layer hold, by the names of the fields, and what was counted.

        What several hold is added up. Raises `TypeError` for a name that is not a field, and for
        a field that nobody has.
        """
        gauges: Counter[str] = Counter()
        for each in held:
            gauges.update(each)
        return cls(**gauges, **counters.counts(), drops=counters.drops(), multiplexer=multiplexer)
