"""Whom this process holds in which groups, and how Redis gets to know it.

What Redis is told is how things stand, and not what has happened: what changed since the last write
goes into the next, which leaves when that one is answered. So a thousand joins of one moment are a
few calls, and one whose answer was lost is made again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from mpx_channels.channels.mailbox import Mailbox
from mpx_channels.channels.part import Context
from mpx_channels.multiplexer import ConnectionLost, MpxError, MultiplexerStopped
from mpx_channels.multiplexer.callbacks import unheard
from mpx_channels.multiplexer.closed_loops import forget_task
from mpx_channels.presence.scripts import CHUNK
from mpx_channels.presence.store import Kept, Store, Written

__all__ = ["Entry", "Roster", "Rosters", "Seat"]

# Seconds before what a server would not do is asked of it again.
PAUSE, LONGEST_PAUSE = 0.1, 5.0
# What Redis holds of an entry, while that is not known.
UNKNOWN = -1


class Seat:
    """A channel that is in a group as some id: one connection. It ends with the channel.

    ``joins``: the calls that want it, those under way and those that came to a good end.
    """

    __slots__ = ("_leave", "entry", "joins", "roster")

    # What a channel subscribed to and Redis does not deliver would say here that it does not.
    live = True

    def __init__(
        self, roster: Roster, entry: Entry, leave: Callable[[Seat, Mailbox], None]
    ) -> None:
        self.roster = roster
        self.entry = entry
        self.joins = 0
        self._leave = leave

    def leave(self, mailbox: Mailbox) -> None:
        """The channel has ended."""
        self._leave(self, mailbox)


class Entry:
    """An id in a group, by way of the channels of this process.

    ``record``: the id and the info, as they stand in Redis; ``names``: what the id is called there;
    ``at``: when it joined, by the server's clock, 0 until that is known; ``leaves``: the last
    channel left, and did not end; ``written``: how many channels Redis knows of.
    """

    __slots__ = ("at", "id", "leaves", "names", "quiet", "record", "seats", "waiting", "written")

    def __init__(self, id: str, names: list[bytes]) -> None:
        self.id = id
        self.names = names
        self.record = b""
        self.seats: dict[Mailbox, Seat] = {}
        self.at = 0
        self.leaves = False
        # Whether it was told already that it has joined.
        self.quiet = False
        self.written = 0
        self.waiting: list[asyncio.Future[None]] = []


class Roster:
    """A group, with the ids that channels of this process are in it as.

    ``mark``: what the last write left in Redis; ``held``: how many ids Redis is to hold for us.
    """

    __slots__ = ("dirty", "entries", "gone", "held", "mark", "name", "number", "task", "touched")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[str, Entry] = {}
        # Those that Redis has to hear of, in order.
        self.dirty: dict[Entry, None] = {}
        # What Redis has of us, and we have not: by its names there.
        self.gone: list[bytes] = []
        self.held = 0
        self.number = 0
        self.mark: bytes | None = None
        self.task: asyncio.Task[None] | None = None
        self.touched = 0.0

    def rewrite(self, *, quiet: bool) -> None:
        """Have all of it written anew; ``quiet`` tells nobody of those who were told of before."""
        for entry in self.entries.values():
            entry.quiet = quiet and bool(entry.at)
            self.dirty[entry] = None
            self.wrote(entry, UNKNOWN)

    def wrote(self, entry: Entry, connections: int) -> None:
        """Redis knows of so many connections of an id."""
        self.held += (connections > 0) - (entry.written > 0)
        entry.written = connections


class Rosters:
    """All rosters of an event loop, by the groups' names in Redis.

    ``on_written`` gets each write that was answered, with whether it ended the last connection of
    somebody; whether something had been lost before; and whether nobody was told who joined.
    """

    def __init__(
        self,
        context: Context,
        store: Store,
        on_written: Callable[[Roster, Written, bool, bool, bool], None],
    ) -> None:
        self._context = context
        self._store = store
        self._on_written = on_written
        # How many names an id has in Redis.
        self._names = len(context.wrapping.digests("", ""))
        self.by_name: dict[str, Roster] = {}

    async def join(self, name: str, mailbox: Mailbox, id: str, record: bytes) -> None:
        """Have a channel be in a group as an id; returns once Redis knows.

        Or it undoes that, and raises as `Multiplexer.command`, but for `ConnectionLost`.
        """
        roster = self.by_name.get(name)
        if roster is None:
            roster = self.by_name[name] = Roster(name)
        entry = roster.entries.get(id)
        if entry is None:
            names = self._context.wrapping.digests(self._store.members_key(name), id)
            entry = roster.entries[id] = Entry(id, names)
        seat = entry.seats.get(mailbox)
        if seat is None:
            seat = entry.seats[mailbox] = Seat(roster, entry, self._ended)
            if mailbox.memberships is None:
                mailbox.memberships = [seat]
            else:
                mailbox.memberships.append(seat)
        seat.joins += 1
        entry.record, entry.at, entry.leaves, entry.quiet = record, 0, False, False
        try:
            await self._written(roster, entry)
        except BaseException:
            seat.joins -= 1
            if not seat.joins and entry.seats.get(mailbox) is seat:
                self._take_seat(seat, mailbox)
                # Whoever was here before it, and lingers, goes on to.
                self._changed(roster, entry, leaves=False)
            raise

    async def leave(self, name: str, mailbox: Mailbox, id: str) -> None:
        """Have a channel be in a group as an id no more; does nothing if it is not.

        Raises as `join`; Redis hears of it all the same, once it can.
        """
        roster = self.by_name.get(name)
        entry = roster.entries.get(id) if roster is not None else None
        seat = entry.seats.get(mailbox) if entry is not None else None
        if roster is None or entry is None or seat is None:
            return
        self._take_seat(seat, mailbox)
        entry.leaves = True
        await self._written(roster, entry)

    def end_all(self) -> None:
        """All channels end: we do."""
        for roster in self.by_name.values():
            for entry in roster.entries.values():
                if entry.seats:
                    entry.seats.clear()
                    self._changed(roster, entry, leaves=False)

    def clear(self) -> None:
        """Forget all, in Redis, too."""
        for roster in self.by_name.values():
            if roster.task is not None:
                roster.task.cancel()
            for entry in roster.entries.values():
                for waiting in entry.waiting:
                    if not waiting.done():
                        waiting.set_result(None)
        self.by_name.clear()

    def abandon(self) -> None:
        for roster in self.by_name.values():
            if roster.task is not None:
                forget_task(roster.task)

    def members(self) -> int:
        """Pairs of a group and an id."""
        return sum(len(roster.entries) for roster in self.by_name.values())

    def connections(self) -> int:
        """Pairs of these and a channel."""
        rosters = self.by_name.values()
        return sum(len(entry.seats) for roster in rosters for entry in roster.entries.values())

    def write(self, roster: Roster) -> None:
        """Tell Redis what has changed in a group, if it is not being told."""
        if roster.task is None and (roster.dirty or roster.gone):
            roster.task = self._context.loop.create_task(self._write(roster), name="mpx-presence")

    # -- inside -------------------------------------------------------------------------------

    def _written(self, roster: Roster, entry: Entry) -> asyncio.Future[None]:
        """Done once Redis knows how an entry stands now."""
        waiting: asyncio.Future[None] = self._context.loop.create_future()
        waiting.add_done_callback(unheard)
        entry.waiting.append(waiting)
        roster.dirty[entry] = None
        self.write(roster)
        return waiting

    def _changed(self, roster: Roster, entry: Entry, *, leaves: bool) -> None:
        entry.leaves = leaves
        roster.dirty[entry] = None
        self.write(roster)

    def _ended(self, seat: Seat, mailbox: Mailbox) -> None:
        """A channel has ended that was in a group; nobody waits."""
        roster, entry = seat.roster, seat.entry
        if entry.seats.pop(mailbox, None) is seat and self.by_name.get(roster.name) is roster:
            self._changed(roster, entry, leaves=False)

    def _take_seat(self, seat: Seat, mailbox: Mailbox) -> None:
        del seat.entry.seats[mailbox]
        if mailbox.memberships is not None:
            mailbox.memberships.remove(seat)

    async def _write(self, roster: Roster) -> None:
        pause = PAUSE
        try:
            while roster.dirty or roster.gone:
                batch = self._batch(roster)
                try:
                    await self._write_batch(roster, batch)
                    pause = PAUSE
                except MultiplexerStopped as error:
                    self._failed(roster, batch, error)
                    return
                except MpxError as error:
                    if not isinstance(error, ConnectionLost):
                        self._failed(roster, batch, error)
                        # Whoever waited takes back what it wanted.
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            roster.task = None
            if not roster.entries and not roster.dirty and self.by_name.get(roster.name) is roster:
                del self.by_name[roster.name]

    def _batch(self, roster: Roster) -> list[Entry]:
        """The next entries that can be written together."""
        entries = iter(roster.dirty)
        first = next(entries, None)
        if first is None:
            return []
        alike = itertools.takewhile(lambda entry: entry.quiet == first.quiet, entries)
        return [first, *itertools.islice(alike, CHUNK - 1)]

    async def _write_batch(self, roster: Roster, batch: list[Entry]) -> None:
        kept: list[Kept] = []
        waiting: list[asyncio.Future[None]] = []
        for entry in batch:
            del roster.dirty[entry]
            waiting += entry.waiting
            roster.wrote(entry, UNKNOWN)
            kept.append(Kept(entry.names, len(entry.seats), entry.leaves, entry.at, entry.record))
        gone: list[bytes] = []
        if not batch or not batch[0].quiet:
            gone = roster.gone[: CHUNK - len(batch)]
            kept += [Kept([name] * self._names, 0, False, 0, b"") for name in gone]
        number, quiet = roster.number + 1, bool(batch) and batch[0].quiet
        try:
            written = await self._store.write(roster.name, number, kept, quiet=quiet)
        except BaseException:
            # Before what came meanwhile.
            roster.dirty = dict.fromkeys(batch) | roster.dirty
            raise
        before, mark = roster.mark, b"%s %d" % (written.epoch, number)
        lost = before is not None and written.mark not in (before, mark)
        roster.number, roster.mark = number, mark if written.holds else None
        roster.touched = self._context.loop.time()
        del roster.gone[: len(gone)]
        ended = bool(gone)
        for entry, told in zip(batch, kept, strict=False):
            ended = ended or not told.connections
            if entry.record is told.record and not entry.at:
                entry.at = written.at
            if entry in roster.dirty:
                continue
            entry.quiet = False
            roster.wrote(entry, told.connections)
            if not entry.seats:
                del roster.entries[entry.id]
        for each in waiting:
            if not each.done():
                each.set_result(None)
        for entry in batch:
            entry.waiting = [each for each in entry.waiting if not each.done()]
        self._on_written(roster, written, ended, lost, quiet)

    def _failed(self, roster: Roster, batch: list[Entry], error: MpxError) -> None:
        """Redis would not take it, for now; it will be told again, if that is still to be told."""
        for entry in batch:
            waiting, entry.waiting = entry.waiting, []
            for each in waiting:
                if not each.done():
                    each.set_exception(error)
        self._context.log.warning(
            ("presence", type(error).__name__),
            "Cannot tell Redis who is in %s, and will try again: %s",
            roster.name,
            str(error),
        )
