"""Histories in Redis: appending to them, settling what is in doubt, and reading them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.exceptions import OutOfMemoryError, ReadOnlyError

from mpx_channels.multiplexer import (
    BacklogFull,
    CommandRefused,
    ConnectionLost,
    MpxError,
    Multiplexer,
    MultiplexerStopped,
    Node,
    NotConnected,
)
from mpx_channels.multiplexer.callbacks import Again, unheard
from mpx_channels.multiplexer.refusals import is_transient, kind_of
from mpx_channels.multiplexer.scripts import FrequentScript, Script

from . import scripts
from .positions import Position, State
from .settings import HistorySetting

__all__ = ["LOOKED_AT_ONCE", "PAGE", "Page", "Store", "patiently"]

T = TypeVar("T")

# Messages and bytes, about, that are read at once.
PAGE = 100
PAGE_BYTES = 1 << 20
MOST = 1000
# Groups that one look asks for.
LOOKED_AT_ONCE = 512
# Groups of which the last known position is kept, for settling what is in doubt.
KNOWN = 8192
# Seconds before what a server would not do is asked of it again.
PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the messages of a history, in their order, and how it stood then."""

    state: State
    messages: Sequence[bytes]


class Store:
    """The histories of a layer's groups, by their names in Redis.

    ``keys_of`` a group are its stream, its meta hash, the hash of its idempotency keys, and the key
    in which a server's replication id is kept.
    """

    def __init__(
        self,
        multiplexer: Multiplexer,
        process_id: str,
        *,
        keys_of: Callable[[str], tuple[str, str, str, str]],
    ) -> None:
        self._multiplexer = multiplexer
        self._process = process_id.encode()
        self._keys_of = keys_of
        self._sources = scripts.sources(cluster=multiplexer.cluster, sharded=multiplexer.sharded)
        self._numbers = itertools.count(1)
        self._scripts: dict[Hashable, _Scripts] = {}
        self._frequent: dict[Node, _Frequent] = {}
        self._keys = functools.lru_cache(KNOWN)(self._make_keys)
        self._always = functools.lru_cache(KNOWN)(self._make_always)
        # The newest position of groups that this process has seen of late.
        self._known: OrderedDict[str, Position] = OrderedDict()
        # Publishes of which the server would not say what became of them, in their order.
        self._doubts: dict[str, list[_Doubt]] = {}

    def saw(self, name: str, position: Position) -> None:
        """Remember how far a history has come."""
        known = self._known
        known[name] = position
        if len(known) > KNOWN:
            known.popitem(last=False)

    async def publish(
        self, name: str, setting: HistorySetting, envelope: bytes, key: str | None
    ) -> tuple[Position, int]:
        """Append a message and publish it; return its position, and how many processes got it.

        With an idempotency key that is in the history already nobody gets it, and the position is
        that of the first one. Raises `ConnectionLost` only if it can never be known whether it was
        appended, and else as `Multiplexer.publish`.
        """
        calls = self._scripts_of(name)
        stream, always = self._always(name, setting)
        mark = b"%s:%d" % (self._process, next(self._numbers))
        key_bytes = key.encode("utf-8", "surrogatepass") if key is not None else b""
        arguments = (*always, mark, envelope, key_bytes)
        epoch, offset = self._known.get(name) or ("", 0)
        settle: Sequence[bytes] | None = None
        if not calls.sure or calls.waiting:
            await calls.be_sure_in_turn()
        for doubt in self._doubts.get(name, ()):
            doubt.ask()  # what may still be sent comes before this

        def again() -> Sequence[bytes]:
            nonlocal settle
            known = (epoch.encode(), b"%d" % offset)
            settle = calls.settle.words(stream, *arguments, *known, keys=3)
            return settle

        try:
            answer = await calls.publish(stream, *arguments, keys=3, again=again)
        except MpxError as error:
            calls.refused(error)
            if settle is None:
                raise
            answer = await self._settle(name, calls, _Doubt(calls, settle), error)
        if answer == b"unknown":
            raise _lost()
        epoch, offset, received = answer
        position = (epoch.decode(), offset)
        if received >= 0:
            self.saw(name, position)
        return position, max(0, received)

    async def _settle(self, name: str, calls: _Scripts, doubt: _Doubt, error: MpxError) -> Any:
        """Find out what became of a publish, if the server would not say so at once.

        Without an end but the layer's: whoever sent it is to know.
        """
        doubts = self._doubts.setdefault(name, [])
        doubts.append(doubt)
        try:
            while True:
                if isinstance(error, MultiplexerStopped):
                    raise _lost() from None
                if isinstance(error, CommandRefused) and not _passes(error):
                    raise _lost() from error
                asked = doubt.asked
                if asked is None or asked.done():
                    await asyncio.sleep(PAUSE)
                try:
                    if not calls.sure:
                        await calls.be_sure_in_turn()
                    return await doubt.ask()
                except MpxError as another:
                    calls.refused(another)
                    error = another
        finally:
            doubts.remove(doubt)
            if not doubts:
                del self._doubts[name]

    async def look(
        self, groups: Sequence[tuple[str, HistorySetting, Position | None]]
    ) -> list[State | None]:
        """The states of 1 to `LOOKED_AT_ONCE` histories of a place; None where one has not moved.

        Raises as `Multiplexer.command`.
        """
        keys: list[bytes] = []
        arguments: list[bytes] = [self._process]
        for name, setting, known in groups:
            stream, more = self._keys(name)
            keys += (stream.encode(), *more[:2])
            arguments.append(b"%d" % setting.meta_ttl_ms)
            arguments.append(b"%d" % setting.size)
            arguments.append(f"{known[0]}-{known[1]}".encode() if known is not None else b"")
        calls, count = self._scripts_of(groups[0][0]), len(keys)
        found = await calls.surely(calls.look, calls.server, *keys, *arguments, keys=count)
        states = [None if each == 0 else _state(each) for each in found]
        for (name, _, _), state in zip(groups, states, strict=True):
            if state is not None:
                self.saw(name, state.position)
        return states

    async def state(self, name: str, setting: HistorySetting) -> State:
        """How a history stands; raises as `Multiplexer.command`."""
        (state,) = await self.look([(name, setting, None)])
        assert state is not None
        return state

    async def page(self, name: str, setting: HistorySetting, after: int, count: int = PAGE) -> Page:
        """The first messages behind an offset; fewer than asked for if they are large."""
        stream, keys = self._keys(name)
        calls = self._scripts_of(name)
        *state, messages = await calls.surely(
            calls.page,
            stream,
            *keys,
            self._process,
            b"%d" % setting.meta_ttl_ms,
            b"%d" % setting.size,
            b"%d" % after,
            b"%d" % min(count, MOST),
            b"%d" % PAGE_BYTES,
            keys=3,
        )
        return Page(_state(state), messages)

    def _scripts_of(self, name: str) -> _Scripts:
        place = self._multiplexer.place_of(name)
        found = self._scripts.get(place)
        if found is None:
            self._forget_nodes_that_left()
            *_, server = self._keys_of(name)
            node = self._multiplexer.node_of(name)
            frequent = self._frequent.get(node)
            if frequent is None:
                frequent = _Frequent(self._multiplexer, self._sources, node)
                self._frequent[node] = frequent
            found = _Scripts(self._multiplexer, self._sources, server, node, frequent)
            self._scripts[place] = found
        return found

    def _forget_nodes_that_left(self) -> None:
        nodes = self._multiplexer.nodes
        scripts, frequent = self._scripts, self._frequent
        self._scripts = {place: each for place, each in scripts.items() if each.node in nodes}
        self._frequent = {node: each for node, each in frequent.items() if node in nodes}

    def _make_always(self, name: str, setting: HistorySetting) -> tuple[str, tuple[bytes, ...]]:
        """What all publishes to a group begin with, after the stream."""
        stream, keys = self._keys(name)
        times = b"%d" % setting.meta_ttl_ms, b"%d" % setting.ttl_ms
        return stream, (*keys, times[0], name.encode(), b"%d" % setting.size, times[1])

    def _make_keys(self, name: str) -> tuple[str, tuple[bytes, ...]]:
        stream, *others = self._keys_of(name)
        return stream, tuple(key.encode() for key in others)


