"""What a multiplexer counts."""

from __future__ import annotations

from dataclasses import dataclass

from .figures import Counters, drop

__all__ = ["EngineCounters"]


@dataclass(slots=True)
class EngineCounters(Counters):
    """Running totals since the multiplexer was made; `MultiplexerStats` says what they are."""

    messages_in: int = 0
    deliveries: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    commands_out: int = 0
    reconnects: int = 0
    probe_reconnects: int = 0
    slots_moved: int = 0
    redirections: int = 0
    callback_errors: int = 0
    dropped_no_listener: int = drop("a message for a name that nobody listens to any more")
    dropped_no_promise: int = drop("a message without a promise")
    dropped_queue_full: int = drop("a subscription's queue was full")
    dropped_backlog_full: int = drop("a command that found too many before it")
    dropped_backlog_timeout: int = drop("a command that found no connection in time")
    dropped_unreadable: int = drop("a reply that was none of Redis' known ones")
