"""An event loop of the process' own, in a thread, for senders that have none that stays.

`async_to_sync` makes a loop for each call and throws it away; plain synchronous code has none.
With a connection per loop both would connect for every message. They send over the connection
of this loop instead, which is started by the first and shared by all layers of the process.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync

__all__ = ["Background", "background", "passing_by"]

T = TypeVar("T")

# How long the end of the process waits for what is on its way (seconds).
LAST_WORDS = 1.0


def passing_by() -> bool:
    """Whether the running loop was made by `async_to_sync` for one call."""
    return asyncio.get_running_loop() in AsyncToSync.loop_thread_executors


class Background:
    """The thread and its loop; there is one per process, `background`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop())

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop; starts it if need be."""
        loop = self._loop
        if loop is not None:
            return loop
        with self._lock:
            if self._loop is None:
                started: Future[asyncio.AbstractEventLoop] = Future()
                self._thread = threading.Thread(
                    target=self._run, args=(started,), name="mpx-background", daemon=True
                )
                self._thread.start()
                self._loop = started.result()
            return self._loop

    def owns(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether `loop` is this one."""
        return loop is self._loop

    def is_current(self) -> bool:
        """Whether the caller runs on this loop."""
        return self.owns(asyncio.get_running_loop())

    def stop(self) -> None:
        """End the loop with all that runs on it; the next `submit` starts another."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(LAST_WORDS)

    def forget(self) -> None:
        """In a forked child: the thread stayed with the parent, and its sockets are not ours."""
        # Kept from the garbage collector, which would tell the parent's selector to drop them.
        _left_behind.append((self._loop, self._thread))
        self.__init__()  # type: ignore[misc]

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            loop.call_soon(started.set_result, loop)
            # Leaving the runner cancels the tasks: connections end as on any other loop's end.
            loop.run_forever()


_left_behind: list[object] = []

background = Background()
atexit.register(background.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=background.forget)
