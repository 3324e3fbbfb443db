"""How a consumer ends that Redis' absence has brought down: in a line of the log, not in a server's
traceback for each browser."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from mpx_channels.layer.exceptions import OUTAGES
from mpx_channels.multiplexer.logs import LimitedLog

from .closes import Message, Send, close_socket

__all__ = ["end", "traceback_of"]

logger = logging.getLogger("mpx_channels.consumers")
log = LimitedLog(logger)

# As servers close a WebSocket whose application has raised: "Internal Error" of RFC 6455.
INTERNAL_ERROR = 1011
# The extension of ASGI by which a handshake gets a status of our choice.
DENIAL = "websocket.http.response"
# Seconds that a denied handshake's connection has to end.
ENDING = 1.0


async def end(
    class_name: str,
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Send,
    error: Exception,
    *,
    handshake: bool,
) -> None:
    """Log it, and close the WebSocket: at once, and also where a server would get to it later.

    ``handshake``: the browser was certainly not let in yet, and gets a 503 if the server can do
    that. What is no WebSocket has the error raised, without all that led to it.
    """
    if scope["type"] != "websocket":
        raise error.with_traceback(None) from None
    log.warning((class_name, type(error)), "%s ended, as Redis is away: %s", class_name, str(error))
    if handshake and DENIAL in (scope.get("extensions") or {}):
        with contextlib.suppress(Exception):  # the browser may be gone
            await send({"type": f"{DENIAL}.start", "status": 503, "headers": []})
            await send({"type": f"{DENIAL}.body", "body": b""})
            await _ended(receive)
    else:
        await close_socket(scope, send, INTERNAL_ERROR, "", accepted=True)


async def _ended(receive: Callable[[], Awaitable[Message]]) -> None:
    """Return when a denied connection has ended.

    uvicorn takes an application that returns before for one that has forgotten the handshake, and
    logs an error for each browser. It says "disconnect" twice: of the denial, and of the end.
    """
    said = 0
    async with asyncio.timeout(ENDING):
        while said < 2:
            said += (await receive())["type"] == "websocket.disconnect"


def traceback_of(error: Exception) -> Exception | None:
    """What to log a traceback of: an outage has its cause in its text."""
    return None if isinstance(error, OUTAGES) else error
