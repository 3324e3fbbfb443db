"""What readers of plain channels have in common: who waits, and what nobody took."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Collection, Coroutine
from time import monotonic
from typing import Any

from mpx_channels.multiplexer import MpxError, Multiplexer, MultiplexerStopped
from mpx_channels.multiplexer.closed_loops import forget_task
from mpx_channels.multiplexer.logs import LimitedLog
from mpx_channels.multiplexer.scripts import Script

from .layer_stats import LayerCounters

__all__ = ["PATIENCE", "PAUSE", "SHORTEST_PAUSE", "STAMP", "Reader", "waking"]

logger = logging.getLogger("mpx_channels.layer")

# Digits before each message: when it expires, in milliseconds of Redis' clock.
STAMP = 14
# Seconds after which Redis is asked again at the latest, while somebody waits.
PATIENCE = 2.0
# Seconds that a message, popped for a reader who was cancelled, waits here for the next reader
# of this process, before it goes back to Redis for those of others.
HOLD = 0.5
# Seconds that a reader who was cancelled waits at most until nothing is on its way to it.
LAST_WORD = 0.5
# Seconds before another try when the server would not serve us; they grow from one to the other
# where it says why.
SHORTEST_PAUSE = 0.05
PAUSE = 0.5

# Back to the head, where it came from, for what is left of its life.
_PUT_BACK = """
local time = redis.call('TIME')
local life = tonumber(string.sub(ARGV[1], 1, 14))
             - time[1] * 1000 - math.floor(time[2] / 1000)
if life <= 0 then return -1 end
%blocal length = redis.call('LPUSH', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < life then redis.call('PEXPIRE', KEYS[1], life) end
return length
"""


def waking(source: str, woken_by: str) -> str:
    """A script that adds to a list, which wakes readers where it has its ``%b``, before that.

    With PUBLISH or SPUBLISH, to the channel that is called as the list; "" wakes nobody. A list
    that is not empty has woken them before, and they read until it is.
    """
    line = f"redis.call('{woken_by}', KEYS[1], '')"
    wake = f"if redis.call('LLEN', KEYS[1]) == 0 then {line} end\n" if woken_by else ""
    return source.replace("%b", wake)


class Reader:
    """Reads plain channels for all who wait; how, subclasses know."""

    def __init__(
        self, multiplexer: Multiplexer, counters: LayerCounters, woken_by: str = ""
    ) -> None:
        self._multiplexer = multiplexer
        self._counters = counters
        self._put_back = Script(waking(_PUT_BACK, woken_by))
        self._log = LimitedLog(logger)
        self._waiters: dict[str, deque[asyncio.Future[bytes]]] = {}
        self._held: dict[str, deque[bytes]] = {}
        self._hold_timer: asyncio.TimerHandle | None = None
        self._aside: set[asyncio.Task[None]] = set()
        self._closing = False

    async def get(self, name: str) -> bytes:
        """Take the oldest unexpired message, with its stamp; a cancelled `get` loses none."""
        held = self._held.get(name)
        if held:
            return held.popleft()
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(name, deque())
        waiters.append(waiter)
        self._read(name)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter in waiters:
                waiters.remove(waiter)
            elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.put_back(name, waiter.result())
            if not waiters and self._waiters.get(name) is waiters:
                del self._waiters[name]
            if name not in self._waiters:
                await self._let_go(name)
            raise

    def put_back(self, name: str, stamped: bytes) -> None:
        """Have the next reader get what another got and cannot use."""
        self._hand(name, stamped, first=True)

    def clear(self) -> None:
        """Forget what was popped and nobody took."""
        self._held.clear()

    async def close(self, timeout: float = 2 * PAUSE) -> None:
        """Read no more, give back what nobody took in so many seconds, and leave nobody waiting."""
        deadline = monotonic() + timeout
        self._closing = True
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        closed = MultiplexerStopped("the layer was closed")
        self._fail_waiters(closed)
        await self._end(min(PAUSE, timeout))
        self._fail_waiters(closed)  # who came meanwhile
        self._give_all_back()
        if self._aside:
            await asyncio.wait(self._aside, timeout=max(0.0, deadline - monotonic()))
        self._log.flush()
        self._closing = False

    def abandon(self) -> None:
        """The event loop was closed: what reads will never end."""
        for task in tuple(self._aside):
            forget_task(task)

    # -- for subclasses -----------------------------------------------------------------------

    def _read(self, name: str) -> None:
        """See to it that this name is read, for somebody waits now."""
        raise NotImplementedError

    async def _nothing_under_way(self, name: str) -> None:
        """Return once nothing of this name, that nobody waits for any more, is on its way."""
        raise NotImplementedError

    def _take_back(self, name: str) -> None:
        """Ask for nothing of this name that was not asked yet, as there was no connection."""

    async def _end(self, timeout: float) -> None:
        """Read no more; what comes in so many seconds is kept."""
        raise NotImplementedError

    # -- handing on ---------------------------------------------------------------------------

    async def _let_go(self, name: str) -> None:
        """Nobody here wants `name` any more: have nothing of it popped, or on its way.

        An event loop may end right after a `receive` that was cancelled, by a timeout for instance,
        and what it holds ends with it. This takes a round trip; no longer than `LAST_WORD`.
        """
        multiplexer = self._multiplexer
        if self._closing:
            return
        if not multiplexer.is_reached(multiplexer.node_of(name)):
            self._take_back(name)
            return
        with contextlib.suppress(TimeoutError, MpxError):
            async with asyncio.timeout(LAST_WORD):
                await self._nothing_under_way(name)
                for data in reversed(self._held.pop(name, ())):
                    await self._give_back(name, data)

    def _hand(self, name: str, data: bytes, *, first: bool = False) -> None:
        """To the next reader in line, or to be held for a moment."""
        waiters = self._waiters.get(name)
        while waiters:
            waiter = waiters.popleft()
            if not waiters:
                del self._waiters[name]
            if not waiter.done():
                waiter.set_result(data)
                return
        held = self._held.setdefault(name, deque())
        if first:
            held.appendleft(data)
        else:
            held.append(data)
        if self._hold_timer is None and not self._closing:
            loop = asyncio.get_running_loop()
            self._hold_timer = loop.call_later(HOLD, self._give_all_back)

    def _fail_waiters(self, error: MpxError, names: Collection[str] | None = None) -> None:
        """Nothing will come, so nobody need wait; None for all names."""
        for name in list(self._waiters) if names is None else names:
            for waiter in self._waiters.pop(name, ()):
                if not waiter.done():
                    waiter.set_exception(type(error)(str(error)))

    def _give_all_back(self) -> None:
        self._hold_timer = None
        held, self._held = self._held, {}
        for name, messages in held.items():
            # The newest first: each goes to the head.
            for data in reversed(messages):
                self._run_aside(self._give_back(name, data))

    async def _give_back(self, name: str, data: bytes) -> None:
        try:
            await self._put_back(self._multiplexer, self._multiplexer.node_of(name), name, data)
        except MpxError as error:
            self._counters.dropped_undelivered += 1
            self._log.warning(
                "give back", "Could not give a message back to %s, dropped it: %s", name, str(error)
            )

    def _run_aside(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
