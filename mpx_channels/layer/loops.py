"""The end of an event loop: what a layer has on it ends first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["before_close"]


def before_close(
    loop: asyncio.AbstractEventLoop, last: Callable[[], Coroutine[Any, Any, None] | None]
) -> None:
    """Have a loop run the coroutine that `last` returns, if it does, when it is closed.

    `asyncio.run` and its like cancel all tasks first, and connections end with theirs. Who calls
    ``loop.close()`` without that, as test suites do, would hear of tasks that were destroyed and
    sockets that nobody closed. The loop has no hook for this, so its ``close`` is replaced.
    """
    close = loop.close

    def close_at_last() -> None:
        loop.close = close  # type: ignore[method-assign]
        if not (loop.is_closed() or loop.is_running() or _in_a_loop()):
            coroutine = last()
            if coroutine is not None:
                loop.run_until_complete(coroutine)
        close()

    loop.close = close_at_last  # type: ignore[method-assign]


def _in_a_loop() -> bool:
    """Whether another loop runs in this thread, which forbids running one more."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
