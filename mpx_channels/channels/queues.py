"""Plain channels: a Redis list each, every message to one reader across all processes.

A message stays in Redis until a reader asks, for at most ``expiry`` seconds. Capacity and expiry
are decided by Redis, in a script, by its own clock.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Collection

from channels.exceptions import ChannelFull

from mpx_channels.messages.codec import Message
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.multiplexer import Node
from mpx_channels.multiplexer.scripts import FrequentScript

from .mailbox import Taken
from .part import Context, Part
from .queue_reader import QueueReader
from .reader import STAMP, Reader, waking
from .woken_reader import WokenReader

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
%blocal life = tonumber(ARGV[3])
local length = redis.call('RPUSH', KEYS[1], string.format('%014d', now + life) .. ARGV[1])
if redis.call('PTTL', KEYS[1]) < life then redis.call('PEXPIRE', KEYS[1], life) end
return length
"""


class Queues(Part):
    """The plain channels that a hub sends to and reads from.

    With ``woken_by``, a command as for `waking`, no connection blocks, and nodes may come and go.
    """

    def __init__(self, context: Context, woken_by: str = "") -> None:
        self._context = context
        multiplexer = context.multiplexer
        self._put = waking(_PUT, woken_by)
        self._puts: dict[Node, FrequentScript] = {}
        self._readers: dict[Node, Reader] = {}
        self._reader: Reader | None = None
        if woken_by:
            self._reader = WokenReader(multiplexer, context.counters, woken_by)
        else:
            wake_name = context.names.wake(context.process_id)
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
        put = self._puts.get(node)
        if put is None:
            put = self._puts[node] = FrequentScript(self._put, context.multiplexer, node)
        length = await put(name, data, b"%d" % capacity, life)
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

    @property
    def readers(self) -> Collection[Reader]:
        """All who read: one, or one for each node."""
        return self._readers.values() if self._reader is None else (self._reader,)

    def reader_of(self, name: str) -> Reader:
        """Who reads the channel that is called so in Redis."""
        return self._reader or self._readers[self._context.multiplexer.node_of(name)]

    def clear(self) -> None:
        for reader in self.readers:
            reader.clear()

    async def close(self, timeout: float) -> None:
        await asyncio.gather(*[reader.close(timeout) for reader in self.readers])

    def abandon(self) -> None:
        for reader in self.readers:
            reader.abandon()
