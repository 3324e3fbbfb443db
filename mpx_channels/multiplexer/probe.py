"""The probe of one server: what the process publishes there in order to hear it itself."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .deafness import DeafnessWatch
from .exceptions import LinkLost, NotConnected, SubscriptionRefused
from .packing import pack_publish
from .publisher import Publisher
from .registry import CHANNEL, Entry, Kind
from .subscriber import Subscriber

__all__ = ["Probe"]

# What the watch publishes; the questions of others are numbered.
UNASKED = b""


@dataclass(eq=False, slots=True)
class _Question:
    """A publish on its way: Redis' answer to it, and the seconds until it was heard."""

    answer: asyncio.Future[object]
    heard: asyncio.Future[float]
    started: float
    waiting: int = 0


class Probe:
    """A name that this process alone publishes to, subscribed to on one server.

    `round_trip` asks whether what is published arrives; `DeafnessWatch` does by itself.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        publisher: Publisher,
        name: bytes,
        *,
        interval: float,
        patience: float,
        kind: Kind = CHANNEL,
        packed: Callable[[bytes, bytes], bytes] = pack_publish,
    ) -> None:
        self._subscriber = subscriber
        self._name = name
        self._packed = packed
        self._watch = DeafnessWatch(
            subscriber,
            publisher,
            packed(name, UNASKED),
            interval=interval,
            patience=patience,
        )
        self._waiters: list[asyncio.Future[None]] = []
        self._numbers = itertools.count()
        # By what they carry.
        self.questions: dict[bytes, _Question] = {}
        # Those that were asked in this turn of the loop, which do for all who ask in it: several
        # nodes may be databases of this server.
        self._new: dict[Publisher, bytes] = {}
        self.entry = subscriber.add(kind, name, self)

    @property
    def listens(self) -> bool:
        """Whether the server has confirmed the name."""
        return self.entry.active

    async def listening(self) -> None:
        """Return once the server has confirmed the name.

        Raises `SubscriptionRefused`; asks again for what was refused before.
        """
        if self.listens:
            return
        if self.entry.refusal is not None:
            self._subscriber.ask_again(self.entry)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)

    async def round_trip(self, publisher: Publisher) -> float:
        """Publish, and return how many seconds it took to be heard over the subscriber's link.

        Raises `LinkLost` when that breaks meanwhile, and as `Publisher.submit`. All who ask in one
        turn of the loop share a publish.
        """
        number = self._new.get(publisher)
        if number is None:
            number = self._ask(publisher)
        question = self.questions[number]
        question.waiting += 1
        try:
            # Not the future itself: who is cancelled would cancel the others'.
            await asyncio.wait([question.heard])
            return question.heard.result()
        finally:
            question.waiting -= 1
            if not question.waiting:
                del self.questions[number]
                if self._new.get(publisher) == number:
                    del self._new[publisher]
                # Not written yet, it need not be.
                question.answer.cancel()

    def _ask(self, publisher: Publisher) -> bytes:
        number = b"%d" % next(self._numbers)
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        answer = publisher.submit(self._packed(self._name, number))
        question = _Question(answer, loop.create_future(), started)
        self.questions[number] = question
        if not self._new:
            loop.call_soon(self._new.clear)
        self._new[publisher] = number

        def published(answer: asyncio.Future[object]) -> None:
            error = None if answer.cancelled() else answer.exception()
            if error is not None and not question.heard.done():
                question.heard.set_exception(error)

        answer.add_done_callback(published)
        return number

    def lost(self, loss: LinkLost) -> None:
        """The link broke, with what was on its way over it."""
        self._watch.stop()
        for question in self.questions.values():
            if not question.heard.done():
                question.heard.set_exception(loss)

    def close(self) -> None:
        """The server is ours no more, or the name not the server's."""
        self._watch.stop()
        self._subscriber.remove(self.entry, self, at_once=True)
        heard = [each.heard for each in self.questions.values()]
        waiting: list[asyncio.Future[Any]] = [*self._waiters, *heard]
        for future in waiting:
            if not future.done():
                future.set_exception(NotConnected(f"{self._subscriber.node} is not asked any more"))

    # -- Listener -----------------------------------------------------------------------------

    def deliver(self, name: str, data: bytes) -> None:
        """Something came back."""
        if data == UNASKED:
            self._watch.came_back()
        question = self.questions.get(data)
        if question is not None and not question.heard.done():
            question.heard.set_result(time.perf_counter() - question.started)

    def activated(self, entry: Entry) -> None:
        """Redis confirmed the name."""
        self._watch.start()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def refused(self, entry: Entry) -> None:
        """Redis refused the name; it is asked again now and then."""
        for waiter in self._waiters:
            if not waiter.done():
                text = f"{self._subscriber.node} refused to subscribe: {entry.refusal}"
                waiter.set_exception(SubscriptionRefused(text))
