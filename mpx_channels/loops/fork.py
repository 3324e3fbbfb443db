"""What is to be done in a forked child, which has copies of its parent's sockets and no threads."""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["in_forked_child", "leave_behind"]

_callbacks: list[Callable[[], object]] = []
_left_behind: list[object] = []


def in_forked_child(callback: Callable[[], object]) -> None:
    """Have `callback` called in every child, right after the fork."""
    _callbacks.append(callback)


def leave_behind(*things: object) -> None:
    """Keep what belongs to the parent from the garbage collector.

    asyncio would tell the parent's selector, a file description that both processes share, to
    forget the parent's connections.
    """
    _left_behind.extend(things)


def _forked() -> None:
    for callback in _callbacks:
        callback()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
