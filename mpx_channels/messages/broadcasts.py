"""Frames that are encoded once, where they are sent."""

from __future__ import annotations

import json
from typing import Any

from .codec import Message

__all__ = ["BROADCAST", "broadcast"]

# The type of the events that `group_broadcast` sends; consumers have a handler for it.
BROADCAST = "mpx.broadcast"


def broadcast(content: Any) -> Message:
    """The message that has consumers send a text frame (str), a binary one (bytes), or JSON."""
    if isinstance(content, bytes):
        return {"type": BROADCAST, "bytes": content}
    text = content if isinstance(content, str) else json.dumps(content)
    return {"type": BROADCAST, "text": text}
