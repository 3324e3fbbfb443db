"""A command on its way, as those who hand it on have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from .doubts import PackedAgain
from .wire import Frame

__all__ = ["OnRefusal", "Sent"]


class Sent(NamedTuple):
    """A command, who waits for its answer, and what finds out whether it ran, if there is that."""

    future: asyncio.Future[Frame]
    command: bytes
    again: PackedAgain | None = None
    # Whether it finds out what became of another that may have run.
    in_doubt: bool = False


# Gets a command that Redis refused, and the error; says whether it takes over, and answers then.
OnRefusal = Callable[[Sent, Exception], bool]
