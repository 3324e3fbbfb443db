"""Who wants which name, what Redis was told, and what it confirmed. Knows no sockets and no clock.

The registry reconciles state instead of forwarding verbs: whatever was added and removed since the
last turn, `Registry.commands` compares what is wanted with what was sent, and returns the
difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from .deadlines import DueOrder
from .entries import CHANNEL, PATTERN, SHARDED, Command, Entry, Kind, Listener
from .moves import Moves
from .refusals import Refused, doubling
from .slots import slot_of

__all__ = ["CHANNEL", "PATTERN", "SHARDED", "Command", "Entry", "Kind", "Listener", "Registry"]

# Names per command. Redis answers each name on its own, so longer commands gain nothing, and a
# command of this size still fits a few socket buffers.
CHUNK = 512
# Refused names that are asked for at a time, in a command each. An ACL may forbid very many.
MOST_ALONE = 100


class Registry(Moves):
    """The names that one node should deliver to this process, and to whom.

    ``linger`` (seconds) is how long a name stays subscribed after its last listener went: a page
    that reloads then costs Redis nothing. Names that Redis forbids are asked for again after
    ``forbidden_backoff``, what it only put off after ``put_off_backoff``: seconds, by the number of
    attempts in vain.
    """

    def __init__(
        self,
        linger: float = 0.0,
        *,
        forbidden_backoff: Callable[[int], float] = doubling,
        put_off_backoff: Callable[[int], float] = doubling,
    ) -> None:
        self.linger = linger
        self.channels: dict[bytes, Entry] = {}
        self.patterns: dict[bytes, Entry] = {}
        self.shards: dict[bytes, Entry] = {}
        self.tables = (self.channels, self.patterns, self.shards)
        # What the server took away by itself, and nobody was told of.
        self.taken: list[Entry] = []
        # In order of their first change, as the names should appear on the wire.
        self._dirty: dict[Entry, None] = {}
        # Entries without listeners, and when each is due.
        self._lingering: DueOrder[Entry] = DueOrder()
        self._late: list[tuple[Entry, Listener]] = []
        # Commands that Redis has not fully answered, oldest first; a PING stands as None.
        self._unanswered: deque[Command | None] = deque()
        # What to call at the answer to each of those PINGs.
        self._pings: deque[Callable[[], object] | None] = deque()
        # Names of a refused command, to be asked for one by one: one bad name spoils its batch.
        self._retry_alone: list[Entry] = []
        # Refused alone: for want of a permission, mostly.
        self._forbidden: Refused[Entry] = Refused(forbidden_backoff, MOST_ALONE)
        # Refused for as long as Redis is in some state. It does not matter which name it is.
        self._put_off: Refused[Entry] = Refused(put_off_backoff, CHUNK)

    def table(self, kind: Kind) -> dict[bytes, Entry]:
        """The entries of one kind by their name."""
        if kind is CHANNEL:
            return self.channels
        return self.patterns if kind is PATTERN else self.shards

    # -- what listeners want ------------------------------------------------------------------

    def add(self, kind: Kind, name: bytes, listener: Listener, text: str | None = None) -> Entry:
        """Have `listener` hear `name`, which is `text` as a str; adding twice changes nothing."""
        table = self.table(kind)
        entry = table.get(name)
        if entry is None:
            entry = table[name] = Entry(kind, name, text)
            entry.listener = listener
            self._dirty[entry] = None
        elif entry.add(listener):
            self._lingering.discard(entry)
            if entry.active:
                self._late.append((entry, listener))
            elif not entry.sent:
                if entry.refusal is None:
                    self._dirty[entry] = None
                else:
                    self.ask_again(entry)
        return entry

    def ask_again(self, entry: Entry) -> None:
        """Somebody waits for a name that Redis refused: ask for it now, and not when it is due.

        What was only put off is due soon, and Redis would refuse it as often as somebody comes.
        """
        if entry in self._forbidden:
            self._forbidden.discard(entry)
            self._retry_alone.append(entry)

    def remove(
        self, entry: Entry, listener: Listener, now: float, *, at_once: bool = False
    ) -> None:
        """Have `listener` no longer hear `entry`; harmless if it did not.

        ``at_once`` does without the linger.
        """
        if not entry.discard(listener) or entry.wanted:
            return
        if not entry.sent:
            # Not left to the next commands(): while the server is away nobody asks for them, and
            # all who came and went meanwhile would pile up.
            self._dirty.pop(entry, None)
            if entry.refusal is not None:
                self._forbidden.discard(entry)
                self._put_off.discard(entry)
            self._forget(entry)
        elif self.linger > 0 and not at_once:
            self._lingering.add(entry, now + self.linger)
        else:
            self._dirty[entry] = None

    # -- what goes to Redis -------------------------------------------------------------------

    def commands(self, now: float) -> list[Command]:
        """The commands that bring Redis to what is wanted; they count as sent from here on."""
        self._dirty.update(dict.fromkeys(self._lingering.pop_due(now)))
        self._retry_alone += self._forbidden.take(now)
        self._dirty.update(dict.fromkeys(self._put_off.take(now)))
        commands = [self._send(entry.kind, True, [entry]) for entry in self._pop_retries()]
        if not self._dirty:
            return commands
        # A command for sharded channels has names of one slot only.
        batches: dict[tuple[Kind, bool, int], list[Entry]] = {}
        for entry in self._dirty:
            wanted = entry.wanted
            if wanted is not entry.sent:
                kind = entry.kind
                slot = slot_of(entry.name) if kind is SHARDED else 0
                batches.setdefault((kind, wanted, slot), []).append(entry)
            elif not wanted:
                self._forget(entry)
        self._dirty.clear()
        for (kind, subscribe, _), entries in batches.items():
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
        """When `commands` is to be called again though nothing has changed, or None."""
        due = self._lingering.next_due()
        for other in (self._forbidden.due, self._put_off.due):
            if other is not None and (due is None or other < due):
                due = other
        return due

    @property
    def unanswered(self) -> bool:
        """Whether Redis owes an answer."""
        return bool(self._unanswered)

    def _send(self, kind: Kind, subscribe: bool, entries: list[Entry]) -> Command:
        for entry in entries:
            entry.sent = subscribe
            entry.inflight += 1
        command = Command(kind, subscribe, entries)
        self._unanswered.append(command)
        return command

    def _pop_retries(self) -> Iterator[Entry]:
        retries, self._retry_alone = self._retry_alone, []
        for entry in retries:
            self._dirty.pop(entry, None)
            if entry.wanted and not entry.sent:
                yield entry
            elif not entry.wanted:
                self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        if entry.inflight == 0 and not entry.wanted and not entry.sent:
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
                entry.confirmed = head.subscribe
                if entry.inflight:
                    return None
                if head.subscribe:
                    return entry
                self._forget(entry)
                return None
        self._lost_by_server(verb, name)
        return None

    def _lost_by_server(self, verb: bytes, name: bytes) -> None:
        """The server unsubscribed a name by itself: ask for it again if it is wanted."""
        for kind in (CHANNEL, PATTERN, SHARDED):
            entry = self.table(kind).get(name)
            if verb == kind.unconfirmed and entry is not None and entry.inflight == 0:
                entry.deactivated()
                if entry.wanted:
                    self.taken.append(entry)
                if kind is not SHARDED or not entry.wanted:
                    self._lingering.discard(entry)
                    self._dirty[entry] = None

    def put_off(self, entries: Iterable[Entry], now: float) -> None:
        """Ask for these a little later: the server has just said that they are another's."""
        for entry in entries:
            if entry.kind is SHARDED and entry.wanted and not entry.sent:
                self._put_off.add(entry, now)

    # -- answers ------------------------------------------------------------------------------

    def pong(self) -> None:
        """Take the answer to the oldest PING."""
        if self._unanswered and self._unanswered[0] is None:
            self._unanswered.popleft()
            self._ping_answered()

    def _ping_answered(self) -> None:
        answered = self._pings.popleft() if self._pings else None
        if answered is not None:
            answered()

    def refuse(
        self, error: Exception, now: float, *, transient: bool = False, moved: int | None = None
    ) -> list[Entry]:
        """Take an error instead of confirmations; return the entries that Redis will not have.

        Redis refuses a command as a whole, so a batch is asked for again name by name. Only a name
        that was alone in its command counts as refused; it is asked for again when it is due. But a
        ``transient`` error says nothing about the names: they are asked for again together, soon.
        So are those whose slot has ``moved`` to another server, unless they are taken there
        meanwhile.
        """
        if moved is not None and not self._is_next(moved):
            # The server had unsubscribed that name by itself, and we took this for the answer.
            return []
        command = self._unanswered.popleft() if self._unanswered else None
        if command is None:
            self._ping_answered()  # an ACL may refuse PING, and still answers in its turn
            return []
        refused = []
        for entry in command.entries[command.answered :]:
            entry.inflight -= 1
            if entry.inflight:
                continue
            if moved is not None:
                entry.deactivated()
                if entry.wanted:
                    self._put_off.add(entry, now)
                else:
                    self._forget(entry)
                continue
            if not command.subscribe and not transient:
                # Redis refuses UNSUBSCRIBE only where it refuses everything: nothing to retry.
                entry.confirmed = False
                self._forget(entry)
                continue
            entry.sent = entry.confirmed
            wanted = entry.wanted
            if wanted is entry.sent or not (wanted or transient):
                self._dirty[entry] = None
                entry.refusal = None
                # Redis has it still, as it refused to take it away, too.
                self._late += [(entry, each) for each in entry.listeners]
                continue
            if transient:
                self._put_off.add(entry, now)
            elif len(command.entries) > 1:
                self._retry_alone.append(entry)
                continue
            else:
                self._forbidden.add(entry, now)
            if wanted:
                entry.refusal = error
                refused.append(entry)
        return refused

    def _is_next(self, slot: int) -> bool:
        """Whether the answer to come is to a command for sharded channels of this slot."""
        command = self._unanswered[0] if self._unanswered else None
        return (
            command is not None
            and command.kind is SHARDED
            and slot_of(command.entries[0].name) == slot
        )

    def allowed(self, entry: Entry) -> None:
        """Note that Redis confirmed what it had refused: it may have the others again, too."""
        entry.refusal = None
        self._dirty.update(dict.fromkeys(self._put_off.release()))
        self._dirty.update(dict.fromkeys(self._forbidden.release()))

    def disconnect(self) -> None:
        """Forget all that this connection knew; everything wanted is to be sent anew."""
        self._unanswered.clear()
        self._pings.clear()
        self._late.clear()
        self._lingering.clear()
        self._retry_alone.clear()
        self._forbidden.clear()
        self._put_off.clear()
        self._dirty.clear()
        self.taken.clear()
        for table in self.tables:
            for entry in list(table.values()):
                entry.deactivated()
                entry.inflight = 0
                if entry.wanted:
                    self._dirty[entry] = None
                else:
                    del table[entry.name]

    def late_joiners(self) -> Iterator[tuple[Entry, Listener]]:
        """Listeners that joined an active name; each counts as notified once it is yielded."""
        late, self._late = self._late, []
        for entry, listener in late:
            if entry.to_notify(listener):
                yield entry, listener

    # -- counts -------------------------------------------------------------------------------

    def wanted(self, kind: Kind) -> int:
        """How many names of a kind have listeners."""
        return sum(1 for entry in self.table(kind).values() if entry.wanted)

    def confirmed(self, kind: Kind) -> int:
        """How many names of a kind are active."""
        return sum(1 for entry in self.table(kind).values() if entry.active)

    def refused(self) -> list[Entry]:
        """The names and patterns that have listeners, and that Redis refused when last asked."""
        entries = (entry for table in self.tables for entry in table.values())
        return [entry for entry in entries if entry.refusal is not None and entry.wanted]

    def listeners(self) -> int:
        """How many pairs of a name and somebody who listens to it there are."""
        return sum(len(entry.listeners) for table in self.tables for entry in table.values())
