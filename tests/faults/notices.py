"""What receivers were told of messages that they missed, and where messages stood."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Notice", "Place", "misplaced", "noticed"]


@dataclass(slots=True)
class Notice:
    """An `mpx_gap` of one group: behind how many messages of its receiver it came.

    After a failover, what the server has of the one before follows behind the notice: what is lost
    is missing anywhere until the first message of the new one, the last before which is ``until``.
    """

    after: int
    reason: str
    recovered: bool
    until: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A message of a group with a history: the how-manieth it was, and its `mpx_position`."""

    count: int
    epoch: str
    offset: int
    what: str

    @property
    def text(self) -> str:
        return f"{self.epoch}-{self.offset}"


def noticed(notices: Iterable[Notice], after: float, before: float) -> bool:
    """Whether a loss was told between the messages that came as these."""
    return any(
        not notice.recovered and notice.after < before and max(notice.after, notice.until) >= after
        for notice in notices
    )


def misplaced(places: list[Place], notices: Iterable[Notice]) -> Iterator[str]:
    """Positions of one receiver in one group that do not follow upon each other, untold."""
    notices = list(notices)
    for last, place in itertools.pairwise(places):
        here = f"{place.what} at {place.text} after {last.text}"
        if last.epoch == place.epoch and place.offset <= last.offset:
            yield here
            continue
        follows = last.epoch == place.epoch and place.offset == last.offset + 1
        if not follows and not noticed(notices, last.count, place.count):
            yield here
