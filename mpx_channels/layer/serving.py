"""What a process does for others of its prefix, when they ask over Redis."""

from __future__ import annotations

import asyncio
import heapq
import time
from typing import TYPE_CHECKING, Any

from mpx_channels.multiplexer import MpxError

from .codec import Message
from .processes import ProcessStats

if TYPE_CHECKING:
    from .hub import Hub
    from .published import Published

__all__ = ["Serving"]

# Seconds that a process gives Redis to answer its PING, before it answers without.
PING_PATIENCE = 0.5
# Groups that one answer names at most: 100 kB, whatever was asked for.
MOST_GROUPS = 1000


class Serving:
    """One hub's answers. Each question says under ``do`` what it wants."""

    def __init__(self, hub: Hub, published: Published) -> None:
        self._hub = hub
        self._published_at = published.at

    async def serve(self, asked: Message) -> Any:
        """Do what is asked, and return the value to answer with; whatever it raises is answered."""
        match asked.get("do"):
            case "group_add":
                mailbox = self._mailbox(asked["channel"])
                await self._hub.join(self._hub.groups, self._group(asked["group"]), mailbox)
                return None
            case "group_discard":
                mailbox = self._mailbox(asked["channel"])
                name = self._group(asked["group"])
                if asked.get("sent"):
                    # By who asks, and it comes over another link than this question.
                    self._published_at[name] = time.monotonic()
                await self._hub.groups.leave_after(self._published_at.get(name, 0.0), name, mailbox)
                return None
            case "flush":
                self._hub.clear()
                return None
            case "stats":
                return await self._stats(int(asked.get("groups", 0)))
            case "group_sizes":
                sizes = ((group, self._size(group)) for group in asked["groups"])
                return {group: size for group, size in sizes if size}
        raise ValueError(f"nobody knows here how to do {asked.get('do')!r}")

    def _mailbox(self, channel: str) -> Any:
        mailbox = self._hub.mailboxes.get(channel)
        if mailbox is None:
            raise KeyError(f"nobody has the channel {channel!r} any more")
        return mailbox

    def _group(self, group: str) -> str:
        return self._hub.names.group(group)

    def _size(self, group: str) -> int:
        topic = self._hub.groups.topics.get(self._group(group))
        return len(topic.members) if topic is not None else 0

    async def _stats(self, most: int) -> dict[str, Any]:
        """This process, and the sizes here of its groups with the most members, `most` of them."""
        hub = self._hub
        round_trip = await self._round_trip()
        process = ProcessStats.of(hub.process_id, hub.stats(), round_trip)
        sized = ((len(topic.members), topic.name) for topic in hub.groups.topics.values())
        largest = heapq.nlargest(min(most, MOST_GROUPS), sized)
        groups = {hub.names.group_of(name): size for size, name in largest}
        return {"process": process.to_answer(), "groups": groups}

    async def _round_trip(self) -> float | None:
        multiplexer = self._hub.multiplexer
        started = time.perf_counter()
        try:
            async with asyncio.timeout(PING_PATIENCE):
                await multiplexer.command(b"PING", node=multiplexer.node_of(self._hub.inbox))
        except (MpxError, TimeoutError):
            return None
        return time.perf_counter() - started
