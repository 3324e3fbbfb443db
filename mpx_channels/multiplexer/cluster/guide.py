"""Follows the cluster: names and commands go to where their slots are now."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import redis.exceptions

from ..counters import EngineCounters
from ..exceptions import ConnectionLost, LinkLost, MpxError, describe
from ..logs import LimitedLog
from ..packing import key_of, unpack
from ..publisher import Publisher, Sent
from ..refusals import moved_to
from ..slots import SLOTS, slot_of
from ..subscriber import Subscriber
from ..topology import Node
from ..wire import Frame, forget_task
from .agreement import Agreement, Disagreement
from .detour import Detour
from .publishers import ClusterPublishers
from .scout import Scout
from .subscribers import ClusterSubscribers
from .topology import ClusterTopology
from .view import View

__all__ = ["Guide"]

logger = logging.getLogger("mpx_channels.multiplexer")

# Seconds between looks while all is well. A master that was demoted goes on to accept SPUBLISH, so
# whoever only sends hears of it in no other way.
EVERY = 5.0
# While something is not.
OFTEN = 0.2
# What comes between two looks in any case.
LEAST = 0.02
# Seconds that what is on its way to the node that had a slot is waited for.
SETTLING = 1.0
# Seconds that names have to be subscribed to at their new node before what waited is published.
LISTENERS_FIRST = 1.0
# Seconds before a node is asked again for what it would not do yet.
AGAIN = 0.05
# Answers that say "not here", or "not now".
_NOT_NOW = (redis.exceptions.TryAgainError, redis.exceptions.ClusterDownError)


class Guide:
    """Asks who has which slots, and leads names and commands there.

    What is for a slot that changes hands takes a `Detour`: until what is on its way to the old node
    is answered, and those who listen have followed. So the order of commands for one key holds.
    """

    def __init__(
        self,
        topology: ClusterTopology,
        subscribers: ClusterSubscribers,
        counters: EngineCounters,
        *,
        max_backlog: int,
        backlog_timeout: float,
        agreement: Agreement | None,
    ) -> None:
        self.last_error: Exception | None = None
        # Done once it is known who has which slots.
        self.found = asyncio.Event()
        # Called when there are other nodes, or slots have moved, before names are.
        self.on_change: Callable[[], object] = lambda: None
        self.pinned: Callable[[], Any] = lambda: ()
        self._topology = topology
        self._subscribers = subscribers
        self._counters = counters
        self._max_backlog = max_backlog
        self._backlog_timeout = backlog_timeout
        self._agreement = agreement
        self._log = LimitedLog(logger)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._aside: set[asyncio.Task[None]] = set()
        self._look_now = asyncio.Event()
        self._looks = 0
        self._looked: list[asyncio.Future[None]] = []
        self._first_to_ask: Node | None = None
        self._detours: set[Detour] = set()
        self._retiring: dict[Node, asyncio.Task[None]] = {}
        # When a command was sent away for the first time.
        self._since: dict[asyncio.Future[Frame], float] = {}
        subscribers.subscriptions.add(self)

    def set_out(self, publishers: ClusterPublishers, scout: Scout) -> None:
        """With these, which know us in turn."""
        self._publishers = publishers
        self._scout = scout

    # -- life ---------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to ask; returns at once."""
        self._loop = asyncio.get_running_loop()
        self._look_now = asyncio.Event()
        self.found = asyncio.Event()
        self._aside, self._detours, self._retiring = set(), set(), {}
        self._subscribers.limbo.begin()
        detour = self._new_detour(set(range(SLOTS)))
        self._publishers.lead_all(detour)
        for node in self._topology.nodes:  # of an earlier start
            self._subscribers.of_node(node).start()
            self._publishers.of(node).start()
        self._task = self._loop.create_task(self._follow(), name="mpx-cluster")
        self._run(self._lead(detour, None, wait_for_look=True))

    async def stop(self) -> None:
        """Ask no more; what waits for an answer about its slot fails."""
        tasks = [task for task in (self._task, *self._aside) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._task = None
        for detour in tuple(self._detours):
            self._fail(detour, ConnectionLost("the multiplexer was stopped before this was sent"))
        self._log.flush()

    def abandon(self) -> None:
        """The event loop was closed under us."""
        for task in (self._task, *self._aside):
            if task is not None:
                forget_task(task)

    # -- what happens -------------------------------------------------------------------------

    def look(self, first: Node | None = None) -> None:
        """Something is not as we thought: ask now, `first` this node."""
        if first is not None:
            self._first_to_ask = first
        self._look_now.set()

    def disconnected(self, loss: LinkLost, subscriber: Subscriber) -> None:
        """A link broke, or names were taken away."""
        self.look()

    def server_added(self, subscriber: Subscriber) -> None:
        subscriber.on_moved = lambda: self.look(subscriber.node)

    def server_removed(self, subscriber: Subscriber) -> None:
        pass

    def refused(self, sent: Sent, error: Exception) -> bool:
        """A node would not do it: have another do it, if that is why."""
        key = key_of(*unpack(sent.command))
        asked = isinstance(error, redis.exceptions.AskError)
        moved = moved_to(error) is not None
        if key is None or not (asked or moved or isinstance(error, _NOT_NOW)) or self._loop is None:
            return False
        if not sent.in_doubt and self._tired_of(sent.future):
            return False
        self._counters.redirections += 1
        slot = slot_of(key)
        if asked and not moved:
            assert isinstance(error, redis.exceptions.AskError)
            self._helper(error, slot).take_over([sent], asking=True)
            return True
        route = self._publishers.routes[slot]
        if isinstance(route, Detour):
            route.came_back(sent)
            return True
        detour = self._new_detour({slot})
        self._publishers.lead({slot}, detour)
        detour.came_back(sent)
        self.look(route.link.node)
        self._run(self._lead(detour, route, wait_for_look=True))
        return True

    def _tired_of(self, future: asyncio.Future[Frame]) -> bool:
        """Whether it was sent away for long enough."""
        assert self._loop is not None
        now = self._loop.time()
        since = self._since.get(future)
        if since is None:
            self._since[future] = now
            future.add_done_callback(self._since.pop)
            return False
        return now - since > self._backlog_timeout

    def _helper(self, error: redis.exceptions.AskError, slot: int) -> Publisher:
        """The publisher of the node that a slot is on its way to."""
        host = error.host or self._topology.owner(slot).endpoint[0]
        node = self._topology.at(self._scout.reached_at((host, error.port)))
        if node not in self._publishers:
            self._publishers.add(node).start()
        return self._publishers.of(node)

    # -- following ----------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            self._look_now.clear()
            first, self._first_to_ask = self._first_to_ask, None
            try:
                view = await self._scout.view(first)
            except MpxError as error:
                self.last_error = error
                self._log.warning("look", "%s, trying on", describe(error))
            else:
                self.last_error = None
                try:
                    await self._take(view)
                except Disagreement as error:
                    self._refuse_all(error)
                    return
                except MpxError as error:
                    self.last_error = error
            await asyncio.sleep(LEAST)
            pause = EVERY * random.uniform(0.7, 1.0) if self._all_well() else OFTEN
            try:
                async with asyncio.timeout(pause):
                    await self._look_now.wait()
            except TimeoutError:
                pass

    def _all_well(self) -> bool:
        subscribers, publishers = self._subscribers.all, self._publishers.all
        return (
            self.last_error is None
            and not self._detours
            and self._topology.complete
            and all(each.up.is_set() for each in subscribers)
            and all(each.link.wire is not None for each in publishers)
        )

    async def _take(self, view: View) -> None:
        changed = self._topology.believe(view)
        self._counters.slots_moved += sum(
            len(slots) for node, slots in changed.items() if node is not self._topology.unknown
        )
        for node in self._topology.nodes:
            self._add(node)
        agreement = self._agreement
        if agreement is not None and not agreement.reached:
            owner = self._publishers.of(self._topology.node_of(agreement.key))
            await agreement.reach(owner.submit)
        self._follow_slots(changed)

    def _follow_slots(self, changed: Mapping[Node, set[int]]) -> None:
        topology, subscribers = self._topology, self._subscribers
        up = [each.node for each in subscribers.all if each.up.is_set()]
        home = topology.home
        topology.choose_home(up)
        if changed or home is not topology.home or not self.found.is_set():
            for node, slots in changed.items():
                if node is not topology.unknown:
                    self._divert(node, slots)
            self.on_change()
            subscribers.settle(self.pinned())
            for subscriber in subscribers.all:
                if subscriber.node not in topology.nodes:
                    self._remove(subscriber.node)
        for publisher in self._publishers.all:
            node = publisher.link.node
            if node not in topology.nodes and not self._detours and node not in self._retiring:
                self._retire(self._publishers.remove(node))  # it helped while a slot moved
        self._looks += 1
        self.found.set()
        looked, self._looked = self._looked, []
        for waiter in looked:
            if not waiter.done():
                waiter.set_result(None)

    def _add(self, node: Node) -> None:
        if node not in self._publishers:
            self._publishers.add(node).start()
        if self._subscribers.of_node(node) is self._subscribers.limbo:
            self._log.info("nodes", "%s is a master of the cluster", node)
            subscriber = self._subscribers.add(node)
            subscriber.start()
            self._publishers.of(node).follow(subscriber)

    def _remove(self, node: Node) -> None:
        self._log.info("nodes", "%s is no master of the cluster any more", node)
        self._run(self._subscribers.remove(node).stop())
        self._retire(self._publishers.remove(node))

    def _divert(self, node: Node, slots: set[int]) -> None:
        """These slots are not this node's any more."""
        routes = self._publishers.routes
        free = {slot for slot in slots if not isinstance(routes[slot], Detour)}
        if free:
            detour = self._new_detour(free)
            self._publishers.lead(free, detour)
            self._run(self._lead(detour, self._publishers.of(node)))

    def _retire(self, publisher: Publisher) -> None:
        """A node is left: what it may still answer is waited for, the rest goes elsewhere."""
        node = publisher.link.node
        self._retiring[node] = task = self._run(self._retire_slowly(publisher))
        task.add_done_callback(lambda _: self._retiring.pop(node, None))

    async def _retire_slowly(self, publisher: Publisher) -> None:
        try:
            if publisher.link.wire is not None:
                await asyncio.wait([publisher.settled()], timeout=SETTLING)
            await publisher.link.stop()
            for sent in publisher.take_out():
                self._lead_on(sent)
        finally:
            await publisher.stop(0)

    def _lead_on(self, sent: Sent) -> None:
        key = key_of(*unpack(sent.command))
        if key is None:
            if not sent.future.done():
                sent.future.set_exception(ConnectionLost("the node has left the cluster"))
            return
        route = self._publishers.routes[slot_of(key)]
        if isinstance(route, Detour):
            route.came_back(sent)
        else:
            route.take_over([sent])

    # -- detours ------------------------------------------------------------------------------

    def _new_detour(self, slots: set[int]) -> Detour:
        detour = Detour(
            slots,
            self._counters,
            most=self._max_backlog,
            timeout=self._backlog_timeout,
            cause=lambda: "" if self.last_error is None else f": {describe(self.last_error)}",
        )
        self._detours.add(detour)
        return detour

    async def _lead(
        self, detour: Detour, source: Publisher | None, *, wait_for_look: bool = False
    ) -> None:
        """See a detour through."""
        if source is not None:
            await self._let_settle(detour, source)
        if wait_for_look:
            await self._next_look()
            if source is not None:
                await asyncio.sleep(AGAIN)
        topology, publishers = self._topology, self._publishers
        while not all(topology.owner(slot) in publishers for slot in detour.slots):
            known = {slot for slot in detour.slots if topology.owner(slot) in publishers}
            if known:
                self._part(detour, known)
            await self._next_look()
        await self._listeners_first(detour)
        self._end(detour)

    async def _let_settle(self, detour: Detour, source: Publisher) -> None:
        retiring = self._retiring.get(source.link.node)
        if retiring is not None:
            await asyncio.wait([retiring])
            return
        if source.link.wire is not None:
            await asyncio.wait([source.settled()], timeout=SETTLING)

        def is_ours(command: bytes) -> bool:
            key = key_of(*unpack(command))
            return key is not None and slot_of(key) in detour.slots

        for sent in source.take_out(is_ours):
            detour.came_back(sent)

    async def _next_look(self) -> None:
        assert self._loop is not None
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._looked.append(waiter)
        await waiter

    def _refuse_all(self, error: Disagreement) -> None:
        """Nothing that we sent would arrive where others look for it."""
        self.last_error = error
        self._log.error("agreement", "%s", error)
        self._subscribers.limbo.refuse_all(error)
        for detour in self._detours:
            detour.refusal = error
            self._fail(detour, error)

    async def _listeners_first(self, detour: Detour) -> None:
        assert self._loop is not None
        if not self._topology.sharded or not len(detour):
            return
        deadline = self._loop.time() + LISTENERS_FIRST
        while True:
            if self._subscribers.live_in(detour.slots) or self._loop.time() > deadline:
                return
            await asyncio.sleep(0.01)

    def _part(self, detour: Detour, slots: set[int]) -> None:
        """Some of its slots are known, and others are not."""
        waiting = detour.drain()
        detour.slots -= slots
        for slot in slots:
            self._publishers.routes[slot] = self._publishers.of(self._topology.owner(slot))
        for sent in waiting:
            self._lead_on(sent)

    def _end(self, detour: Detour) -> None:
        self._detours.discard(detour)
        routes = self._publishers.routes
        for slot in detour.slots:
            if routes[slot] is detour:
                routes[slot] = self._publishers.of(self._topology.owner(slot))
        for sent in detour.drain():
            self._lead_on(sent)

    def _fail(self, detour: Detour, error: Exception) -> None:
        for sent in detour.drain():
            if not sent.future.done():
                sent.future.set_exception(type(error)(str(error)))

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._loop is not None
        task = self._loop.create_task(coroutine, name="mpx-cluster-aside")
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        return task
