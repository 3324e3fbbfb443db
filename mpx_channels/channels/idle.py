"""Channels that nobody reads any more: Channels has no call for a channel's end.

Its consumers cancel their `receive` when they end. But when a handler of a message of the layer
raises, there is none under way, and such a consumer ends without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from math import inf

from mpx_channels.multiplexer.deadlines import Deadlines

from .mailbox import Event, Item, Mailbox

__all__ = ["Idle", "Unread"]

# Seconds between two looks at all mailboxes, at most: each takes a microsecond for every ten.
LONGEST_BREAK = 600.0


class Idle:
    """Channels that nobody reads; one that no reader comes back to in ``seconds`` is taken down."""

    def __init__(self, seconds: float, take_down: Callable[[Mailbox], object]) -> None:
        self._take_down = take_down
        self._waiting: Deadlines[Mailbox] = Deadlines(self._due, seconds)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest(self) -> Mailbox:
        """The one that has been here for longest."""
        return self._waiting.first

    def add(self, mailbox: Mailbox) -> None:
        """Nobody reads it from now on."""
        mailbox.idle = True
        self._waiting.add(mailbox)

    def forget(self, mailbox: Mailbox) -> None:
        """Somebody reads it again, or it has ended; harmless if it is not here."""
        self._waiting.discard(mailbox)

    def close(self) -> None:
        """Time nothing any more."""
        self._waiting.close()

    def _due(self, mailbox: Mailbox) -> None:
        if not mailbox.waited_for:
            self._take_down(mailbox)


class Unread:
    """Looks now and then for channels of which nobody has taken a message for ``seconds``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        mailboxes: Mapping[str, Mailbox],
        take_down: Callable[[Mailbox], object],
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._mailboxes = mailboxes
        self._take_down = take_down
        self._timer: asyncio.TimerHandle | None = None
        # News of the link never expires: when each was first seen at the head of a mailbox.
        self._news: dict[Item, float] = {}

    def start(self) -> None:
        """Look, and go on looking."""
        self._look()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = self._loop.time()
        news: dict[Item, float] = {}
        for mailbox in tuple(self._mailboxes.values()):
            oldest = mailbox.oldest
            if oldest is None or mailbox.waited_for:
                continue
            since = oldest.expires
            if since == inf and isinstance(oldest, Event):
                since = news[oldest] = self._news.get(oldest, now)
            if since < now - self._seconds:
                self._take_down(mailbox)
        self._news = news
        self._timer = self._loop.call_later(min(self._seconds / 4, LONGEST_BREAK), self._look)
