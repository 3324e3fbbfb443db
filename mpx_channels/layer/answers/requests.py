"""Questions to other processes, and their answers: by number, to the inbox of who asked."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpx_channels.channels.inbox import Inbox
from mpx_channels.channels.names import PROCESS_ID_LENGTH
from mpx_channels.channels.part import Context, Part
from mpx_channels.channels.queues import Queues
from mpx_channels.messages.codec import Message
from mpx_channels.multiplexer import LinkLost, NotConnected, PromiseDisconnected, commands
from mpx_channels.multiplexer.exceptions import describe

from ..exceptions import RequestFailed, RequestTimeout

__all__ = ["REPLY_TO", "Answer", "Poll", "Requests"]

Answer = dict[str, Any]

# Where an event that is a request says who asks: [process id, number].
REPLY_TO = "mpx_reply_to"


@dataclass(frozen=True, slots=True)
class Poll:
    """The ``answers`` that came in time, of ``asked`` processes.

    ``broken``: the end of our link, which ended the wait; answers may have been missed.
    """

    answers: list[Answer]
    asked: int
    broken: Exception | None = None


class _Waiting:
    """A question that is open: the answers so far, and whether there are enough."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answers: list[Answer] = []
        self.enough: int | None = None
        self.broken: Exception | None = None
        self.complete: asyncio.Future[None] = loop.create_future()

    def add(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.look()

    def end(self, error: Exception) -> None:
        self.broken = error
        self.look()

    def look(self) -> None:
        enough = self.enough is not None and len(self.answers) >= self.enough
        if (enough or self.broken is not None) and not self.complete.done():
            self.complete.set_result(None)


class Requests(Part):
    """Asks other processes, and takes their answers; answers what others asked."""

    def __init__(self, context: Context, inbox: Inbox, queues: Queues) -> None:
        self._context = context
        self._inbox = inbox
        self._queues = queues
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        inbox.on_reply = self._replied
        inbox.on_dropped = self._dropped

    # -- asking -------------------------------------------------------------------------------

    async def ask(
        self,
        name: str,
        question: bytes,
        timeout: float | None,
        *,
        enough: int | None = None,
        classic: bool = False,
        one: bool = False,
    ) -> Poll:
        """Publish an encoded question to `name`, and collect the answers of all who listen there.

        ``classic`` is as in `Multiplexer.publish_soon`; ``one``: the name is a process' inbox. The
        wait is over after `timeout` seconds, after ``enough`` answers, and when our link breaks.
        Raises as `Multiplexer.publish`.
        """
        context = self._context

        async def publish(number: int) -> int:
            header = {"by": context.process_id, "id": number}
            data = context.wrapping.seal(name, question, header)
            if one:
                return await commands.publish_to_one(context.multiplexer, name, data)
            return await commands.publish_counted(context.multiplexer, name, data, classic=classic)

        return await self._collect(publish, timeout, enough)

    async def request(
        self, channel: str, inbox: str, message: Message, capacity: int, timeout: float | None
    ) -> Any:
        """Send a message to a channel, and return the reader's answer.

        Without an `inbox` the channel is a plain one, of that `capacity`. Raises `RequestTimeout`,
        `RequestFailed`, `PromiseDisconnected`, and as `Inbox.send` and `Queues.send`.
        """
        sent = False

        async def send(number: int) -> int:
            nonlocal sent
            asked = {**message, REPLY_TO: [self._context.process_id, number]}
            if not inbox:
                await self._queues.send(channel, asked, capacity)
            elif not await self._inbox.send(inbox, channel, asked, exactly=True):
                raise RequestFailed(f"no process has the channel {channel!r} any more")
            sent = True
            return 1

        try:
            async with asyncio.timeout(timeout):
                await self._inbox.ready()
                poll = await self._collect(send, None, 1)
        except TimeoutError:
            text = f"no answer from {channel!r} in {timeout} s"
            if not sent:
                name = inbox or self._context.names.queue(channel)
                self._require_connected(name, timeout)
                text += ", and Redis has not said that it has the question"
            raise RequestTimeout(text) from None
        if not poll.answers:
            assert poll.broken is not None
            raise poll.broken
        (answer,) = poll.answers
        if "error" in answer:
            raise RequestFailed(str(answer["error"]))
        return answer.get("value")

    def _require_connected(self, name: str, timeout: float | None) -> None:
        """Raise `NotConnected` if what is sent to `name`, or answered to us, has no connection."""
        multiplexer = self._context.multiplexer
        for node in (multiplexer.node_of(self._inbox.name), multiplexer.node_of(name)):
            if not multiplexer.is_up(node):
                cause = multiplexer.error_of(node)
                why = f": {describe(cause)}" if cause is not None else ""
                raise NotConnected(f"no connection to {node} in {timeout} s{why}") from cause

    async def _collect(
        self,
        publish: Callable[[int], Any],
        timeout: float | None,
        enough: int | None,
    ) -> Poll:
        number = next(self._numbers)
        self._waiting[number] = waiting = _Waiting(self._context.loop)
        try:
            asked = await publish(number)
            waiting.enough = asked if enough is None else min(asked, enough)
            waiting.look()
            if not waiting.complete.done():
                await asyncio.wait([waiting.complete], timeout=timeout)
            return Poll(waiting.answers, asked, waiting.broken)
        finally:
            del self._waiting[number]
            waiting.complete.cancel()

    # -- answering ----------------------------------------------------------------------------

    def whose(self, event: Message) -> tuple[str, int]:
        """The process that an event asks for, and its number there; `ValueError` for no request."""
        match event.get(REPLY_TO):
            case [str(process_id), int(number)] if len(process_id) == PROCESS_ID_LENGTH:
                return process_id, number
        raise ValueError(f"the event {event.get('type')!r} is no request: nobody waits")

    async def reply(self, event: Message, answer: Answer) -> bool:
        """Answer an event that is a request; False if the asking process is gone."""
        context = self._context
        process_id, number = self.whose(event)
        inbox = context.names.inbox(process_id)
        data = context.wrapping.wrap(inbox, answer, {"re": number})
        if not context.multiplexer.counts_all:
            return bool(await commands.publish_counted(context.multiplexer, inbox, data))
        return bool(await context.multiplexer.publish_soon(inbox, data))

    def answer(self, process_id: str, number: object, answer: Answer) -> None:
        """Publish an answer that nobody here waits for; a failure is logged."""
        context, log = self._context, self._context.log
        name = context.names.inbox(process_id)

        def done(published: asyncio.Future[int]) -> None:
            error = None if published.cancelled() else published.exception()
            if error is not None:
                failed(error)

        def failed(error: BaseException) -> None:
            # Whoever waits for it hears nothing before the timeout.
            log.warning("answer", "Could not publish an answer to %s: %s", name, str(error))

        try:
            data = context.wrapping.wrap(name, answer, {"re": number}, limit=False)
            context.multiplexer.publish_soon(name, data).add_done_callback(done)
        except Exception as error:
            failed(error)

    def _replied(self, number: int, answer: Answer) -> bool:
        waiting = self._waiting.get(number)
        if waiting is None:
            return False
        waiting.add(answer)
        return True

    def _dropped(self, message: Message, reason: str) -> None:
        """A message reached no reader: if it is a request, somebody waits in vain."""
        match message.get(REPLY_TO):
            case [str(process_id), int(number)]:
                self.answer(process_id, number, {"error": reason})

    # -- Part ---------------------------------------------------------------------------------

    def lost(self, loss: LinkLost) -> None:
        if loss.includes(self._inbox.name):
            for waiting in self._waiting.values():
                waiting.end(
                    PromiseDisconnected(f"the connection broke before the answer came: {loss}")
                )

    def counts(self) -> dict[str, int]:
        return {"promises": len(self._waiting)}
