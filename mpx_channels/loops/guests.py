"""Who is served on an event loop, and how they are asked to go."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from mpx_channels.multiplexer.logs import LimitedLog

__all__ = ["Guest", "Guests"]

logger = logging.getLogger("mpx_channels.loops")
log = LimitedLog(logger)

# Looks at guests in the time that one of them may take to send something.
LOOKS = 8
# Seconds between two looks, at least and at most.
OFTEN, SELDOM = 0.05, 5.0
# Seconds that the last ones have after their turn, before they are closed past their mailboxes.
MOMENT = 0.5
# Seconds after the end of a drain until those that are still there are worth a line in the log.
LATE = 5.0


class Guest(Protocol):
    """A connection that somebody serves; all of this happens on its event loop.

    ``patience``: seconds that one send may take; None for any time. ``says_goodbye``: it wants
    time to go in its own way. ``task``: the one that serves it.
    """

    patience: float | None
    task: asyncio.Task[Any] | None

    @property
    def says_goodbye(self) -> bool: ...

    def look(self, now: float) -> None:
        """See whether a send takes too long; ``now`` is the loop's time."""

    def turn(self, seconds: float) -> None:
        """It is its turn to go, within so many seconds."""

    def time_is_up(self) -> None:
        """It has to go now."""


class Guests:
    """The guests of one event loop. ``emptied`` is called when all that had to go have gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, emptied: Callable[[], None]) -> None:
        # Weakly: what is kept by loop must not keep the loop.
        self.loop = weakref.ref(loop)
        self.here: dict[Guest, None] = {}
        # Those that are to go; None while nobody is.
        self.leaving: dict[Guest, None] | None = None
        # How many had to go, of those that have gone, too.
        self.told = 0
        self._emptied = emptied
        self._seeing_off: asyncio.Task[None] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._shortest = inf

    @property
    def left(self) -> int:
        """How many are to go, and are here still."""
        return len(self.leaving) if self.leaving is not None else 0

    def enter(self, guest: Guest) -> None:
        """One more."""
        self.here[guest] = None
        patience = guest.patience
        if patience is not None and (self._looking is None or patience < self._shortest):
            self._shortest = patience
            self._look_later()

    def leave(self, guest: Guest) -> None:
        """It has gone, for whatever reason."""
        del self.here[guest]
        if self.leaving is not None and guest in self.leaving:
            del self.leaving[guest]
            if not self.leaving:
                self._emptied()

    # -- slow ones ----------------------------------------------------------------------------

    def _look_later(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        loop = asyncio.get_running_loop()
        interval = min(max(self._shortest / LOOKS, OFTEN), SELDOM)
        self._looking = loop.call_later(interval, self._look)

    def _look(self) -> None:
        self._looking = None
        if not self.here:
            self._shortest = inf
            return
        now = asyncio.get_running_loop().time()
        for guest in list(self.here):
            guest.look(now)
        self._look_later()

    # -- seeing them off ----------------------------------------------------------------------

    def see_off(self, over: float) -> None:
        """Ask all to go, one after the other, within so many seconds.

        Those that a drain before has left, and those that have come since.
        """
        self._stop()
        if self.leaving is None:
            self.leaving = {}
        new = [guest for guest in self.here if guest not in self.leaving]
        self.leaving.update(dict.fromkeys(new))
        self.told += len(new)
        if not self.leaving:
            self._emptied()
            return
        task = self._see_off(list(self.leaving), over)
        self._seeing_off = asyncio.get_running_loop().create_task(task, name="mpx-drain")

    def stay(self) -> None:
        """Nobody has to go any more."""
        self._stop()
        self.leaving = None
        self.told = 0

    def _stop(self) -> None:
        if self._seeing_off is not None:
            self._seeing_off.cancel()
            self._seeing_off = None

    async def _see_off(self, guests: list[Guest], over: float) -> None:
        time = asyncio.get_running_loop().time
        began = time()
        for at, guest in _turns(guests, over):
            await _until(began + at)
            if self.leaving is not None and guest in self.leaving:
                guest.turn(max(0.0, began + over - time()))
        await _until(began + over + MOMENT)
        for guest in list(self.leaving or ()):
            guest.time_is_up()
        await asyncio.sleep(LATE)
        if self.leaving:
            first = next(iter(self.leaving))
            log.warning(
                "drain",
                "%d connections are still there, %g s after the end of the drain; one is %s",
                len(self.leaving),
                LATE,
                first,
            )


def _turns(guests: list[Guest], over: float) -> list[tuple[float, Guest]]:
    """When each is to go: evenly over the time, who says goodbye within the first half of it."""
    polite = [guest for guest in guests if guest.says_goodbye]
    others = [guest for guest in guests if not guest.says_goodbye]
    turns = [(over * n / len(others), guest) for n, guest in enumerate(others)]
    turns += [(over / 2 * n / len(polite), guest) for n, guest in enumerate(polite)]
    return sorted(turns, key=lambda turn: turn[0])


async def _until(moment: float) -> None:
    delay = moment - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)
