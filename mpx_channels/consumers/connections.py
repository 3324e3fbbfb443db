"""Stale database connections: looked for before handlers run, but not before every one."""

from __future__ import annotations

import threading
import time

__all__ = ["check_due", "check_soon"]


class _LastCheck(threading.local):
    # Connections belong to threads: handlers of async consumers find theirs in the one thread
    # that serves their event loop's thread, those of sync consumers in the thread they run in.
    at = float("-inf")


_last = _LastCheck()


def check_due(interval: float) -> bool:
    """Whether to look for stale connections now; then the next look is due in `interval` seconds.

    Django closes what is too old or broken at the end of a request. A consumer has no requests,
    so Channels looks before each message, which takes a trip to another thread: most of what a
    delivery costs there. A connection that lives for minutes need not be looked at more often
    than once a second.
    """
    now = time.monotonic()
    if now - _last.at < interval:
        return False
    _last.at = now
    return True


def check_soon() -> None:
    """A handler failed, perhaps on a connection that died: have the next one look first."""
    _last.at = float("-inf")
