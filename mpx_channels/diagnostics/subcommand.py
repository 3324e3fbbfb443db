"""What a subcommand of `manage.py mpx` is made of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any, ClassVar

from .output import Output
from .session import Session

__all__ = [
    "FINE",
    "FOUND",
    "INTERRUPTED",
    "WRONG_USAGE",
    "Refusal",
    "Subcommand",
    "named",
    "positive",
    "seconds",
]

# Exit codes. The last is a shell's own for a program that SIGINT ended.
FINE, FOUND, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


class Refusal(Exception):
    """The subcommand cannot do what it was asked; the text is one sentence for the user."""

    def __init__(self, text: str, code: int = FOUND) -> None:
        super().__init__(text)
        self.code = code


class Subcommand(ABC):
    """One subcommand; made anew for each call.

    - ``name`` and ``help``: as on the command line.
    - ``interrupted``: the exit code when Ctrl-C ends it; for what runs until then it is `FINE`.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    interrupted: ClassVar[int] = INTERRUPTED

    def add_arguments(self, parser: ArgumentParser) -> None:  # noqa: B027 - few have any
        """Add arguments of its own; ``--layer`` and ``--json`` are there."""

    @abstractmethod
    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        """Do it; returns the exit code. `Refusal` and `MpxError` become one sentence on stderr."""


def named(name: str, error: Exception) -> Refusal:
    """The refusal of a name, or of what was to be sent there: Channels' own errors name no name."""
    text = str(error)
    return Refusal(text if repr(name) in text else f"{name!r}: {text}", WRONG_USAGE)


def positive(text: str) -> int:
    """The type of an argument: a number from 1 up."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"it must be a whole number from 1 up, not {text!r}")
    return number


def seconds(text: str) -> float:
    """The type of an argument: seconds, more than none."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"it must be a number of seconds above 0, not {text!r}")
    return number
