"""All processes of a prefix at a glance: who lives, what they hold, how large a group is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Container

from mpx_channels.multiplexer import CommandRefused, Node, NotConnected
from mpx_channels.multiplexer.exceptions import describe

from .answers import Answer
from .base import LayerBase
from .codec import Message
from .hub import Hub
from .polls import Poll, ask_all, reach
from .processes import FleetStats, ProcessStats, counts, printable

__all__ = ["Overview"]

# Seconds that processes have to answer; one that needs longer is in trouble.
PATIENCE = 1.0
# Seconds for one that may not have heard the question.
SHORT_PATIENCE = 0.2
# Seconds that a look for queues may take: a server may be full of others' keys.
SCAN_PATIENCE = 1.0
# How many groups are counted in all processes, for each that is wanted, and at most: those of every
# process would be too many to ask for, where there are many processes.
CANDIDATES, MOST_CANDIDATES = 10, 1000


class Overview(LayerBase):
    """The part of the layer that asks all processes of its prefix, over its control channel."""

    async def fleet_stats(self, *, groups: int = 20, queues: bool = True) -> FleetStats:
        """Every process of this prefix that is subscribed now, the busiest groups, and the queues.

        Processes have a second to answer; this one is among them, and every event loop is one of
        its own. ``groups`` is how many of the busiest groups are looked for, among the largest of
        each process, up to 1000. ``queues=False`` spares the look at Redis' keys. Raises
        `ValueError` for a number below 0, `ConnectionLost` when our link breaks meanwhile, and as
        `Multiplexer.publish`. What the ACL does not allow is left out: see `FleetStats`.
        """
        if not groups >= 0:
            raise ValueError(f"groups must be a whole number from 0 up, not {groups!r}")
        if self._visiting():
            return await self._elsewhere(self.fleet_stats(groups=groups, queues=queues))
        hub = await self._looking_hub()
        incomplete = self._away(hub)
        question = {"do": "stats", "groups": groups}
        poll = await self._ask_everyone(hub, question)
        processes, parts = _told(poll.answers)
        at = time.time()
        if (missing := poll.asked - len(processes)) > 0:
            try:
                silent = await self._silent(hub, question, processes)
            except CommandRefused as error:
                incomplete["silent"] = f"{missing} did not answer: {error}"
            else:
                processes |= {each.process_id: each for each in silent}
        return FleetStats(
            processes=tuple(sorted(processes.values(), key=_order)),
            groups=await self._busiest(hub, parts, groups),
            queues=await self._queue_lengths(hub, incomplete) if queues else {},
            at=at,
            incomplete=incomplete,
        )

    async def cluster_stats(self, *, groups: int = 20, queues: bool = True) -> FleetStats:
        """The older name of `fleet_stats`."""
        return await self.fleet_stats(groups=groups, queues=queues)

    async def group_size(self, group: str) -> int:
        """How many channels are in a group, in all processes.

        A process that does not answer in a second is not counted. Raises `TypeError` for an
        invalid name, `ConnectionLost` when our link breaks meanwhile, and as `Multiplexer.publish`.
        """
        self.require_valid_group_name(group)
        if self._visiting():
            return await self._elsewhere(self.group_size(group))
        hub = await self._looking_hub()
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
        hub = await self._looking_hub()
        hub.clear()
        await self._ask_everyone(hub, {"do": "flush"})
        deleting = [self._delete_lists(hub, node) for node in hub.multiplexer.nodes]
        for result in await asyncio.gather(*deleting, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _delete_lists(self, hub: Hub, node: Node) -> None:
        for pattern in self._names.lists:
            async for keys in self._scan(hub, node, pattern):
                if keys:
                    await hub.multiplexer.command(b"UNLINK", *keys, node=node)

    async def _ask_everyone(
        self, hub: Hub, question: Message, *, enough: int | None = None
    ) -> Poll:
        body = self.wrapping.encode(question, limit=False)
        control = hub.controls[self._reachable(hub)[0]]
        poll = await ask_all(hub, control, body, PATIENCE, enough=enough)
        if poll.broken is not None:
            raise poll.broken
        return poll

    async def _silent(
        self, hub: Hub, question: Message, answered: Container[str]
    ) -> list[ProcessStats]:
        """The processes that are subscribed and have not answered."""
        pattern = self._names.all_alive.encode()
        names: dict[bytes, None] = {}  # in order, and once: nodes may be databases of one server
        for node in self._reachable(hub):
            found = await hub.multiplexer.command(b"PUBSUB", b"CHANNELS", pattern, node=node)
            names.update(dict.fromkeys(found))
        alive = (self._names.alive_of(name.decode(errors="replace")) for name in names)
        silent = [
            ProcessStats(process_id, printable(host), pid, silent=True)
            for process_id, pid, host in filter(None, alive)
            if process_id not in answered
        ]
        return await asyncio.gather(*(self._ask_again(hub, question, each) for each in silent))

    async def _ask_again(self, hub: Hub, question: Message, silent: ProcessStats) -> ProcessStats:
        """Perhaps it has only begun after the question, as others end: in a deployment, say."""
        body = self.wrapping.encode(question, limit=False)
        inbox = self._names.inbox(silent.process_id)
        poll = await ask_all(hub, inbox, body, SHORT_PATIENCE, enough=1)
        processes, _ = _told(poll.answers)
        return processes.get(silent.process_id, silent)

    async def _busiest(self, hub: Hub, parts: list[dict[str, int]], most: int) -> dict[str, int]:
        """The largest groups, given the largest of each process, as far as they are there."""
        sizes: Counter[str] = Counter()
        for part in parts:
            sizes.update(part)
        if len(parts) > 1:
            # A process names its largest only, and may have a part of the others' as well.
            number = min(CANDIDATES * most, MOST_CANDIDATES)
            candidates = [group for group, _ in sizes.most_common(number)]
            sizes = await self._group_sizes(hub, candidates, enough=len(parts))
        largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        return dict(largest[:most])

    async def _group_sizes(
        self, hub: Hub, groups: list[str], *, enough: int | None = None
    ) -> Counter[str]:
        sizes: Counter[str] = Counter()
        if groups:
            question = {"do": "group_sizes", "groups": groups}
            for answer in (await self._ask_everyone(hub, question, enough=enough)).answers:
                sizes.update(counts(answer.get("value")))
        return sizes

    async def _queue_lengths(self, hub: Hub, incomplete: dict[str, str]) -> dict[str, int]:
        lengths: dict[str, int] = {}
        deadline = hub.loop.time() + SCAN_PATIENCE
        try:
            for node in self._reachable(hub):
                async for keys in self._scan(hub, node, self._names.queues):
                    asked = [hub.multiplexer.command(b"LLEN", key, node=node) for key in keys]
                    found = await asyncio.gather(*asked, return_exceptions=True)
                    for key, length in zip(keys, found, strict=True):
                        queue = printable(self._names.queue_of(key.decode(errors="replace")))
                        if isinstance(length, BaseException):
                            raise length
                        if length and ":" not in queue:  # else of a prefix that begins with ours
                            lengths[queue] = length
                    if hub.loop.time() > deadline:
                        incomplete["queues"] = f"not all keys seen in {SCAN_PATIENCE:g} s"
                        return lengths
        except CommandRefused as error:
            incomplete["queues"] = str(error)
        return lengths

    async def _looking_hub(self) -> Hub:
        """The running loop's hub, ready; of several servers the others have had a moment, too."""
        hub = await self._ready_hub()
        if len(hub.multiplexer.nodes) > 1:
            with contextlib.suppress(NotConnected):
                await hub.multiplexer.wait_connected(SHORT_PATIENCE)
        return hub

    def _reachable(self, hub: Hub) -> tuple[Node, ...]:
        """The nodes to ask: of several, those with a connection."""
        multiplexer = hub.multiplexer
        there = tuple(node for node in multiplexer.nodes if multiplexer.is_up(node))
        return there or multiplexer.nodes

    def _away(self, hub: Hub) -> dict[str, str]:
        """What is not known as one of several servers, or some, cannot be reached."""
        multiplexer = hub.multiplexer
        away = [
            f"no connection to {node}: {_reason(multiplexer.error_of(node))}"
            for node in multiplexer.nodes
            if not multiplexer.is_up(node)
        ]
        return {"servers": "; ".join(away)} if away else {}

    async def _scan(self, hub: Hub, node: Node, pattern: str) -> AsyncIterator[list[bytes]]:
        """The keys of a node that match, in batches; some perhaps twice."""
        cursor = b"0"
        while True:
            words = (b"SCAN", cursor, b"MATCH", pattern.encode(), b"COUNT", b"1000")
            cursor, keys = await hub.multiplexer.command(*words, node=node)
            yield keys
            if cursor == b"0":
                return


def _told(answers: list[Answer]) -> tuple[dict[str, ProcessStats], list[dict[str, int]]]:
    """The processes that answered, by id, and the groups that each named."""
    processes: dict[str, ProcessStats] = {}
    groups: list[dict[str, int]] = []
    for answer in answers:
        value = answer.get("value")
        if not isinstance(value, dict):
            continue
        process = ProcessStats.from_answer(value.get("process"))
        if process is not None and process.process_id not in processes:
            processes[process.process_id] = process
            groups.append(counts(value.get("groups")))
    return processes, groups


def _order(process: ProcessStats) -> tuple[bool, str, int, str]:
    return process.silent, process.host, process.pid, process.process_id


def _reason(error: Exception | None) -> str:
    return "it does not answer" if error is None else describe(error)
