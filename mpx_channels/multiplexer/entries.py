"""A name on its way from wanted over sent to confirmed, the commands on it, and who hears it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from .topology import Node

__all__ = ["CHANNEL", "PATTERN", "SHARDED", "Command", "Entry", "Keeper", "Kind", "Listener"]


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
# In a cluster: such a channel is known by the nodes of its slot alone.
SHARDED = Kind(b"S")


class Listener(Protocol):
    """Whoever listens to names: a subscription."""

    @property
    def deliver(self) -> Callable[[str, bytes], object]:
        """Takes a message: the channel's name and the data."""

    def activated(self, entry: Entry, /) -> None:
        """Redis confirmed the entry."""

    def refused(self, entry: Entry, /) -> None:
        """Redis refused the entry, for the reason `Entry.refusal`; it will be asked again."""


class Keeper(Protocol):
    """The subscriber whose registry holds an entry."""

    @property
    def node(self) -> Node:
        """Its server."""

    def remove(self, entry: Entry, listener: Listener, /, *, at_once: bool = False) -> None:
        """As `Registry.remove`, now."""

    def ask_again(self, entry: Entry, /) -> None:
        """Somebody waits for a name that Redis refused."""

    def notify_late_joiners(self) -> None:
        """Notify those who joined an active name of its activation."""


class Entry:
    """One name (or pattern) and its way from wanted over sent to confirmed, on one connection.

    ``text``: the name as a `str`, if whoever adds it has that, so that there is one for both.
    """

    __slots__ = (
        "confirmed",
        "inflight",
        "keeper",
        "kind",
        "listener",
        "name",
        "notified",
        "refusal",
        "sent",
        "several",
        "text",
    )

    # The registry that holds the entry is this one's: what is done to the entry is done there.
    keeper: Keeper

    def __init__(self, kind: Kind, name: bytes, text: str | None = None) -> None:
        self.kind = kind
        self.name = name
        self.text = text if text is not None else name.decode("utf-8", "surrogateescape")
        # Who listens, if that is one, and whether it was notified of the current activation.
        # Nearly all names have one listener, and a dict takes more than the rest of the entry.
        self.listener: Listener | None = None
        self.notified = False
        # The same of several.
        self.several: dict[Listener, bool] | None = None
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

    # -- listeners ----------------------------------------------------------------------------

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return self.listener is not None or self.several is not None

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Who listens, as a tuple that outlives changes made by their callbacks."""
        if self.several is not None:
            return tuple(self.several)
        return (self.listener,) if self.listener is not None else ()

    def __contains__(self, listener: object) -> bool:
        if self.several is not None:
            return listener in self.several
        return self.listener is listener

    def add(self, listener: Listener) -> bool:
        """Have somebody listen, who is not notified yet; False if it does already."""
        if not self.wanted:
            self.listener, self.notified = listener, False
            return True
        if listener in self:
            return False
        if self.listener is not None:
            self.several = {self.listener: self.notified}
            self.listener = None
        assert self.several is not None
        self.several[listener] = False
        return True

    def discard(self, listener: Listener) -> bool:
        """Have somebody no longer listen; False if it did not."""
        if listener not in self:
            return False
        if self.several is None:
            self.listener = None
        else:
            del self.several[listener]
            self.several = self.several or None
        return True

    # -- notifications of the activation ------------------------------------------------------

    def was_notified(self, listener: Listener) -> bool:
        """Whether a listener was notified of the current activation."""
        if self.several is not None:
            return self.several.get(listener, False)
        return self.listener is listener and self.notified

    def to_notify(self, listener: Listener) -> bool:
        """Whether a listener is to be notified now; it counts as notified from here on."""
        if not self.active:
            return False
        if self.several is not None:
            if self.several.get(listener) is not False:
                return False
            self.several[listener] = True
        elif self.notified or self.listener is not listener:
            return False
        self.notified = True
        return True

    def not_notified(self) -> Iterator[Listener]:
        """Listeners that are to be notified; each counts as notified once it is yielded.

        Lazy, as notifying one may remove the next, or make it leave and come back.
        """
        return filter(self.to_notify, self.listeners)

    def take_over(self, other: Entry) -> None:
        """Stand where the other stood with Redis."""
        self.sent, self.confirmed, self.inflight = other.sent, other.confirmed, other.inflight

    def forget_redis(self) -> None:
        """Nothing was sent yet; listeners will be notified of the next activation."""
        self.deactivated()
        self.inflight = 0
        self.refusal = None

    def deactivated(self) -> None:
        """Redis does not have it any more: listeners will be notified of the next activation."""
        self.sent = self.confirmed = self.notified = False
        if self.several is not None:
            self.several = dict.fromkeys(self.several, False)


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
