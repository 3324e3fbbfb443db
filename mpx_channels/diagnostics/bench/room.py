"""What is measured is done here: clients of one process in groups, each with a reader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, TypeVar

__all__ = ["Broadcast", "Pairs", "Room", "in_bursts"]

T = TypeVar("T")
# Groups, and a channel for each that is to be in it.
Pairs = Sequence[tuple[str, str]]

# Messages of a broadcast, at least.
LEAST_MESSAGES = 20
TEXT = "x" * 64
# Seconds without an arrival after which what has not come is lost.
QUIET = 2.0
# Attempts, and seconds for each, until everybody hears: a layer may say that a channel joined a
# group before Redis has confirmed.
ATTEMPTS, ATTEMPT = 10, 0.5


class Broadcast:
    """What became of one broadcast: deliveries due, those that came, and in how many seconds."""

    __slots__ = ("arrived", "due", "seconds")

    def __init__(self, due: int, arrived: int, seconds: float) -> None:
        self.due = due
        self.arrived = arrived
        self.seconds = seconds


class Room:
    """Clients in groups, over any channel layer.

    - ``groups``: their names; ``channels``: one for each client, which is in one of the groups,
      and is read all the time.
    - ``probe``: a channel that nobody reads, alone in the group ``probe_group``.
    - ``burst``: how many calls are under way at once, at most.
    """

    probe_group = "probe"

    def __init__(self, layer: Any, clients: int, groups: int, burst: int) -> None:
        self.layer = layer
        self.burst = burst
        self.groups = [f"room-{number}" for number in range(groups)]
        self.channels: list[str] = []
        self.probe = ""
        # Pairs of a group and a channel that may be in it now, for whoever cleans up.
        self.memberships: set[tuple[str, str]] = set()
        self._clients = clients
        self._members = [len(range(number, clients, groups)) for number in range(groups)]
        self._readers: list[asyncio.Task[None]] = []
        self._names = count()
        # The broadcast that is under way; what comes late of another does not count.
        self._number = 0
        self._due = 0
        self._arrived = 0
        self._last = 0.0
        self._complete = asyncio.Event()

    async def open(self) -> bool:
        """Let the clients in; False if they do not hear what is sent to them."""
        for _ in range(self._clients):
            self.channels.append(await self.layer.new_channel())
        self.probe = await self.layer.new_channel()
        groups = self.groups
        pairs = [(groups[n % len(groups)], channel) for n, channel in enumerate(self.channels)]
        await self.join([*pairs, (self.probe_group, self.probe)])
        loop = asyncio.get_running_loop()
        self._readers = [loop.create_task(self._read(channel)) for channel in self.channels]
        for _ in range(ATTEMPTS):
            heard = await self.broadcast(1, quiet=ATTEMPT)
            if heard.arrived == heard.due:
                return True
        return False

    async def close(self) -> None:
        """Stop reading; what else to take down depends on the layer."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def join(self, pairs: Pairs) -> None:
        """Add channels to groups, many at once."""
        self.memberships.update(pairs)
        add = self.layer.group_add
        await in_bursts((add(group, channel) for group, channel in pairs), self.burst)

    async def leave(self, pairs: Pairs) -> None:
        """Take channels out of groups, many at once."""
        discard = self.layer.group_discard
        await in_bursts((discard(group, channel) for group, channel in pairs), self.burst)
        self.memberships.difference_update(pairs)

    def fresh_group(self) -> str:
        """A group that nobody was ever in."""
        return f"join-{next(self._names)}"

    def fresh_pairs(self) -> Pairs:
        """For each client a fresh group."""
        return [(self.fresh_group(), channel) for channel in self.channels]

    async def broadcast(
        self, least_messages: int = LEAST_MESSAGES, *, quiet: float = QUIET
    ) -> Broadcast:
        """Send each group a message, at once, and wait until all have arrived.

        Fewer groups than ``least_messages`` get several. Ends, too, ``quiet`` seconds after the
        last arrival.
        """
        self._number += 1
        messages = max(least_messages, len(self.groups))
        chosen = [number % len(self.groups) for number in range(messages)]
        self._due = sum(self._members[number] for number in chosen)
        self._arrived = 0
        self._complete.clear()
        message = {"type": "mpx.bench", "text": TEXT, "n": self._number}
        send = self.layer.group_send
        started = self._last = time.perf_counter()
        await in_bursts((send(self.groups[number], message) for number in chosen), self.burst)
        while not self._complete.is_set():
            left = max(self._last, started) + quiet - time.perf_counter()
            if left <= 0:
                break
            try:
                async with asyncio.timeout(left):
                    await self._complete.wait()
            except TimeoutError:
                continue
        return Broadcast(self._due, self._arrived, self._last - started)

    async def _read(self, channel: str) -> None:
        receive = self.layer.receive
        while True:
            message = await receive(channel)
            if message["n"] == self._number:
                self._arrived += 1
                self._last = time.perf_counter()
                if self._arrived == self._due:
                    self._complete.set()


async def in_bursts(calls: Iterable[Awaitable[T]], size: int) -> None:
    """Run calls, `size` at once, then the next; all of them are made when their burst begins."""
    for burst in _batched(calls, size):
        await asyncio.gather(*burst)


def _batched(calls: Iterable[Awaitable[T]], size: int) -> Iterator[list[Awaitable[T]]]:
    left = iter(calls)
    while batch := list(islice(left, size)):
        yield batch
