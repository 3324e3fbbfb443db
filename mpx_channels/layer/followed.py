"""Sharded channels that are looked on at: of a name, or all that match a pattern and exist.

Sharded Pub/Sub has no patterns. So every master is asked each second which channels there are, and
those that match are subscribed to: of one that is new, what comes before that is missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mpx_channels.multiplexer import CommandRefused, MpxError, Multiplexer, commands
from mpx_channels.multiplexer.closed_loops import forget_task
from mpx_channels.multiplexer.onlookers import is_onlooker, onlooker

__all__ = ["Followed"]

# Seconds between two looks, and looks after which names that nobody else has any more are left.
EVERY = 1.0
LEFT_EVERY = 10
# Names that one command asks about.
AT_ONCE = 256


class Followed:
    """Listens to the sharded channel `name`, or to those that match `pattern`.

    It does not count among those who listen (see `onlookers`): for that, `multiplexer` has
    to be one that nobody else uses.
    """

    def __init__(
        self,
        multiplexer: Multiplexer,
        pattern: str,
        name: str | None,
        on_message: Callable[[str, bytes], object],
        on_look: Callable[[], object],
    ) -> None:
        self._multiplexer = multiplexer
        self._pattern = pattern
        self._name = name
        self._on_look = on_look
        self._subscription = multiplexer.new_channel_subscription(
            on_message, None, lambda name: on_look()
        )
        self._task: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Return once Redis has confirmed what there is; raises `SubscriptionRefused`, and as
        `Multiplexer.command`."""
        if self._name is not None:
            self._add(self._name)
            await self._subscription.wait_for_activation(self._name)
            return
        self._task = asyncio.get_running_loop().create_task(self._follow(), name="mpx-follow")
        names = await self._look()
        await asyncio.gather(*map(self._subscription.wait_for_activation, names))

    @property
    def names(self) -> frozenset[str]:
        """Those that it listens to now."""
        return frozenset(each for each in self._subscription.channels if not is_onlooker(each))

    @property
    def active(self) -> bool:
        """Whether Redis has confirmed all that it does not refuse."""
        subscription = self._subscription
        return all(
            subscription.is_active(name) or subscription.refusal(name) is not None
            for name in subscription.channels
        )

    def close(self) -> None:
        """Listen no more."""
        self._subscription.close(at_once=True)
        if self._task is not None:
            if self._task.get_loop().is_closed():
                forget_task(self._task)
            else:
                self._task.cancel()

    async def _follow(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(EVERY)
            looks += 1
            try:
                await self._look()
                if looks % LEFT_EVERY == 0:
                    await self._leave_unheard()
            except (MpxError, RuntimeError):
                continue  # a master that is away: who listens is told that by its link
            self._on_look()

    async def _look(self) -> list[str]:
        """Add what is there and was not; returns it."""
        multiplexer = self._multiplexer
        nodes = [node for node in multiplexer.nodes if multiplexer.is_up(node)]
        asked = [commands.sharded_channels(multiplexer, node, self._pattern) for node in nodes]
        known, new = self._subscription.channels, []
        for found in await asyncio.gather(*asked):
            for raw in found:
                name = raw.decode("utf-8", "surrogateescape")
                if name not in known and not is_onlooker(name):
                    new.append(name)
        self._add(*new)
        return new

    def _add(self, *names: str) -> None:
        for name in names:
            # In one command: so there is no moment at which we count.
            self._subscription.add(onlooker(name), name)

    async def _leave_unheard(self) -> None:
        """Leave the names to which only such as we are subscribed."""
        heard = list(self.names)
        for start in range(0, len(heard), AT_ONCE):
            names = heard[start : start + AT_ONCE]
            counts = await asyncio.gather(
                *[commands.subscribers(self._multiplexer, name, 1) for name in names],
                return_exceptions=True,
            )
            for name, count in zip(names, counts, strict=True):
                if isinstance(count, CommandRefused):
                    return
                if count == 0:
                    self._subscription.remove(name, onlooker(name), at_once=True)
