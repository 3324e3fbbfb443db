"""Who wants which name, what Redis was told, and what it confirmed. Knows no sockets and no clock.

The registry reconciles state instead of forwarding verbs: whatever was added and removed since the
last turn, `Registry.commands` compares what is wanted with what was sent, and returns the
difference.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["CHANNEL", "PATTERN", "Command", "Entry", "Kind", "Listener", "Registry"]

# Names per command. Redis answers each name on its own, so longer commands gain nothing, and a
# command of this size still fits a few socket buffers.
CHUNK = 512


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
        """Redis refused the entry; `Entry.refusal` says why."""


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
        self.confirmed = False
        # Commands naming this entry that Redis has not answered. Only the answer to the last one
        # says where we stand: in SUBSCRIBE a, UNSUBSCRIBE a, SUBSCRIBE a the first means nothing.
        self.inflight = 0
        self.refusal: Exception | None = None

    @property
    def active(self) -> bool:
        """Whether Redis delivers this name to us now, and goes on doing so."""
        return self.confirmed and self.sent and self.inflight == 0

    def ears(self) -> tuple[Listener, ...]:
        """The listeners, as a tuple that outlives changes made by their callbacks."""
        snapshot = self.snapshot
        if snapshot is None:
            snapshot = self.snapshot = tuple(self.listeners)
        return snapshot

    def untold(self) -> Iterator[Listener]:
        """Those who were not told of the activation; each counts as told once it is yielded.

        Lazy, as telling one may remove the next, or make it leave and come back.
        """
        for listener in self.ears():
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


class Registry:
    """The names that one node should deliver to this process, and to whom.

    ``linger`` (seconds) is how long a name stays subscribed after its last listener went: a page
    that reloads then costs Redis nothing.
    """

    def __init__(self, linger: float = 0.0) -> None:
        self.linger = linger
        self.channels: dict[bytes, Entry] = {}
        self.patterns: dict[bytes, Entry] = {}
        # In order of their first change, as the names should appear on the wire.
        self._dirty: dict[Entry, None] = {}
        # Abandoned entries and when each is due; one linger for all keeps it sorted. Ordered, as
        # taking the first of a plain dict over and over is quadratic.
        self._lingering: OrderedDict[Entry, float] = OrderedDict()
        self._late: list[tuple[Entry, Listener]] = []
        # Commands that Redis has not fully answered, oldest first; a PING stands as None.
        self._unanswered: deque[Command | None] = deque()
        # Whom to tell of the answer to each of those PINGs.
        self._pings: deque[Callable[[], object] | None] = deque()
        # Names of a refused command, to be asked for one by one: one bad name spoils its batch.
        self._retry_alone: list[Entry] = []

    def table(self, kind: Kind) -> dict[bytes, Entry]:
        """The entries of one kind by their name."""
        return self.channels if kind is CHANNEL else self.patterns

    # -- what listeners want ------------------------------------------------------------------

    def add(self, kind: Kind, name: bytes, listener: Listener) -> Entry:
        """Have `listener` hear `name`; adding twice changes nothing."""
        table = self.table(kind)
        entry = table.get(name)
        if entry is None:
            entry = table[name] = Entry(kind, name)
        if listener not in entry.listeners:
            entry.listeners[listener] = False
            entry.snapshot = None
            self._lingering.pop(entry, None)
            if entry.active:
                self._late.append((entry, listener))
            elif not entry.sent:
                self._dirty[entry] = None
        return entry

    def remove(
        self, entry: Entry, listener: Listener, now: float, *, at_once: bool = False
    ) -> None:
        """Have `listener` no longer hear `entry`; harmless if it did not.

        ``at_once`` does without the linger.
        """
        if entry.listeners.pop(listener, None) is None:
            return
        entry.snapshot = None
        if entry.listeners:
            return
        if not entry.sent:
            # Not left to the next commands(): while the server is away nobody asks for them, and
            # all who came and went meanwhile would pile up.
            self._dirty.pop(entry, None)
            self._forget(entry)
        elif self.linger > 0 and not at_once:
            self._lingering[entry] = now + self.linger
        else:
            self._dirty[entry] = None

    # -- what goes to Redis -------------------------------------------------------------------

    def commands(self, now: float) -> list[Command]:
        """The commands that bring Redis to what is wanted; they count as sent from here on."""
        while self._lingering and next(iter(self._lingering.values())) <= now:
            entry, _ = self._lingering.popitem(last=False)
            self._dirty[entry] = None
        commands = [self._send(entry.kind, True, [entry]) for entry in self._pop_retries()]
        if not self._dirty:
            return commands
        batches: dict[tuple[Kind, bool], list[Entry]] = {}
        for entry in self._dirty:
            wanted = bool(entry.listeners)
            if wanted is not entry.sent:
                batches.setdefault((entry.kind, wanted), []).append(entry)
            elif not wanted:
                self._forget(entry)
        self._dirty.clear()
        for (kind, subscribe), entries in batches.items():
            for start in range(0, len(entries), CHUNK):
                commands.append(self._send(kind, subscribe, entries[start : start + CHUNK]))
        return commands

    def ping(self, answered: Callable[[], object] | None = None) -> None:
        """Note that a PING was written: its answer, too, comes in its turn, then `answered`."""
        self._unanswered.append(None)
        self._pings.append(answered)

    @property
    def dirty(self) -> bool:
        """Whether `commands` may have something to send."""
        return bool(self._dirty or self._retry_alone)

    def next_due(self) -> float | None:
        """When the next abandoned name is to be unsubscribed, or None."""
        return next(iter(self._lingering.values()), None)

    def _send(self, kind: Kind, subscribe: bool, entries: list[Entry]) -> Command:
        for entry in entries:
            entry.sent = subscribe
            entry.inflight += 1
            entry.refusal = None
        command = Command(kind, subscribe, entries)
        self._unanswered.append(command)
        return command

    def _pop_retries(self) -> Iterator[Entry]:
        retries, self._retry_alone = self._retry_alone, []
        for entry in retries:
            self._dirty.pop(entry, None)
            if entry.listeners and not entry.sent:
                yield entry
            elif not entry.listeners:
                self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if entry.inflight == 0 and not entry.listeners and not entry.sent:
            table = self.table(entry.kind)
            if table.get(entry.name) is entry:  # and not a successor
                del table[entry.name]

    # -- what comes from Redis ----------------------------------------------------------------

    def confirm(self, verb: bytes, name: bytes) -> Entry | None:
        """Take one confirmation; return the entry if this made it active."""
        head = self._unanswered[0] if self._unanswered else None
        if head is not None:
            kind = head.kind
            entry = head.entries[head.answered]
            expected = kind.confirmed if head.subscribe else kind.unconfirmed
            if entry.name == name and verb == expected:
                head.answered += 1
                if head.answered == len(head.entries):
                    self._unanswered.popleft()
                entry.inflight -= 1
                if entry.inflight:
                    return None
                entry.confirmed = head.subscribe
                if head.subscribe:
                    return entry
                self._forget(entry)
                return None
        self._lost_by_server(verb, name)
        return None

    def _lost_by_server(self, verb: bytes, name: bytes) -> None:
        """The server unsubscribed a name by itself: ask for it again if it is wanted."""
        for kind in (CHANNEL, PATTERN):
            entry = self.table(kind).get(name)
            if verb == kind.unconfirmed and entry is not None and entry.inflight == 0:
                entry.sent = entry.confirmed = False
                for listener in entry.listeners:
                    entry.listeners[listener] = False
                self._dirty[entry] = None

    def pong(self) -> None:
        """Take the answer to the oldest PING."""
        if self._unanswered and self._unanswered[0] is None:
            self._unanswered.popleft()
            self._ping_answered()

    def _ping_answered(self) -> None:
        answered = self._pings.popleft() if self._pings else None
        if answered is not None:
            answered()

    def refuse(self, error: Exception) -> list[Entry]:
        """Take an error instead of confirmations; return the entries that Redis will not have.

        Redis refuses a command as a whole, so a batch is asked for again name by name, and only
        a name that was alone in its command is given up, until the next connection.
        """
        command = self._unanswered.popleft() if self._unanswered else None
        if command is None:
            self._ping_answered()  # an ACL may refuse PING, and still answers in its turn
            return []
        refused = []
        for entry in command.entries[command.answered :]:
            entry.inflight -= 1
            if not command.subscribe:
                # Redis refuses UNSUBSCRIBE only where it refuses everything: nothing to retry.
                self._forget(entry)
            elif entry.inflight == 0:
                entry.sent = entry.confirmed = False
                if len(command.entries) > 1:
                    self._retry_alone.append(entry)
                else:
                    entry.refusal = error
                    refused.append(entry)
                    if not entry.listeners:
                        self._dirty[entry] = None
        return refused

    def disconnect(self) -> None:
        """Forget all that this connection knew; everything wanted is to be sent anew."""
        self._unanswered.clear()
        self._pings.clear()
        self._late.clear()
        self._lingering.clear()
        self._retry_alone.clear()
        self._dirty.clear()
        for table in (self.channels, self.patterns):
            for entry in list(table.values()):
                entry.sent = entry.confirmed = False
                entry.inflight = 0
                entry.refusal = None
                if not entry.listeners:
                    del table[entry.name]
                    continue
                for listener in entry.listeners:
                    entry.listeners[listener] = False
                self._dirty[entry] = None

    def late_joiners(self) -> Iterator[tuple[Entry, Listener]]:
        """Listeners that joined an active name; each counts as told once it is yielded."""
        late, self._late = self._late, []
        for entry, listener in late:
            if entry.tell(listener):
                yield entry, listener

    # -- counts -------------------------------------------------------------------------------

    def wanted(self, kind: Kind) -> int:
        """How many names of a kind have listeners."""
        return sum(1 for entry in self.table(kind).values() if entry.listeners)

    def confirmed(self, kind: Kind) -> int:
        """How many names of a kind are active."""
        return sum(1 for entry in self.table(kind).values() if entry.active)

    def listeners(self) -> int:
        """How many pairs of a name and somebody who listens to it there are."""
        tables = (self.channels, self.patterns)
        return sum(len(entry.listeners) for table in tables for entry in table.values())
