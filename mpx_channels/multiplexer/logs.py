"""Logging at a limited rate: the first of a kind at once, the rest as a count.

What goes wrong in a process with ten thousand consumers goes wrong ten thousand times a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable

__all__ = ["LimitedLog", "origin"]

# Kinds that are remembered; some are named after what others send, so there could be any number.
MOST_KINDS = 200


class _Kind:
    """What was logged and held back of one kind, in the current window."""

    __slots__ = ("held", "latest", "logged", "since", "timer")

    def __init__(self, since: float) -> None:
        self.since = since
        # How often each text was logged.
        self.logged: dict[str, int] = {}
        self.held = 0
        self.latest: tuple[int, str, tuple[object, ...]] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def begin(self, now: float) -> None:
        """Begin another window."""
        self.since = now
        self.held = 0
        self.latest = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class LimitedLog:
    """A logger for what can repeat.

    Of each kind a text is logged at once, up to ``burst`` times in ``every`` seconds. Further ones
    are held back and counted. At the end of that time the latest of them is logged with their
    number, ``(and 41 more in the last 60 s)``, so that the last line is about how things stand now;
    for that a timer is set on the running event loop. Where there is none, the next message of the
    kind tells the number.

    Cheap enough for every dropped message: a held one costs a look into a dictionary. It belongs
    to a thread or an event loop; from several at once numbers may be off by a few.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        every: float = 60.0,
        burst: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.logger = logger
        self.every = every
        self.burst = burst
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}

    def debug(self, kind: Hashable, text: str, *arguments: object) -> None:
        """Log at level DEBUG; ``text`` and ``arguments`` are those of `logging`."""
        self._log(logging.DEBUG, kind, text, arguments, None)

    def info(self, kind: Hashable, text: str, *arguments: object) -> None:
        """Log at level INFO."""
        self._log(logging.INFO, kind, text, arguments, None)

    def warning(
        self, kind: Hashable, text: str, *arguments: object, exc_info: BaseException | None = None
    ) -> None:
        """Log at level WARNING; those held back are told without their traceback."""
        self._log(logging.WARNING, kind, text, arguments, exc_info)

    def error(
        self, kind: Hashable, text: str, *arguments: object, exc_info: BaseException | None = None
    ) -> None:
        """Log at level ERROR; those held back are told without their traceback."""
        self._log(logging.ERROR, kind, text, arguments, exc_info)

    def kind(self, group: str, name: Hashable) -> Hashable:
        """A kind of its own for `name`; where very many have one now, that of their group."""
        own = (group, name)
        if own not in self._kinds and len(self._kinds) >= MOST_KINDS:
            oldest = next(iter(self._kinds.values()))
            if self._clock() - oldest.since < self.every:
                return group
        return own

    def flush(self) -> None:
        """Tell now what is held back: whoever logs here ends."""
        for state in self._kinds.values():
            self._tell(state)

    def _log(
        self,
        level: int,
        kind: Hashable,
        text: str,
        arguments: tuple[object, ...],
        exc_info: BaseException | None,
    ) -> None:
        if not self.logger.isEnabledFor(level):
            return
        now = self._clock()
        more = ""
        state = self._kinds.get(kind)
        if state is None:
            state = self._new_kind(kind, now)
        elif now - state.since >= self.every:
            # No timer ended it: there was no loop to set one on, or the loop has ended.
            more = _and_more(state.held, now - state.since)
            state.begin(now)
            state.logged.clear()
        logged = state.logged.get(text, 0)
        if logged < self.burst:
            state.logged[text] = logged + 1
            self.logger.log(level, text + more, *arguments, exc_info=exc_info, stacklevel=3)
            return
        state.held += 1
        state.latest = level, text, arguments
        if state.timer is None:
            self._set_timer(state, self.every - (now - state.since))

    def _new_kind(self, kind: Hashable, now: float) -> _Kind:
        if len(self._kinds) >= MOST_KINDS:
            # The oldest; what it held back is told at once. Another thread may have been quicker.
            oldest = self._kinds.pop(next(iter(self._kinds), None), None)
            if oldest is not None:
                self._tell(oldest)
        state = self._kinds[kind] = _Kind(now)
        return state

    def _set_timer(self, state: _Kind, delay: float) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        state.timer = loop.call_later(delay, self._tell, state)

    def _tell(self, state: _Kind) -> None:
        """Log the latest of those held back. Whoever goes on has used up the next window, too."""
        held, latest, since = state.held, state.latest, state.since
        now = self._clock()
        state.begin(now)
        if latest is not None:
            level, text, arguments = latest
            self.logger.log(level, text + _and_more(held - 1, now - since), *arguments)


def _and_more(count: int, seconds: float) -> str:
    return f" (and {count} more in the last {max(1, round(seconds))} s)" if count else ""


def origin(error: BaseException) -> Hashable:
    """What kind of an error it is: its class, and the line that raised it."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return (type(error),)
    return type(error), traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
