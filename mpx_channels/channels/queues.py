"""Plain channels: a Redis list each, every message to one reader across all processes.

A message stays in Redis until a reader asks, for at most ``expiry`` seconds. Capacity and expiry
are decided by Redis, in a script, by its own clock.
"""

from __future__ import annotations

import asyncio
import functools

from channels.exceptions import ChannelFull

from mpx_channels.messages.codec import Message
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.multiplexer.scripts import FrequentScript

from .mailbox import Taken
from .part import Context, Part
from .queue_reader import STAMP, QueueReader

__all__ = ["Queues"]

# Expired messages at the head do not count; what is none of ours waits for a reader, who drops it.
# The list itself goes with its last message.
_PUT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local head = redis.call('LINDEX', KEYS[1], 0)
while head and (tonumber(string.sub(head, 1, 14)) or math.huge) <= now do
  redis.call('LPOP', KEYS[1])
  head = redis.call('LINDEX', KEYS[1], 0)
end
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then return -1 end
local life = tonumber(ARGV[3])
local length = redis.call('RPUSH', KEYS[1], string.format('%014d', now + life) .. ARGV[1])
if redis.call('PTTL', KEYS[1]) < life then redis.call('PEXPIRE', KEYS[1], life) end
return length
"""


class Queues(Part):
    """The plain channels that a hub sends to and reads from."""

    def __init__(self, context: Context) -> None:
        self._context = context
        multiplexer = context.multiplexer
        wake_name = context.names.wake(context.process_id)
        self._puts = {node: FrequentScript(_PUT, multiplexer, node) for node in multiplexer.nodes}
        self._readers = {
            node: QueueReader(multiplexer, node, wake_name, context.counters)
            for node in multiplexer.nodes
        }

    async def send(self, channel: str, message: Message, capacity: int) -> None:
        """Add a message; raises `ChannelFull` when there are `capacity` unexpired ones."""
        context = self._context
        context.counters.messages_out += 1
        name = context.names.queue(channel)
        data = context.wrapping.wrap(name, message)
        node = context.multiplexer.node_of(name)
        life = b"%d" % max(1, round(context.expiry * 1000))
        length = await self._puts[node](name, data, b"%d" % capacity, life)
        if length < 0:
            raise ChannelFull(f"{name!r} has {capacity} unread messages, its capacity")

    async def take(self, channel: str) -> Taken:
        """The oldest message that has not expired, and what has the next reader get it instead.

        Cancelling loses none.
        """
        context = self._context
        name = context.names.queue(channel)
        reader = self.reader_of(name)
        while True:
            stamped = await reader.get(name)
            try:
                _, body = context.wrapping.unwrap(name, stamped[STAMP:])
                message = context.wrapping.decode(body)
            except UnreadableMessage as error:
                context.unreadable(name, error)
            else:
                return message, functools.partial(reader.put_back, name, stamped)

    def reader_of(self, name: str) -> QueueReader:
        """Who reads the channel that is called so in Redis."""
        return self._readers[self._context.multiplexer.node_of(name)]

    def clear(self) -> None:
        for reader in self._readers.values():
            reader.clear()

    async def close(self, timeout: float) -> None:
        await asyncio.gather(*[reader.close(timeout) for reader in self._readers.values()])

    def abandon(self) -> None:
        for reader in self._readers.values():
            reader.abandon()
