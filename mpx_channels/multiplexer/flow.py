"""Holding the sockets back while readers have not had their turn: full is to mean slow."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Buffer", "Flow"]

# Turns of the event loop that a reader may take nothing for, and what each message that it takes
# adds to them. Channels' dispatch takes three turns for a message, a handler that sends something
# and waits for the answer of Redis some twenty; one that sleeps for a millisecond, over a hundred.
TURNS = 100
TURNS_PER_MESSAGE = 30
# Seconds of waiting for readers that need many turns, over which they count as slow. They come back
# as time passes. Everything else on the connection waits, too, also who joins a group, for whom
# patience ends after `connect_timeout`, five seconds.
LONGEST = 2.0
# Of a turn that took longer, only so much counts: a handler that blocked, a process that was
# stopped. There was no turn for anybody meanwhile.
LONGEST_TURN = 0.1


class Buffer(Protocol):
    """What messages wait in for a reader.

    ``slow``: its reader had its turn and left it full. Who has it sets that to False when nothing
    is left in it.
    """

    slow: bool

    @property
    def unread(self) -> int:
        """How many messages wait."""

    @property
    def half_empty(self) -> bool:
        """Whether it takes messages for a while."""


class _Wait:
    """How a full buffer's reader gets on."""

    __slots__ = ("turns", "unread")

    def __init__(self, unread: int) -> None:
        self.unread = unread
        self.turns = TURNS

    def is_over(self, unread: int) -> bool:
        """Count a turn of the loop, after which so many messages are left."""
        self.turns += max(0, self.unread - unread) * TURNS_PER_MESSAGE - 1
        self.unread = unread
        return self.turns <= 0


class Flow:
    """Says whether messages may be handed out: not while a buffer is full whose reader is prompt.

    What comes in one read of a socket is handed out without a turn of the loop, which is more than
    a buffer takes. So a buffer that has become full says so here, and nothing more is handed out,
    on no connection of the multiplexer, until its reader has emptied half of it. A reader that
    does not, though it had many turns, is slow: nobody is held back for it again before it has
    worked off all that it had.
    """

    __slots__ = ("_allowance", "_full", "_looked", "held")

    def __init__(self) -> None:
        # Whether to hand out nothing for now. Looked at for every message.
        self.held = False
        self._full: dict[Buffer, _Wait] = {}
        self._allowance = LONGEST
        self._looked = 0.0

    def start(self) -> None:
        """Forget what a loop that was closed has left."""
        self.held = False
        self._full.clear()
        self._looked = 0.0

    def filled(self, buffer: Buffer) -> None:
        """A buffer takes no more: wait for its reader, unless it is a slow one."""
        if buffer.slow or buffer in self._full:
            return
        self._full[buffer] = _Wait(buffer.unread)
        if not self.held:
            self.held = True
            loop = asyncio.get_running_loop()
            now = loop.time()
            self._allowance = min(LONGEST, self._allowance + now - self._looked)
            self._looked = now
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Readers had a turn: see what they made of it."""
        now = loop.time()
        self._allowance = max(0.0, self._allowance - min(LONGEST_TURN, now - self._looked))
        self._looked = now
        for buffer, wait in tuple(self._full.items()):
            if buffer.half_empty:
                del self._full[buffer]
            elif wait.is_over(buffer.unread) or not self._allowance:
                buffer.slow = True
                del self._full[buffer]
        if self._full:
            loop.call_soon(self._turn, loop)
        else:
            self.held = False
