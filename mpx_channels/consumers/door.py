"""How a consumer's connection is ended from our side."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from math import inf
from types import CoroutineType
from typing import Any

from asgiref.sync import async_to_sync
from channels.exceptions import StopConsumer

from mpx_channels.layer import Event, Mailbox, MpxChannelLayer
from mpx_channels.multiplexer.logs import LimitedLog

from .closes import RESTART, TOO_SLOW, Close, Message, Send, close_socket

__all__ = ["Door"]

logger = logging.getLogger("mpx_channels.consumers")
log = LimitedLog(logger)

# Seconds that a client that has stopped reading has to begin again, and see why it is closed.
LAST_CHANCE = 5.0
# Closes that are on their way: nobody else holds them.
_closing: set[asyncio.Task[None]] = set()


class Door:
    """The way out of one connection: it closes at most once, whoever asks for it.

    A `Guest` of its event loop. It belongs to the task that serves the consumer.
    """

    __slots__ = (
        "_accepted",
        "_consumer",
        "_drained",
        "_last",
        "_mailbox",
        "_scope",
        "_send",
        "_sending",
        "_since",
        "_slow",
        "_streams",
        "_sync",
        "_waits",
        "closed",
        "ended",
        "is_websocket",
        "patience",
        "task",
    )

    def __init__(self, consumer: Any, scope: Message, send: Send, *, sync: bool) -> None:
        self._consumer = consumer
        self._scope = scope
        self._send = send
        self._sync = sync
        self.task = asyncio.current_task()
        self._mailbox: Mailbox | None = None
        self._accepted = self._streams = self._slow = self._drained = self._waits = False
        # `_waits`: whether it was ended while none of its handlers ran.
        # What was on its way at the last look, and since when.
        self._sending: Any = None
        self._since = 0.0
        # What it is closed with, if not by itself.
        self._last = TOO_SLOW
        self.is_websocket = scope.get("type") == "websocket"
        self.patience = _patience_of(consumer)
        # Whether a close was sent, by us or by the consumer.
        self.closed = False
        # Whether we have ended the consumer in the middle of something.
        self.ended = False

    def __repr__(self) -> str:
        return f"a {type(self._consumer).__qualname__} at {self._scope.get('path')!r}"

    def opens(self, mailbox: Mailbox) -> None:
        """The consumer begins, and has a mailbox."""
        self._mailbox = mailbox
        mailbox.closable = self.is_websocket

    def saw(self, message: Message) -> None:
        """The consumer sends something to the server that is no message to the client."""
        type_ = message["type"]
        if type_ == "websocket.accept":
            self._accepted = True
        elif type_ == "websocket.close":
            self.closed = True
        elif type_ == "http.response.start":
            self._streams = _is_event_stream(message.get("headers"))

    # -- closing ------------------------------------------------------------------------------

    def asked(self, event: Message, hook: str) -> Any:
        """Close as an event says, unless the consumer's ``mpx_close`` returns False.

        Or its ``mpx_drain`` is there, and has until the end of the drain. To be awaited, but in a
        sync consumer.
        """
        handler = getattr(self._consumer, f"mpx_{hook}", None)
        told = {**event, "type": f"mpx.{hook}"}
        if not self._sync:
            return self._asked(handler, told)
        result = handler(told) if handler is not None else None
        if _is_to_close(handler, hook, result):
            self._hear_no_more(hook)
            async_to_sync(self.close)(event["code"], event["reason"])
        return None

    async def _asked(self, handler: Callable[[Message], Any] | None, told: Message) -> None:
        hook, code, reason = told["type"].removeprefix("mpx."), told["code"], told["reason"]
        result = handler(told) if handler is not None else None
        if inspect.isawaitable(result):
            result = await result
        if _is_to_close(handler, hook, result):
            self._hear_no_more(hook)
            await self.close(code, reason)

    def _hear_no_more(self, hook: str) -> None:
        """Have a client that was thrown out do nothing more: servers pass on what it sends.

        One that is to go elsewhere may have sent something before it knew.
        """
        if hook == "close":
            self._consumer.websocket_receive = _nowhere_in_thread

    async def close(self, code: int, reason: str) -> None:
        """Close the WebSocket, unless it is closed; nothing that the consumer sends comes after."""
        if self.closed or not self.is_websocket:
            return
        self.closed = True
        consumer = self._consumer
        consumer.base_send = _nowhere_in_thread if self._sync else _nowhere
        if self._mailbox is not None and isinstance(consumer.channel_layer, MpxChannelLayer):
            # With what is unread there: its handlers would have nobody to send to.
            consumer.channel_layer.close_channel(self._mailbox)
        closing = close_socket(self._scope, self._send, code, reason, accepted=self._accepted)
        # Its client may take nothing: it is looked at like other sends.
        consumer._mpx_sending = sending = asyncio.ensure_future(closing)  # noqa: SLF001 - its door
        try:
            await sending
        except asyncio.CancelledError:
            if self.ended:
                raise StopConsumer from None
            raise

    async def _close_in(self, seconds: float, close: Close) -> None:
        """Close the WebSocket from outside of its consumer, which may be in the middle of a send.

        If that does not go through in time, it is over without it. What else a handler does is not
        interrupted.
        """
        sending = self._consumer._mpx_sending  # noqa: SLF001 - its door
        self._last = close
        try:
            async with asyncio.timeout(seconds):
                if self.closed and isinstance(sending, asyncio.Future):
                    await asyncio.wait((sending,))
                else:
                    await self.close(*close)
        except StopConsumer:
            self._end_task()
            return
        except TimeoutError:
            if self._mailbox is not None:
                self._mailbox.put_always(Event(self._disconnect))
        if _is_under_way(sending):
            self._sending = sending
            self._end()

    @property
    def _disconnect(self) -> Message:
        code, reason = self._last
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    def _end_task(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def _end(self) -> None:
        """End the consumer in the middle of what it does."""
        self.ended = True
        self._waits = self._mailbox is not None and self._mailbox.waited_for
        if isinstance(self._sending, asyncio.Future):
            self._sending.cancel()  # a thread waits for it
        else:
            self._end_task()

    def ended_us(self, error: BaseException) -> bool:
        """Whether it is by `_end` that the consumer's task meets this exception."""
        if not self.ended:
            return False
        # Its server may want it to end, too.
        cancelled = isinstance(error, asyncio.CancelledError) and self.task is not None
        return not (cancelled and self.task is not None and self.task.uncancel())

    async def farewell(self) -> None:
        """It was ended: tell the consumer that its client is gone, or the client."""
        if self.is_websocket:
            await self._consumer.dispatch(self._disconnect)
            return
        if self._streams and not self._slow:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        if self._waits and hasattr(self._consumer, "http_disconnect"):
            # In a handler, Channels' own consumer had its `disconnect` called by what ended it.
            await self._consumer.dispatch({"type": "http.disconnect"})

    # -- Guest: a send that takes too long ----------------------------------------------------

    def look(self, now: float) -> None:
        sending = self._sending
        if sending is None or not _is_under_way(sending):
            # Others than the one of the last look, which may be over, have begun meanwhile.
            sending = self._consumer._mpx_sending  # noqa: SLF001 - its door
            under_way = _is_under_way(sending)
            self._sending, self._since = sending if under_way else None, now
            if not under_way:
                self._consumer._mpx_sending = None  # noqa: SLF001 - it takes half a kilobyte
        elif self.patience is not None and now - self._since >= self.patience and not self._slow:
            self._slow = True
            if self._mailbox is not None:
                self._mailbox.counters.closed_slow += 1
            log.warning(
                "slow",
                "The client of %s has taken nothing for %g s (send_timeout): closing it",
                self,
                now - self._since,
            )
            if self.closed or not self.is_websocket:
                self._end()
            else:
                _in_background(self._close_in(min(LAST_CHANCE, self.patience), TOO_SLOW))

    # -- Guest: the process is drained --------------------------------------------------------

    @property
    def says_goodbye(self) -> bool:
        return self.is_websocket and hasattr(self._consumer, "mpx_drain")

    def turn(self, seconds: float) -> None:
        mailbox = self._mailbox
        goes = self._streams or (self.is_websocket and not self.closed)
        if goes and mailbox is not None and not self._drained:
            self._drained = True
            mailbox.counters.drained += 1
        if not self.is_websocket:
            if self._streams:
                self._end()  # browsers ask for such a stream again
        elif mailbox is None:
            self.time_is_up()
        elif not self.closed:
            code, reason = RESTART
            event = {"type": "mpx.draining", "code": code, "reason": reason, "seconds": seconds}
            mailbox.put_always(Event(event))

    def time_is_up(self) -> None:
        if self.is_websocket:
            _in_background(self._close_in(LAST_CHANCE, RESTART))


