"""All processes of a prefix at a glance: who lives, what they hold, how large a group is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

from mpx_channels.multiplexer import CommandRefused, Node

from .base import LayerBase
from .codec import Message
from .hub import Hub
from .polls import Poll, ask_all, reach
from .processes import ClusterStats, ProcessStats

__all__ = ["Overview"]

# Seconds that processes have to answer; one that needs longer is in trouble.
PATIENCE = 1.0


class Overview(LayerBase):
    """The part of the layer that asks all processes of its prefix, over its control channel."""

    async def cluster_stats(self, *, groups: int = 20) -> ClusterStats:
        """Every process of this prefix that is subscribed now, the busiest groups, and the queues.

        Processes have a second to answer. ``groups`` is how many of the busiest groups are looked
        for: among that many of the largest of each process. This process is among the others.
        Raises as `Multiplexer.publish`; without the permission for PUBSUB (an ACL) silent
        processes are not noticed.
        """
        if self._visiting():
            return await self._elsewhere(self.cluster_stats(groups=groups))
        hub = await self._ready_hub()
        poll = await self._ask_everyone(hub, {"do": "stats", "groups": groups})
        told = [answer["value"] for answer in poll.answers if "value" in answer]
        processes = [ProcessStats.from_answer(each["process"]) for each in told]
        if len(processes) < poll.asked:
            processes += await self._silent(hub, {each.process_id for each in processes})
        candidates = {group for each in told for group in each["groups"]}
        sizes = await self._group_sizes(hub, candidates) if candidates else {}
        largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:groups]
        return ClusterStats(
            processes=tuple(sorted(processes, key=lambda p: (p.silent, p.host, p.pid))),
            groups=dict(largest),
            queues=await self._queue_lengths(hub),
            at=time.time(),
        )

    async def group_size(self, group: str) -> int:
        """How many channels are in a group, in all processes.

        A process that does not answer in a second is not counted. Raises `TypeError` for an
        invalid name, and as `Multiplexer.publish`.
        """
        self.require_valid_group_name(group)
        if self._visiting():
            return await self._elsewhere(self.group_size(group))
        hub = await self._ready_hub()
        return (await self._group_sizes(hub, [group]))[group]

    async def group_send_counted(self, group: str, message: Message) -> int:
        """As `MpxChannelLayer.group_send`, and return how many processes got it.

        Those that look on (`tap`, patterns) do not count, unless an ACL forbids PUBSUB. For tools
        and tests: it asks Redis for more.
        """
        name = self._group_name(group)
        data = self.wrapping.wrap(name, message)
        if self._visiting():
            return await self._elsewhere(self.group_send_counted(group, message))
        hub = await self._hub()
        hub.counters.messages_out += 1
        return await reach(hub, name, data)

    async def send_counted(self, channel: str, message: Message) -> int | None:
        """As `MpxChannelLayer.send`, and return how many processes got it: one or none.

        None for a plain channel, where it waits for whoever reads. Else as `group_send_counted`.
        """
        inbox = self._inbox_name(channel)
        if self._visiting():
            return await self._elsewhere(self.send_counted(channel, message))
        received = await self._post(await self._hub(), channel, message, exactly=True)
        return int(received) if inbox else None

    async def flush(self) -> None:
        """Forget all groups and unread messages of this prefix: in Redis, and in every process.

        Channels stay, and can be added to groups again. A process that does not answer in a
        second keeps its groups.
        """
        if self._visiting():
            await self._elsewhere(self.flush())
            return
        hub = await self._ready_hub()
        hub.clear()
        await self._ask_everyone(hub, {"do": "flush"})
        deleting = [self._delete_lists(hub, node) for node in hub.multiplexer.nodes]
        for result in await asyncio.gather(*deleting, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _delete_lists(self, hub: Hub, node: Node) -> None:
        for pattern in self._names.lists:
            async for keys in self._scan(hub, node, pattern):
                await hub.multiplexer.command(b"UNLINK", *keys, node=node)

    async def _ask_everyone(self, hub: Hub, question: Message) -> Poll:
        return await ask_all(
            hub,
            hub.controls[self._reachable(hub)[0]],
            self.wrapping.encode(question),
            timeout=PATIENCE,
        )

    async def _silent(self, hub: Hub, answered: set[str]) -> list[ProcessStats]:
        """The processes that are subscribed and have not answered."""
        pattern = self._names.presences.encode()
        names: dict[bytes, None] = {}  # in order, and once: nodes may be databases of one server
        try:
            for node in self._reachable(hub):
                found = await hub.multiplexer.command(b"PUBSUB", b"CHANNELS", pattern, node=node)
                names.update(dict.fromkeys(found))
        except CommandRefused:
            return []
        present = (self._names.presence_of(name.decode()) for name in names)
        return [
            ProcessStats(process_id, host, pid, silent=True)
            for process_id, pid, host in filter(None, present)
            if process_id not in answered
        ]

    async def _group_sizes(self, hub: Hub, groups: Iterable[str]) -> dict[str, int]:
        sizes = dict.fromkeys(groups, 0)
        poll = await self._ask_everyone(hub, {"do": "group_sizes", "groups": list(sizes)})
        for answer in poll.answers:
            for group, size in answer.get("value", {}).items():
                sizes[group] += size
        return sizes

    async def _queue_lengths(self, hub: Hub) -> dict[str, int]:
        lengths: dict[str, int] = {}
        for node in self._reachable(hub):
            async for keys in self._scan(hub, node, self._names.queues):
                for key in keys:
                    length: Any = await hub.multiplexer.command(b"LLEN", key, node=node)
                    lengths[self._names.queue_of(key.decode())] = length
        return lengths

    def _reachable(self, hub: Hub) -> tuple[Node, ...]:
        """The nodes to ask: of several, those with a connection."""
        multiplexer = hub.multiplexer
        there = tuple(node for node in multiplexer.nodes if multiplexer.error_of(node) is None)
        return there or multiplexer.nodes

    async def _scan(self, hub: Hub, node: Node, pattern: str) -> AsyncIterator[list[bytes]]:
        """The keys of a node that match, in batches; some perhaps twice."""
        cursor = b"0"
        while True:
            words = (b"SCAN", cursor, b"MATCH", pattern.encode(), b"COUNT", b"1000")
            cursor, keys = await hub.multiplexer.command(*words, node=node)
            if keys:
                yield keys
            if cursor == b"0":
                return
