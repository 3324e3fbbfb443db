"""Nodes that are masters no more: what is under way there is answered, or goes elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..closed_loops import forget_task
from ..publisher import Sent
from ..subscriber import Subscriber
from ..topology import Node
from .publisher import ClusterPublisher

__all__ = ["SETTLING", "Leaving"]

# Seconds that what is on its way to a node which is left, or had a slot, is waited for.
SETTLING = 1.0


class Leaving:
    """Closes the connections to nodes that have left; `lead_on` gets what never got there."""

    def __init__(self, lead_on: Callable[[Sent], None]) -> None:
        self._lead_on = lead_on
        self._publishers: dict[Node, asyncio.Task[None]] = {}
        self._subscribers: set[asyncio.Task[None]] = set()
        self._ends: set[ClusterPublisher | Subscriber] = set()
        self._hurry = asyncio.Event()

    def begin(self) -> None:
        """There is an event loop."""
        self._publishers, self._subscribers, self._ends = {}, set(), set()
        self._hurry = asyncio.Event()

    def subscriber(self, subscriber: Subscriber) -> None:
        """Its names are others' by now."""
        task = self._run(subscriber, subscriber.stop())
        self._subscribers.add(task)
        task.add_done_callback(self._subscribers.discard)

    def publisher(self, publisher: ClusterPublisher) -> None:
        """What it may still answer is waited for, the rest goes elsewhere."""
        node = publisher.link.node
        self._publishers[node] = task = self._run(publisher, self._retire(publisher))
        task.add_done_callback(lambda _: self._publishers.pop(node, None))

    async def left(self, node: Node) -> bool:
        """Wait until a node is left, if it is one of these; whether it was."""
        task = self._publishers.get(node)
        if task is None:
            return False
        await asyncio.wait([task])
        return True

    async def stop(self) -> None:
        """Wait for no more answers, and return when all connections are closed."""
        self._hurry.set()
        if tasks := (*self._publishers.values(), *self._subscribers):
            await asyncio.wait(tasks)

    def abandon(self) -> None:
        """The event loop was closed under us."""
        for task in (*self._publishers.values(), *self._subscribers):
            forget_task(task)
        for end in self._ends:
            end.link.abandon()
        self._ends.clear()

    def _run(
        self, end: ClusterPublisher | Subscriber, coroutine: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        self._ends.add(end)
        task = asyncio.get_running_loop().create_task(coroutine, name="mpx-cluster-leaving")
        task.add_done_callback(lambda _: self._ends.discard(end))
        return task

    async def _retire(self, publisher: ClusterPublisher) -> None:
        if publisher.link.wire is not None:
            hurry = asyncio.ensure_future(self._hurry.wait())
            until: list[asyncio.Future[Any]] = [publisher.settled(), hurry]
            await asyncio.wait(until, timeout=SETTLING, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        await publisher.link.stop()
        for sent in publisher.take_out():
            self._lead_on(sent)
        await publisher.stop(0)
