"""What a tap is to see."""

from __future__ import annotations

from dataclasses import dataclass

from mpx_channels.channels.names import Names
from mpx_channels.multiplexer import escape_glob

__all__ = ["CHANNEL", "GROUP", "PROMISE", "QUEUE", "RAW", "Target", "Targets"]

# How a tap came to a message; `RAW` is shown as it is.
GROUP, CHANNEL, PROMISE, QUEUE, RAW = "group", "channel", "promise", "queue", "raw"


@dataclass(frozen=True, slots=True)
class Target:
    """What one pattern is for. ``name``: the only one that it matches; ``addressees``: the channels
    that a message has to be for, if there are any.
    """

    kind: str
    name: str | None = None
    addressees: frozenset[str] = frozenset()


class Targets:
    """What a tap is to see, as the patterns that it subscribes to.

    Patterns also for single names: Redis counts those who subscribe to a name, and they are taken
    for processes that answer.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self.by_pattern: dict[str, Target] = {}

    def everything(self) -> None:
        """All that is sent to groups, to channels of processes and to promises."""
        for kind, pattern in zip((GROUP, CHANNEL, PROMISE), self._names.traffic, strict=True):
            self.by_pattern[pattern] = Target(kind)

    def group(self, name: str) -> None:
        """A group, by its name in Redis, as those below."""
        self._one(Target(GROUP, name))

    def group_pattern(self, pattern: str) -> None:
        """Groups that match."""
        self.by_pattern[pattern] = Target(GROUP)

    def channel(self, inbox: str, channel: str) -> None:
        """A channel of the process with this inbox."""
        before = self.by_pattern.get(escape_glob(inbox))
        addressees = before.addressees if before is not None else frozenset()
        self._one(Target(CHANNEL, inbox, addressees | {channel}))

    def raw(self, name: str) -> None:
        """A Redis channel."""
        self._one(Target(RAW, name))

    def raw_pattern(self, pattern: str) -> None:
        """Redis channels that match."""
        self.by_pattern[pattern] = Target(RAW)

    def _one(self, target: Target) -> None:
        assert target.name is not None
        self.by_pattern[escape_glob(target.name)] = target
