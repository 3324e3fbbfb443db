"""How a function becomes a case."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults.stage import Setup, Stage

__all__ = ["CASES", "SHARED", "Case", "case"]

Play = Callable[[Stage], Awaitable[None]]
SHARED = Setup()


@dataclass(frozen=True)
class Case:
    """A case: what it does in a line, what it needs, and whether the short selection has it."""

    name: str
    line: str
    play: Play
    setup: Setup
    short: bool


CASES: dict[str, Case] = {}


def case(setup: Setup = SHARED, *, short: bool = True) -> Callable[[Play], Play]:
    """Make a function a case of its own name; the first line of its docstring says what it is."""

    def register(play: Play) -> Play:
        line = (play.__doc__ or "").strip().splitlines()[0]
        CASES[play.__name__] = Case(play.__name__, line, play, setup, short)
        return play

    return register