def _patience_of(consumer: Any) -> float | None:
    """Its ``send_timeout``; raises `ValueError` for what is no time."""
    seconds: Any = consumer.send_timeout
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < inf:
        raise ValueError(
            f"send_timeout of {type(consumer).__name__} must be a number of seconds above 0, or "
            f"None to wait for ever, not {seconds!r}"
        )
    return seconds


def _is_event_stream(headers: object) -> bool:
    """Whether these are of a response that browsers ask for again when it ends."""
    for header in headers if isinstance(headers, list | tuple) else ():
        name, value = header
        if isinstance(name, bytes) and name.lower() == b"content-type":
            return isinstance(value, bytes) and value.startswith(b"text/event-stream")
    return False


def _is_to_close(handler: object, hook: str, result: object) -> bool:
    return handler is None or (hook == "close" and result is not False)


def _is_under_way(sending: Any) -> bool:
    """Whether what a server's send returned has begun, and waits for something."""
    if isinstance(sending, CoroutineType):
        return sending.cr_suspended
    return isinstance(sending, asyncio.Future) and not sending.done()


def _in_background(coroutine: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(coroutine, name="mpx-close")
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _nowhere(message: Message) -> None:
    """In place of the server's send, when the socket is closed."""


def _nowhere_in_thread(message: Message) -> None:
    """The same in a sync consumer; and in place of the handler of what the client says."""
