"""Reads plain channels, for all readers of a process, without a connection that blocks.

A blocking pop in a cluster could wait for keys of one slot only. So whoever adds to an empty list
publishes to the channel that is called as the list is, and who waits for a message is subscribed to
that: it pops when it hears of it, when Redis begins to deliver the channel, and now and then, since
what is published while a link is broken or a slot moves reaches nobody.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from mpx_channels.multiplexer import CommandRefused, MpxError, Multiplexer
from mpx_channels.multiplexer.refusals import is_transient
from mpx_channels.multiplexer.scripts import Script
from mpx_channels.multiplexer.subscriptions import ChannelSubscription

from .layer_stats import LayerCounters
from .reader import PATIENCE, PAUSE, SHORTEST_PAUSE, Reader

__all__ = ["WokenReader"]

# The oldest that has not expired, what is none of ours among them, and how many had; the list
# itself goes with its last message.
_POP = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expired = 0
while true do
  local head = redis.call('LPOP', KEYS[1])
  if not head then return {expired} end
  if (tonumber(string.sub(head, 1, 14)) or math.huge) > now then return {expired, head} end
  expired = expired + 1
end
""")


class WokenReader(Reader):
    """Reads the plain channels of all nodes.

    Each name has one pop under way at most: so the order holds, and a link that breaks takes one
    message along at most, as with a blocking pop.
    """

    def __init__(self, multiplexer: Multiplexer, counters: LayerCounters, woken_by: str) -> None:
        super().__init__(multiplexer, counters, woken_by)
        self._subscription: ChannelSubscription | None = None
        # What the subscription has; true as long as somebody waits for it, or did lately.
        self._listened: dict[str, bool] = {}
        self._popping: dict[str, asyncio.Future[Any]] = {}
        # What there was news of while a pop was under way, that may not have seen it.
        self._news: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._pauses: dict[str, float] = {}

    def abandon(self) -> None:
        super().abandon()
        self._popping.clear()

    def _read(self, name: str) -> None:
        if self._closing:
            return
        if self._subscription is None:
            self._subscription = self._multiplexer.new_channel_subscription(
                lambda name, data: self._look(name), on_activation=self._look
            )
        if name not in self._listened:
            self._subscription.add(name)
        self._listened[name] = True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._look_around)
        self._look(name)

    async def _nothing_under_way(self, name: str) -> None:
        popping = self._popping.get(name)
        if popping is not None:
            await asyncio.wait([popping])

    def _take_back(self, name: str) -> None:
        # Else it leaves with the next connection, which may come while the event loop ends.
        popping = self._popping.pop(name, None)
        if popping is not None:
            popping.cancel()

    async def _end(self, timeout: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
            self._listened.clear()
        if self._popping:
            await asyncio.wait(list(self._popping.values()), timeout=timeout)

    def _look_around(self) -> None:
        """Pop for all who wait, and listen no more to what nobody has waited for since."""
        assert self._subscription is not None
        for name, wanted in list(self._listened.items()):
            if name in self._waiters:
                self._look(name)
            elif wanted:
                # Most readers come again soon: to leave and join for each message would cost more.
                self._listened[name] = False
            else:
                del self._listened[name]
                self._subscription.remove(name)
        self._timer = None
        if self._listened:
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._look_around)

    def _look(self, name: str) -> None:
        """Pop, if somebody waits: there may be something."""
        if name in self._popping:
            self._news.add(name)
        elif name in self._waiters and not self._closing:
            self._pop(name)

    def _pop(self, name: str) -> None:
        self._news.discard(name)
        try:
            popping = _POP(self._multiplexer, self._multiplexer.node_of(name), name)
        except MpxError as error:
            self._failed(name, error)
            return
        self._popping[name] = popping
        popping.add_done_callback(functools.partial(self._popped, name))

    def _popped(self, name: str, popping: asyncio.Future[Any]) -> None:
        if self._popping.get(name) is not popping:
            return  # abandoned, or taken back
        del self._popping[name]
        if popping.cancelled():
            return
        error = popping.exception()
        if error is not None:
            self._failed(name, error)
            return
        self._pauses.pop(name, None)
        expired, *messages = popping.result()
        self._counters.dropped_expired += expired
        for message in messages:
            self._hand(name, message)
        if messages or name in self._news:
            self._look(name)

    def _failed(self, name: str, error: BaseException) -> None:
        """Redis would not, or could not be asked: try again, or say so to those who wait."""
        pause = PAUSE
        if not isinstance(error, CommandRefused):
            # The link says in the log why; what is in Redis stays there meanwhile.
            self._log.debug("read", "Cannot read plain channels, trying again: %s", str(error))
        elif is_transient(error.__cause__):
            self._log.warning("read", "Cannot read plain channels, trying again: %s", str(error))
            pause = self._pauses.get(name, SHORTEST_PAUSE)
            self._pauses[name] = min(2 * pause, PAUSE)
        else:
            # Such as for want of a permission.
            failure = CommandRefused(f"plain channels cannot be read: {error}")
            self._fail_waiters(failure, [name])
            return
        asyncio.get_running_loop().call_later(pause, self._look, name)
