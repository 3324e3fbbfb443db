"""When a server that owes an answer is silent for too long. Knows no event loop."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Silence"]

# Before a server is called silent it is looked at so often again, at this interval (seconds): what
# came while the event loop was busy, or lies behind a flood, has to be read first.
LOOKS = 3
LOOK_EVERY = 0.01


class Reading(Protocol):
    """What comes from the server: a wire."""

    bytes_in: int

    def behind(self, bytes_in: int, /) -> bool:
        """Whether more has arrived than was handled."""


class Silence:
    """How long a server has not answered, and whether that is longer than ``patience`` seconds.

    That is how a connection looks of which one direction is dead, whatever else may come over it.
    Every answer counts as a sign of life: the commands of a large resubscription are written at
    once, and answered one after the other. So time runs from the last answer, or from the first
    command after Redis had answered everything. What we have not read yet may be an answer, too.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._since = 0.0
        # At the last look at a server that may be silent: since when we waited, the bytes read by
        # then, and how many looks in a row had found that we were not behind with reading.
        self._suspicion = (-1.0, 0, 0)

    def broken(self, now: float) -> None:
        """An answer has come, or the first command is written after all answers have."""
        self._since = now

    @property
    def ends(self) -> float:
        """When patience does."""
        return self._since + self.patience

    def next_look(self, now: float) -> float:
        """When to ask whether it `lasts_too_long`."""
        return self.ends if self.ends > now else now + LOOK_EVERY

    def lasts_too_long(self, wire: Reading, now: float) -> bool:
        """Whether the server, which owes an answer, is to be given up."""
        if now < self.ends:
            return False
        since, bytes_in, looks = self._suspicion
        looks = looks + 1 if since == self._since and not wire.behind(bytes_in) else 0
        self._suspicion = (self._since, wire.bytes_in, looks)
        return looks == LOOKS
