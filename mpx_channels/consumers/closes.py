"""Closing a WebSocket so that the page learns why; and who is not let in."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.loops.doors import doors
from mpx_channels.multiplexer.logs import LimitedLog, origin

__all__ = [
    "FULL",
    "RESTART",
    "TOO_SLOW",
    "Close",
    "Message",
    "Send",
    "close_socket",
    "is_closed_to",
    "turn_away",
]

logger = logging.getLogger("mpx_channels.consumers")
log = LimitedLog(logger)

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Close = tuple[int, str]

# Codes of https://www.iana.org/assignments/websocket/websocket.xhtml#close-code-number.
RESTART: Close = (1012, "service restart")
FULL: Close = (1013, "try again later")
TOO_SLOW: Close = (1013, "too slow")

# Daphne refuses to send codes under 3000 but 1000: there, 1012 goes out as 4012.
PRIVATE = 3000
# Seconds after which who was refused for lack of room may try again, of HTTP.
RETRY_AFTER = b"5"


async def close_socket(
    scope: Message, send: Send, code: int, reason: str, *, accepted: bool
) -> None:
    """Close a WebSocket; one that was not accepted is accepted first.

    Browsers do not say why they were refused. And one that offered subprotocols takes none for a
    failure, and does not see the code then.
    """
    event = {"type": "websocket.close", "code": code, "reason": reason}
    offered = scope.get("subprotocols")
    try:
        if not accepted:
            subprotocol = offered[0] if offered else None
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
        await send(event)
    except Exception as error:
        if code == 1000 or code >= PRIVATE:
            _was_closed(error)
            return
        try:
            await send({**event, "code": PRIVATE + code})
        except Exception:
            _was_closed(error)


def _was_closed(error: Exception) -> None:
    """Servers raise when the client was faster, or the consumer."""
    log.info(origin(error), "A WebSocket to be closed was gone already: %s", repr(error))


def is_closed_to(scope: Message, layer: Any) -> bool:
    """Whether a connection is not let in.

    While the process is drained, HTTP is: a request is short mostly, and an event stream that gets
    an error does not come back, which one that ends does.
    """
    return (doors.draining and scope["type"] == "websocket") or _is_full(layer)


async def turn_away(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Send, layer: Any
) -> None:
    """Close a connection that is not let in, and count it."""
    drained = doors.draining and scope["type"] == "websocket"
    if isinstance(layer, MpxChannelLayer):
        await layer.turned_away(drained=drained)
    if not drained:
        log.warning("full", "%d consumers in this process (max_consumers): no more", doors.count)
    await receive()
    if scope["type"] == "websocket":
        await close_socket(scope, send, *(RESTART if drained else FULL), accepted=False)
    else:
        headers = [(b"retry-after", RETRY_AFTER), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _is_full(layer: Any) -> bool:
    limit = layer.config.max_consumers if isinstance(layer, MpxChannelLayer) else None
    return limit is not None and doors.count >= limit
