"""The doors of this process: who is inside, on all event loops, and whether more may come."""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from math import inf
from typing import Any

from .fork import in_forked_child
from .guests import Guests

__all__ = ["Doors", "Draining", "doors", "require_over"]


@dataclass(frozen=True, slots=True)
class Draining:
    """How far the drain of a process has come.

    - ``draining``: whether it lets nobody in.
    - ``total``: how many connections of consumers had to go; ``left``: how many are there still.
    """

    draining: bool = False
    total: int = 0
    left: int = 0


class _Here(threading.local):
    """Of a thread: whether it runs a handler of a consumer."""

    handling = False


class Doors:
    """Thread-safe; there is one of it per process, `doors`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Guests] = (
            weakref.WeakKeyDictionary()
        )
        # Looked at for each new connection.
        self.draining = False
        # Done when all have gone; None while nobody is to go.
        self._gone: Future[None] | None = None
        # Loops that were told to see their guests off, and have not begun, by the last drain of
        # which each was told.
        self._begin: dict[Guests, object] = {}
        self.here = _Here()

    def of(self, loop: asyncio.AbstractEventLoop) -> Guests:
        """The guests of a loop."""
        found = self._by_loop.get(loop)
        if found is not None:
            return found
        with self._lock:
            guests = self._by_loop.get(loop)
            if guests is None:
                guests = self._by_loop[loop] = Guests(loop, self._emptied)
            return guests

    @property
    def count(self) -> int:
        """How many are inside."""
        return sum(len(guests.here) for guests in self._all())

    @property
    def state(self) -> Draining:
        """How far the drain has come."""
        if not self.draining:
            return Draining()
        everybody = self._all()
        told = sum(guests.told for guests in everybody)
        left = sum(guests.left for guests in everybody)
        with self._lock:
            for guests in self._begin:
                told += len(guests.here)
                left += len(guests.here)
        return Draining(True, told, left)

    async def drain(self, over: float) -> None:
        """Let nobody in, and have all go within so many seconds; returns when the last has gone.

        Or when somebody takes it back meanwhile. Whoever is cancelled does not wait any more, and
        the drain goes on. If there is one already, this one goes on with those that are left.
        Raises `ValueError` for what is no time, and `RuntimeError` where it would wait for itself.
        """
        here, task = self._by_loop.get(asyncio.get_running_loop()), asyncio.current_task()
        if here is not None and any(guest.task is task for guest in here.here):
            raise RuntimeError(
                "drain() returns when all consumers have ended, and is called by a handler of one: "
                "call it by self.start_task(layer.drain())"
            )
        await asyncio.wrap_future(self.begin(over))

    def require_no_handler(self) -> None:
        """Raise `RuntimeError` in a thread that runs a handler: to wait there is to wait for it."""
        if self.here.handling:
            raise RuntimeError(
                "drain() returns when all consumers have ended, and is called by a handler of one: "
                "call it in a thread of its own, threading.Thread(target=layer.sync.drain)"
            )

    def begin(self, over: float) -> Future[None]:
        """As `drain`, without waiting."""
        require_over(over)
        with self._lock:
            self.draining = True
            if self._gone is None or self._gone.done():
                self._gone = Future()
                # Who waits may be cancelled, and others wait for it, too.
                self._gone.set_running_or_notify_cancel()
            gone = self._gone
            # One that does not run, and has nobody, may never run again.
            told = [each for each in self._by_loop.values() if each.here or _is_running(each)]
            drain = object()
            for guests in told:
                # Under the lock, for all loops to be told of drains and their ends in one order.
                if _tell(guests, functools.partial(self._see_off, guests, over, drain)):
                    self._begin[guests] = drain
                else:
                    self._begin.pop(guests, None)
        self._emptied()
        return gone

    def undrain(self) -> None:
        """Let people in again; those that were to go later stay."""
        with self._lock:
            self.draining = False
            gone, self._gone = self._gone, None
            self._begin.clear()
            for guests in list(self._by_loop.values()):
                _tell(guests, guests.stay)
        if gone is not None and not gone.done():
            gone.set_result(None)

    def forget(self) -> None:
        """In a forked child: connections stayed with the parent."""
        self.__init__()  # type: ignore[misc]

    def _all(self) -> list[Guests]:
        with self._lock:
            return [each for each in self._by_loop.values() if not _is_closed(each)]

    def _see_off(self, guests: Guests, over: float, drain: object) -> None:
        """In a loop: begin, unless there was another drain meanwhile, or its end."""
        with self._lock:
            if self._begin.get(guests) is not drain:
                return
        guests.see_off(over)
        with self._lock:  # not before: they would be neither here nor there for others meanwhile
            if self._begin.get(guests) is drain:
                del self._begin[guests]
        self._emptied()

    def _emptied(self) -> None:
        """Perhaps the last one has gone."""
        with self._lock:
            gone = self._gone
            if gone is None or gone.done() or self._begin:
                return
            if any(each.left for each in self._by_loop.values() if not _is_closed(each)):
                return
            self._gone = None
        gone.set_result(None)


def require_over(over: Any) -> None:
    """Raise `ValueError` unless it is a time that a drain may take."""
    if isinstance(over, bool) or not isinstance(over, int | float) or not 0 <= over < inf:
        raise ValueError(f"over must be a number of seconds from 0 up, not {over!r}")


def _tell(guests: Guests, what: Callable[[], None]) -> bool:
    """Have a loop do something about its guests; False if it was closed."""
    loop = guests.loop()
    try:
        if loop is None:
            return False
        loop.call_soon_threadsafe(what)
    except RuntimeError:
        return False
    return True


def _is_running(guests: Guests) -> bool:
    loop = guests.loop()
    return loop is not None and loop.is_running()


def _is_closed(guests: Guests) -> bool:
    loop = guests.loop()
    return loop is None or loop.is_closed()


doors = Doors()
in_forked_child(doors.forget)
