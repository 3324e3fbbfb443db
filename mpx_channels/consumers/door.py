"""How a consumer's connection is ended from our side."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import async_to_sync

from mpx_channels.layer import Mailbox, MpxChannelLayer
from mpx_channels.multiplexer.logs import LimitedLog, origin

__all__ = ["Door", "accepting"]

logger = logging.getLogger("mpx_channels.consumers")
log = LimitedLog(logger)

Event = dict[str, Any]
Send = Callable[[Event], Awaitable[None]]

# Daphne refuses to send codes under 3000 but 1000: there, 1012 goes out as 4012.
PRIVATE = 3000


class Door:
    """The way out of one connection: it closes at most once, whoever asks for it."""

    __slots__ = (
        "_accepted",
        "_consumer",
        "_mailbox",
        "_scope",
        "_send",
        "_sync",
        "closed",
        "is_websocket",
    )

    def __init__(self, consumer: Any, scope: Event, send: Send, *, sync: bool) -> None:
        self._sync = sync
        self._consumer = consumer
        self._scope = scope
        self._send = send
        self._mailbox: Mailbox | None = None
        self._accepted = False
        self.is_websocket = scope.get("type") == "websocket"
        # Whether a close was sent, by us or by the consumer.
        self.closed = False

    def opens(self, mailbox: Mailbox) -> None:
        """The consumer begins, and has a mailbox."""
        self._mailbox = mailbox
        mailbox.closable = self.is_websocket

    def saw(self, event: Event) -> None:
        """The consumer sends something to the server that is no message to the client."""
        type_ = event["type"]
        if type_ == "websocket.accept":
            self._accepted = True
        elif type_ == "websocket.close":
            self.closed = True

    def asked(self, event: Event) -> Any:
        """Close as an event says, unless the consumer's ``mpx_close`` returns False.

        To be awaited, but in a sync consumer.
        """
        hook = getattr(self._consumer, "mpx_close", None)
        told = {**event, "type": "mpx.close"}
        if self._sync:
            if hook is None or hook(told) is not False:
                async_to_sync(self.close)(event["code"], event["reason"])
            return None
        return self._asked(hook, told)

    async def _asked(self, hook: Callable[[Event], Any] | None, told: Event) -> None:
        if hook is None or await _awaited(hook(dict(told))) is not False:
            await self.close(told["code"], told["reason"])

    async def close(self, code: int, reason: str) -> None:
        """Close the WebSocket, unless it is closed; nothing that the consumer sends comes after.

        One that was not accepted yet is accepted first: browsers do not say why they were refused.
        """
        if self.closed or not self.is_websocket:
            return
        self.closed = True
        self._fall_silent()
        event = {"type": "websocket.close", "code": code, "reason": reason}
        try:
            if not self._accepted:
                await self._send(accepting(self._scope))
            await self._send(event)
        except Exception as error:
            if code == 1000 or code >= PRIVATE:
                _was_closed(error)
                return
            try:
                await self._send({**event, "code": PRIVATE + code})
            except Exception:
                _was_closed(error)

    def _fall_silent(self) -> None:
        """Have the consumer hear nothing more from others, and send nothing more."""
        consumer = self._consumer
        consumer.base_send = _nowhere_in_thread if self._sync else _nowhere
        if self._mailbox is not None and isinstance(consumer.channel_layer, MpxChannelLayer):
            # With what is unread there: its handlers would have nobody to send to.
            consumer.channel_layer.close_channel(self._mailbox)


def accepting(scope: Event) -> Event:
    """The event that accepts a WebSocket to close it.

    A browser that offered subprotocols takes none for a failure, and does not see the code then.
    """
    offered = scope.get("subprotocols")
    return {"type": "websocket.accept", "subprotocol": offered[0] if offered else None}


async def _awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def _nowhere(message: Event) -> None:
    """In place of the server's send, when the socket is closed."""


def _nowhere_in_thread(message: Event) -> None:
    """The same in a sync consumer."""


def _was_closed(error: Exception) -> None:
    """Servers raise when the client was faster, or the consumer."""
    log.info(origin(error), "A WebSocket to be closed was gone already: %s", repr(error))
