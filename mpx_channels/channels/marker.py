"""A place in a mailbox."""

from __future__ import annotations

from collections.abc import Callable

from mpx_channels.messages.codec import Message

__all__ = ["Marker"]


class Marker:
    """A place among the unread messages; no message itself.

    ``reached`` is called when the reader has come to it. It looks like a message that has expired
    (at ``now``, by the loop's clock), so that no other message pays for the difference.
    """

    __slots__ = ("expires", "reached")

    def __init__(self, now: float, reached: Callable[[], object]) -> None:
        self.expires = now
        self.reached = reached

    def take(self) -> Message:
        raise RuntimeError("a marker is no message")