class _Doubt:
    """A publish that may have happened, and the command that finds it out."""

    def __init__(self, calls: _Scripts, settle: Sequence[bytes]) -> None:
        self._calls = calls
        self._settle = settle
        self.asked: asyncio.Future[Any] | None = None

    def ask(self) -> asyncio.Future[Any]:
        """Send it, unless it is under way or answered; raises `BacklogFull`, and when we stop.

        The answer is kept: asked again after many messages, nobody could know any more.
        """
        if self.asked is None or (self.asked.done() and not _answered(self.asked)):
            self.asked = self._calls.command(*self._settle, again=lambda: self._settle)
            self.asked.add_done_callback(unheard)  # whoever settles it asks again
        return self.asked


def _answered(asked: asyncio.Future[Any]) -> bool:
    return not asked.cancelled() and asked.exception() is None


def _lost() -> ConnectionLost:
    return ConnectionLost("the answer was lost, and nobody can know any more whether it was sent")


class _Frequent:
    """The scripts that a node is to keep."""

    def __init__(self, multiplexer: Multiplexer, sources: scripts.Sources, node: Node) -> None:
        self.publish = FrequentScript(sources.publish, multiplexer, node)
        self.look = FrequentScript(sources.look, multiplexer, node)
        self.page = FrequentScript(sources.page, multiplexer, node)


