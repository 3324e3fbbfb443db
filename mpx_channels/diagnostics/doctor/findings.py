"""What a check of the doctor is, and what it finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .examination import Examination, Server

__all__ = [
    "Check",
    "Finding",
    "Level",
    "ProjectCheck",
    "ServerCheck",
    "info",
    "ok",
    "problem",
    "skipped",
    "warning",
]


class Level(StrEnum):
    """How bad it is. ``skipped``: it could not be looked at."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, why it matters (by default what the check says of itself), what to do."""

    level: Level
    found: str
    why: str = ""
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    ``why``: why one looks at this at all. ``needs``: ids of checks that must have gone well, or
    this one is skipped.
    """

    id: str
    title: str
    why: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProjectCheck(Check):
    """A check of the project and its layer as a whole."""

    run: Callable[[Examination], Awaitable[list[Finding]]] = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class ServerCheck(Check):
    """A check of each server."""

    run: Callable[[Server], Awaitable[list[Finding]]] = field(kw_only=True)


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


def skipped(found: str, todo: str = "") -> Finding:
    """Could not be looked at, and the reason."""
    return Finding(Level.SKIPPED, found, todo=todo)
