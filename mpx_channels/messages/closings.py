"""The message that closes the WebSockets of a group, and what a close may say."""

from __future__ import annotations

from typing import Any

from .codec import Message

__all__ = ["CLOSING", "closing"]

# The type of the event that has a consumer close its socket; our consumers have a handler for it.
CLOSING = "mpx.closing"

# RFC 6455, 7.4: what may stand in a close frame that a server sends, besides 3000 to 4999.
_REGISTERED = {1000, 1001, 1002, 1003, *range(1007, 1015)}
# Bytes; a control frame has 125, and two are the code.
_LONGEST_REASON = 123


def closing(code: Any, reason: Any) -> Message:
    """The message that has consumers close with a code; raises `TypeError` and `ValueError`."""
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"code must be a number such as 4000, not {code!r}")
    if code not in _REGISTERED and not 3000 <= code <= 4999:
        raise ValueError(
            f"a WebSocket cannot be closed with code {code}: use one from 4000 to 4999 for what "
            "your pages are to tell apart, or 1000"
        )
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str, not {reason!r}")
    length = len(reason.encode())
    if length > _LONGEST_REASON:
        raise ValueError(f"reason takes {length} bytes, and a close has room for {_LONGEST_REASON}")
    return {"type": CLOSING, "code": code, "reason": reason}
