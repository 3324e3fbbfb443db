"""Networked promises: wait for one message, with a timeout and without a SUBSCRIBE of its own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator
from typing import Any, Self

from .exceptions import InactiveSubscription, PromiseDisconnected, SubscriptionClosed
from .subscribers import Subscribers
from .subscriptions import PatternSubscription, encode_name

__all__ = ["Promise", "PromiseSubscription", "escape_glob", "fail_quietly"]

_GLOB_SPECIALS = re.compile(r"([*?\[\]\\])")


def escape_glob(text: str) -> str:
    """`text` as a Redis pattern that matches just itself."""
    return _GLOB_SPECIALS.sub(r"\\\1", text)


def fail_quietly(future: asyncio.Future[Any], error: Exception) -> None:
    """Whoever awaits it meets this error; harmless when it is done."""
    if not future.done():
        future.set_exception(error)
        # A promise that nobody came to await is no error worth asyncio's log.
        future.exception()


class Promise:
    """One awaited message. Await it for the data (bytes).

    Raises `TimeoutError` when none came in time, `PromiseDisconnected` when the connection broke
    (the message may have been missed), `asyncio.CancelledError` after `cancel`, or after `clear`
    or `close` of its subscription.
    """

    __slots__ = ("_future", "_subscription", "_timer", "name")

    def __init__(self, subscription: PromiseSubscription, name: str, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self._subscription = subscription
        self._future: asyncio.Future[bytes] = loop.create_future()
        self._future.add_done_callback(self._settled)
        self._timer = None if timeout is None else loop.call_later(timeout, self._time_out, timeout)

    def __await__(self) -> Generator[object, None, bytes]:
        return self._future.__await__()

    def done(self) -> bool:
        """Whether it is fulfilled, failed or cancelled."""
        return self._future.done()

    def cancel(self) -> bool:
        """Give up waiting; whoever awaits gets `CancelledError`. False if it was done already."""
        return self._future.cancel()

    def _fulfil(self, data: bytes) -> None:
        if not self._future.done():
            self._future.set_result(data)

    def _fail(self, error: Exception) -> None:
        fail_quietly(self._future, error)

    def _time_out(self, timeout: float) -> None:
        self._fail(TimeoutError(f"no message for the promise {self.name!r} in {timeout} s"))

    def _settled(self, _: asyncio.Future[bytes]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._subscription._forget(self)


class PromiseSubscription:
    """Promises under one prefix: a message to ``prefix + name`` fulfils those on ``name``.

    Made by `Multiplexer.new_promise_subscription`. It holds one pattern subscription; making,
    fulfilling and expiring a promise costs Redis nothing. It is active once Redis has confirmed
    the pattern, and inactive again from the moment the connection breaks.
    """

    def __init__(self, subscribers: Subscribers, prefix: str | bytes, *, max_queue: int) -> None:
        self.prefix = encode_name(prefix).decode("utf-8", "surrogateescape")
        self._counters = subscribers.counters
        self._promises: dict[str, dict[Promise, None]] = {}
        self._pattern = PatternSubscription(
            subscribers,
            escape_glob(self.prefix) + "*",
            self._message,
            self._disconnected,
            max_queue=max_queue,
        )

    @property
    def active(self) -> bool:
        """Whether promises can be made now."""
        return self._pattern.active

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._pattern.closed

    async def wait_for_activation(self) -> None:
        """Return once promises can be made; `SubscriptionClosed` if it is closed meanwhile."""
        await self._pattern.wait_for_activation()

    def new_promise(self, name: str | bytes, timeout: float | None = None) -> Promise:
        """A promise of the next message to ``prefix + name``, in force when this returns.

        ``timeout`` is in seconds; None waits for ever. Raises `InactiveSubscription` while the
        subscription is not active, `SubscriptionClosed` after `close`.
        """
        if self.closed:
            raise SubscriptionClosed("this PromiseSubscription was closed; make a new one")
        if not self.active:
            raise InactiveSubscription(
                f"promises under {self.prefix!r} need a confirmed subscription: "
                "await wait_for_activation() first, or use wait_for_new_promise()"
            )
        if timeout is not None and timeout < 0:
            raise ValueError(f"timeout must be a number of seconds from 0 up, not {timeout!r}")
        text = encode_name(name).decode("utf-8", "surrogateescape")
        promise = Promise(self, text, timeout)
        self._promises.setdefault(text, {})[promise] = None
        return promise

    async def wait_for_new_promise(
        self, name: str | bytes, timeout: float | None = None
    ) -> Promise:
        """As `new_promise`, but wait until the subscription is active.

        ``timeout`` starts when this returns, as in go-mpx; bound the wait itself with
        `asyncio.timeout`.
        """
        while True:
            await self.wait_for_activation()
            try:
                return self.new_promise(name, timeout)
            except InactiveSubscription:
                # The link broke between the confirmation and our turn.
                continue

    def clear(self) -> None:
        """Cancel every outstanding promise."""
        if self.closed:
            raise SubscriptionClosed("this PromiseSubscription was closed; make a new one")
        self._cancel_all()

    def close(self) -> None:
        """Cancel every outstanding promise and end the subscription. Twice is harmless."""
        self._pattern.close()
        self._cancel_all()

    async def __aenter__(self) -> Self:
        if self.closed:
            raise SubscriptionClosed("this PromiseSubscription was closed; make a new one")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def _message(self, channel: str, data: bytes) -> None:
        waiting = self._promises.pop(channel[len(self.prefix) :], None)
        if waiting is None:
            self._counters.dropped_no_promise += 1
            return
        for promise in waiting:
            promise._fulfil(data)

    def _disconnected(self, error: Exception) -> None:
        for promise in self._take_all():
            promise._fail(
                PromiseDisconnected(f"the connection broke while {promise.name!r} waited: {error}")
            )

    def _cancel_all(self) -> None:
        for promise in self._take_all():
            promise.cancel()

    def _take_all(self) -> list[Promise]:
        taken = [promise for waiting in self._promises.values() for promise in waiting]
        self._promises.clear()
        return taken

    def _forget(self, promise: Promise) -> None:
        waiting = self._promises.get(promise.name)
        if waiting is not None and waiting.pop(promise, True) is None and not waiting:
            del self._promises[promise.name]
