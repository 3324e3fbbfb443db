"""How far a process has come in a group's history, and its members that are not as far."""

from __future__ import annotations

import enum
from asyncio import AbstractEventLoop, Future, Task
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mpx_channels.channels.mailbox import Item, Mailbox
from mpx_channels.channels.marker import Marker
from mpx_channels.history.positions import Position, State, salvage
from mpx_channels.history.settings import HistorySetting
from mpx_channels.multiplexer import MpxError

from .archive import Entry
from .topics import Topic

__all__ = ["Phase", "Read", "Replay", "Told", "Track", "track_of"]

# Seconds before another look when Redis did not have what has come live: it is being replaced.
PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Read:
    """A page, decoded once for all who are there."""

    state: State
    entries: Sequence[Entry]


class Track:
    """The messages of one topic as they come, by their positions.

    ``epoch`` and ``offset`` are the newest that came, or was known before the first join was over:
    then it is ``tentative``, as some before it may be on their way. ``lost``: the link broke, for
    the ``losses``-th time, and it is not known yet what was missed. ``held``: the first message
    that came meanwhile, if it does not follow upon the others; of several losses, since the first
    one.
    """

    __slots__ = (
        "behind",
        "epoch",
        "first",
        "held",
        "losses",
        "lost",
        "offset",
        "pages",
        "setting",
        "tentative",
        "topic",
        "was_live",
    )

    def __init__(self, topic: Topic, setting: HistorySetting, first: Future[None]) -> None:
        self.topic = topic
        self.first: Future[None] | None = first
        self.setting = setting
        self.epoch = ""
        self.offset = 0
        self.tentative = True
        self.lost = False
        self.losses = 0
        self.was_live = False
        self.held: Position | None = None
        # Members that get no live messages, for they have others to read first.
        self.behind: dict[Mailbox, Replay] = {}
        # Read by who came first, for all who follow; by epoch and offset.
        self.pages: dict[Position, Task[Read]] = {}

    def link_lost(self) -> None:
        """The link broke: what came last is where to go on from."""
        if self.was_live:
            self.lost = True
            self.tentative = not self.epoch
            self.losses += 1

    @property
    def position(self) -> Position | None:
        """None while nothing is known."""
        return (self.epoch, self.offset) if self.epoch else None

    def known(self, state: State) -> None:
        """So far it had come on the server a moment ago."""
        self.epoch, self.offset = state.position
        for replay in self.behind.values():
            replay.came_by(state.position)
        if self.lost:
            self.tentative = False

    def found(self) -> None:
        """It was asked how far it had come, and there is an answer, or none to be had."""
        if self.first is not None:
            if not self.first.done():
                self.first.set_result(None)
            self.first = None

    def end(self) -> None:
        """Nobody is a member any more."""
        self.found()
        for replay in list(self.behind.values()):
            replay.end()

    def left(self, mailbox: Mailbox) -> None:
        replay = self.behind.get(mailbox)
        if replay is not None:
            replay.end()

    def holds(self, history: Source, mailbox: Mailbox, item: Item) -> bool:
        """Whether a member that is behind gets an item that is not in the history when it is not.

        When it has read what has come by now, that is: it may be behind for ever.
        """
        if self.lost and self.position is not None and mailbox not in self.behind:
            Replay(history, self, mailbox, self.position)  # whether it is behind is known soon
        replay = self.behind.get(mailbox)
        if replay is None or (replay.phase is Phase.RESTING and not self.lost):
            return False
        # What came before it is not known if the link broke, and nothing has come since.
        known = not self.lost or self.held is not None
        replay.held.append((item, (self.epoch, self.offset) if known else None))
        return True

    def nothing_lost(self) -> None:
        """Who waited to hear that gets what comes."""
        for replay in list(self.behind.values()):
            if replay.waits and replay.phase is Phase.WAITING:
                replay.end()

    def held_for(self, mailbox: Mailbox) -> int:
        """How many items a member is to get later."""
        replay = self.behind.get(mailbox)
        return len(replay.held) if replay is not None else 0

    def is_beyond(self, epoch: str, offset: int) -> bool:
        """Whether messages have come that are behind this position.

        Epochs begin with the time of their beginning.
        """
        return not self.tentative and (self.epoch, self.offset) > (epoch, offset)


