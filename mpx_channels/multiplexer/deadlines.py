"""What is due after a while: any number of things, the earliest first, and one timer for all."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["Deadlines", "DueOrder"]

T = TypeVar("T", bound=Hashable)


class DueOrder(Generic[T]):
    """Things and when each is due, for whoever has a clock of its own.

    Whoever adds waits the same time with all of them, so that the order of adding is that of the
    moments at which they are due. Ordered, as taking the first of a plain dict over and over is
    quadratic.
    """

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self._due: OrderedDict[T, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, thing: object) -> bool:
        return thing in self._due

    def __iter__(self) -> Iterator[T]:
        return iter(self._due)

    @property
    def first(self) -> T:
        """What is due first; raises `StopIteration` where there is nothing."""
        return next(iter(self._due))

    def next_due(self) -> float | None:
        """When the first is due, or None."""
        return next(iter(self._due.values()), None)

    def add(self, thing: T, due: float) -> None:
        """Add at the end; what was there already is due anew."""
        if thing in self._due:
            self._due.move_to_end(thing)
        self._due[thing] = due

    def add_first(self, thing: T, due: float) -> None:
        """Add before all others, none of which is due earlier."""
        self.add(thing, due)
        self._due.move_to_end(thing, last=False)

    def discard(self, thing: T) -> None:
        """Forget it; harmless if it is not there."""
        self._due.pop(thing, None)

    def pop_first(self) -> tuple[T, float]:
        """Take out what is due first, and when; raises `KeyError` where there is nothing."""
        return self._due.popitem(last=False)

    def pop_due(self, now: float) -> Iterator[T]:
        """Take out what is due by now, one after the other."""
        while self._due and next(iter(self._due.values())) <= now:
            yield self._due.popitem(last=False)[0]

    def clear(self) -> None:
        """Forget all."""
        self._due.clear()


class Deadlines(DueOrder[T]):
    """Things that are due ``seconds`` after they were added; `on_due` gets each, on its event loop.

    Many are added and few come due, so a thing costs an entry in a dict and no timer. A timer that
    goes off too early, since the first was discarded, is set anew.
    """

    __slots__ = ("_looks_at", "_loop", "_on_due", "_seconds", "_timer")

    def __init__(self, on_due: Callable[[T], object], seconds: float) -> None:
        super().__init__()
        self._on_due = on_due
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        # Kept here: uvloop's handle of what is due at once does not know it.
        self._looks_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, thing: T, due: float | None = None) -> None:
        """It is due after ``seconds``, or at a moment of the loop's clock that is not earlier."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        if due is None:
            due = loop.time() + self._seconds
        if thing in self._due:
            self._due.move_to_end(thing)
        self._due[thing] = due
        if self._timer is None:
            self._look_at(loop, due)

    def add_first(self, thing: T, due: float) -> None:
        super().add_first(thing, due)
        if self._timer is not None and self._loop is not None and due < self._looks_at:
            self._timer.cancel()
            self._look_at(self._loop, due)

    def close(self) -> None:
        """Time nothing any more; what is there stays."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    def _look(self) -> None:
        self._timer = None
        loop = self._loop
        if loop is None:
            return
        for thing in self.pop_due(loop.time()):
            self._on_due(thing)
        due = self.next_due()
        if due is not None and self._timer is None:
            self._look_at(loop, due)

    def _look_at(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._looks_at = due
        self._timer = loop.call_at(due, self._look)
