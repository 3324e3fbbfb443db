"""Holding the sockets back while readers have not had their turn: full is to mean slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

__all__ = ["PATIENCE", "Buffer", "Flow"]

# Turns of the loop in which to look at the readers one after the other: most need no more. Then
# looks are so many seconds apart, and the loop sleeps in between: a loop that spins keeps the
# interpreter's lock from the threads in which handlers of sync consumers run, and Channels' checks
# of database connections.
TURNS = 10
LOOK_EVERY = 0.001
# Looks that a reader may take nothing for, and how many each message that it takes gives back, on
# average until nothing is left. Channels' dispatch takes four to eight messages between two looks,
# and a handler that asks Redis something in each message five. One that sleeps for a millisecond
# takes one, and so is slow after a third of a second.
PATIENCE = 100.0
PATIENCE_PER_MESSAGE = 0.7
# Seconds of looking, altogether, and how many of them come back in a second without. Everything
# else on the connection waits, too, such as the answers to who joins a group, who gives up after
# `connect_timeout`, five seconds. After a handler that blocked, or while the process was stopped,
# nobody had a turn: of the time between two looks no more than this counts.
LONGEST_WAIT = 3.0
COMES_BACK = 0.1
LONGEST_BREAK = 0.1


class Buffer(Protocol):
    """What messages wait in for a reader.

    ``patience`` is with its reader: at 0 the reader is slow. Whoever has the buffer sets it to
    `PATIENCE` when nothing is left in it.
    """

    patience: float

    @property
    def unread(self) -> int:
        """How many messages wait."""

    @property
    def half_empty(self) -> bool:
        """Whether it takes messages for a while."""


class Flow:
    """Says whether messages may be handed out: not while a buffer is full whose reader is prompt.

    What comes in one read of a socket is handed out without a turn of the loop, and is more than a
    buffer takes. So a buffer that has become full says so here, and nothing more is handed out, on
    no connection of the multiplexer, until its reader has emptied half of it. A reader that does
    not, though it had its turns, is slow: nobody is held back for it again before it has worked off
    all that it had.
    """

    __slots__ = ("_allowance", "_full", "_looked", "_loop", "_turns", "_waiting", "held")

    def __init__(self) -> None:
        # Whether to hand out nothing for now. Looked at for every message.
        self.held = False
        self._loop: asyncio.AbstractEventLoop | None = None
        # With what each had unread when it was last looked at.
        self._full: dict[Buffer, int] = {}
        self._waiting: dict[Callable[[], None], None] = {}
        self._allowance = LONGEST_WAIT
        self._looked = 0.0
        self._turns = 0

    def start(self) -> None:
        """Begin, on the running loop; what another has left is forgotten."""
        self.held = False
        self._full.clear()
        self._waiting.clear()

    def filled(self, buffer: Buffer) -> None:
        """A buffer takes no more: wait for its reader, unless it is a slow one."""
        if buffer.patience <= 0 or buffer in self._full:
            return
        self._full[buffer] = buffer.unread
        self._turns = TURNS
        if not self.held:
            self.held = True
            self._loop = loop = asyncio.get_running_loop()
            now = loop.time()
            self._allowance = min(LONGEST_WAIT, self._allowance + (now - self._looked) * COMES_BACK)
            self._looked = now
            loop.call_soon(self._look)

    def when_free(self, go_on: Callable[[], None]) -> None:
        """Have this called once, when messages may be handed out again."""
        self._waiting[go_on] = None

    def _look(self) -> None:
        """Readers had a turn: see what they made of it."""
        loop = self._loop
        assert loop is not None
        now = loop.time()
        self._allowance = max(0.0, self._allowance - min(LONGEST_BREAK, now - self._looked))
        self._looked = now
        self._turns -= 1
        for buffer, before in tuple(self._full.items()):
            if buffer.half_empty or (self._turns < 0 and self._is_slow(buffer, before)):
                del self._full[buffer]
        if not self._full:
            self.held = False
            waiting, self._waiting = self._waiting, {}
            for go_on in waiting:
                go_on()
        elif self._turns > 0:
            loop.call_soon(self._look)
        else:
            loop.call_later(LOOK_EVERY, self._look)

    def _is_slow(self, buffer: Buffer, before: int) -> bool:
        """Whether the waiting for a buffer is over; it had so many messages before."""
        unread = self._full[buffer] = buffer.unread
        taken = max(0, before - unread)
        patience = min(PATIENCE, buffer.patience + taken * PATIENCE_PER_MESSAGE) - 1
        buffer.patience = patience if self._allowance else 0.0
        return buffer.patience <= 0