class Source(Protocol):
    """Whatever reads the history for replays, and is told how they fare."""

    loop: AbstractEventLoop

    def page(self, track: Track, position: Position, *, exact: bool) -> Task[Read]:
        """The messages behind a position, a page of them; or from a little before, for all."""

    def replayed(self, count: int) -> None:
        """So many messages were put into a mailbox."""

    def refilled(self, replay: Replay, reason: str | None, dropped: int | None) -> None:
        """A replay begins behind an overflow; ``reason`` why something is lost, if it is."""

    def not_recovered(self, replay: Replay, reason: str, dropped: int | None) -> None:
        """A replay goes on behind something that is lost."""

    def give_up(self, replay: Replay, error: MpxError) -> None:
        """The history cannot be read: the member gets what comes."""


class Phase(enum.Enum):
    """What a replay waits for: to be told where to begin, the reader or Redis, a live message."""

    WAITING = enum.auto()
    READING = enum.auto()
    RESTING = enum.auto()


class Replay:
    """A member that reads the history from a position, a page when it has read the one before.

    Live messages are not put into its mailbox meanwhile, they are in the history, too. Having read
    all there was, it rests until one comes that follows upon it, and is a member like others then.
    """

    __slots__ = (
        "_ended",
        "_exact",
        "_history",
        "_raised",
        "before",
        "held",
        "joins",
        "mailbox",
        "overflowed",
        "phase",
        "position",
        "previous",
        "track",
    )

    def __init__(
        self,
        history: Source,
        track: Track,
        mailbox: Mailbox,
        position: Position = ("", 0),
        *,
        joins: bool = False,
        overflowed: bool = False,
    ) -> None:
        self._history = history
        self.track = track
        self.mailbox = mailbox
        self.position = position
        self.phase = Phase.WAITING
        # How much of the mailbox' capacity is ours.
        self._raised = 0
        # Whether pages are to begin right behind the position.
        self._exact = False
        self._ended = False
        # Whether it begins where the mailbox was full, and the member is not told of that yet.
        self.overflowed = overflowed
        # Where the member was before; None while that is not known.
        self.before = None if track.tentative else track.position
        # What is not in the history, and the position that it comes behind; None: not known yet.
        self.held: list[tuple[Item, Position | None]] = []
        self.previous = previous = track.behind.get(mailbox)
        if previous is not None:
            self.held, previous.held = previous.held, []
            self.before = previous.before or self.before
            self.overflowed = overflowed or previous.overflowed
            joins = joins or previous.is_new
            previous.end()
        # Whether the member is one only if it comes to a good end.
        self.joins = joins
        track.behind[mailbox] = self

    @property
    def is_new(self) -> bool:
        """Whether the member is one only by this, and by others that have not begun."""
        return self.joins and (self.previous is None or self.previous.is_new)

    @property
    def waits(self) -> bool:
        """Whether it is to hear what was missed when a link broke."""
        waits = {Phase.WAITING: self.position[0], Phase.RESTING: self.held}
        return bool(waits.get(self.phase))

    def begin(self, position: Position, count: int) -> None:
        """So many messages, or perhaps more, are to be replayed from a position."""
        self.joins, self.previous = False, None
        self.position = position
        if count:
            self.read_on()
        else:
            self.rest()

    def undo(self) -> None:
        """Have the member go on as before, with what came meanwhile."""
        before: Replay | None = self.previous
        while before is not None and not before.position[0]:
            before = before.previous
        if before is not None:
            self.begin(before.position, 0 if before.phase is Phase.RESTING else 1)
        elif self.before is not None:
            self.begin(self.before, 0)
        else:
            self.end()

    def end(self) -> None:
        """The member gets what comes, or is none any more."""
        self._ended = True
        self._lower()
        self._release(all=True)
        if self.track.behind.get(self.mailbox) is self:
            del self.track.behind[self.mailbox]
        if not self.track.behind:
            self.track.pages.clear()

    def read_on(self) -> None:
        """Read the next page when the reader has come so far."""
        if self._ended:
            return
        self.phase = Phase.READING
        self._raise(1)
        self.mailbox.put_marker(Marker(self._history.loop.time(), self._reached))

    def rest(self) -> None:
        """Wait for a live message, if there is not one already."""
        if self._ended:
            return
        track = self.track
        if track.is_beyond(*self.position):
            self.read_on()
            return
        self.phase = Phase.RESTING
        self._release(all=True)
        if not track.tentative and not track.lost and track.position == self.position:
            self.end()

    def follows(self, position: Position) -> bool:
        """A live message has come; whether this member gets it as others do, from now on."""
        self.came_by((position[0], position[1] - 1))
        if self.phase is not Phase.RESTING:
            if self.before is None:
                self.before = (position[0], position[1] - 1)
            return False
        epoch, offset = self.position
        if epoch == position[0]:
            if offset + 1 == position[1]:
                self.end()
                return True
            if offset >= position[1]:
                return False
        if not self.track.lost:
            self.read_on()
        return False

    def came_by(self, position: Position) -> None:
        """What is held, and it is not known since when, came at this position at the latest."""
        if self.held and self.held[-1][1] is None:
            self.held = [(item, at or position) for item, at in self.held]

    def _reached(self) -> None:
        self._lower()
        if not self._ended:
            task = self._history.page(self.track, self.position, exact=self._exact)
            task.add_done_callback(self._came)

    def _came(self, task: Task[Read]) -> None:
        if self._ended or task.cancelled():
            return
        error = task.exception()
        if isinstance(error, MpxError):
            self._history.give_up(self, error)
            return
        self._take(task.result())

    def _take(self, read: Read) -> None:
        state, channel = read.state, self.mailbox.channel
        offset, reason, dropped = salvage(self.position, state)
        if self.overflowed:
            self.overflowed = False
            self._history.refilled(self, reason, dropped)
        elif reason is not None:
            self._history.not_recovered(self, reason, dropped)
        items = []
        before = offset
        for entry in read.entries:
            if entry.offset > offset:
                offset = entry.offset
                if entry.item is not None and channel not in entry.excluded:
                    items.append((offset, entry.item))
        self._raise(len(items))
        for at, item in items:
            if self.held:
                self.position = (state.epoch, at - 1)
                self._release()
            self.mailbox.put_always(item)
        self.position = (state.epoch, offset)
        self._history.replayed(len(items))
        self._release()
        more = offset < state.top
        if not more and not self.track.is_beyond(*self.position):
            self.rest()
        elif offset > before or (more and not self._exact):
            self._exact = offset == before
            self.read_on()
        else:
            self._history.loop.call_later(PAUSE, self.read_on)

    def _release(self, *, all: bool = False) -> None:
        """Put what was held into the mailbox, as far as what came before it is there."""
        while self.held:
            item, at = self.held[0]
            if not all and (at is None or at > self.position):
                return
            del self.held[0]
            self.mailbox.put_always(item)

    def _raise(self, count: int) -> None:
        self._raised += count
        self.mailbox.enlarge(count)

    def _lower(self) -> None:
        self.mailbox.enlarge(-self._raised)
        self._raised = 0


class Told:
    """What one look has to tell: gaps by mailbox and reason, and replays to begin behind that."""

    def __init__(self) -> None:
        self.gaps: dict[tuple[Mailbox, str], list[Track]] = {}
        self.replays: list[Replay] = []


def track_of(topic: Topic) -> Track:
    """The track of a topic that has one."""
    track = topic.track
    assert isinstance(track, Track)
    return track
