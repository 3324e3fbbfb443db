"""Promises: waiting for a value that anybody may give, on a Redis channel for each name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mpx_channels.channels.part import Context, Part
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.multiplexer import LinkLost, PromiseDisconnected, SubscriptionClosed
from mpx_channels.multiplexer.deadlines import Deadlines
from mpx_channels.multiplexer.promises import fail_quietly

from ..exceptions import PromiseRejected
from .requests import Answer, Requests

__all__ = ["LayerPromise", "Promises"]

# How long a promise's name is listened to after its end (seconds).
LINGER = 1.0
# A name that a server has not confirmed in so many seconds is for want of that server, although the
# connection to it stands. In less time a promise may be over before the answer can have come.
PATIENCE = 0.5


class LayerPromise:
    """A promise in force: await it for its value.

    Raises `TimeoutError`, `PromiseRejected`, `PromiseDisconnected` when the link broke (the answer
    may have been missed), or `NotConnected` when Redis did not confirm it before the time was over.
    Made by `MpxChannelLayer.new_promise`.
    """

    __slots__ = ("_future", "_promises", "_redis_name", "_timer", "name")

    def __init__(
        self, promises: Promises, name: str, redis_name: str, timeout: float | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self._promises = promises
        self._redis_name = redis_name
        self._future: asyncio.Future[Any] = loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        if timeout is not None:
            self._timer = loop.call_later(timeout, self._time_out, timeout)

    def __await__(self) -> Any:
        try:
            return (yield from self._future.__await__())
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give up waiting; harmless when it is settled."""
        if self._timer is not None:
            self._timer.cancel()
        self._promises.drop(self._redis_name, self)
        self._future.cancel()

    def add_done_callback(self, callback: Callable[[LayerPromise], object]) -> None:
        """Have `callback` called with this promise when it is settled or given up."""
        self._future.add_done_callback(lambda _: callback(self))

    def settle(self, answer: Answer) -> bool:
        """Take an answer; False if it is settled or given up."""
        if self._future.done():
            return False
        if "error" in answer:
            self.fail(PromiseRejected(str(answer["error"])))
        else:
            self._future.set_result(answer.get("value"))
        return True

    def fail(self, error: Exception) -> None:
        """Whoever awaits it meets this error; harmless when it is settled."""
        fail_quietly(self._future, error)

    def _time_out(self, timeout: float) -> None:
        self.fail(
            self._promises.outage(self._redis_name, timeout)
            or TimeoutError(f"nobody settled the promise {self.name!r} in {timeout} s")
        )
        self._promises.drop(self._redis_name, self)


class Promises(Part):
    """The promises that are waited for on an event loop. Names are Redis' here.

    A promise wakes only the processes that wait for it.
    """

    # What a promise is made of.
    promise_class: type[LayerPromise] = LayerPromise

    def __init__(self, context: Context, requests: Requests) -> None:
        self._context = context
        self._requests = requests
        self._by_name: dict[str, dict[LayerPromise, None]] = {}
        self._subscription = context.multiplexer.new_channel_subscription(self._received)
        # Names that nobody waits on. They are left late: whoever settles one in the next moment
        # counts us among those who got the answer, and waits for us to say that nobody waited.
        self._leaving: Deadlines[str] = Deadlines(self._leave, LINGER)

    async def new(self, name: str, timeout: float | None) -> LayerPromise:
        """A promise in force on a user's name."""
        context = self._context
        redis_name = context.names.promise(name)
        promise = self.promise_class(self, name, redis_name, timeout)
        self._by_name.setdefault(redis_name, {})[promise] = None
        self._leaving.discard(redis_name)
        self._subscription.add(redis_name)
        try:
            if not self._subscription.is_active(redis_name):
                async with asyncio.timeout(timeout):
                    await context.confirmations.wait(self._subscription, redis_name)
        except (SubscriptionClosed, TimeoutError):
            # The link broke, or the time was over, before Redis had confirmed: the promise says so.
            pass
        except BaseException:
            promise.cancel()
            raise
        return promise

    async def settle(self, name: str, answer: bytes) -> int:
        """Settle the promises on a user's name, with an encoded answer; how many waited.

        Raises `PromiseDisconnected` if our link broke before anybody could say so, and as
        `Multiplexer.publish`.
        """
        context = self._context
        redis_name = context.names.promise(name)
        poll = await self._requests.ask(redis_name, answer, context.connect_timeout)
        waited = sum(int(told.get("value", 0)) for told in poll.answers)
        if not waited and len(poll.answers) < poll.asked and poll.broken is not None:
            raise poll.broken  # 0 would say that the value is gone
        return waited

    def drop(self, name: str, promise: LayerPromise) -> None:
        """Nobody waits for this promise any more; harmless if it was settled."""
        waiting = self._by_name.get(name)
        if waiting is not None and waiting.pop(promise, promise) is None and not waiting:
            del self._by_name[name]
            self._leaving.add(name)

    def outage(self, name: str, timeout: float) -> Exception | None:
        """Why nobody could settle a promise on a Redis name: Redis never confirmed it.

        There was no connection all the time, as whoever is cut off hears of it at once; or there
        is one, and the server that it leads to stands still.
        """
        context, subscription = self._context, self._subscription
        pending = subscription.pending(name)
        if not pending or (timeout < PATIENCE and all(map(context.multiplexer.is_up, pending))):
            return None
        return context.confirmations.error(subscription, name, timeout)

    def _received(self, name: str, data: bytes) -> None:
        """An answer; whoever gave it wants to know how many waited for it."""
        context = self._context
        context.counters.messages_in += 1
        try:
            header, body = context.wrapping.unwrap(name, data)
            answer = context.wrapping.decode(body)
        except UnreadableMessage as error:
            context.unreadable(name, error)
            return
        waiting = self._by_name.pop(name, None)
        if waiting is not None:
            self._leaving.add(name)
        told = sum(promise.settle(answer) for promise in waiting or ())
        if "by" in header:
            self._requests.answer(header["by"], header.get("id"), {"value": told})

    def _leave(self, name: str) -> None:
        if name not in self._by_name:
            self._subscription.remove(name, at_once=True)

    # -- Part ---------------------------------------------------------------------------------

    def lost(self, loss: LinkLost) -> None:
        """Answers may have been missed, so nobody is left waiting for them."""
        for name in [name for name in self._by_name if loss.includes(name)]:
            waiting = self._by_name.pop(name)
            self._subscription.remove(name, at_once=True)
            for promise in waiting:
                promise.fail(
                    PromiseDisconnected(
                        f"the connection broke while a promise waited on {name!r}: {loss}"
                    )
                )

    async def close(self, timeout: float) -> None:
        self._leaving.close()

    def counts(self) -> dict[str, int]:
        return {"promises": sum(map(len, self._by_name.values()))}
