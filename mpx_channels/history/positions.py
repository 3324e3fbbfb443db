"""Where a message stands in its group's history, and what of it a reader has missed.

A published message of such a group, and its entry in the stream, is

    2 bytes    0xC1 0x03
    16 bytes   the epoch: ASCII
    8 bytes    the offset: big-endian, counted from 1
    the rest   the message's envelope, as without history

The position stands outside of the envelope, and of its seal, as Redis gives it out and has no key.
An epoch is one unbroken count. Offsets of two epochs have nothing to do with each other, with one
exception: of the epochs before the present one it is known where they ended (`State.ended`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpx_channels.messages.codec import Message
from mpx_channels.messages.envelope import POSITION_LENGTH, POSITIONED
from mpx_channels.messages.exceptions import UnreadableMessage

__all__ = [
    "NO_REPLAY",
    "Gap",
    "History",
    "Position",
    "Recovery",
    "State",
    "judge",
    "parse",
    "salvage",
    "split",
    "text",
]

# As users get it. Offsets are numbers of Lua, which are whole up to 2**53.
_TEXT = re.compile(r"([0-9a-f]{16})-(0|[1-9][0-9]{0,14})", re.ASCII)
_LONGEST = 32

Position = tuple[str, int]


class _NoReplay:
    """What `group_add` is given if nothing is to be replayed: None may come from a browser."""

    def __repr__(self) -> str:
        return "NO_REPLAY"


NO_REPLAY = _NoReplay()


def text(position: Position) -> str:
    """A position as users get it."""
    return f"{position[0]}-{position[1]}"


def parse(value: object) -> Position | None:
    """The position that a user handed in; None for what is none, of whatever type."""
    if isinstance(value, str) and len(value) <= _LONGEST and (match := _TEXT.fullmatch(value)):
        return match[1], int(match[2])
    return None


def split(data: bytes) -> Position:
    """The position of a published message; raises `UnreadableMessage` where there is none."""
    if not data.startswith(POSITIONED) or len(data) < POSITION_LENGTH:
        raise UnreadableMessage(f"a message without a position: {data[:16]!r}")
    epoch = data[2:18].decode("ascii", "replace")
    return epoch, int.from_bytes(data[18:POSITION_LENGTH], "big")


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of a `group_add` that was to replay what was missed ``since`` a position.

    - ``recovered``: whether nothing is missing between that position and what follows.
    - ``replayed``: how many messages will be replayed; those that exclude the channel count.
    - ``position``: how far the group has come; None where it has no history.
    - ``reason``: why it is not recovered, else None. ``"expired"`` and ``"trimmed"``: what was
      missed is not kept any more, for its ``ttl`` or its number; ``"limit"``: it is more than
      ``recovery_limit``; ``"epoch"``: the group's count has begun anew since, as Redis lost it;
      ``"failover"``: another server has taken over, and may have lost the last messages of the one
      before; ``"invalid"``: it is no position; ``"no_history"``: the group has none. After a
      failover there may be a replay all the same, else there is none.
    """

    recovered: bool
    replayed: int
    position: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Messages that a group has had, the oldest first.

    - ``messages``: each with its ``"mpx_position"``.
    - ``position``: that of the last of them, or where the group stands if there are none: what
      comes after it is what `group_add` replays ``since`` it, or what to ask for next.
    - ``complete``: whether nothing is missing between ``since``, or the beginning, and the first.
    """

    messages: Sequence[Message]
    position: str
    complete: bool


@dataclass(frozen=True, slots=True)
class State:
    """A history on its server: its epoch and the last offset that was given out.

    ``ended``: the epochs before that ended by failovers, and the last offset of each that this
    server knows. ``first``: the offset of the oldest message, 0 if there is none.
    """

    epoch: str
    top: int
    ended: Mapping[str, int]
    first: int

    @property
    def position(self) -> Position:
        return self.epoch, self.top


@dataclass(frozen=True, slots=True)
class Gap:
    """What came after a position: the messages behind ``start``, in the present epoch.

    ``reason``: why these are not all, None if they are.
    """

    start: int
    count: int
    reason: str | None = None


def judge(position: Position | None, state: State, limit: int) -> Gap:
    """What there is to replay after a position; all that was missed, or nothing.

    The one exception is a failover: who had what before it is known to nobody, and what there is
    after a position that both servers knew is replayed.
    """
    if position is None:
        return Gap(state.top, 0, "invalid")
    epoch, offset = position
    reason = None
    if (ended := state.ended.get(epoch)) is not None:
        reason = "failover"
        if offset > ended:
            return Gap(state.top, 0, reason)
    elif epoch != state.epoch:
        return Gap(state.top, 0, "epoch")
    elif offset > state.top:
        return Gap(state.top, 0, "invalid")
    missed = state.top - offset
    if missed:
        if not state.first:
            return Gap(state.top, 0, reason or "expired")
        if state.first > offset + 1:
            return Gap(state.top, 0, reason or "trimmed")
        if missed > limit:
            return Gap(state.top, 0, reason or "limit")
    return Gap(offset, missed, reason)


def salvage(position: Position, state: State) -> tuple[int, str | None, int | None]:
    """Where to read on for who is in the middle of it: whatever there still is.

    The offset, what was lost before it, and how many messages that were, if it is known.
    """
    epoch, offset = position
    oldest = state.first - 1 if state.first else state.top
    if (ended := state.ended.get(epoch)) is not None:
        return max(oldest, min(offset, ended)), "failover", None
    if epoch != state.epoch:
        return oldest, "flushed", None
    if offset < oldest:
        return oldest, "trimmed" if state.first else "expired", oldest - offset
    return offset, None, None
