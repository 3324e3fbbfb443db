"""Promises and requests: waiting for an answer from anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mpx_channels.multiplexer import SubscriptionClosed

from .answers import REPLY_TO, Answer, RequestFailed, RequestTimeout
from .base import LayerBase
from .codec import Message
from .hub import Hub
from .names import PROCESS_ID_LENGTH
from .polls import ask_all

__all__ = ["Asking", "LayerPromise"]


class LayerPromise:
    """A promise in force: await it for its value.

    Raises `TimeoutError`, `PromiseRejected`, or `PromiseDisconnected` when the link broke (the
    answer may have been missed). Made by `Asking.new_promise`.
    """

    __slots__ = ("_future", "_hub", "_redis_name", "_timer", "name")

    def __init__(self, hub: Hub, name: str, redis_name: str, timeout: float | None) -> None:
        self.name = name
        self._hub = hub
        self._redis_name = redis_name
        self._future = hub.answers.promise(redis_name)
        self._timer: asyncio.TimerHandle | None = None
        if timeout is not None:
            self._timer = hub.loop.call_later(timeout, self._time_out, timeout)

    def __await__(self) -> Any:
        try:
            return (yield from self._future.__await__())
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give up waiting; harmless when it is settled."""
        if self._timer is not None:
            self._timer.cancel()
        self._hub.answers.drop(self._redis_name, self._future)
        self._future.cancel()

    def add_done_callback(self, callback: Callable[[LayerPromise], object]) -> None:
        """Have `callback` called with this promise when it is settled or given up."""
        self._future.add_done_callback(lambda _: callback(self))

    def _time_out(self, timeout: float) -> None:
        self._hub.answers.fail(
            self._redis_name,
            self._future,
            TimeoutError(f"nobody settled the promise {self.name!r} in {timeout} s"),
        )


class Asking(LayerBase):
    """The part of the layer that asks and answers."""

    # -- promises -----------------------------------------------------------------------------

    async def new_promise(self, name: str, timeout: float | None = None) -> LayerPromise:
        """A promise on `name`, in force when this returns; await it for the value.

        Whoever calls `resolve` or `reject` from then on, in any process, settles it. `timeout`
        is in seconds and starts now; None waits for ever. `name` follows the rule for groups.
        """
        _check_timeout(timeout)
        self.require_valid_promise_name(name)
        hub = await self._hub()
        redis_name = self._names.promise(name)
        promise = LayerPromise(hub, name, redis_name, timeout)
        try:
            if not hub.answers.subscription.is_active(redis_name):
                async with asyncio.timeout(timeout):
                    await hub.confirmations.wait(hub.answers.subscription, redis_name)
        except (SubscriptionClosed, TimeoutError):
            # The link broke, or the time was over, before Redis had confirmed: the promise says so.
            pass
        except BaseException:
            promise.cancel()
            raise
        return promise

    async def promise(self, name: str, timeout: float | None = None) -> Any:
        """Wait until somebody settles `name`, and return the value; see `new_promise`."""
        if self._visiting():
            return await self._elsewhere(self.promise(name, timeout))
        return await (await self.new_promise(name, timeout))

    async def resolve(self, name: str, value: Any = None) -> int:
        """Settle the promises on `name` with any serialisable value.

        Returns how many waited for it, in all processes; 0 if nobody did, and then the value is
        gone. A process that does not say in ``connect_timeout`` seconds is not counted.
        """
        return await self._settle(name, {"value": value})

    async def reject(self, name: str, reason: str) -> int:
        """Fail the promises on `name`: whoever waits gets `PromiseRejected`. Else as `resolve`."""
        return await self._settle(name, {"error": str(reason)})

    async def _settle(self, name: str, answer: Answer) -> int:
        self.require_valid_promise_name(name)
        body = self.wrapping.encode(answer)
        if self._visiting():
            return await self._elsewhere(self._settle(name, answer))
        hub = await self._ready_hub()
        redis_name = self._names.promise(name)
        poll = await ask_all(hub, redis_name, body, self.config.connect_timeout)
        return sum(int(answer.get("value", 0)) for answer in poll.answers)

    def require_valid_promise_name(self, name: str) -> None:
        """Raise `TypeError` unless `name` follows the rule for groups."""
        try:
            self.require_valid_group_name(name)
        except TypeError as error:
            raise TypeError(str(error).replace("Group", "Promise", 1) + f" Got {name!r}.") from None

    # -- requests -----------------------------------------------------------------------------

    async def request(self, channel: str, message: Message, timeout: float | None = 10.0) -> Any:
        """Send a message to a channel and wait for its consumer's answer.

        The consumer gets the message as an ordinary event and answers with
        ``await self.reply(event, value)``. `timeout` is in seconds. The answer comes to this
        process alone. Raises `RequestTimeout`, `RequestFailed` with the reason when the consumer
        failed or nobody has such a channel, `PromiseDisconnected` when our link broke meanwhile,
        and the errors of `send`.
        """
        _check_timeout(timeout)
        if not isinstance(message, dict):
            raise TypeError(f"a message must be a dict, not {message!r}")
        if REPLY_TO in message:
            raise ValueError(f"the key {REPLY_TO!r} is taken: it says where the answer goes")
        self._inbox_name(channel)
        if self._visiting():
            return await self._elsewhere(self.request(channel, message, timeout))
        try:
            async with asyncio.timeout(timeout):
                answer = await self._ask(channel, message)
        except TimeoutError:
            raise RequestTimeout(f"no answer from {channel!r} in {timeout} s") from None
        if "error" in answer:
            raise RequestFailed(str(answer["error"]))
        return answer.get("value")

    async def _ask(self, channel: str, message: Message) -> Answer:
        hub = await self._ready_hub()
        number, answered = hub.answers.expect_one()
        try:
            asked = {**message, REPLY_TO: [hub.process_id, number]}
            if not await self._post(hub, channel, asked, exactly=True):
                raise RequestFailed(f"no process has the channel {channel!r} any more")
            return await answered
        finally:
            hub.answers.expect_no_more(number)

    async def reply(self, event: Message, value: Any = None) -> bool:
        """Answer an event that is a request; returns whether the asking process still lives.

        Raises `ValueError` for an event that asks nothing.
        """
        return await self._answer(event, {"value": value})

    async def reply_error(self, event: Message, reason: str) -> bool:
        """Answer a request with a failure: who asked gets `RequestFailed`. Else as `reply`."""
        return await self._answer(event, {"error": str(reason)})

    async def _answer(self, event: Message, answer: Answer) -> bool:
        match event.get(REPLY_TO):
            case [str(process_id), int(number)] if len(process_id) == PROCESS_ID_LENGTH:
                inbox = self._names.inbox(process_id)
            case _:
                raise ValueError(f"the event {event.get('type')!r} is no request: nobody waits")
        if self._visiting():
            return await self._elsewhere(self._answer(event, answer))
        hub = await self._hub()
        data = self.wrapping.wrap(inbox, answer, {"re": number})
        return bool(await hub.multiplexer.publish_soon(inbox, data))


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
        raise ValueError(f"timeout must be a number of seconds from 0 up, or None, not {timeout!r}")
