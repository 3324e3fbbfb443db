"""Probes: what a process publishes in order to hear it itself, on each server."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field

from .deafness import DeafnessWatch
from .exceptions import LinkLost, SubscriptionRefused
from .packing import pack_publish
from .publisher import Publisher
from .publishers import Publishers
from .registry import CHANNEL, Entry
from .subscriber import Subscriber
from .subscribers import Subscribers
from .topology import Node

__all__ = ["Probes"]


@dataclass(eq=False, slots=True)
class _Server:
    """The name on one server, who waits for it to be confirmed, and what watches the link."""

    entry: Entry
    watch: DeafnessWatch
    waiters: list[asyncio.Future[None]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Question:
    """A probe on its way: who published it, Redis' answer to that, and how long the way took."""

    subscriber: Subscriber
    publisher: Publisher
    answer: asyncio.Future[object]
    heard: asyncio.Future[float]
    started: float
    waiting: int = 0


class Probes:
    """A name that this process alone publishes to, subscribed to on each server.

    `round_trip` asks whether what is published arrives; `DeafnessWatch` does by itself, after
    ``interval`` seconds of silence. ``patience``: seconds that such a probe has to come back.
    """

    def __init__(
        self,
        subscribers: Subscribers,
        publishers: Publishers,
        name: bytes,
        *,
        interval: float,
        patience: float,
    ) -> None:
        self._subscribers = subscribers
        self._publishers = publishers
        self._name = name
        self._interval = interval
        self._patience = patience
        self._servers: dict[Subscriber, _Server] = {}
        self._numbers = itertools.count()
        # By what they carry.
        self._questions: dict[bytes, _Question] = {}
        # Those that were asked in this turn of the loop, which do for all who ask in it.
        self._new: dict[Publisher, bytes] = {}
        subscribers.subscriptions.add(self)
        for subscriber in subscribers.all:
            self.server_added(subscriber)

    def listens_at(self, node: Node) -> bool:
        """Whether a node's server has confirmed the name."""
        return self._of(node).entry.active

    async def listening(self, node: Node) -> None:
        """Return once a node's server has confirmed the name.

        Raises `SubscriptionRefused`; asks again for what was refused before.
        """
        server = self._of(node)
        entry = server.entry
        if entry.active:
            return
        if entry.refusal is not None:
            entry.keeper.ask_again(entry)
        waiter = asyncio.get_running_loop().create_future()
        server.waiters.append(waiter)
        try:
            await waiter
        finally:
            server.waiters.remove(waiter)

    async def round_trip(self, node: Node) -> float:
        """Publish on a node, and return how many seconds it took to be heard.

        Raises `LinkLost` when the link breaks meanwhile, and as `Publisher.submit`. All who ask in
        one turn of the loop share a publish.
        """
        publisher = self._publishers.of(node)
        number = self._new.get(publisher)
        if number is None:
            number = self._ask(publisher, self._subscribers.of_node(node))
        question = self._questions[number]
        question.waiting += 1
        try:
            # Not the future itself: who is cancelled would cancel the others'.
            await asyncio.wait([question.heard])
            return question.heard.result()
        finally:
            question.waiting -= 1
            if not question.waiting:
                del self._questions[number]
                if self._new.get(publisher) == number:
                    del self._new[publisher]
                # Not written yet, it need not be.
                question.answer.cancel()

    def _ask(self, publisher: Publisher, subscriber: Subscriber) -> bytes:
        number = b"%d" % next(self._numbers)
        loop = asyncio.get_running_loop()
        answer = publisher.submit(pack_publish(self._name, number))
        question = _Question(
            subscriber, publisher, answer, loop.create_future(), time.perf_counter()
        )
        self._questions[number] = question
        if not self._new:
            loop.call_soon(self._new.clear)
        self._new[publisher] = number

        def published(answer: asyncio.Future[object]) -> None:
            error = None if answer.cancelled() else answer.exception()
            if error is not None and not question.heard.done():
                question.heard.set_exception(error)

        answer.add_done_callback(published)
        return number

    def _of(self, node: Node) -> _Server:
        return self._servers[self._subscribers.of_node(node)]

    # -- Listener -----------------------------------------------------------------------------

    def deliver(self, name: str, data: bytes) -> None:
        """A probe came back; of those that nobody waits for, the watch hears by itself."""
        question = self._questions.get(data)
        if question is not None and not question.heard.done():
            question.heard.set_result(time.perf_counter() - question.started)

    def activated(self, entry: Entry) -> None:
        """A server confirmed the name."""
        for server in self._servers.values():
            if server.entry is entry:
                server.watch.start()
                for waiter in server.waiters:
                    if not waiter.done():
                        waiter.set_result(None)

    def refused(self, entry: Entry) -> None:
        """A server refused the name; it is asked again now and then."""
        for subscriber, server in self._servers.items():
            if server.entry is entry:
                text = f"{subscriber.node} refused to subscribe: {entry.refusal}"
                for waiter in server.waiters:
                    if not waiter.done():
                        waiter.set_exception(SubscriptionRefused(text))

    def disconnected(self, loss: LinkLost, subscriber: Subscriber) -> None:
        """The link to a server broke: what was on its way back is lost."""
        self._servers[subscriber].watch.stop()
        for question in self._questions.values():
            if question.subscriber is subscriber and not question.heard.done():
                question.heard.set_exception(loss)

    def server_added(self, subscriber: Subscriber) -> None:
        """There is one more server."""
        name = self._name
        watch = DeafnessWatch(
            subscriber,
            self._publishers.of(subscriber.node),
            pack_publish(name, b""),
            interval=self._interval,
            patience=self._patience,
        )
        self._servers[subscriber] = _Server(subscriber.add(CHANNEL, name, self), watch)

    def server_removed(self, subscriber: Subscriber) -> None:
        """There is one server less."""
        server = self._servers.pop(subscriber)
        server.watch.stop()
        subscriber.remove(server.entry, self, at_once=True)
