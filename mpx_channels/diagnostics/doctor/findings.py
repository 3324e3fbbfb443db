"""What a check of the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Level", "info", "not_looked_at", "ok", "problem", "skipped", "warning"]


class Level(StrEnum):
    """How bad it is. ``skipped``: it could not be looked at."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, why it matters (by default what the check says of itself), what to do.

    ``because``: what keeps this and perhaps other checks from being run. ``folded``: the same keeps
    several checks from looking, and is said once for all of them.
    """

    level: Level
    found: str
    why: str = ""
    todo: str = ""
    folded: bool = False
    because: str = ""


def ok(found: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, found)


def info(found: str, why: str = "", todo: str = "") -> Finding:
    """Worth knowing."""
    return Finding(Level.INFO, found, why, todo)


def warning(found: str, why: str = "", todo: str = "") -> Finding:
    """Works, but not well, or not for long."""
    return Finding(Level.WARNING, found, why, todo)


def problem(found: str, why: str = "", todo: str = "") -> Finding:
    """Does not work."""
    return Finding(Level.PROBLEM, found, why, todo)


def skipped(found: str, todo: str = "", *, folded: bool = False) -> Finding:
    """Could not be looked at, and the reason."""
    return Finding(Level.SKIPPED, found, todo=todo, folded=folded)


def not_looked_at(because: str) -> Finding:
    """Not even tried, for the same reason as others."""
    return Finding(Level.SKIPPED, f"not looked at: {because}", because=because)
