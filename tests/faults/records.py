"""What was sent and received, and what was told in between, as it is written down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from .notices import Notice, Place

__all__ = [
    "NOT_SENT", "UNKNOWN", "UNREPORTED", "Gap", "Problem", "Receiver", "Sent", "Stream", "Verdict",
]  # fmt: skip

# Errors of a sender that mean: Redis never had it. It must not arrive.
NOT_SENT = frozenset({"NotConnected", "BacklogFull", "CommandRefused", "ChannelFull"})
# Errors that leave it open.
UNKNOWN = frozenset({"ConnectionLost"})

# Seconds before its end of which a killed process may not have reported what it read.
UNREPORTED = 0.5

Stream = tuple[str, str]  # who sends, and to which group or plain channel


@dataclass(slots=True)
class Sent:
    """One message at its sender."""

    at: float
    # None: not known yet; "": Redis has it; else the error that the sender got.
    outcome: str | None = None
    # What its sender was told of where it stands, in a group with a history.
    position: str | None = None

    @property
    def error(self) -> str:
        return (self.outcome or "").partition(":")[0]


@dataclass(slots=True)
class Gap:
    """A time in which messages may be missed, as its receiver was told.

    Between which messages: ``began`` and ``ended`` are how many the receiver had got by then. An
    end that was not told yet is far away.
    """

    began: int
    ended: float = inf
    began_at: float = inf
    ended_at: float = inf


@dataclass(slots=True)
class Receiver:
    """What one channel, or one reader of a plain channel, got."""

    position: int = 0
    # For each stream, in the order of coming: positions and numbers.
    got: dict[Stream, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    gaps: list[Gap] = field(default_factory=list)
    # By groups; and where the messages of those stood that have a history.
    notices: dict[str, list[Notice]] = field(default_factory=lambda: defaultdict(list))
    places: dict[str, list[Place]] = field(default_factory=lambda: defaultdict(list))
    # What was sent before that, and none of its stream has come, need not come.
    joined_at: float = -inf

    def add(self, group: str, place: Place) -> None:
        """A message of a group with a history has come."""
        places, notices = self.places[group], self.notices[group]
        begins = places and places[-1].epoch != place.epoch
        if begins and notices and notices[-1].reason == "failover":
            notices[-1].until = places[-1].count
        places.append(place)

    def last(self, by: str, to: str) -> int:
        """The number that came last in a stream, or 0."""
        got = self.got.get((by, to))
        return got[-1][1] if got else 0

    def may_have_missed(self, sent: Sent, after: float, before: float) -> bool:
        """Whether a gap was told between the messages at two positions, and not over by then."""
        return any(
            gap.began < before and gap.ended >= after and sent.at <= gap.ended_at
            for gap in self.gaps
        )


@dataclass(frozen=True, slots=True)
class Problem:
    """What should not have happened, how often, and one example."""

    what: str
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.what}: {self.count}, such as {self.example}"


@dataclass(slots=True)
class Verdict:
    """How a case ended."""

    problems: list[Problem] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, what: str, examples: Iterable[object]) -> None:
        """Examples of a problem; none is no problem."""
        found = list(examples)
        if found:
            self.problems.append(Problem(what, len(found), str(found[0])))
