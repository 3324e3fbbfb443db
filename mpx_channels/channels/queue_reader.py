"""Reads the plain channels of one node, for all readers of a process, over one connection.

It blocks, is made when the first reader comes, and is asked for all names at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from time import monotonic
from typing import Any

from mpx_channels.multiplexer import (
    CommandRefused,
    MpxError,
    Multiplexer,
    MultiplexerStopped,
    Node,
    commands,
)
from mpx_channels.multiplexer.logs import LimitedLog
from mpx_channels.multiplexer.refusals import is_transient
from mpx_channels.multiplexer.scripts import Script
from mpx_channels.multiplexer.wire import forget_task

from .layer_stats import LayerCounters

__all__ = ["STAMP", "QueueReader"]

logger = logging.getLogger("mpx_channels.layer")

# Digits before each message: when it expires, in milliseconds of Redis' clock.
STAMP = 14
# Seconds that a blocking pop lasts at most: after that it is asked again, which also shows
# whether the server still lives.
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
_PUT_BACK = Script("""
local time = redis.call('TIME')
local life = tonumber(string.sub(ARGV[1], 1, 14))
             - time[1] * 1000 - math.floor(time[2] / 1000)
if life <= 0 then return -1 end
local length = redis.call('LPUSH', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < life then redis.call('PEXPIRE', KEYS[1], life) end
return length
""")

# Wakes a blocking pop; if its process is gone, so is this, soon.
_WAKE = Script("""
redis.call('RPUSH', KEYS[1], '')
redis.call('PEXPIRE', KEYS[1], 10000)
""")


class QueueReader:
    """Reads the plain channels of one node."""

    def __init__(
        self, multiplexer: Multiplexer, node: Node, wake_name: str, counters: LayerCounters
    ) -> None:
        self._multiplexer = multiplexer
        self._node = node
        self._wake_name = wake_name
        self._counters = counters
        self._log = LimitedLog(logger)
        self._waiters: dict[str, deque[asyncio.Future[bytes]]] = {}
        self._held: dict[str, deque[bytes]] = {}
        self._hold_timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.Task[None] | None = None
        # What the blocking pop that is under way was asked for.
        self._asked: set[str] = set()
        # Done when that pop has ended, and what it brought was handed on.
        self._popping: asyncio.Future[None] | None = None
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

    async def _let_go(self, name: str) -> None:
        """Nobody here wants `name` any more: have nothing of it popped, or on its way.

        An event loop may end right after a `receive` that was cancelled, by a timeout for instance,
        and what it holds ends with it. This takes a round trip; no longer than `LAST_WORD`.
        """
        if self._closing or not self._multiplexer.is_up(self._node):
            return
        with contextlib.suppress(TimeoutError, MpxError):
            async with asyncio.timeout(LAST_WORD):
                if self._popping is not None and name in self._asked:
                    # No task for it: when the loop ends, nobody would wait for that.
                    woken = _WAKE(self._multiplexer, self._node, self._wake_name)
                    woken.add_done_callback(lambda done: done.cancelled() or done.exception())
                    await asyncio.wait([self._popping])
                for data in reversed(self._held.pop(name, ())):
                    await self._give_back(name, data)

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
        reader = self._reader
        if reader is not None:
            closed = MultiplexerStopped("the layer was closed")
            self._fail_waiters(closed)
            if self._asked:
                self._wake()
                await asyncio.wait([reader], timeout=min(PAUSE, timeout))
            reader.cancel()
            self._fail_waiters(closed)  # who came meanwhile
        self._give_all_back()
        if self._aside:
            await asyncio.wait(self._aside, timeout=max(0.0, deadline - monotonic()))
        self._log.flush()
        self._closing = False

    def abandon(self) -> None:
        """The event loop was closed: what reads will never end."""
        for task in (self._reader, *self._aside):
            if task is not None:
                forget_task(task)

    # -- reading ------------------------------------------------------------------------------

    def _read(self, name: str) -> None:
        """See to it that a blocking pop is, or soon will be, under way for this name."""
        if self._reader is None:
            loop = asyncio.get_running_loop()
            self._reader = loop.create_task(self._read_on(), name="mpx-queues")
        elif self._asked and name not in self._asked:
            self._wake()

    async def _read_on(self) -> None:
        """Pop messages for as long as somebody waits for one."""
        turn = 0
        pause = SHORTEST_PAUSE
        try:
            while not self._closing and (names := list(self._waiters)):
                # Redis looks at the names in their order: a busy one must not starve the others.
                turn += 1
                start = turn % len(names)
                self._popping = popping = asyncio.get_running_loop().create_future()
                try:
                    await self._pop(names[start:] + names[:start])
                    pause = SHORTEST_PAUSE
                except CommandRefused as error:
                    if is_transient(error.__cause__):
                        self._log.warning(
                            "read", "Cannot read plain channels, trying on: %s", str(error)
                        )
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, PAUSE)
                        continue
                    # Such as for want of a permission.
                    self._fail_waiters(CommandRefused(f"plain channels cannot be read: {error}"))
                except MpxError as error:
                    # The link says in the log why; what is in Redis stays there meanwhile.
                    self._log.debug("read", "Cannot read plain channels, trying on: %s", str(error))
                    await asyncio.sleep(PAUSE)
                finally:
                    popping.set_result(None)
        finally:
            self._reader = None
            self._asked = set()

    async def _pop(self, names: list[str]) -> None:
        self._asked = set(names)
        keys = [*names, self._wake_name]
        try:
            popped = await commands.pop_first(self._multiplexer, self._node, keys, PATIENCE)
        finally:
            self._asked = set()
        if popped is None or popped.name == self._wake_name:
            return
        stamp = popped.item[:STAMP]  # no number in what others put there: its reader says so
        if stamp.isdigit() and int(stamp) <= popped.milliseconds:
            self._counters.dropped_expired += 1
        else:
            self._hand(popped.name, popped.item)

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

    def _fail_waiters(self, error: MpxError) -> None:
        """Nothing will come, so nobody need wait."""
        failed, self._waiters = self._waiters, {}
        for waiters in failed.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(type(error)(str(error)))

    # -- giving back --------------------------------------------------------------------------

    def _give_all_back(self) -> None:
        self._hold_timer = None
        held, self._held = self._held, {}
        for name, messages in held.items():
            # The newest first: each goes to the head.
            for data in reversed(messages):
                self._run_aside(self._give_back(name, data))

    async def _give_back(self, name: str, data: bytes) -> None:
        try:
            await _PUT_BACK(self._multiplexer, self._node, name, data)
        except MpxError as error:
            self._counters.dropped_undelivered += 1
            self._log.warning(
                "give back", "Could not give a message back to %s, dropped it: %s", name, str(error)
            )

    def _wake(self) -> None:
        self._run_aside(self._wake_reader())

    async def _wake_reader(self) -> None:
        try:
            await _WAKE(self._multiplexer, self._node, self._wake_name)
        except MpxError as error:
            # The pop ends by itself soon.
            self._log.debug("wake", "Could not wake the reader of plain channels: %s", str(error))

    def _run_aside(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
