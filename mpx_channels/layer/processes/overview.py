"""All processes of a prefix at a glance: who lives, what they hold, how large a group is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable
from typing import Any

from mpx_channels.channels.layer_stats import LayerStats
from mpx_channels.channels.part import Context, Part
from mpx_channels.messages.codec import Message
from mpx_channels.multiplexer import (
    CommandRefused,
    MpxError,
    Node,
    NotConnected,
    commands,
)
from mpx_channels.multiplexer.exceptions import describe

from ..answers.requests import Answer
from ..groups.groups import Groups
from ..groups.presence import GroupPresence
from .control import Control
from .fleet import FleetStats, ProcessStats, counts, printable

__all__ = ["Overview"]

# Seconds for a process that may not have heard the question, and for servers that may be away.
SHORT_PATIENCE = 0.2
# Seconds that a look for queues may take: a server may be full of others' keys.
SCAN_PATIENCE = 1.0
# How many groups are counted in all processes, for each that is wanted, and at most: those of every
# process would be too many to ask for, where there are many processes.
CANDIDATES, MOST_CANDIDATES = 10, 1000
# Seconds that a process gives Redis to answer its PING, before it answers without.
PING_PATIENCE = 0.5
# Groups that one answer names at most: 100 kB, whatever was asked for.
MOST_GROUPS = 1000


class Overview(Part):
    """Asks all processes of the prefix what they hold, and says what this one does."""

    def __init__(
        self,
        context: Context,
        control: Control,
        groups: Groups,
        presence: GroupPresence,
        stats: Callable[[], LayerStats],
    ) -> None:
        self._context = context
        self._control = control
        self._groups = groups
        self._presence = presence
        self._own_stats = stats
        control.handlers["stats"] = self._tell_stats
        control.handlers["group_sizes"] = self._tell_sizes

    async def fleet(self, groups: int, queues: bool) -> FleetStats:
        """All processes, the busiest groups, and the queues."""
        await self._wait_for_servers()
        incomplete = self._away()
        question = {"do": "stats", "groups": groups}
        poll = await self._control.ask_everyone(question)
        processes, parts = _told(poll.answers)
        at = time.time()
        if (missing := poll.asked - len(processes)) > 0:
            try:
                silent = await self._silent(question, processes)
            except CommandRefused as error:
                incomplete["silent"] = f"{missing} did not answer: {error}"
            else:
                processes |= {each.process_id: each for each in silent}
        busiest = await self._busiest(parts, groups)
        some = any(each.present for each in processes.values())
        return FleetStats(
            processes=tuple(sorted(processes.values(), key=_order)),
            groups=busiest,
            present=await self._present(busiest) if some else {},
            queues=await self._queue_lengths(incomplete) if queues else {},
            at=at,
            incomplete=incomplete,
        )

    async def group_size(self, group: str) -> int:
        """How many channels are in a group, in all processes that answer."""
        await self._wait_for_servers()
        return (await self._group_sizes([group]))[group]

    async def flush(self) -> None:
        """Have every process forget its groups and unread messages, and delete all keys."""
        await self._wait_for_servers()
        await self._control.ask_everyone({"do": "flush"})
        deleting = [self._delete_keys(node) for node in self._context.multiplexer.nodes]
        for result in await asyncio.gather(*deleting, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _delete_keys(self, node: Node) -> None:
        multiplexer = self._context.multiplexer
        for pattern in self._context.names.keys:
            async for keys in commands.scan(multiplexer, node, pattern):
                await commands.unlink(multiplexer, node, keys)

    async def _silent(self, question: Message, answered: Container[str]) -> list[ProcessStats]:
        """The processes that are subscribed and have not answered."""
        names = self._context.names
        found: dict[bytes, None] = {}  # in order, and once: nodes may be databases of one server
        for node in self._control.reachable():
            subscribed = commands.subscribed(self._context.multiplexer, node, names.all_alive)
            found.update(dict.fromkeys(await subscribed))
        alive = (names.alive_of(name.decode(errors="replace")) for name in found)
        silent = [
            ProcessStats(process_id, printable(host), pid, silent=True)
            for process_id, pid, host in filter(None, alive)
            if process_id not in answered
        ]
        return await asyncio.gather(*(self._ask_again(question, each) for each in silent))

    async def _ask_again(self, question: Message, silent: ProcessStats) -> ProcessStats:
        """Perhaps it has only begun after the question, as others end: in a deployment, say."""
        asking = self._control.ask_one(silent.process_id, question, SHORT_PATIENCE)
        processes, _ = _told(await asking)
        return processes.get(silent.process_id, silent)

    async def _busiest(self, parts: list[dict[str, int]], most: int) -> dict[str, int]:
        """The largest groups, given the largest of each process, as far as they are there."""
        sizes: Counter[str] = Counter()
        for part in parts:
            sizes.update(part)
        if len(parts) > 1:
            # A process names its largest only, and may have a part of the others' as well.
            number = min(CANDIDATES * most, MOST_CANDIDATES)
            candidates = [group for group, _ in sizes.most_common(number)]
            sizes = await self._group_sizes(candidates, enough=len(parts))
        largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
        return dict(largest[:most])

    async def _group_sizes(self, groups: list[str], *, enough: int | None = None) -> Counter[str]:
        sizes: Counter[str] = Counter()
        if groups:
            question = {"do": "group_sizes", "groups": groups}
            for answer in (await self._control.ask_everyone(question, enough=enough)).answers:
                sizes.update(counts(answer.get("value")))
        return sizes

    async def _present(self, groups: Iterable[str]) -> dict[str, int]:
        """How many are in each of these groups; none where that cannot be asked."""
        names = self._context.names
        present: dict[str, int] = {}
        for group in groups:
            with contextlib.suppress(MpxError):
                count = await self._presence.count(names.group(group))
                if count.members:
                    present[group] = count.members
        return present

    async def _queue_lengths(self, incomplete: dict[str, str]) -> dict[str, int]:
        context = self._context
        multiplexer, names = context.multiplexer, context.names
        lengths: dict[str, int] = {}
        deadline = context.loop.time() + SCAN_PATIENCE
        try:
            for node in self._control.reachable():
                async for keys in commands.scan(multiplexer, node, names.queues):
                    asked = [commands.list_length(multiplexer, node, key) for key in keys]
                    found = await asyncio.gather(*asked, return_exceptions=True)
                    for key, length in zip(keys, found, strict=True):
                        queue = printable(names.queue_of(key.decode(errors="replace")))
                        if isinstance(length, BaseException):
                            raise length
                        if length and ":" not in queue:  # else of a prefix that begins with ours
                            lengths[queue] = length
                    if context.loop.time() > deadline:
                        incomplete["queues"] = f"not all keys seen in {SCAN_PATIENCE:g} s"
                        return lengths
        except CommandRefused as error:
            incomplete["queues"] = str(error)
        return lengths

    async def _wait_for_servers(self) -> None:
        """Of several servers, give the others than that of our inbox a moment, too."""
        multiplexer = self._context.multiplexer
        if len(multiplexer.nodes) > 1:
            with contextlib.suppress(NotConnected):
                await multiplexer.wait_connected(SHORT_PATIENCE)

    def _away(self) -> dict[str, str]:
        """What is not known as one of several servers, or some, cannot be reached."""
        multiplexer = self._context.multiplexer
        away = []
        for node in multiplexer.nodes:
            if not multiplexer.is_up(node):
                error = multiplexer.error_of(node)
                reason = "it does not answer" if error is None else describe(error)
                away.append(f"no connection to {node}: {reason}")
        return {"servers": "; ".join(away)} if away else {}

    # -- what this process tells --------------------------------------------------------------

    async def _tell_stats(self, asked: Message) -> dict[str, Any]:
        """This process, and the sizes here of its groups with the most members."""
        most = min(int(asked.get("groups", 0)), MOST_GROUPS)
        round_trip = await self._round_trip()
        process = ProcessStats.of(self._context.process_id, self._own_stats(), round_trip)
        return {"process": process.to_answer(), "groups": self._groups.largest(most)}

    async def _tell_sizes(self, asked: Message) -> dict[str, int]:
        sizes = ((group, self._groups.size(group)) for group in asked["groups"])
        return {group: size for group, size in sizes if size}

    async def _round_trip(self) -> float | None:
        multiplexer = self._context.multiplexer
        inbox = self._context.names.inbox(self._context.process_id)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(PING_PATIENCE):
                await commands.ping(multiplexer, multiplexer.node_of(inbox))
        except (MpxError, TimeoutError):
            return None
        return time.perf_counter() - started


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
