"""Follows the cluster: names and connections go to where their slots are now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from ..closed_loops import forget_task
from ..counters import EngineCounters
from ..entries import Entry
from ..exceptions import LinkLost, NotConnected, describe
from ..logs import LimitedLog
from ..subscriber import Subscriber
from ..topology import Node
from .agreement import Agreement, Disagreement
from .detours import Detours
from .pace import Pace
from .publishers import ClusterPublishers
from .scout import Scout
from .subscribers import ClusterSubscribers
from .topology import ClusterTopology
from .view import Remap, View

__all__ = ["Guide"]

logger = logging.getLogger("mpx_channels.multiplexer")

# Seconds for whoever has the key of what all processes agree upon.
PATIENCE = 1.0


class Guide:
    """Asks who has which slots, has connections to all masters, and names where they belong."""

    def __init__(
        self,
        topology: ClusterTopology,
        subscribers: ClusterSubscribers,
        counters: EngineCounters,
        *,
        max_backlog: int,
        backlog_timeout: float,
        agreement: Agreement | None,
        remap: Remap | None,
    ) -> None:
        self.last_error: Exception | None = None
        # Why nothing is sent at all, and nothing subscribed to.
        self.refusal: Disagreement | None = None
        # Done once it is known who has which slots, or that there is no use in knowing it.
        self.found = asyncio.Event()
        # Called when there are other nodes, or slots have moved, before names are.
        self.on_change: Callable[[], object] = lambda: None
        # What stays where it is.
        self.pinned: Callable[[], Iterable[Entry]] = lambda: ()
        self._pace = Pace()
        self.detours = Detours(
            topology,
            subscribers,
            self._pace,
            counters,
            max_backlog=max_backlog,
            backlog_timeout=backlog_timeout,
            remap=remap,
            cause=lambda: "" if self.last_error is None else f": {describe(self.last_error)}",
        )
        self._counters = counters
        self._topology = topology
        self._subscribers = subscribers
        self._agreement = agreement
        self._log = LimitedLog(logger)
        self._task: asyncio.Task[None] | None = None
        # Slots that have moved, by the masters that had them, as long as that is all that was done.
        self._moved: dict[Node, set[int]] = {}
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
        self._pace = self.detours.pace = Pace()
        self.found = asyncio.Event()
        self.refusal = None
        self._subscribers.limbo.begin()
        self.detours.begin(self._publishers)
        # Those of an earlier start.
        for subscriber in self._subscribers.all:
            subscriber.start()
        for publisher in self._publishers.all:
            publisher.start()
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="mpx-cluster")

    async def stop(self) -> None:
        """Ask no more; what waits for an answer about its slot fails."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            await self.detours.stop()
        self.found.set()  # whoever waits looks again, and sees the stop
        self._log.flush()

    def abandon(self) -> None:
        """The event loop was closed under us."""
        task, self._task = self._task, None
        if task is not None:
            forget_task(task)
            self.detours.abandon()

    # -- LinkListener -------------------------------------------------------------------------

    def disconnected(self, loss: LinkLost, subscriber: Subscriber) -> None:
        """A link broke, or names were taken away."""
        self._pace.soon()

    def server_added(self, subscriber: Subscriber) -> None:
        subscriber.on_moved = lambda: self._pace.soon(subscriber.node)

    def server_removed(self, subscriber: Subscriber) -> None:
        pass

    # -- following ----------------------------------------------------------------------------

    async def _follow(self) -> None:
        while self.refusal is None:
            news = False
            try:
                news = await self._look()
                self.last_error = None
            except Disagreement as error:
                self._refuse_all(error)
            except Exception as error:
                if self._task is None:
                    raise  # abandoned, and redis-py has made an error of that
                # Whatever it is, such as an `address_remap` that raises: the next may go well.
                self.last_error = error
                self._log.warning(
                    "look", "Cannot ask who has which slots, trying again: %s", describe(error)
                )
            await self._pace.rest(news=news, well=self._all_well())
        await asyncio.Event().wait()  # until we are stopped

    def _all_well(self) -> bool:
        subscribers, publishers = self._subscribers.all, self._publishers.all
        return (
            self.last_error is None
            and not self.detours
            and self._topology.complete
            and all(each.up.is_set() for each in subscribers)
            and all(each.link.wire is not None for each in publishers)
        )

    async def _look(self) -> bool:
        """Ask, and do what is to be done about the answer; whether there was anything."""
        view = await self._scout.view(self._pace.begins())
        news = self._believe(view)
        for node in self._topology.nodes:
            if node not in self._publishers:
                self._publishers.add(node).start()
        await self._agree()
        if self._moved or not self.found.is_set():
            self._log_masters()
        for node in self._topology.nodes:
            if self._subscribers.of_node(node) is self._subscribers.limbo:
                subscriber = self._subscribers.add(node)
                subscriber.start()
                self._publishers.of(node).follow(subscriber)
        self._follow_slots()
        self._leave_helpers()
        self.found.set()
        self._pace.looked()
        return news

    def _believe(self, view: View) -> bool:
        changed = self._topology.believe(view)
        for node, slots in changed.items():
            if node is not self._topology.unknown:
                self._counters.slots_moved += len(slots)
            self._moved.setdefault(node, set()).update(slots)
        return bool(changed)

    async def _agree(self) -> None:
        agreement, topology = self._agreement, self._topology
        if agreement is None:
            return
        node = topology.node_of(agreement.key)
        if agreement.reached:
            if node in self._publishers and self._publishers.of(node).ready:
                agreement.keep(self._publishers.of(node).submit, self._differ)
            return
        try:
            async with asyncio.timeout(PATIENCE):
                # What is refused here takes a detour, and that ends with the next look.
                await agreement.reach(self._publishers.of(node).submit)
        except TimeoutError:
            link, key = self._publishers.of(node).link, agreement.key.decode()
            if link.wire is None and link.last_error is not None:
                raise NotConnected(
                    f"no connection to {node}, which has {key!r}: {describe(link.last_error)}"
                ) from link.last_error
            raise NotConnected(f"{node} did not say in {PATIENCE:g} s what {key!r} is") from None

    def _follow_slots(self) -> None:
        topology, subscribers = self._topology, self._subscribers
        home = topology.home
        topology.choose_home(
            [each.node for each in subscribers.all if each.up.is_set()],
            [each.node for each in subscribers.all if each.link.last_error is not None],
        )
        if home is not topology.home:
            self.detours.home_moved()
        elif not self._moved:
            return
        for node, slots in self._moved.items():
            if node in self._publishers:
                self.detours.divert(node, slots)
        self.on_change()
        subscribers.settle(self.pinned())
        self._moved = {}
        for subscriber in subscribers.all:
            if subscriber.node not in topology.nodes:
                self.detours.leaving.subscriber(subscribers.remove(subscriber.node))
                self._leave(subscriber.node)

    def _leave_helpers(self) -> None:
        """Nodes that slots were on their way to, and none came."""
        for publisher in self._publishers.all:
            node = publisher.link.node
            if node not in self._topology.nodes and not self.detours and publisher.idle:
                self._leave(node)

    def _leave(self, node: Node) -> None:
        self.detours.leaving.publisher(self._publishers.remove(node))
        self._topology.forget(node)

    def _differ(self, error: Disagreement) -> None:
        """We were here before them: no reason to break off what works."""
        self._log.error("differ", "Some other processes do not hear this one: %s", error)

    def _refuse_all(self, error: Disagreement) -> None:
        """Nothing that we sent would arrive where others look for it."""
        self.last_error = self.refusal = error
        self._log.error("agreement", "Nothing is sent to the cluster: %s", error)
        self._subscribers.limbo.refuse_all(error)
        self.detours.refuse_all(error)
        self.found.set()

    def _log_masters(self) -> None:
        nodes = sorted(map(str, self._topology.nodes))
        self._log.info("masters", "The cluster's %d masters: %s", len(nodes), ", ".join(nodes))
