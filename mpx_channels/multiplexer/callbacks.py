"""How a subscription's events reach its owner: called at once, queued, or iterated over."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .counters import EngineCounters
from .flow import PATIENCE, Flow
from .logs import LimitedLog, origin

__all__ = [
    "CALLBACK_ERRORS",
    "Again",
    "Callbacks",
    "Heard",
    "MessageStream",
    "OnActivation",
    "OnDisconnect",
    "OnMessage",
    "unheard",
]

# Plain functions or coroutine functions; what they return is not used.
OnMessage = Callable[[str, bytes], object]
OnDisconnect = Callable[[Exception], object]
OnActivation = Callable[[str], object]

# Makes the command that is sent instead of one that may have run, to find that out.
Again = Callable[[], Sequence[bytes]]

# Gets what has come of a command.
Heard = Callable[["asyncio.Future[Any]"], object]

# A CancelledError, too: it comes out of a callback that looks at a cancelled future.
CALLBACK_ERRORS = (Exception, asyncio.CancelledError)


def is_async(callback: object) -> bool:
    """Whether calling this gives a coroutine: functions, methods, partials, callable objects."""
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(
        getattr(callback, "__call__", None)  # noqa: B004 - the bound method is what we look at
    )


def unheard(done: asyncio.Future[Any]) -> None:
    """A `Heard`: nobody wants to know."""
    if not done.cancelled():
        done.exception()


class Callbacks:
    """The three callbacks of one subscription.

    Plain functions are called on the spot. As soon as one of the three is a coroutine function,
    all go through one queue and one task at a time, so that the order holds between them; the
    queue takes ``max_queue`` messages; over it, if the callback is slow (`Flow`), the newest is
    dropped and counted. Activations and disconnects are never dropped: they are as many as there
    are names.
    """

    def __init__(
        self,
        on_message: OnMessage,
        on_disconnect: OnDisconnect | None,
        on_activation: OnActivation | None,
        *,
        counters: EngineCounters,
        flow: Flow,
        log: LimitedLog,
        max_queue: int,
    ) -> None:
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._on_activation = on_activation
        self._counters = counters
        self._flow = flow
        self._log = log
        self._max_queue = max_queue
        self._queue: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self.patience = PATIENCE
        self.queued = any(map(is_async, (on_message, on_disconnect, on_activation)))

    @property
    def unread(self) -> int:
        """How much waits to be called."""
        return len(self._queue)

    @property
    def half_empty(self) -> bool:
        """Whether the queue takes messages for a while."""
        return 2 * len(self._queue) <= self._max_queue

    @property
    def deliver(self) -> OnMessage:
        """What to call with a message; plain functions are called without a step between."""
        return self._enqueue_message if self.queued else self._on_message

    def disconnected(self, error: Exception) -> None:
        self._event(self._on_disconnect, error)

    def activated(self, name: str) -> None:
        self._event(self._on_activation, name)

    def close(self) -> None:
        """Call nobody any more; a callback that is running may finish."""
        self._closed = True
        self._queue.clear()

    def _event(self, callback: Callable[..., object] | None, argument: object) -> None:
        if callback is None or self._closed:
            return
        if self.queued:
            self._enqueue(callback, (argument,))
            return
        try:
            callback(argument)
        except CALLBACK_ERRORS as error:
            self._raised(callback, error)

    def _enqueue_message(self, name: str, data: bytes) -> None:
        if len(self._queue) >= self._max_queue:
            self._counters.dropped_queue_full += 1
            return
        self._enqueue(self._on_message, (name, data))
        if len(self._queue) >= self._max_queue:
            self._flow.filled(self)

    def _enqueue(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._queue.append((callback, arguments))
        if self._worker is None:
            loop = asyncio.get_running_loop()
            self._worker = loop.create_task(self._work(), name="mpx-callbacks")

    async def _work(self) -> None:
        """Run what is queued, one after the other; the task ends when nothing is left."""
        try:
            while self._queue:
                callback, arguments = self._queue.popleft()
                try:
                    result = callback(*arguments)
                    if inspect.isawaitable(result):
                        await result
                except CALLBACK_ERRORS as error:
                    task = asyncio.current_task()
                    if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                        raise  # meant for us, not something cancelled that the callback awaited
                    self._raised(callback, error)
            self.patience = PATIENCE
        finally:
            self._worker = None

    def _raised(self, callback: object, error: BaseException) -> None:
        self._counters.callback_errors += 1
        self._log.error(
            origin(error),
            "A subscription's callback %r raised: %s",
            callback,
            repr(error),
            exc_info=error,
        )


class MessageStream:
    """The messages of a subscription that is iterated over.

    It takes ``max_queue`` of them; over it, if the reader is slow (`Flow`), the newest is dropped.
    """

    def __init__(self, counters: EngineCounters, flow: Flow, max_queue: int) -> None:
        self.patience = PATIENCE
        self._counters = counters
        self._flow = flow
        self._max_queue = max_queue
        self._messages: deque[tuple[str, bytes]] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._ended = False

    @property
    def unread(self) -> int:
        """How many messages wait."""
        return len(self._messages)

    @property
    def half_empty(self) -> bool:
        """Whether it takes messages for a while."""
        return 2 * len(self._messages) <= self._max_queue

    def put(self, name: str, data: bytes) -> None:
        if len(self._messages) >= self._max_queue:
            self._counters.dropped_queue_full += 1
            return
        self._messages.append((name, data))
        self._wake()
        if len(self._messages) >= self._max_queue:
            self._flow.filled(self)

    def end(self) -> None:
        """No more messages: iterations end once they have taken what is here."""
        self._ended = True
        while self._waiters:
            self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def take(self) -> tuple[str, bytes]:
        """The next message; raises `StopAsyncIteration` after the last."""
        while not self._messages:
            self.patience = PATIENCE
            if self._ended:
                raise StopAsyncIteration
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                # Woken and cancelled at once: the message is for somebody else then.
                if waiter.done() and not waiter.cancelled() and self._messages:
                    self._wake()
                raise
        return self._messages.popleft()
