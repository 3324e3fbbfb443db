"""Lua scripts that Redis runs, and the order in which it does."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from redis.exceptions import NoScriptError

from .callbacks import Again, unheard
from .exceptions import CommandRefused, MpxError
from .multiplexer import Multiplexer
from .topology import Node

__all__ = ["FrequentScript", "Script"]


class Script:
    """A Lua script with one key, sent whole at each call.

    With ``keys``, so many of the arguments, the first ones, are keys, too.
    """

    def __init__(self, source: str) -> None:
        self.source = source.encode()

    def __call__(
        self,
        multiplexer: Multiplexer,
        node: Node,
        key: str,
        *arguments: bytes,
        keys: int = 0,
        again: Again | None = None,
    ) -> asyncio.Future[Any]:
        """Call it on a node; as `Multiplexer.command`."""
        words = self.words(key, *arguments, keys=keys)
        return multiplexer.command(*words, node=node, again=again)

    def words(self, key: str, *arguments: bytes, keys: int = 0) -> tuple[bytes, ...]:
        """The command that calls it."""
        return (b"EVAL", self.source, b"%d" % (1 + keys), key.encode(), *arguments)


class FrequentScript:
    """A script called by its digest, on one node, in the order of the calls for a key.

    Whoever is told that the server does not know it has to call it again, and would then come
    after those who called it later. So it is loaded by its first use, and by each connection
    before anything else is written to that. (By EVAL, without arguments: SCRIPT LOAD would need a
    permission that nothing else here does.) Somebody may still make the server forget it, by
    SCRIPT FLUSH. Then the calls that it refused, and behind them those that came meanwhile, wait
    until all that is under way is answered, and leave again in their order.

    In a cluster, calls that were meant for one node may be led on to another that does not know it.
    So those for the same key on another node wait for them, too; and each key has a line of its own
    there, as those of another may have to wait for long.
    """

    def __init__(self, source: str, multiplexer: Multiplexer, node: Node) -> None:
        self._whole = Script(f"if not ARGV[1] then return end\n{source}")
        self._digest = hashlib.sha1(self._whole.source, usedforsecurity=False).hexdigest().encode()
        self._multiplexer = multiplexer
        self.node = node
        self._loaded = False
        self._only = None if multiplexer.cluster else _Line(self)
        self._lines = _lines.setdefault(multiplexer, {}).setdefault(self._digest, {})

    async def __call__(
        self, key: str, *arguments: bytes, keys: int = 0, again: Again | None = None
    ) -> Any:
        """Call it, with at least one argument that is no key; raises as `Multiplexer.command`."""
        line = self._only or self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(self)
        elif line.script is not self or (line.waiting is not None and any(line.waiting)):
            return await (await self._turn(line.wait().behind, key, arguments, keys, again))
        if not self._loaded:
            # Without a key: in a cluster, that might be another node's later on.
            load = (b"EVAL", self._whole.source, b"0")
            self._multiplexer.begin_with(*load, node=self.node)
            self._loaded = True
        words = (b"EVALSHA", self._digest, b"%d" % (1 + keys), key.encode(), *arguments)
        line.under_way += 1
        try:
            return await self._multiplexer.command(*words, node=self.node, again=again)
        except CommandRefused as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
            turn = self._turn(line.wait().refused, key, arguments, keys, again)
        finally:
            line.under_way -= 1
            if not line.under_way:
                if self._only is None:
                    del self._lines[key]
                if line.waiting is not None:
                    self._call_again(line.waiting)
        return await (await turn)

    def _turn(
        self,
        line: list[_Turn],
        key: str,
        arguments: tuple[bytes, ...],
        keys: int,
        again: Again | None,
    ) -> asyncio.Future[asyncio.Future[Any]]:
        turn: asyncio.Future[asyncio.Future[Any]] = asyncio.get_running_loop().create_future()
        line.append((turn, self, key, arguments, keys, again))
        return turn

    def _call_again(self, waiting: _Waiting) -> None:
        """Nothing is under way that could be refused: all leave in one go, and load it."""
        line = waiting.refused + waiting.behind
        waiting.refused.clear()
        waiting.behind.clear()
        for turn, script, key, arguments, keys, again in line:
            if turn.done():
                continue  # cancelled
            try:
                called = self._whole(
                    self._multiplexer, script.node, key, *arguments, keys=keys, again=again
                )
                called.add_done_callback(unheard)  # who waits may be cancelled just now
                turn.set_result(called)
            except MpxError as error:
                turn.set_exception(error)


class _Line:
    """The calls of a script for a key, as long as some are not answered."""

    __slots__ = ("script", "under_way", "waiting")

    def __init__(self, script: FrequentScript) -> None:
        # For which node they were.
        self.script = script
        self.under_way = 0
        self.waiting: _Waiting | None = None

    def wait(self) -> _Waiting:
        """Those that wait for the answers."""
        if self.waiting is None:
            self.waiting = _Waiting([], [])
        return self.waiting


class _Waiting(NamedTuple):
    """The calls that were refused, and those behind them."""

    refused: list[_Turn]
    behind: list[_Turn]


# Done when the call has left, with what comes of it.
_Turn = tuple[
    asyncio.Future[asyncio.Future[Any]],
    FrequentScript,
    str,
    tuple[bytes, ...],
    int,
    Again | None,
]

# Of each script by its digest, and by keys.
_lines: WeakKeyDictionary[Multiplexer, dict[bytes, dict[str, _Line]]] = WeakKeyDictionary()
