"""Histories in Redis: appending to them, settling what is in doubt, and reading them."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)

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
_PASSING = (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the messages of a history, in their order, and how it stood then."""

    state: State
    messages: Sequence[bytes]


class Store:
    """The histories of a layer's groups, by their names in Redis.

    ``keys_of`` a group are its stream, its meta hash, the hash of its idempotency keys, and
    ``server``: the key in which a server's replication id is kept.
    """

    def __init__(
        self,
        multiplexer: Multiplexer,
        process_id: str,
        *,
        server: str,
        keys_of: Callable[[str], tuple[str, str, str, str]],
    ) -> None:
        self._multiplexer = multiplexer
        self._process = process_id.encode()
        self._server = server
        self._keys_of = keys_of
        self._numbers = itertools.count(1)
        self._scripts: dict[Node, _Scripts] = {}
        self._keys = functools.lru_cache(KNOWN)(self._make_keys)
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
        node = self._multiplexer.node_of(name)
        calls = self._scripts_of(node)
        mark = b"%s:%d" % (self._process, next(self._numbers))
        stream, keys = self._keys(name)
        arguments = (
            *keys,
            self._process,
            b"%d" % setting.meta_ttl_ms,
            name.encode(),
            envelope,
            b"%d" % setting.size,
            b"%d" % setting.ttl_ms,
            mark,
            (key or "").encode(),
        )
        epoch, offset = self._known.get(name) or ("", 0)
        settle: Sequence[bytes] | None = None
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
            if settle is None:
                raise
            answer = await self._settle(name, _Doubt(self._multiplexer, node, settle), error)
        if answer == b"unknown":
            raise _lost()
        epoch, offset, received = answer
        position = (epoch.decode(), offset)
        if received >= 0:
            self.saw(name, position)
        return position, max(0, received)

    async def _settle(self, name: str, doubt: _Doubt, error: MpxError) -> Any:
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
                    return await doubt.ask()
                except MpxError as another:
                    error = another
        finally:
            doubts.remove(doubt)
            if not doubts:
                del self._doubts[name]

    async def look(
        self, node: Node, groups: Sequence[tuple[str, HistorySetting, Position | None]]
    ) -> list[State | None]:
        """The states of up to `LOOKED_AT_ONCE` histories of a node; None where one has not moved.

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
        found = await self._scripts_of(node).look(self._server, *keys, *arguments, keys=len(keys))
        return [None if each == 0 else _state(each) for each in found]

    async def state(self, name: str, setting: HistorySetting) -> State:
        """How a history stands; raises as `Multiplexer.command`."""
        node = self._multiplexer.node_of(name)
        (state,) = await self.look(node, [(name, setting, None)])
        assert state is not None
        return state

    async def page(self, name: str, setting: HistorySetting, after: int, count: int = PAGE) -> Page:
        """The first messages behind an offset; fewer than asked for if they are large."""
        stream, keys = self._keys(name)
        *state, messages = await self._scripts_of(self._multiplexer.node_of(name)).page(
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

    def _scripts_of(self, node: Node) -> _Scripts:
        found = self._scripts.get(node)
        if found is None:
            found = self._scripts[node] = _Scripts(self._multiplexer, self._server, node)
        return found

    def _make_keys(self, name: str) -> tuple[str, tuple[bytes, ...]]:
        stream, *others = self._keys_of(name)
        return stream, tuple(key.encode() for key in others)


class _Doubt:
    """A publish that may have happened, and the command that finds it out."""

    def __init__(self, multiplexer: Multiplexer, node: Node, settle: Sequence[bytes]) -> None:
        self._multiplexer = multiplexer
        self._node = node
        self._settle = settle
        self.asked: asyncio.Future[Any] | None = None

    def ask(self) -> asyncio.Future[Any]:
        """Send it, if it is not under way; raises `BacklogFull`, and when we stop."""
        if self.asked is None or self.asked.done():
            self.asked = self._multiplexer.command(
                *self._settle, node=self._node, again=lambda: self._settle
            )
            self.asked.add_done_callback(_seen)
        return self.asked


def _seen(asked: asyncio.Future[Any]) -> None:
    if not asked.cancelled():
        asked.exception()  # whoever settles it asks again


def _lost() -> ConnectionLost:
    return ConnectionLost("the answer was lost, and nobody can know any more whether it was sent")


class _Scripts:
    """The scripts on one node; each connection to it says first which server it is."""

    def __init__(self, multiplexer: Multiplexer, server: str, node: Node) -> None:
        learn = (b"EVAL", scripts.LEARN.encode(), b"1", server.encode())
        multiplexer.begin_with(*learn, node=node)
        self.publish = FrequentScript(scripts.PUBLISH, multiplexer, node)
        self.settle = Script(scripts.SETTLE)
        self.look = FrequentScript(scripts.LOOK, multiplexer, node)
        self.page = FrequentScript(scripts.PAGE, multiplexer, node)


def _state(found: Sequence[Any]) -> State:
    epoch, top, previous, ended, first = found
    return State(epoch.decode(), top, previous.decode(), ended, first)


def _passes(error: MpxError) -> bool:
    """Whether the server may well do it a little later."""
    return isinstance(error.__cause__, _PASSING) or str(error.__cause__).startswith("BUSY ")


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
