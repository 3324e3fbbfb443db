"""What a multiplexer counts, and the snapshot it hands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Counters", "MultiplexerStats"]


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
class MultiplexerStats:
    """A multiplexer at one moment; the counts run from its making, over every connection it had.

    - ``connected``: whether the subscribing connection stands.
    - ``connected_since``: since when, as Unix time in seconds; None while it does not.
    - ``names_wanted``, ``names_confirmed``: channel names with listeners, and those that Redis
      confirmed; ``patterns``: patterns with listeners, those of promises included.
    - ``listeners``: pairs of a name or pattern and a subscription that listens to it.
    - ``messages_in``: messages from Redis; ``deliveries``: messages handed to subscriptions.
    - ``bytes_in``, ``bytes_out``, ``commands_out``: on both connections, handshakes left out.
    - ``reconnects``: subscribing connections after the first.
    - ``callback_errors``: callbacks that raised; each was logged.
    - ``drops``: what was dropped, by cause. ``no_listener``: a message for a name that nobody
      listens to any more; ``no_promise``: a message without a promise; ``queue_full``: a
      subscription's queue was full; ``backlog_full`` and ``backlog_timeout``: a command that
      found too many before it, or no connection in time (its sender got the error);
      ``unreadable``: a reply that was none of Redis' known ones.
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
