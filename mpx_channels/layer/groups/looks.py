"""How histories stand on their servers: looked up for many groups at once."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Mapping
from typing import Any

from mpx_channels.channels.part import Context
from mpx_channels.history.positions import Position, State
from mpx_channels.history.store import LOOKED_AT_ONCE, Store, patiently
from mpx_channels.multiplexer import MpxError, MultiplexerStopped, NotConnected

from .replays import track_of
from .topics import Topic

__all__ = ["Looked", "Looks"]

# A topic and its state, None if it has not moved; how often it had been lost when that was asked,
# None if it was not live; and whether it could not be found out.
Looked = tuple[Topic, State | None, int | None, bool]


class Looks:
    """Gathers the topics of a place for a turn of the event loop, and for as long as it is asked.

    Up to 512 are one question.
    """

    def __init__(
        self,
        context: Context,
        store: Store,
        run: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        on_looked: Callable[[list[Looked]], None],
        failed: Callable[[MpxError], None],
    ) -> None:
        self._loop = context.loop
        self._multiplexer = context.multiplexer
        self._timeout = context.connect_timeout
        self._store = store
        self._run = run
        self._on_looked = on_looked
        self._failed = failed
        # Topics to look at next, and who waits for their states.
        self._next: dict[Hashable, dict[Topic, list[asyncio.Future[State]]]] = {}
        # How many questions a place has to answer before that.
        self._asked: Counter[Hashable] = Counter()

    def close(self) -> None:
        """Leave nobody waiting."""
        looks, self._next = self._next, {}
        for each in looks.values():
            for asked in each.values():
                _fail(asked, MultiplexerStopped("the layer was closed"))

    def at(self, topic: Topic) -> list[asyncio.Future[State]]:
        """Look at a topic; its state is set on the futures that are added to what this returns."""
        place = self._multiplexer.place_of(topic.name)
        looks = self._next.get(place)
        if looks is None:
            looks = self._next[place] = {}
            self._loop.call_soon(self._look, place)
        return looks.setdefault(topic, [])

    async def state(self, topic: Topic) -> State:
        """How a history stands on the server; raises as `Multiplexer.command`.

        `NotConnected` after ``connect_timeout``: the look itself goes on, for the topic.
        """
        asked: asyncio.Future[State] = self._loop.create_future()
        self.at(topic).append(asked)
        try:
            async with asyncio.timeout(self._timeout):
                return await asked
        except TimeoutError:
            node = self._multiplexer.node_of(topic.name)
            raise NotConnected(
                f"{node} did not say in {self._timeout} s how far {topic.name!r} has come"
            ) from None

    def _look(self, place: Hashable) -> None:
        if self._asked[place]:
            return  # this is called again when there are the answers
        looks = self._next.pop(place, {})
        topics = list(looks)
        for start in range(0, len(topics), LOOKED_AT_ONCE):
            chunk = topics[start : start + LOOKED_AT_ONCE]
            self._asked[place] += 1
            task = self._run(self._look_at_chunk({topic: looks[topic] for topic in chunk}))
            task.add_done_callback(functools.partial(self._answered, place))

    def _answered(self, place: Hashable, task: asyncio.Task[None]) -> None:
        self._asked[place] -= 1
        self._look(place)

    async def _look_at_chunk(self, looks: Mapping[Topic, list[asyncio.Future[State]]]) -> None:
        known: dict[Topic, Position | None] = {}
        losses: dict[Topic, int] = {}

        def ask() -> Awaitable[list[State | None]]:
            losses.clear()
            for topic, asked in looks.items():
                track = track_of(topic)
                # Where a message came that others are missing before, its position says nothing.
                known[topic] = None if asked or track.held else track.position
                if topic.live:
                    losses[topic] = track.losses
            return self._store.look(
                [(topic.name, track_of(topic).setting, known[topic]) for topic in looks],
            )

        found: list[Looked] = []
        try:
            states: Iterable[State | None] = await patiently(ask)
        except MpxError as error:
            self._failed(error)
            for topic, asked in looks.items():
                _fail(asked, error)
                found.append((topic, None, losses.get(topic), True))
        except asyncio.CancelledError:
            for asked in looks.values():
                _fail(asked, MultiplexerStopped("the layer was closed"))
            raise
        else:
            for (topic, asked), state in zip(looks.items(), states, strict=True):
                for each in asked:
                    if not each.done() and state is not None:
                        each.set_result(state)
                found.append((topic, state, losses.get(topic), False))
        self._on_looked(found)


def _fail(asked: Iterable[asyncio.Future[State]], error: MpxError) -> None:
    for each in asked:
        if not each.done():
            each.set_exception(type(error)(str(error)))
