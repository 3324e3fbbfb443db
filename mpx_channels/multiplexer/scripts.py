"""Lua scripts that Redis runs, and the order in which it does."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

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
    """A script called by its digest, on one node, in the order of the calls.

    Whoever is told that the server does not know it has to call it again, and would then come
    after those who called it later. So it is loaded by its first use, and by each connection
    before anything else is written to that. (By EVAL, without arguments: SCRIPT LOAD would need a
    permission that nothing else here does.) Somebody may still make the server forget it, by
    SCRIPT FLUSH. Then the calls that it refused, and behind them those that came meanwhile, wait
    until all that is under way is answered, and leave again in their order.
    """

    def __init__(self, source: str, multiplexer: Multiplexer, node: Node) -> None:
        self._whole = Script(f"if not ARGV[1] then return end\n{source}")
        self._digest = hashlib.sha1(self._whole.source, usedforsecurity=False).hexdigest().encode()
        self._multiplexer = multiplexer
        self._node = node
        self._loaded = False
        self._under_way = 0
        self._refused: list[_Turn] = []
        self._behind: list[_Turn] = []

    async def __call__(
        self, key: str, *arguments: bytes, keys: int = 0, again: Again | None = None
    ) -> Any:
        """Call it, with at least one argument that is no key; raises as `Multiplexer.command`."""
        if self._refused:
            return await (await self._turn(self._behind, key, arguments, keys, again))
        if not self._loaded:
            # Without a key: in a cluster, that might be another node's later on.
            load = (b"EVAL", self._whole.source, b"0")
            self._multiplexer.begin_with(*load, node=self._node)
            self._loaded = True
        words = (b"EVALSHA", self._digest, b"%d" % (1 + keys), key.encode(), *arguments)
        self._under_way += 1
        try:
            return await self._multiplexer.command(*words, node=self._node, again=again)
        except CommandRefused as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
            turn = self._turn(self._refused, key, arguments, keys, again)
        finally:
            self._under_way -= 1
            if self._refused and not self._under_way:
                self._call_again()
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
        line.append((turn, key, arguments, keys, again))
        return turn

    def _call_again(self) -> None:
        """Nothing is under way that could be refused: all leave in one go, and load it."""
        line = self._refused + self._behind
        self._refused, self._behind = [], []
        for turn, key, arguments, keys, again in line:
            if turn.done():
                continue  # cancelled
            try:
                called = self._whole(
                    self._multiplexer, self._node, key, *arguments, keys=keys, again=again
                )
                called.add_done_callback(unheard)  # who waits may be cancelled just now
                turn.set_result(called)
            except MpxError as error:
                turn.set_exception(error)


# Done when the call has left, with what comes of it.
_Turn = tuple[asyncio.Future[asyncio.Future[Any]], str, tuple[bytes, ...], int, Again | None]
