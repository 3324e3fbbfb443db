"""Stale database connections: looked for before handlers run, but not before every one."""

from __future__ import annotations

import threading
from time import monotonic

__all__ = ["LastCheck", "last_check"]


class LastCheck:
    """When a thread's stale connections were looked for last.

    Django closes what is too old or broken at the end of a request. A consumer has no requests,
    so Channels looks before each message, which takes a trip to another thread: most of what a
    delivery costs there. A connection that lives for minutes need not be looked at more often
    than once a second.
    """

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = float("-inf")

    def is_due(self, interval: float) -> bool:
        """Whether to look for stale connections now; then the next look is due in `interval` s."""
        now = monotonic()
        if now - self.at < interval:
            return False
        self.at = now
        return True

    def again_soon(self) -> None:
        """A handler failed, perhaps on a connection that died: have the next one look first."""
        self.at = float("-inf")


class _Here(threading.local):
    def __init__(self) -> None:
        self.last_check = LastCheck()


_here = _Here()


def last_check() -> LastCheck:
    """That of this thread.

    Connections belong to threads: handlers of async consumers find theirs in the one thread that
    serves their event loop's thread, those of sync consumers in the thread they run in.
    """
    return _here.last_check
