"""What presence hands out, and how a change travels."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpx_channels.messages.envelope import PRESENCE
from mpx_channels.messages.exceptions import UnreadableMessage

__all__ = ["CAUSES", "Change", "Info", "Presence", "PresenceCount", "split"]

Info = dict[str, Any]

# Why somebody left, by the numbers of the scripts.
CAUSES = ("left", "timeout", "crashed")

_FRONT = struct.Struct(">III")
_JOINED = struct.Struct(">I")
_LEFT = struct.Struct(">BI")


@dataclass(frozen=True, slots=True)
class Presence:
    """A page of the members of a group.

    ``members``: what is known of each, by id, in a stable order. ``next``: what to give as
    ``after`` for the next page; None if this was the last.
    """

    members: Mapping[str, Info]
    next: str | None


@dataclass(frozen=True, slots=True)
class PresenceCount:
    """How many are in a group: ids, and the connections that they have together.

    Whose last connection ended a moment ago is a member without one.
    """

    members: int
    connections: int


@dataclass(frozen=True, slots=True)
class Change:
    """A change as it travels: records of who joined, of who left and why, and how many there are.

    Without any of them where the group is too large for names.
    """

    joined: Sequence[bytes]
    left: Sequence[tuple[bytes, str]]
    members: int


def split(data: bytes) -> Change:
    """The change in what a script published; raises `UnreadableMessage`."""
    at = len(PRESENCE)
    try:
        members, joins, leaves = _FRONT.unpack_from(data, at)
        at += _FRONT.size
        joined: list[bytes] = []
        left: list[tuple[bytes, str]] = []
        for _ in range(joins):
            (length,) = _JOINED.unpack_from(data, at)
            at += _JOINED.size + length
            joined.append(data[at - length : at])
        for _ in range(leaves):
            cause, length = _LEFT.unpack_from(data, at)
            at += _LEFT.size + length
            left.append((data[at - length : at], CAUSES[cause]))
    except (struct.error, IndexError) as error:
        raise UnreadableMessage(f"not a change of presence: {error}") from None
    if at != len(data):
        raise UnreadableMessage(f"a change of presence of {at} bytes, with {len(data)} in it")
    return Change(joined, left, members)
