"""Threads of the system's, also where gevent has put greenlets in their place.

What is in ``threading`` then starts a greenlet, and all greenlets are in one thread, which can run
one event loop. gevent keeps the original function, its locks work between real threads, and it has
a way to wait for one of these while other greenlets go on. eventlet's locks do not work between
threads: whoever waits is never woken.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from .exceptions import GreenletsUnsupported

__all__ = ["blocks_event_loop", "result_of", "start_thread"]

T = TypeVar("T")


def start_thread(run: Callable[[], object], name: str) -> Callable[[float], object]:
    """Run in a new thread, and return what waits for its end, for so many seconds.

    The process does not wait for it. Raises `GreenletsUnsupported`, and a `RuntimeError` when the
    system has no more threads, or Python is about to end.
    """
    if _is_patched("eventlet.patcher", "is_monkey_patched", "thread"):
        raise GreenletsUnsupported(
            "eventlet has patched this process, and its greenlets cannot wait for the thread that "
            "synchronous code sends through: use threads (Celery: --pool=threads or prefork, "
            "Gunicorn: --worker-class=gthread), or gevent instead of eventlet"
        )
    if not _greenlets():
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread.join
    ended: list[bool] = []

    def run_to_end() -> None:
        try:
            run()
        finally:
            ended.append(True)

    def join(timeout: float) -> None:
        # Not by a lock: one that a thread touches last of all does not always wake a greenlet.
        from gevent import sleep

        deadline = time.monotonic() + timeout
        while not ended and time.monotonic() < deadline:
            sleep(0.01)

    monkey: Any = sys.modules["gevent.monkey"]
    monkey.get_original("_thread", "start_new_thread")(run_to_end, ())
    return join


def result_of(future: Future[T]) -> T:
    """Block until a future of another thread is done, and return or raise what it has."""
    if _greenlets():
        _let_others_run(future)
    return future.result()


def _let_others_run(future: Future[Any]) -> None:
    # Not by the future's own lock: while there is nothing but that to wait for, gevent finds that
    # the process has come to a standstill, as it cannot see the other thread.
    from gevent import get_hub
    from gevent.event import Event

    done = Event()
    with get_hub().loop.async_() as other_thread:
        other_thread.start(done.set)
        future.add_done_callback(lambda _: other_thread.send())
        if not future.done():
            done.wait()


def blocks_event_loop() -> bool:
    """Whether an event loop stands still while the caller waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    # Else it is perhaps that of another greenlet, which goes on.
    return not _greenlets() or asyncio.current_task() is not None


def _greenlets() -> bool:
    return _is_patched("gevent.monkey", "is_module_patched", "threading")


def _is_patched(module: str, question: str, what: str) -> bool:
    """Ask a module that is only there if somebody uses it."""
    patcher: Any = sys.modules.get(module)
    return patcher is not None and bool(getattr(patcher, question)(what))
