"""What processes tell each other of themselves."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from operator import attrgetter
from typing import Any, Self

from mpx_channels.channels.layer_stats import LayerStats
from mpx_channels.loops.doors import doors
from mpx_channels.loops.fork import in_forked_child

__all__ = ["FleetStats", "ProcessStats", "counts", "host_name", "printable"]

# Drops of the engine that nobody misses: those who had asked for the message had left.
NOT_MISSED = {"no_listener", "no_promise"}

_started = time.time()


def _born() -> None:
    global _started
    _started = time.time()


in_forked_child(_born)


def host_name() -> str:
    """This machine's name, as the operating system has it."""
    return printable(socket.gethostname())


def printable(text: str) -> str:
    """A name from another process, with ``?`` for control characters and broken Unicode."""
    return "".join(char if char.isprintable() else "?" for char in text)


def counts(value: object) -> dict[str, int]:
    """The counts by name in what another process told; what is none is left out."""
    if not isinstance(value, dict):
        return {}
    return {printable(key): n for key, n in value.items() if isinstance(key, str) and _count(n)}


def _count(value: object) -> bool:
    return type(value) is int and value >= 0


def _number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and isfinite(value)


# Where a field keeps what it is made of.
OF = "of"


def told(*of: str, default: Any = 0) -> Any:
    """A field that is a figure of `LayerStats`, or the sum of several: ``of`` are their paths."""
    return field(default=default, metadata={OF: of})


# Whether a value is right for a field of `ProcessStats`, by the field's type.
_RIGHT: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": _count,
    "bool": lambda value: isinstance(value, bool),
    "float | None": _number,
    "Mapping[str, int]": lambda value: isinstance(value, dict),
}


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """A process of a prefix at one moment, or one event loop of it: what it told of itself.

    Counts run from the layer's first use there, times are Unix time in seconds.

    - ``process_id``: as in the names of its channels (``specific.<process_id>!...``); ``host`` and
      ``pid``: where it runs, empty and 0 where Redis does not let us know; ``silent``: it is
      subscribed, but did not answer in time, and nothing below is known.
    - ``at``: when it told this, by the clock of its machine, as are the other times; ``started``:
      when the process began to use mpx_channels; ``connected_since``: since when its subscribing
      connection stands.
    - ``consumers``: channels that are open there; ``groups``: groups with members there;
      ``memberships``: pairs of a group and a channel; ``patterns``, ``promises``: those waited for;
      ``present``: pairs of a group and an id that is in it by way of the process; ``unread``:
      messages in mailboxes.
    - ``messages_in``, ``messages_out``, ``deliveries``: see `LayerStats`.
    - ``drops``: messages that somebody missed, by cause: those of `LayerStats`, and of
      `MultiplexerStats` ``queue_full``, ``backlog_full``, ``backlog_timeout``, ``unreadable``.
    - ``gaps``: how often a channel may have missed messages because the link broke.
    - ``closed_slow``, ``refused``, ``drained``: see `LayerStats`; ``draining``: whether it lets
      nobody in, as it is drained.
    - ``reconnects``: subscribing connections after the first; ``probe_reconnects``: those that
      were made because the one before stood and delivered nothing.
    - ``slots_moved``, ``redirections``: in a cluster, see `MultiplexerStats`.
    - ``names_refused``: names and patterns that it wants to hear, and that Redis refused when it
      was last asked, for lack of a permission mostly; ``refusal``: why it refused one of them.
    - ``round_trip``: seconds from a PING of that process to Redis' answer; None if it had none.
    """

    process_id: str
    host: str = ""
    pid: int = 0
    silent: bool = False
    at: float | None = None
    started: float | None = None
    connected_since: float | None = told("multiplexer.connected_since", default=None)
    consumers: int = told("channels")
    groups: int = told("groups")
    memberships: int = told("memberships")
    patterns: int = told("patterns", "raw_channels")
    promises: int = told("promises")
    present: int = told("presence_members")
    unread: int = told("unread")
    messages_in: int = told("messages_in")
    messages_out: int = told("messages_out")
    deliveries: int = told("deliveries")
    drops: Mapping[str, int] = field(default_factory=dict)
    gaps: int = told("gaps")
    closed_slow: int = told("closed_slow")
    refused: int = told("refused")
    drained: int = told("drained")
    draining: bool = False
    reconnects: int = told("multiplexer.reconnects")
    probe_reconnects: int = told("multiplexer.probe_reconnects")
    slots_moved: int = told("multiplexer.slots_moved")
    redirections: int = told("multiplexer.redirections")
    names_refused: int = told("multiplexer.names_refused")
    refusal: str = ""
    round_trip: float | None = None

    @property
    def dropped(self) -> int:
        """All drops together."""
        return sum(self.drops.values())

    @classmethod
    def of(cls, process_id: str, stats: LayerStats, round_trip: float | None) -> Self:
        """What this process tells of itself."""
        drops = Counter(stats.drops)
        for cause, count in stats.multiplexer.drops.items():
            if cause not in NOT_MISSED:
                drops[cause] += count
        figures = {}
        for each in fields(cls):
            if OF in each.metadata:
                first, *others = (attrgetter(path)(stats) for path in each.metadata[OF])
                figures[each.name] = sum(others, first)
        return cls(
            process_id=process_id,
            host=host_name(),
            pid=os.getpid(),
            at=time.time(),
            started=_started,
            draining=doors.draining,
            refusal=next((node.refusal for node in stats.multiplexer.nodes if node.refusal), ""),
            drops=dict(drops),
            round_trip=round_trip,
            **figures,
        )

    @classmethod
    def from_answer(cls, answer: object) -> Self | None:
        """From what a process answered; None if it does not say which one it is.

        It may run another version of ours: what is unknown here, or no value for its field, is
        left out.
        """
        known = {}
        for each in fields(cls):
            value = answer.get(each.name) if isinstance(answer, dict) else None
            right = _RIGHT.get(str(each.type))
            if right is not None and value is not None and right(value):
                known[each.name] = value
        known.pop("silent", None)  # who answers is not
        if not known.get("process_id"):
            return None
        known["process_id"] = printable(known["process_id"])
        for text in ("host", "refusal"):
            known[text] = printable(known.get(text, ""))
        known["drops"] = counts(known.get("drops"))
        return cls(**known)

    def to_answer(self) -> dict[str, Any]:
        """As a message can carry it."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


# Those figures that several processes have a sum of.
SUMMED = tuple(each.name for each in fields(ProcessStats) if each.metadata and each.default == 0)


@dataclass(frozen=True, slots=True)
class FleetStats:
    """All processes of a prefix, at one moment.

    - ``processes``: those that answered, and behind them the silent ones.
    - ``groups``: the busiest groups, with their members in all processes that answered, the
      largest first.
    - ``present``: of these groups, how many are in them (`MpxChannelLayer.presence_count`), where
      somebody is.
    - ``queues``: plain channels with unread messages in Redis, and how many; those that have
      expired but were not yet thrown away count.
    - ``at``: when, as Unix time in seconds.
    - ``incomplete``: what is missing here, and why: ``"servers"`` (one of several cannot be
      reached: what is there is not seen), ``"silent"`` (some did not answer, but an ACL
      without PUBSUB does not let us know which), ``"queues"`` (an ACL without SCAN or LLEN, or too
      many keys on the server to look at all).
    """

    processes: tuple[ProcessStats, ...]
    groups: Mapping[str, int]
    queues: Mapping[str, int]
    at: float
    incomplete: Mapping[str, str] = field(default_factory=dict)
    present: Mapping[str, int] = field(default_factory=dict)
