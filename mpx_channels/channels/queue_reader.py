"""Reads the plain channels of one node, for all readers of a process, over one connection.

It blocks, is made when the first reader comes, and is asked for all names at once.
"""

from __future__ import annotations

import asyncio

from mpx_channels.multiplexer import CommandRefused, MpxError, Multiplexer, Node, commands
from mpx_channels.multiplexer.closed_loops import forget_task
from mpx_channels.multiplexer.refusals import is_transient
from mpx_channels.multiplexer.scripts import Script

from .layer_stats import LayerCounters
from .reader import PATIENCE, PAUSE, SHORTEST_PAUSE, STAMP, Reader

__all__ = ["QueueReader"]

# Wakes a blocking pop; if its process is gone, so is this, soon.
_WAKE = Script("""
redis.call('RPUSH', KEYS[1], '')
redis.call('PEXPIRE', KEYS[1], 10000)
""")


class QueueReader(Reader):
    """Reads the plain channels of one node."""

    def __init__(
        self, multiplexer: Multiplexer, node: Node, wake_name: str, counters: LayerCounters
    ) -> None:
        super().__init__(multiplexer, counters)
        self._node = node
        self._wake_name = wake_name
        self._reader: asyncio.Task[None] | None = None
        # What the blocking pop that is under way was asked for.
        self._asked: set[str] = set()
        # Done when that pop has ended, and what it brought was handed on.
        self._popping: asyncio.Future[None] | None = None

    def abandon(self) -> None:
        super().abandon()
        if self._reader is not None:
            forget_task(self._reader)

    def _read(self, name: str) -> None:
        """See to it that a blocking pop is, or soon will be, under way for this name."""
        if self._reader is None:
            loop = asyncio.get_running_loop()
            self._reader = loop.create_task(self._read_on(), name="mpx-queues")
        elif self._asked and name not in self._asked:
            self._wake()

    async def _nothing_under_way(self, name: str) -> None:
        if self._popping is not None and name in self._asked:
            # No task for it: when the loop ends, nobody would wait for that.
            woken = _WAKE(self._multiplexer, self._node, self._wake_name)
            woken.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait([self._popping])

    async def _end(self, timeout: float) -> None:
        reader = self._reader
        if reader is not None:
            if self._asked:
                self._wake()
                await asyncio.wait([reader], timeout=timeout)
            reader.cancel()

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
                            "read", "Cannot read plain channels, trying again: %s", str(error)
                        )
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, PAUSE)
                        continue
                    # Such as for want of a permission.
                    self._fail_waiters(CommandRefused(f"plain channels cannot be read: {error}"))
                except MpxError as error:
                    # The link says in the log why; what is in Redis stays there meanwhile.
                    self._log.debug(
                        "read", "Cannot read plain channels, trying again: %s", str(error)
                    )
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
            # That it ends in vain now and then also shows whether the server still lives.
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

    def _wake(self) -> None:
        self._run_aside(self._wake_reader())

    async def _wake_reader(self) -> None:
        try:
            await _WAKE(self._multiplexer, self._node, self._wake_name)
        except MpxError as error:
            # The pop ends by itself soon.
            self._log.debug("wake", "Could not wake the reader of plain channels: %s", str(error))
