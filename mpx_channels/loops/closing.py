"""The end of an event loop, noticed without touching the loop.

`asyncio.run` and its like cancel all tasks before they close their loop, and our connections end
with their tasks. Who calls ``loop.close()`` without that, as some test suites do, leaves tasks
and sockets behind, which Python complains of when it collects them.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable

__all__ = ["when_closed"]

# Seconds: a timer that never comes.
NEVER = 10.0**9


class _Witness:
    """Held by nothing but a timer of the loop."""

    __slots__ = ("__weakref__",)


def when_closed(loop: asyncio.AbstractEventLoop, method: Callable[[], None]) -> None:
    """Call a method when `loop` is closed, if its object still lives then.

    There is no hook for it. But a loop that is closed drops its timers, and with a timer goes
    what nothing but the timer held; so asyncio's loops do, and uvloop's.
    """
    witness = _Witness()
    reference = weakref.WeakMethod(method)

    def closed() -> None:
        living = reference()
        if living is not None and loop_closed():
            living()

    # Weakly: what waits for a loop's end must not be what keeps it.
    loop_reference = weakref.ref(loop)

    def loop_closed() -> bool:
        loop = loop_reference()
        return loop is None or loop.is_closed()

    weakref.finalize(witness, closed).atexit = False
    loop.call_later(NEVER, _look, witness)


def _look(witness: _Witness) -> None:
    """What the timer would do."""