class _Scripts:
    """The scripts at one place; each connection to its node says first which server it is.

    ``sure``: whether it could. A replica refuses, and may be made the master in the next moment,
    under the same connection.
    """

    def __init__(
        self,
        multiplexer: Multiplexer,
        sources: scripts.Sources,
        server: str,
        node: Node,
        frequent: _Frequent,
    ) -> None:
        self.sure = True
        self.server = server
        self.node = node
        self._multiplexer = multiplexer
        # How many are about to publish, and in which order.
        self.waiting = 0
        self._turn = asyncio.Lock()
        self._learn = (b"EVAL", sources.learn.encode(), b"1", server.encode())
        multiplexer.begin_with(*self._learn, node=node, heard=self._learnt)
        self.publish, self.look, self.page = frequent.publish, frequent.look, frequent.page
        self.settle = Script(sources.settle)

    def command(self, *words: bytes, again: Again | None = None) -> asyncio.Future[Any]:
        """As `Multiplexer.command`, on this node."""
        return self._multiplexer.command(*words, node=self.node, again=again)

    async def be_sure_in_turn(self) -> None:
        """As `learn`, if that has to be. Who comes while somebody waits, waits behind them."""
        self.waiting += 1
        try:
            async with self._turn:
                if not self.sure:
                    await self.learn()
        finally:
            self.waiting -= 1

    async def learn(self) -> None:
        """Have the server say which one it is; raises as `Multiplexer.command`.

        But for `ConnectionLost`: it may be asked any number of times, and whoever is about to
        publish must not hear that the message may have been sent.
        """
        while True:
            with contextlib.suppress(ConnectionLost):
                await self.command(*self._learn)
                self.sure = True
                return

    async def surely(self, script: FrequentScript, key: str, *arguments: bytes, keys: int) -> Any:
        """Call a script on a server that has said which one it is."""
        while True:
            if not self.sure:
                await self.learn()
            try:
                answer = await script(key, *arguments, keys=keys)
            except CommandRefused as error:
                self.refused(error)
                raise
            if self.sure:
                return answer

    def refused(self, error: MpxError) -> None:
        """A server that is a replica now may be another master afterwards."""
        if isinstance(error.__cause__, ReadOnlyError) or kind_of(error.__cause__) == "READONLY":
            self.sure = False

    def _learnt(self, done: asyncio.Future[Any]) -> None:
        self.sure = _answered(done)


def _state(found: Sequence[Any]) -> State:
    epoch, top, ended, first = found
    return State(epoch.decode(), top, dict(map(_ended, ended.decode().split())), first)


def _ended(each: str) -> Position:
    epoch, _, offset = each.partition("-")
    return epoch, int(offset)


def _passes(error: MpxError) -> bool:
    """Whether the server may well do it a little later."""
    cause = error.__cause__
    return isinstance(cause, OutOfMemoryError) or kind_of(cause) == "OOM" or is_transient(cause)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until there is an answer; raises what a server says for good, and when we stop."""
    while True:
        try:
            return await ask()
        except CommandRefused as error:
            if not _passes(error):
                raise
        except (ConnectionLost, NotConnected, BacklogFull):
            pass
        await asyncio.sleep(PAUSE)
