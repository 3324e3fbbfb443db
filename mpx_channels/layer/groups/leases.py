"""That this process lives, and who does not: leases, and what is to be done where one expires.

A process renews one lease for each place, which is a server, however many members it holds. With
the answer comes who else has not, and which groups nobody sees to; whoever hears it first does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, ParamSpec

from mpx_channels.channels.part import Context
from mpx_channels.multiplexer import MpxError, MultiplexerStopped, Node
from mpx_channels.multiplexer.closed_loops import forget_task
from mpx_channels.presence.store import LIFE, Place, Renewed, Store, Written

from .rosters import Roster, Rosters

__all__ = ["Leases"]

P = ParamSpec("P")

# How many times a lease is renewed while it lasts: an expired one is noticed in a sixth of it.
RENEWALS = 6
# What is told a little later than owed, in seconds: by a timer that is exact enough.
LATER = 0.01
# Groups that are looked at in one go.
AT_ONCE = 256
# Groups that are swept at the same time: each call may take the server a few milliseconds.
SWEPT_AT_ONCE = 16


class _Standing:
    """What is known of a place; ``epoch`` is None before this process has had a lease there."""

    __slots__ = ("epoch", "node", "turn")

    # Where it was when we looked last.
    node: Node

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.turn = asyncio.Lock()


class Leases:
    """The leases of an event loop, and the care for what others leave behind.

    ``heard``: the groups that members here hear of presence in, by their names in Redis.
    """

    def __init__(
        self,
        context: Context,
        store: Store,
        lease: float,
        heard: Callable[[], Iterable[str]],
    ) -> None:
        self._context = context
        self._store = store
        self._lease = lease
        self._heard = heard
        self.rosters = Rosters(context, store, self._written)
        self._places: dict[Place, _Standing] = {}
        self._nodes: set[Node] = set()
        # Before that, others may be cut off as we were, and are not judged.
        self._judges_from = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        # Processes whose members are being taken out.
        self._dead: set[tuple[Place, str]] = set()
        # By group: what is to be told, and who is to leave, a little later; and the place's epoch
        # when they began to linger.
        self._tells: dict[str, asyncio.TimerHandle] = {}
        self._sweeps: dict[str, tuple[asyncio.TimerHandle, int]] = {}
        self._looked_through = 0.0

    def start(self) -> None:
        self._run(self._keep())

    @property
    def judges(self) -> bool:
        """Whether it can be said that others whose lease has expired are dead."""
        return self._context.loop.time() >= self._judges_from

    def cut_off(self) -> None:
        """A link broke, perhaps those of others as well."""
        self._judges_from = self._context.loop.time() + self._lease

    async def sweep(self, name: str, dead: str | None = None, *, tell: int = False) -> None:
        """Take out of a group who is there no more; else as `Store.sweep`."""
        while True:
            swept = await self._store.sweep(name, dead, tell=tell)
            if not swept.more:
                break
        self._tell_later(name, swept.owed)
        if name in self._sweeps:
            self._sweep_at(name, swept.due)

    def clear(self) -> None:
        """Nothing is left that could be seen to."""
        self.rosters.clear()
        for timer in (*self._tells.values(), *(timer for timer, _ in self._sweeps.values())):
            timer.cancel()
        self._tells.clear()
        self._sweeps.clear()

    async def close(self, timeout: float) -> None:
        """Have all that is held linger, for who comes back elsewhere, and end the leases."""
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        places = list(self._places)
        self.rosters.end_all()
        writing = [roster.task for roster in self.rosters.by_name.values() if roster.task]
        if writing:
            await asyncio.wait(writing, timeout=timeout / 2)
        if places and self._context.multiplexer.running:
            ends = [self._ignore(self._store.end, place) for place in places]
            await asyncio.wait(list(map(asyncio.ensure_future, ends)), timeout=timeout / 2)
        self.clear()

    def abandon(self) -> None:
        self.rosters.abandon()
        for task in tuple(self._tasks):
            forget_task(task)

    # -- the lease ----------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renew the leases, for as long as the hub lives."""
        while True:
            # Not all of them at the same moment, who were started at the same moment.
            await asyncio.sleep(self._lease / RENEWALS * random.uniform(0.85, 1.0))
            wanted = self._wanted()
            # Each by itself: a server that is away costs us no lease on the others.
            for place in list(self._places):
                if place not in wanted:
                    del self._places[place]
                    self._run(self._ignore(self._store.end, place))
            for place in wanted:
                if not self._standing(place).turn.locked():
                    self._run(self._renew(place))
            self._run(self._touch())

    def _wanted(self) -> set[Place]:
        """Where there is something of ours to see to."""
        place_of = self._store.place_of
        wanted = {place_of(name) for name in self.rosters.by_name}
        wanted.update(place_of(name) for name in self._heard())
        return wanted

    async def _renew(self, place: Place) -> None:
        standing = self._standing(place)
        async with standing.turn:
            try:
                renewed = await self._store.renew(place, judges=self.judges)
                await self._renewed(place, standing, renewed)
            except MpxError as error:
                self._failed(error, "renew its lease")

    async def _renewed(self, place: Place, standing: _Standing, renewed: Renewed) -> None:
        known, standing.epoch = standing.epoch, renewed.place
        if renewed.had == 2:
            self.cut_off()
        # Without a lease, or with an expired one, we may have been told to be dead, in some groups.
        if known is not None and (known != renewed.place or renewed.had != 1):
            await self._verify(place, quiet=known != renewed.place)
        # Apart: whoever is busy with another one's death must not be late with its own lease.
        for dead in renewed.dead:
            if (place, dead) not in self._dead:
                self._dead.add((place, dead))
                self._run(self._take_out(place, dead))
        if renewed.overdue:
            self._run(self._ignore(self._sweep_all, renewed.overdue))

    async def _take_out(self, place: Place, dead: str) -> None:
        """Nobody is anywhere any more by way of a process that is dead."""
        try:
            await self._sweep_all(await self._store.groups_of(place, dead), dead)
            await self._store.end(place, dead)
        except MpxError as error:
            self._failed(error, "take out whose process is gone")
        finally:
            self._dead.discard((place, dead))

    async def _sweep_all(self, groups: Sequence[str], dead: str | None = None) -> None:
        names = [self._context.names.group(group) for group in groups]
        for start in range(0, len(names), SWEPT_AT_ONCE):
            some = names[start : start + SWEPT_AT_ONCE]
            await asyncio.gather(*[self.sweep(name, dead) for name in some])

    def _standing(self, place: Place) -> _Standing:
        standing = self._places.get(place)
        moved = standing is not None and standing.node is not place.node
        if standing is None or moved:
            # The key says where it is, too.
            standing = self._places.pop(place, None) or _Standing()
            self._places[place] = standing
            standing.node = place.node
        if place.node not in self._nodes:
            self._nodes.add(place.node)
            self._begin_with(place.node, place.leases)
        if moved:
            # To another node, or its replica has taken over: which may not have all.
            self._connected(place.node)
        return standing

    def _begin_with(self, node: Node, key: str) -> None:
        """Hear of each connection to a node, but for the one that there is."""
        first = True

        def heard(done: asyncio.Future[Any]) -> None:
            nonlocal first
            again, first = not first, False
            if again and not done.cancelled() and done.exception() is None:
                self._connected(node)

        self._context.multiplexer.begin_with(b"EXISTS", key.encode(), node=node, heard=heard)

    # -- what was lost ------------------------------------------------------------------------

    def _connected(self, node: Node) -> None:
        """The server may be another one, which does not have what we wrote last."""
        self.cut_off()

        async def look() -> None:
            for place in [each for each in self._places if each.node is node]:
                await self._renew(place)
                await self._ignore(self._verify, place, quiet=True)

        self._run(look())

    async def _verify(self, place: Place, *, quiet: bool) -> None:
        """Write those groups anew that Redis does not have as we wrote them."""
        rosters = [
            roster
            for name, roster in self.rosters.by_name.items()
            if roster.task is None and roster.mark is not None
            if self._store.place_of(name) == place
        ]
        for start in range(0, len(rosters), AT_ONCE):
            looks = [self._look(roster, quiet) for roster in rosters[start : start + AT_ONCE]]
            await asyncio.gather(*looks)

    async def _look(self, roster: Roster, quiet: bool) -> None:
        known = roster.mark
        epoch, mark = await self._store.mark(roster.name)
        if roster.task is not None or roster.mark != known or known is None:
            return  # it was written meanwhile, and would have been noticed
        if mark != known or epoch != known.partition(b" ")[0]:
            roster.rewrite(quiet=quiet and not (mark or b"").endswith(b" taken"))
            roster.mark = None
            self.rosters.write(roster)

    def _written(
        self, roster: Roster, written: Written, ended: bool, lost: bool, quiet: bool
    ) -> None:
        """A write was answered."""
        place = self._store.place_of(roster.name)
        standing = self._standing(place)
        known = standing.epoch
        if known is None:
            standing.epoch = written.place
        elif known != written.place:
            self._run(self._renew(place))  # which has all others looked at
        elif not written.had:
            # We were told to be dead, and the next renewal finds the lease that this has got us.
            self._run(self._ignore(self._verify, place, quiet=False))
        if lost:
            roster.rewrite(quiet=known != written.place)
        elif not roster.dirty and not roster.gone and written.holds != roster.held:
            self._run(self._compare(roster))
        owed = written.owed
        if (lost or quiet) and not owed:
            # The number is told all the same, also if it is because of one who was lost and left;
            # when other processes have had the time to do as we.
            owed = round(self._lease / RENEWALS * 1000)
        self._tell_later(roster.name, owed)
        if ended:
            self._sweep_at(roster.name, written.due, written.place)

    async def _compare(self, roster: Roster) -> None:
        """Redis does not hold for us what we think: put both right."""
        try:
            held = set(await self._store.held(roster.name))
        except MpxError as error:
            self._failed(error, f"look who is in {roster.name}")
            return
        if roster.task is None and self.rosters.by_name.get(roster.name) is roster:
            ours = {name for entry in roster.entries.values() for name in entry.names}
            roster.gone = sorted(held - ours)
            roster.rewrite(quiet=True)
            self.rosters.write(roster)

    # -- later --------------------------------------------------------------------------------

    def _tell_later(self, name: str, owed: int) -> None:
        """Have the members of a group told how many there are, if that is owed them."""
        if owed and name not in self._tells:
            loop = self._context.loop
            self._tells[name] = loop.call_later(owed / 1000 + LATER, self._tell, name)

    def _tell(self, name: str) -> None:
        self._tells.pop(name, None)
        self._run(self._ignore(self.sweep, name, tell=True))

    def _sweep_at(self, name: str, due: int, place: int = 0) -> None:
        """Have those leave then who linger now, if there are any; ``place`` as in `Written`."""
        timer, known = self._sweeps.pop(name, (None, 0))
        if timer is not None:
            timer.cancel()
        if due >= 0:
            # If they are lost until then, nobody is told who has left: so the number is told.
            place = place or known
            later = self._context.loop.call_later(due / 1000 + LATER, self._sweep, name, place)
            self._sweeps[name] = later, place

    def _sweep(self, name: str, place: int) -> None:
        self._run(self._ignore(self.sweep, name, tell=place))

    async def _touch(self) -> None:
        """Have the keys of groups live on in which nothing happens."""
        now = self._context.loop.time()
        if now < self._looked_through + LIFE / 24:
            return
        self._looked_through = now
        for name, roster in list(self.rosters.by_name.items()):
            if roster.touched < now - LIFE / 4:
                roster.touched = now
                await self._ignore(self._store.sweep, name)

    # -- inside -------------------------------------------------------------------------------

    async def _ignore(
        self, do: Callable[P, Awaitable[object]], *args: P.args, **options: P.kwargs
    ) -> None:
        """What fails here is done again, by us or by others."""
        try:
            await do(*args, **options)
        except MpxError as error:
            self._failed(error, "look after presence")

    def _failed(self, error: MpxError, what: str) -> None:
        if not isinstance(error, MultiplexerStopped):
            self._context.log.warning(
                ("presence", type(error).__name__), "This process cannot %s: %s", what, str(error)
            )

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._closed:
            coroutine.close()
            return
        task = self._context.loop.create_task(coroutine, name="mpx-presence")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
