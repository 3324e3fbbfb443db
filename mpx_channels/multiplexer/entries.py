"""A name on its way from wanted over sent to confirmed, the commands on it, and who hears it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["CHANNEL", "PATTERN", "Command", "Entry", "Kind", "Listener"]


class Kind:
    """A way of subscribing: its verbs, as sent and as they come back in confirmations."""

    __slots__ = ("confirmed", "subscribe", "unconfirmed", "unsubscribe")

    def __init__(self, prefix: bytes) -> None:
        self.subscribe = prefix + b"SUBSCRIBE"
        self.unsubscribe = prefix + b"UNSUBSCRIBE"
        self.confirmed = self.subscribe.lower()
        self.unconfirmed = self.unsubscribe.lower()


CHANNEL = Kind(b"")
PATTERN = Kind(b"P")


class Listener(Protocol):
    """Whoever listens to names: a subscription."""

    @property
    def deliver(self) -> Callable[[str, bytes], object]:
        """Takes a message: the channel's name and the data."""

    def activated(self, entry: Entry, /) -> None:
        """Redis confirmed the entry."""

    def refused(self, entry: Entry, /) -> None:
        """Redis refused the entry, for the reason `Entry.refusal`; it will be asked again."""


class Entry:
    """One name (or pattern) and its way from wanted over sent to confirmed, on one connection."""

    __slots__ = (
        "confirmed",
        "inflight",
        "kind",
        "listeners",
        "name",
        "refusal",
        "sent",
        "snapshot",
        "text",
    )

    def __init__(self, kind: Kind, name: bytes) -> None:
        self.kind = kind
        self.name = name
        self.text = name.decode("utf-8", "surrogateescape")
        # Whether each listener was told of the current activation.
        self.listeners: dict[Listener, bool] = {}
        # The listeners as a tuple while they do not change: callbacks may add and remove freely.
        self.snapshot: tuple[Listener, ...] | None = None
        self.sent = False
        # Whether Redis had it after the last command that it answered.
        self.confirmed = False
        # Commands naming this entry that Redis has not answered. Only the answer to the last one
        # says where we stand: in SUBSCRIBE a, UNSUBSCRIBE a, SUBSCRIBE a the first means nothing.
        self.inflight = 0
        # Why Redis refused it when it was last asked; kept over a break of the link.
        self.refusal: Exception | None = None

    @property
    def active(self) -> bool:
        """Whether Redis delivers this name to us now, and goes on doing so."""
        return self.confirmed and self.sent and self.inflight == 0

    def listeners_now(self) -> tuple[Listener, ...]:
        """The listeners, as a tuple that outlives changes made by their callbacks."""
        snapshot = self.snapshot
        if snapshot is None:
            snapshot = self.snapshot = tuple(self.listeners)
        return snapshot

    def unnotified(self) -> Iterator[Listener]:
        """Those who were not told of the activation; each counts as told once it is yielded.

        Lazy, as telling one may remove the next, or make it leave and come back.
        """
        for listener in self.listeners_now():
            if self.tell(listener):
                yield listener

    def tell(self, listener: Listener) -> bool:
        """Whether `listener` is to be told now; counts it as told."""
        if not self.active or self.listeners.get(listener) is not False:
            return False
        self.listeners[listener] = True
        return True


@dataclass(slots=True)
class Command:
    """A command on its way; Redis answers once per entry, or with one error for all."""

    kind: Kind
    subscribe: bool
    entries: list[Entry]
    answered: int = 0

    @property
    def words(self) -> tuple[bytes, ...]:
        """The command as Redis takes it: the verb, then the names."""
        verb = self.kind.subscribe if self.subscribe else self.kind.unsubscribe
        return (verb, *[entry.name for entry in self.entries])
