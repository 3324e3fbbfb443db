"""What a layer counts, and the snapshot it hands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpx_channels.multiplexer import MultiplexerStats

__all__ = ["Counters", "LayerStats"]


@dataclass(slots=True)
class Counters:
    """Running totals of a layer in one event loop."""

    messages_out: int = 0
    messages_in: int = 0
    deliveries: int = 0
    dropped_full: int = 0
    dropped_expired: int = 0
    dropped_unroutable: int = 0
    dropped_unreadable: int = 0
    dropped_undecryptable: int = 0
    dropped_undelivered: int = 0
    gaps: int = 0

    def drops(self) -> dict[str, int]:
        """The drops by their cause; every cause is there, also at zero."""
        return {
            "full": self.dropped_full,
            "expired": self.dropped_expired,
            "unroutable": self.dropped_unroutable,
            "unreadable": self.dropped_unreadable,
            "undecryptable": self.dropped_undecryptable,
            "undelivered": self.dropped_undelivered,
        }


@dataclass(frozen=True, slots=True)
class LayerStats:
    """A layer in one event loop, at one moment.

    - ``channels``: mailboxes of this process; ``groups``: groups with members here;
      ``memberships``: pairs of a group and a channel.
    - ``raw_channels``, ``patterns``: Redis channels and patterns that consumers subscribed to,
      wildcard groups among the latter; ``promises``: answers that are waited for.
    - ``messages_out``: messages sent to channels and groups; ``messages_in``: messages that came
      from Redis, but for questions of `cluster_stats` and its like; ``deliveries``: messages put
      into mailboxes.
    - ``unread``: messages in mailboxes now.
    - ``gaps``: how often a channel may have missed messages because the link to Redis broke.
    - ``drops``: what was dropped, by cause. ``full``: the mailbox was at its capacity,
      and its reader slow: it had its turn, and left it full;
      ``expired``: unread for longer than ``expiry``; ``unroutable``: nobody has such a channel
      any more; ``unreadable``: not a message of a layer like ours; ``undecryptable``: not with
      one of ``symmetric_encryption_keys``, not sent here, not sent lately, or not encrypted at all
      (or encrypted, and there are no keys);
      ``undelivered``: a plain channel's message that could not be given back to Redis.
    - ``multiplexer``: the engine's own `MultiplexerStats`.
    """

    channels: int
    groups: int
    memberships: int
    raw_channels: int
    patterns: int
    promises: int
    messages_out: int
    messages_in: int
    deliveries: int
    unread: int
    gaps: int
    drops: Mapping[str, int]
    multiplexer: MultiplexerStats
