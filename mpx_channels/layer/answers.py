"""Promises and requests of one process: who waits for which answer."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from mpx_channels.multiplexer import (
    ChannelSubscription,
    MpxError,
    Multiplexer,
    PromiseDisconnected,
)

__all__ = ["REPLY_TO", "Answers", "PromiseRejected", "RequestFailed", "RequestTimeout"]

Answer = dict[str, Any]

# Where an event that is a request says who asks: [process id, number].
REPLY_TO = "mpx_reply_to"
# How long a promise's name is listened to after its end (seconds).
LINGER = 1.0


class PromiseRejected(MpxError):
    """Somebody rejected the promise; the text is the reason."""


class RequestFailed(MpxError):
    """The request was answered with a failure, or reached nobody; the text says what."""


class RequestTimeout(MpxError, TimeoutError):
    """No answer to the request came in time."""


class Answers:
    """Futures for what other processes are to tell this one.

    Promises are waited for by name, on a Redis channel each, so that a promise wakes only the
    processes that wait for it. Replies come to the inbox of the process that asked, by number.
    """

    def __init__(
        self,
        multiplexer: Multiplexer,
        on_promise: Callable[[str, bytes], None],
    ) -> None:
        self._multiplexer = multiplexer
        self.subscription: ChannelSubscription = multiplexer.new_channel_subscription(
            on_promise, self.disconnected
        )
        self._promises: dict[str, dict[asyncio.Future[Any], None]] = {}
        self._replies: dict[int, Callable[[Answer | Exception], None]] = {}
        self._numbers = itertools.count(1)
        self._leaving: deque[tuple[float, str]] = deque()
        self._leave_timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._promises.values())) + len(self._replies)

    # -- promises -----------------------------------------------------------------------------

    def promise(self, name: str) -> asyncio.Future[Any]:
        """A future of the next answer on `name`, which is Redis' name for the promise."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._promises.setdefault(name, {})[future] = None
        self.subscription.add(name)
        return future

    def drop(self, name: str, future: asyncio.Future[Any]) -> None:
        """Nobody waits for this promise any more; harmless if it was settled."""
        waiting = self._promises.get(name)
        if waiting is not None and waiting.pop(future, future) is None and not waiting:
            del self._promises[name]
            self._leave(name)

    def fail(self, name: str, future: asyncio.Future[Any], error: Exception) -> None:
        """This one waits no more; harmless if it was settled."""
        if not future.done():
            _fail(future, error)
        self.drop(name, future)

    def settle(self, name: str, answer: Answer) -> int:
        """Hand an answer to everybody who waits on `name`; return how many they were."""
        waiting = self._promises.pop(name, None)
        if waiting is None:
            return 0
        self._leave(name)
        told = 0
        for future in waiting:
            if not future.done():
                told += 1
                if "error" in answer:
                    _fail(future, PromiseRejected(str(answer["error"])))
                else:
                    future.set_result(answer.get("value"))
        return told

    def _leave(self, name: str) -> None:
        """Nobody waits on the name: leave it, but not yet.

        Whoever settles it in the next moment counts us among those who got the answer, and
        waits for us to say that nobody waited here.
        """
        loop = asyncio.get_running_loop()
        self._leaving.append((loop.time() + LINGER, name))
        if self._leave_timer is None:
            self._leave_timer = loop.call_later(LINGER, self._leave_now)

    def _leave_now(self) -> None:
        self._leave_timer = None
        loop = asyncio.get_running_loop()
        while self._leaving:
            due, name = self._leaving[0]
            if due > loop.time():
                self._leave_timer = loop.call_at(due, self._leave_now)
                return
            self._leaving.popleft()
            if name not in self._promises:
                self.subscription.remove(name, at_once=True)

    def close(self) -> None:
        """Time nothing any more."""
        if self._leave_timer is not None:
            self._leave_timer.cancel()
            self._leave_timer = None

    # -- replies ------------------------------------------------------------------------------

    def expect(self, on_reply: Callable[[Answer | Exception], None]) -> int:
        """A number under which replies come; `on_reply` gets each, or the end of the link."""
        number = next(self._numbers)
        self._replies[number] = on_reply
        return number

    def expect_one(self) -> tuple[int, asyncio.Future[Answer]]:
        """A number and a future for the one reply under it; end with `expect_no_more`."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def on_reply(reply: Answer | Exception) -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                _fail(future, reply)
            else:
                future.set_result(reply)

        return self.expect(on_reply), future

    def expect_no_more(self, number: int) -> None:
        """Whatever comes under this number is too late."""
        self._replies.pop(number, None)

    def reply(self, number: object, answer: Answer) -> bool:
        """Take a reply; False if nobody waits for it."""
        on_reply = self._replies.get(number) if isinstance(number, int) else None
        if on_reply is None:
            return False
        on_reply(answer)
        return True

    # -- the link -----------------------------------------------------------------------------

    def disconnected(self, error: Exception) -> None:
        """A link broke: answers may have been missed, so nobody is left waiting for them."""
        concerns = self._multiplexer.concerns
        for name in [name for name in self._promises if concerns(error, name)]:
            waiting = self._promises.pop(name)
            self.subscription.remove(name, at_once=True)
            for future in waiting:
                if not future.done():
                    _fail(
                        future,
                        PromiseDisconnected(
                            f"the connection broke while a promise waited on {name!r}: {error}"
                        ),
                    )

    def inbox_down(self, error: Exception) -> None:
        """The link broke that replies come over."""
        for on_reply in list(self._replies.values()):
            on_reply(PromiseDisconnected(f"the connection broke before the answer came: {error}"))


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    future.set_exception(error)
    # A promise that nobody came to await is no error worth asyncio's log.
    future.exception()
