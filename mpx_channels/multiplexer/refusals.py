"""What Redis refused to subscribe to, and when to ask for it again. Knows no clock."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Generic, TypeVar

import redis.exceptions

__all__ = ["Refused", "doubling", "explained", "is_transient", "kind_of", "slot_moved"]

Name = TypeVar("Name", bound=Hashable)

# What says "not now" rather than "not you". redis-py has classes for these, without the first word
# of the error's text; a class that it does not have leaves the text as it was.
_TRANSIENT_CLASSES = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)
# The last is what a demotion says to a command that blocks.
_TRANSIENT_WORDS = frozenset(
    ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "TRYAGAIN", "UNBLOCKED")
)

_IN_SCRIPT = re.compile(r"@user_script: ?\d+: -([A-Z]+) ")

# What servers without sharded channels say of them, with one kind of quotes or another.
_UNKNOWN = re.compile(r"(?:ERR )?unknown command .(SSUBSCRIBE|SPUBLISH)\b", re.IGNORECASE)

# Beyond this many attempts in a row the wait is at its longest anyway; 2**n must stay a float.
_MOST_ATTEMPTS = 64


def kind_of(error: BaseException | None) -> str:
    """The word with which Redis begins an error, such as ``BUSY``; where redis-py has no class for
    it. Redis before 7 says where in a script that was, and has the word behind it.
    """
    text = str(error)
    in_script = _IN_SCRIPT.search(text)
    return in_script[1] if in_script else text.partition(" ")[0]


def is_transient(error: BaseException | None) -> bool:
    """Whether Redis refuses only for as long as it is in some state, such as ``-BUSY``."""
    return isinstance(error, _TRANSIENT_CLASSES) or kind_of(error) in _TRANSIENT_WORDS


def slot_moved(error: BaseException | None) -> int | None:
    """The slot that a cluster's node says to be another's, by MOVED; None for any other error."""
    return error.slot_id if isinstance(error, redis.exceptions.MovedError) else None


def explained(error: BaseException, *, clustered: bool = False) -> str:
    """The text of an error, with what to set where it says that another setting is needed.

    ``clustered``: whether we know that it is a cluster's.
    """
    if unknown := _UNKNOWN.match(str(error)):
        todo = "Redis has sharded channels from 7.0 on: set 'sharded_pubsub': False in CONFIG"
        return f"unknown command {unknown[1]!r} ({todo})"
    # redis-py leaves MOVED and ASK out of the text, and has one for the other.
    clusters = (redis.exceptions.AskError, redis.exceptions.ClusterCrossSlotError)
    if isinstance(error, clusters) and not clustered:
        return f"{error} (it is a node of a cluster: set 'cluster': True in CONFIG)"
    return str(error)


def doubling(attempts: int) -> float:
    """A wait that doubles with each attempt in vain, up to some seconds."""
    return min(5.0, 0.1 * 2.0**attempts)


class Refused(Generic[Name]):
    """Names that wait to be asked for again, the longest waiting first.

    - ``backoff``: from the number of attempts in vain to seconds until the next.
    - ``most``: names per attempt. One that Redis has again will not be the only one, so a few do
      to find out, and then `release` has all of them asked for.
    """

    def __init__(self, backoff: Callable[[int], float], most: int) -> None:
        self.due: float | None = None
        self._backoff = backoff
        self._most = most
        self._attempts = 0
        self._names: dict[Name, None] = {}

    def __contains__(self, name: Name) -> bool:
        return name in self._names

    def add(self, name: Name, now: float) -> None:
        """Redis refused this name now."""
        self._names[name] = None
        if self.due is None:
            self.due = now + self._backoff(self._attempts)

    def discard(self, name: Name) -> None:
        """Nobody wants this name any more, or it is asked for by other means."""
        self._names.pop(name, None)
        if not self._names:
            self.due = None

    def take(self, now: float) -> list[Name]:
        """Those to be asked for now; what is refused again comes back by `add`."""
        if self.due is None or self.due > now:
            return []
        self._attempts = min(self._attempts + 1, _MOST_ATTEMPTS)
        taken = list(islice(self._names, self._most))
        for name in taken:
            del self._names[name]
        self.due = now + self._backoff(self._attempts) if self._names else None
        return taken

    def release(self) -> list[Name]:
        """Redis has one of these again: all others, if none were released since the last attempt.

        Else a server that has some names and not the others would be asked for all of the latter
        with each of the former.
        """
        if not self._attempts:
            return []
        released = list(self._names)
        self.clear()
        return released

    def clear(self) -> None:
        """Forget all of them, and how often they were asked for."""
        self._names.clear()
        self.due = None
        self._attempts = 0
