"""An event loop of the process' own, in a thread, for senders that have none that stays.

`async_to_sync` makes a loop for each call and throws it away; plain synchronous code has none.
With a connection per loop both would connect for every message, and a channel made in one call
would be gone in the next. They use the connections and channels of this loop instead, which is
started by the first and shared by all layers of the process.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from asgiref.sync import AsyncToSync

from .fork import in_forked_child, leave_behind
from .threads import result_of, start_thread

__all__ = ["Portal", "PortalCall", "in_async_to_sync", "portal"]

T = TypeVar("T")

# How long the end of the process waits for what is on its way (seconds).
LAST_WORDS = 1.0


def in_async_to_sync() -> bool:
    """Whether the running loop was made by `async_to_sync` for one call."""
    return asyncio.get_running_loop() in AsyncToSync.loop_thread_executors


class PortalCall(Generic[T]):
    """A coroutine that runs on the background loop, for a caller in another thread.

    A caller who is interrupted may be gone when the result comes, or have it and not know. Then
    `undo` is called with the result, there; so what was taken for the caller goes back.
    """

    __slots__ = ("_coroutine", "_future", "_loop", "_task", "_undo")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T],
        undo: Callable[[T], object] | None,
    ) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._undo = undo
        self._future: Future[T] = Future()
        self._task: asyncio.Task[T] | None = None

    def start(self, waiting: set[PortalCall[Any]]) -> None:
        """Begin; it is in `waiting` until it has ended. `RuntimeError` if the loop is closed."""
        waiting.add(self)
        self._future.add_done_callback(lambda _: waiting.discard(self))
        try:
            self._loop.call_soon_threadsafe(self._start)
        except RuntimeError:
            waiting.discard(self)
            raise

    def fail_on(self, loop: asyncio.AbstractEventLoop | None, error: BaseException) -> None:
        """The loop was closed: what it has not ended by then will never end."""
        if loop is not self._loop or self._future.done():
            return
        if self._task is None:
            self._coroutine.close()
        if self._future.set_running_or_notify_cancel():
            self._future.set_exception(error)

    def result(self) -> T:
        """Block until the coroutine has ended, and return or raise what it did."""
        try:
            return result_of(self._future)
        except BaseException:
            self._give_up()
            raise

    async def wait(self) -> T:
        """As `result`, for a caller on another event loop."""
        try:
            return await asyncio.wrap_future(self._future)
        except BaseException:
            self._give_up()
            raise

    def _start(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[T]) -> None:
        # The caller may give up at any moment, and with that cancel the future.
        if task.cancelled():
            self._future.cancel()
            self._future.set_running_or_notify_cancel()
            return
        error = task.exception()
        if not self._future.set_running_or_notify_cancel():
            return
        if error is not None:
            self._future.set_exception(error)
        else:
            self._future.set_result(task.result())

    def _give_up(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: all has ended
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        task = self._task
        assert task is not None
        # In this thread it is one or the other: the task still runs, or its result was in vain.
        if not task.done():
            task.cancel()
        elif self._undo is not None and not task.cancelled() and task.exception() is None:
            self._undo(task.result())


class Portal:
    """The thread and its loop; there is one per process, `portal`."""

    def __init__(self) -> None:
        # Held for a few assignments, never for a wait.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # The loop that was begun last: all who need it wait for the same one.
        self._begun: Future[asyncio.AbstractEventLoop] | None = None
        self._join: Callable[[float], object] | None = None
        self._waiting: set[PortalCall[Any]] = set()

    def submit(
        self, coroutine: Coroutine[Any, Any, T], undo: Callable[[T], object] | None = None
    ) -> PortalCall[T]:
        """Run a coroutine on the loop, from any thread; `undo` takes back a result in vain.

        Raises what kept the loop from starting: `GreenletsUnsupported`, or a `RuntimeError` of
        Python's, such as at the end of the process. The next call tries again.
        """
        try:
            call = PortalCall(self.loop(), coroutine, undo)
            call.start(self._waiting)
        except BaseException:
            coroutine.close()
            raise
        return call

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop; starts it if need be."""
        loop = self._loop
        if loop is not None:
            return loop
        with self._lock:
            begun = self._begun
            ours = begun is None
            if begun is None:
                begun = self._begun = Future()
        if ours:
            self._begin(begun)
        return result_of(begun)

    @property
    def running_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop, if it was started."""
        return self._loop

    def is_current(self) -> bool:
        """Whether the caller runs on this loop."""
        return asyncio.get_running_loop() is self._loop

    def stop(self) -> None:
        """End the loop with all that runs on it; the next `submit` starts another."""
        with self._lock:
            loop, join = self._loop, self._join
            self._loop = self._begun = self._join = None
        if loop is not None and join is not None:
            with contextlib.suppress(RuntimeError):  # it has ended, with an error
                loop.call_soon_threadsafe(loop.stop)
            join(LAST_WORDS)

    def forget(self) -> None:
        """In a forked child: the thread stayed with the parent, and its sockets are not ours."""
        leave_behind(self._loop, self._join)
        self.__init__()  # type: ignore[misc]

    def _begin(self, begun: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            join = start_thread(functools.partial(self._run, begun), "mpx-portal")
        except BaseException as error:
            self._failed(begun, error)
            raise
        with self._lock:
            if self._begun is begun:
                self._join = join

    def _run(self, begun: Future[asyncio.AbstractEventLoop]) -> None:
        loop: asyncio.AbstractEventLoop | None = None
        runner = asyncio.Runner()
        try:
            loop = runner.get_loop()
            loop.call_soon(self._runs, loop, begun)
            loop.run_forever()
        except BaseException as error:
            self._failed(begun, error)
            raise
        finally:
            # Cancels the tasks: connections end as on any other loop's end.
            runner.close()
            for call in tuple(self._waiting):
                call.fail_on(loop, RuntimeError("the background thread was stopped"))

    def _runs(
        self, loop: asyncio.AbstractEventLoop, begun: Future[asyncio.AbstractEventLoop]
    ) -> None:
        with self._lock:
            wanted = self._begun is begun
            if wanted:
                self._loop = loop
        if wanted:
            begun.set_result(loop)
        else:
            loop.stop()
            self._failed(begun, RuntimeError("the background thread was stopped while it started"))

    def _failed(self, begun: Future[asyncio.AbstractEventLoop], error: BaseException) -> None:
        """Tell all who wait; the next call tries again."""
        with self._lock:
            if self._begun is begun:
                self._loop = self._begun = self._join = None
        if not begun.done():
            begun.set_exception(error)


portal = Portal()
atexit.register(portal.stop)
in_forked_child(portal.forget)
