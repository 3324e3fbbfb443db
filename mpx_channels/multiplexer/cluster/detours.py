"""Commands for slots that change hands: where they wait, and in which order they go on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import redis.exceptions

from ..closed_loops import forget_task
from ..counters import EngineCounters
from ..exceptions import ConnectionLost, MultiplexerStopped, NotConnected
from ..packing import key_of, unpack
from ..publisher import Sent
from ..refusals import slot_moved
from ..slots import SLOTS, slot_of
from ..topology import Node
from ..wire import Frame
from .detour import Detour
from .leaving import SETTLING, Leaving
from .not_now import NotNow
from .pace import Pace
from .publisher import ClusterPublisher
from .publishers import ClusterPublishers
from .subscribers import ClusterSubscribers
from .topology import ClusterTopology
from .view import Remap, announced, remapped

__all__ = ["Detours"]

# Seconds that names have to be subscribed to at their new node before what waited is published; at
# most half of the time that it may wait.
LISTENERS_FIRST = 1.0
# Seconds in which the cluster's bus delivers what a master that was demoted has still taken: its
# new master hands that to those who have followed.
BUS = 0.3
# Seconds before a node is asked again for what it would not do yet; longer, the longer it will not.
AGAIN = 0.05
MOST_AGAIN = 0.5
_NOT_NOW = (redis.exceptions.TryAgainError, redis.exceptions.ClusterDownError)
_PUBLISH = b"PUBLISH"
# What CLUSTERDOWN says when it is about a slot, and not about all.
_OF_SLOT = "slot not served"


class Detours:
    """Leads commands to where their slots are now.

    What is for a slot that changes hands takes a `Detour`: until what is on its way to the old node
    is answered, and those who listen have followed. So the order of commands for one key holds.
    """

    def __init__(
        self,
        topology: ClusterTopology,
        subscribers: ClusterSubscribers,
        pace: Pace,
        counters: EngineCounters,
        *,
        max_backlog: int,
        backlog_timeout: float,
        remap: Remap | None,
        cause: Callable[[], str],
    ) -> None:
        self.leaving = Leaving(self._lead_on)
        self._topology = topology
        self._subscribers = subscribers
        self.pace = pace
        self._counters = counters
        self._max_backlog = max_backlog
        self._backlog_timeout = backlog_timeout
        self._remap = remap
        self._cause = cause
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[Detour] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # Commands that were sent away: in which order, and when for the first time.
        self._sent_away: dict[asyncio.Future[Frame], tuple[int, float]] = {}
        self._turns = itertools.count()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._open)

    # -- life ---------------------------------------------------------------------------------

    def begin(self, publishers: ClusterPublishers) -> None:
        """Nobody knows yet who has which slot: everything takes a detour."""
        self._publishers = publishers
        self._loop = asyncio.get_running_loop()
        self._open, self._tasks, self._sent_away = set(), set(), {}
        self.leaving.begin()
        detour = self._new(set(range(SLOTS)))
        publishers.lead_all(detour)
        self._run(self._lead(detour, None))

    async def stop(self) -> None:
        """What waits for its slot fails."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.leaving.stop()
        stopped = MultiplexerStopped("the multiplexer was stopped before this was sent")
        for detour in tuple(self._open):
            self._fail(detour, stopped)
        self._open.clear()
        self._publishers.lead_nowhere()

    def abandon(self) -> None:
        """The event loop was closed under us."""
        for task in tuple(self._tasks):
            forget_task(task)
        self.leaving.abandon()
        if self._loop is not None:
            self._publishers.lead_nowhere()

    def refuse_all(self, error: Exception) -> None:
        """Nothing that we sent would arrive where others look for it."""
        for detour in self._open:
            detour.refusal = error
            self._fail(detour, error)

    # -- what happens -------------------------------------------------------------------------

    def refused(self, sent: Sent, error: Exception) -> bool:
        """A node would not do it: have another do it, if that is why."""
        key = key_of(*unpack(sent.command))
        asked = isinstance(error, redis.exceptions.AskError)  # MOVED is one, too
        routes = self._publishers.routes
        if key is None or not routes or not (asked or isinstance(error, _NOT_NOW)):
            return False
        assert self._loop is not None
        turn, since = self._turn_of(sent.future)
        waited = self._loop.time() - since
        if not sent.in_doubt and waited > self._backlog_timeout:
            return False
        self._counters.redirections += 1
        slot = slot_of(key)
        moved = slot_moved(error) is not None
        route = routes[slot]
        if isinstance(route, Detour):
            route.came_back(sent, turn)
        elif asked and not moved:
            assert isinstance(error, redis.exceptions.AskError)
            try:
                self._helper(error, slot).take_over([sent], asking=True)
            except NotConnected as nowhere:
                class_ = ConnectionLost if sent.in_doubt else NotConnected
                sent.future.set_exception(class_(str(nowhere)))
        elif moved:
            self._divert(route, {slot}).came_back(sent, turn)
            self.pace.soon(route.link.node)
        else:
            slots = {slot}
            if isinstance(error, redis.exceptions.ClusterDownError) and _OF_SLOT not in str(error):
                slots = {slot for slot, other in enumerate(routes) if other is route}
            pause = min(MOST_AGAIN, max(AGAIN, waited / 4))
            not_now = NotNow(error, route, slots, pause)
            self._divert(route, slots, not_now).came_back(sent, turn)
        return True

    def divert(self, node: Node, slots: set[int]) -> None:
        """These slots are not this node's any more."""
        routes = self._publishers.routes
        free = {slot for slot in slots if not isinstance(routes[slot], Detour)}
        if free:
            self._divert(self._publishers.of(node), free)

    def home_moved(self) -> None:
        """Classic messages go over another node: what waits for the old one goes there first."""
        publishers = self._publishers
        old = publishers.home
        if isinstance(old, ClusterPublisher):
            publishers.home = publishers.of(self._topology.home)
            for sent in old.take_out(lambda command: unpack(command)[0] == _PUBLISH):
                self._lead_on(sent)

    def _divert(
        self, source: ClusterPublisher, slots: set[int], not_now: NotNow | None = None
    ) -> Detour:
        detour = self._new(slots)
        self._publishers.lead(slots, detour)
        self._run(self._lead(detour, source, not_now))
        return detour

    def _turn_of(self, future: asyncio.Future[Frame]) -> tuple[int, float]:
        """Which one it was of those that were sent away, and when that was."""
        found = self._sent_away.get(future)
        if found is None:
            assert self._loop is not None
            found = self._sent_away[future] = next(self._turns), self._loop.time()
            future.add_done_callback(lambda done: self._sent_away.pop(done, None))
        return found

    def _helper(self, error: redis.exceptions.AskError, slot: int) -> ClusterPublisher:
        """The publisher of the node that a slot is on its way to; raises as `remapped`."""
        told = announced(error.host, error.port, self._topology.owner(slot).endpoint)
        node = self._topology.at(remapped(told, self._remap, {}))
        if node not in self._publishers:
            self._publishers.add(node).start()
        return self._publishers.of(node)

    # -- their way ----------------------------------------------------------------------------

    def _new(self, slots: set[int]) -> Detour:
        detour = Detour(
            slots,
            self._counters,
            most=self._max_backlog,
            timeout=self._backlog_timeout,
            cause=self._cause,
        )
        self._open.add(detour)
        return detour

    async def _lead(
        self, detour: Detour, source: ClusterPublisher | None, not_now: NotNow | None = None
    ) -> None:
        """See a detour through, that began because `source` would not have its slots."""
        if source is not None:
            await self._let_settle(detour, source)
        if not_now is not None:
            not_now.refuse_overtaken(detour)
            await asyncio.sleep(not_now.pause)
        topology, publishers = self._topology, self._publishers
        if not_now is None and source is not None and self._is_still_at(source, detour.slots):
            await self.pace.next_look()
        while unknown := {slot for slot in detour.slots if topology.owner(slot) not in publishers}:
            if known := detour.slots - unknown:
                self._part(detour, known)
            await self.pace.next_look()
        await self._listeners_first(detour)
        self._open.discard(detour)
        self._go_on(detour, detour.slots)

    def _is_still_at(self, source: ClusterPublisher, slots: set[int]) -> bool:
        """Whether the node that had some of the slots has them still, as far as we know."""
        return any(self._topology.owner(slot) is source.link.node for slot in slots)

    async def _let_settle(self, detour: Detour, source: ClusterPublisher) -> None:
        if await self.leaving.left(source.link.node):
            # What never got there has been led on.
            await asyncio.sleep(BUS)
            return
        if source.link.wire is not None:
            await asyncio.wait([source.settled()], timeout=SETTLING)

        def is_ours(command: bytes) -> bool:
            key = key_of(*unpack(command))
            return key is not None and slot_of(key) in detour.slots

        for sent in source.take_out(is_ours):
            detour.came_back(sent, self._turn_of(sent.future)[0])

    async def _listeners_first(self, detour: Detour) -> None:
        assert self._loop is not None
        deadline = self._loop.time() + min(LISTENERS_FIRST, self._backlog_timeout / 2)
        while self._topology.sharded and self._loop.time() < deadline:
            if self._subscribers.live_in(detour.slots):
                return
            await asyncio.sleep(0.01)

    def _part(self, detour: Detour, slots: set[int]) -> None:
        """Some of its slots are known, and others are not."""
        detour.slots -= slots
        self._go_on(detour, slots)

    def _go_on(self, detour: Detour, slots: set[int]) -> None:
        """These are at publishers again, and what has waited goes there."""
        publishers = self._publishers
        routes = publishers.routes
        for slot in slots:
            if routes[slot] is detour:
                routes[slot] = publishers.of(self._topology.owner(slot))
        if publishers.home is detour and self._topology.home in publishers:
            publishers.home = publishers.of(self._topology.home)
        for sent in detour.drain():
            self._lead_on(sent)

    def _lead_on(self, sent: Sent) -> None:
        """It was not sent yet: to wherever its slot is now."""
        words = unpack(sent.command)
        key = key_of(*words)
        if key is None:
            if not sent.future.done():
                sent.future.set_exception(NotConnected("the node has left the cluster"))
            return
        publishers = self._publishers
        route = publishers.home if words[0] == _PUBLISH else publishers.routes[slot_of(key)]
        if isinstance(route, Detour):
            route.came_back(sent, self._turn_of(sent.future)[0])
        elif route is not None:
            route.take_over([sent])

    def _fail(self, detour: Detour, error: Exception) -> None:
        for sent in detour.drain():
            if not sent.future.done():
                sent.future.set_exception(type(error)(str(error)))

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(coroutine, name="mpx-cluster-detour")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
