"""Groups with a history: what was sent can be read again, and what was missed is replayed."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Collection, Coroutine, Iterable
from typing import Any, TypeVar

from mpx_channels.channels.mailbox import Item, Mailbox
from mpx_channels.channels.mailboxes import Mailboxes
from mpx_channels.channels.part import Context, Part
from mpx_channels.history.positions import (
    Gap,
    Position,
    Recovery,
    State,
    judge,
    parse,
    split,
    text,
)
from mpx_channels.history.store import PAGE, patiently
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.multiplexer import LinkLost, MpxError
from mpx_channels.multiplexer.callbacks import unheard
from mpx_channels.multiplexer.closed_loops import forget_task

from .archive import Archive
from .groups import Groups
from .looks import Looked, Looks
from .replays import Phase, Read, Replay, Told, Track, track_of
from .topics import Topic
from .wildcards import Wildcards

__all__ = ["GroupHistory"]

T = TypeVar("T")

# Pages of a group that are kept for members that come later.
PAGES_KEPT = 4


class GroupHistory(Part):
    """The histories of groups, and how far the members here have come."""

    def __init__(
        self,
        context: Context,
        archive: Archive,
        limit: int,
        groups: Groups,
        wildcards: Wildcards,
        mailboxes: Mailboxes,
    ) -> None:
        self.context = context
        self.loop = context.loop
        self.archive = archive
        self._limit = limit
        self._groups = groups
        self._wildcards = wildcards
        self._mailboxes = mailboxes
        self._looks = Looks(
            context,
            archive.store,
            self._run,
            self._on_looked,
            self._failed,
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        if archive.keeps_some:
            groups.histories = self
            wildcards.with_history, wildcards.some_kept = self._members, True

    # -- joining ------------------------------------------------------------------------------

    def opened(self, topic: Topic) -> None:
        """A group has its first member here."""
        setting = self.archive.setting_of(topic.name)
        if setting is not None:
            topic.track = track = Track(topic, setting, self.loop.create_future())
            track.was_live, topic.at_once = topic.live, False
            self._looks.at(topic)

    async def join(self, name: str, mailbox: Mailbox, since: object) -> Recovery:
        """Make a channel a member, and replay to it what it missed since a position.

        Returns when that has begun; raises as `Topics.join`.
        """
        if self.archive.setting_of(name) is None:
            await self._groups.join(name, mailbox)
            return Recovery(False, 0, None, "no_history")
        topic = self._groups.opened(name)
        track = track_of(topic)
        known = mailbox.channel in topic.members and (topic, mailbox) not in self._groups.leaving
        replay = Replay(self, track, mailbox, joins=not known)
        try:
            await self._groups.join(name, mailbox)
            state = await self._looks.state(topic)
        except BaseException:
            if not replay.is_new:
                replay.undo()
            elif track.behind.get(mailbox) is replay:
                self._groups.leave(name, mailbox)  # nobody else waits for it
                replay.end()
            raise
        gap = judge(parse(since), state, self._limit)
        self._count(gap.reason)
        if track.position is None:
            track.known(state)
        if gap.reason is not None and not gap.count and not replay.is_new:
            replay.undo()  # it misses nothing of what came since it is a member
        else:
            replay.begin((state.epoch, gap.start), gap.count)
        return Recovery(gap.reason is None, gap.count, text(state.position), gap.reason)

    def _count(self, reason: str | None) -> None:
        if reason is None:
            self.context.counters.recoveries += 1
        else:
            self.context.counters.failed_recoveries += 1

    # -- what comes live ----------------------------------------------------------------------

    def received(self, topic: Topic, data: bytes) -> None:
        """A message of a group that has a history."""
        context, track = self.context, track_of(topic)
        try:
            position = split(data)
            if not self._is_news(track, position):
                return
            header, body = context.wrapping.unwrap(
                topic.name, data, self.archive.expiry(track.setting)
            )
            item = self.archive.delivery(track.setting, position, body)
        except UnreadableMessage as error:
            context.unreadable(topic.name, error)
            return
        self.archive.store.saw(topic.name, position)
        behind = track.behind
        if behind:
            for replay in list(behind.values()):
                replay.follows(position)
        members: Collection[Mailbox] = topic.members.values()
        if behind:
            members = [mailbox for mailbox in members if mailbox not in behind]

        if header or self._wildcards.topics:
            excluded = header.get("not", ())
            put = functools.partial(self._put, track, position)
            self._wildcards.deliver_first(
                topic.name, data, body, item, excluded, members, put=put, behind=tuple(behind)
            )
            return
        delivered = 0
        for mailbox in members:
            if mailbox.put(item):
                delivered += 1
            else:
                self._overflowed(track, mailbox, position)
        context.counters.deliveries += delivered

    def holds(self, topic: Topic, mailbox: Mailbox, item: Item) -> bool:
        """Whether a member gets an item that is in no history behind what it has missed."""
        return track_of(topic).holds(self, mailbox, item)

    def _put(self, track: Track, position: Position, mailbox: Mailbox, item: Item) -> None:
        if mailbox.put(item):
            self.context.counters.deliveries += 1
        else:
            self._overflowed(track, mailbox, position)

    def _is_news(self, track: Track, position: Position) -> bool:
        """Whether a message is none that has come already; have members read what it skips."""
        epoch, offset = position
        if not track.tentative:
            if epoch == track.epoch and offset <= track.offset:
                return False
            if epoch != track.epoch or offset != track.offset + 1:
                self._fall_behind(track, position)
            elif track.lost and track.held is None:
                track.lost = False  # it follows upon what was there before the link broke
                track.nothing_lost()
        else:
            self._nothing_known(track)
        track.epoch, track.offset, track.tentative = epoch, offset, False
        return True

    def _fall_behind(self, track: Track, position: Position) -> None:
        """There is a hole before a message: members read it, and what follows, from the history."""
        if track.lost and track.held is None:
            track.held = position
        old = (track.epoch, track.offset)
        for mailbox in track.topic.members.values():
            if mailbox not in track.behind:
                replay = Replay(self, track, mailbox, old)
                if not track.lost:
                    replay.read_on()

    def _nothing_known(self, track: Track) -> None:
        """If the link broke before it was known where the group stood, something may be missing."""
        if track.lost:
            track.lost = False
            for mailbox in track.topic.members.values():
                if mailbox not in track.behind:
                    self._tell(mailbox, "unknown", [track])

    def _overflowed(self, track: Track, mailbox: Mailbox, position: Position) -> None:
        """A mailbox is full: what it has no room for is read when there is some."""
        before = (position[0], position[1] - 1)
        Replay(self, track, mailbox, before, overflowed=True).read_on()

    # -- after a reconnect --------------------------------------------------------------------

    def lost(self, loss: LinkLost) -> None:
        for topic in self._groups.topics.values():
            if topic.track is not None and not topic.live:
                track_of(topic).link_lost()

    def activated(self, topic: Topic) -> None:
        """A group with a history is live."""
        track = track_of(topic)
        if track.was_live:
            self._looks.at(topic)
        track.was_live = True

    def _on_looked(self, found: list[Looked]) -> None:
        told = Told()
        for topic, state, losses, failed in found:
            self._looked(topic, state, told, losses, failed)
        for (mailbox, reason), tracks in told.gaps.items():
            self._tell(mailbox, reason, tracks, recovered=reason == "reconnect")
        for replay in told.replays:
            replay.read_on()

    def _looked(
        self,
        topic: Topic,
        state: State | None,
        told: Told,
        losses: int | None,
        failed: bool,
    ) -> None:
        """How a history stands, if it is not where we know it to be.

        ``losses``: how often the topic had been lost when that was asked, if it was live.
        """
        track = track_of(topic)
        if self._groups.topics.get(topic.name) is not topic:
            return
        track.found()
        if track.position is None:
            if state is not None:
                track.known(state)
            if losses == track.losses:
                self._nothing_known(track)
            return
        if losses != track.losses:
            return  # it will be asked again
        if not track.lost:
            return
        track.lost = False
        held, track.held = track.held, None
        waiting = {replay for replay in track.behind.values() if replay.waits}
        if state is None and not failed:
            if held is None:
                track.nothing_lost()
            told.replays += waiting  # none, but for what came after the look
            return
        newest = (track.epoch, track.offset)
        for mailbox in topic.members.values():
            replay = track.behind.get(mailbox)
            if replay is not None and replay not in waiting and replay.phase is not Phase.RESTING:
                continue  # it reads, and will see
            position = newest if replay is None else replay.position
            if state is None:
                told.gaps.setdefault((mailbox, "unknown"), []).append(track)
                if replay is not None:
                    replay.end()
                continue
            if position[0] == state.epoch and position[1] > state.top:
                gap = Gap(position[1], 0)  # it was read after that look
            else:
                gap = judge(position, state, self._limit)
            if gap.reason is not None or gap.count:
                told.gaps.setdefault((mailbox, gap.reason or "reconnect"), []).append(track)
                self._count(gap.reason)
                start = gap.start
                if gap.reason is not None and held is not None and held[0] == state.epoch:
                    start = min(start, held[1] - 1)  # what came is not lost
                replay = replay or Replay(self, track, mailbox)
                replay.position = (state.epoch, start)
                told.replays.append(replay)
            elif replay is not None and replay in waiting:
                told.replays.append(replay)
        if state is not None and held is None:
            track.known(state)

    # -- for replays --------------------------------------------------------------------------

    def page(self, track: Track, position: Position, *, exact: bool) -> asyncio.Task[Read]:
        """The messages behind a position, a page of them; or from a little before, for all."""
        epoch, after = position
        key = (epoch, after if exact else after - after % PAGE)
        task = track.pages.get(key)
        if task is None:
            task = track.pages[key] = self._run(self._read(track, key))
        return task

    async def _read(self, track: Track, key: Position) -> Read:
        name, setting = track.topic.name, track.setting
        complete = False
        try:
            page = await patiently(lambda: self.archive.store.page(name, setting, key[1]))
            entries = [
                self.archive.entry(name, setting, data, split(data)) for data in page.messages
            ]
            last = entries[-1].offset if entries else 0
            complete = page.state.epoch == key[0] and last == key[1] + PAGE
            return Read(page.state, entries)
        finally:
            pages = track.pages
            if not complete:
                pages.pop(key, None)
            elif len(pages) > PAGES_KEPT:
                for other in list(pages):
                    if other != key and pages[other].done():
                        del pages[other]
                        break

    def replayed(self, count: int) -> None:
        """So many messages were put into a mailbox."""
        self.context.counters.deliveries += count
        self.context.counters.replayed += count

    def refilled(self, replay: Replay, reason: str | None, dropped: int | None) -> None:
        """A replay begins behind an overflow: it is known now whether all of it is there."""
        self._count(reason)
        told = reason if reason not in (None, "trimmed", "expired") else "overflow"
        recovered, tracks = reason is None, [replay.track]
        self._tell(replay.mailbox, told, tracks, recovered=recovered, dropped=dropped)

    def not_recovered(self, replay: Replay, reason: str, dropped: int | None) -> None:
        """A replay goes on behind something that is lost."""
        self.context.counters.failed_recoveries += 1
        self._tell(replay.mailbox, reason, [replay.track], dropped=dropped)

    def give_up(self, replay: Replay, error: MpxError) -> None:
        """The history cannot be read: the member gets what comes."""
        self._failed(error)
        self.not_recovered(replay, "unknown", None)
        replay.end()

    # -- inside -------------------------------------------------------------------------------

    def _members(self, name: str) -> Collection[Mailbox]:
        topic = self._groups.topics.get(name)
        return topic.members.values() if topic is not None and topic.track is not None else ()

    def _tell(
        self,
        mailbox: Mailbox,
        reason: str,
        tracks: Iterable[Track],
        *,
        recovered: bool = False,
        dropped: int | None = None,
    ) -> None:
        groups = [self._groups.public(track.topic.name) for track in tracks]
        if recovered:
            dropped = 0
        self._mailboxes.tell_gap(mailbox, reason, groups, recovered=recovered, dropped=dropped)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self.loop.create_task(coroutine, name="mpx-history")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        unheard(task)  # whoever waits for it has it, if anybody does

    def _failed(self, error: MpxError) -> None:
        self.context.log.warning("history", "Cannot read the history of groups: %s", str(error))

    # -- Part ---------------------------------------------------------------------------------

    async def close(self, timeout: float) -> None:
        for task in self._tasks:
            task.cancel()
        self._looks.close()
        for topic in self._groups.topics.values():
            if topic.track is not None:
                track_of(topic).found()

    def abandon(self) -> None:
        for task in tuple(self._tasks):
            forget_task(task)
