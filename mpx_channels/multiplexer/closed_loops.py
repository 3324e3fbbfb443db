"""What is left to do when an event loop was closed under us."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

__all__ = ["forget_task"]


def forget_task(task: asyncio.Task[Any]) -> None:
    """End a task of a closed loop, have asyncio not complain of it, and leave no socket open."""
    # A private flag of asyncio's, which it sets on tasks of its own for the same reason.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    # A transport closes its socket in a turn of the loop after it was told to. There is none any
    # more, so its own last step is called here, by its private name, as the loop would have done.
    # uvloop's transports close by themselves, though not in silence: there, close the layer first,
    # or have `uvloop.run` do it.
    transports = list(getattr(task.get_loop(), "_transports", {}).values())
    # Now, and not whenever it is collected. There is nothing that it could await, and asyncio and
    # redis-py make various errors of that.
    with contextlib.suppress(Exception):
        task.get_coro().close()
    for transport in transports:
        if transport.is_closing() and transport._sock is not None:
            with contextlib.suppress(RuntimeError):  # of a loop that is closed
                transport._call_connection_lost(None)
