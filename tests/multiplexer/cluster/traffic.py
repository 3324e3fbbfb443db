"""Numbered messages through a cluster, and what is to be true of them whatever happens to it."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping

from mpx_channels.multiplexer import ConnectionLost, LinkLost, MpxError
from mpx_channels.multiplexer.cluster.multiplexer import ClusterMultiplexer
from tests.conftest import PATIENCE, eventually

__all__ = ["Traffic"]

LOST = "lost"


class Traffic:
    """One that sends and does nothing else, and one that listens.

    At its end every name has been heard again; numbers have come in their order, and none twice;
    of those that a node has taken, none is missing but where the listener was told so.
    """

    def __init__(
        self, sender: ClusterMultiplexer, receiver: ClusterMultiplexer, names: list[str]
    ) -> None:
        self.sender = sender
        self.receiver = receiver
        self.names = names
        # What each name's listener had in which order: numbers, and that it was told of a loss.
        self.heard: dict[str, list[int | str]] = defaultdict(list)
        self.activations: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.failed: dict[str, dict[int, MpxError]] = defaultdict(dict)
        self._pending: set[asyncio.Task[None]] = set()
        self._sending: asyncio.Task[None] | None = None
        self._subscription = receiver.new_channel_subscription(
            lambda name, data: self.heard[name].append(int(data)),
            on_disconnect=self._lost,
            on_activation=lambda name: self.activations.update([name]),
        )

    async def start(self) -> None:
        """Listen, then send; return when every name was heard."""
        for number, each in enumerate((self.sender, self.receiver)):
            # As a layer does: so it hears from each master when that is one no more.
            each.probe_over(f"probe-{number}-{id(self)}")
            await each.start()
        self._subscription.add(*self.names)
        for name in self.names:
            await asyncio.wait_for(self._subscription.wait_for_activation(name), PATIENCE)
        self._sending = asyncio.create_task(self._send_on())
        await self.more(1)

    async def more(self, count: int = 5, names: list[str] | None = None) -> None:
        """Wait until so many more have come of these names, or all."""
        names = names or self.names
        enough = {name: self._numbers(name) + count for name in names}
        await eventually(lambda: all(self._numbers(name) >= enough[name] for name in names))

    @property
    def told(self) -> set[str]:
        """The names that the listener was told to have lost."""
        return {name for name, events in self.heard.items() if LOST in events}

    @property
    def failures(self) -> list[MpxError]:
        """The errors that sending ended with."""
        return [error for errors in self.failed.values() for error in errors.values()]

    async def cancel(self) -> None:
        """Send no more."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        if self._pending:
            await asyncio.wait(self._pending)

    async def end(self, *, echoes: bool = False, excused: Mapping[str, int] | None = None) -> None:
        """See all come back, and judge; ``echoes``: some may come again, late.

        ``excused``: before which number some may be missing, by names.
        """
        await self.more()
        await self.cancel()
        for name in self.names:
            self._send(name)
        await asyncio.wait(self._pending)
        await eventually(
            lambda: all(self.heard[name][-1] == self.sent[name] - 1 for name in self.names)
        )
        for name in self.names:
            self._judge(name, echoes, (excused or {}).get(name, 0))

    def _judge(self, name: str, echoes: bool, excused: int) -> None:
        last, told, failed = -1, False, self.failed[name]
        for event in self.heard[name]:
            if isinstance(event, str):
                told = True
                continue
            if event <= last:
                # A master that was stopped does, when it wakes, what its sender has given up.
                late = echoes or isinstance(failed.get(event), ConnectionLost)
                assert late, f"{name}: {event} after {last}"
                continue
            missing = set(range(max(last + 1, excused), event)) - set(failed)
            assert told or not missing, f"{name}: lost and not told: {missing} of {event}"
            last, told = event, False

    def _numbers(self, name: str) -> int:
        return sum(isinstance(each, int) for each in self.heard[name])

    def _lost(self, loss: Exception) -> None:
        assert isinstance(loss, LinkLost)
        for name in self.names:
            if loss.includes(name):
                self.heard[name].append(LOST)

    async def _send_on(self) -> None:
        while True:
            for name in self.names:
                self._send(name)
            await asyncio.sleep(0.004)

    def _send(self, name: str) -> None:
        task = asyncio.create_task(self._send_one(name, self.sent[name]))
        self.sent[name] += 1
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _send_one(self, name: str, number: int) -> None:
        try:
            await self.sender.publish(name, b"%d" % number)
        except MpxError as error:
            self.failed[name][number] = error
