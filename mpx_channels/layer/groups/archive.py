"""Histories of groups as messages: sending to them, and reading them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mpx_channels.channels.mailbox import Delivery
from mpx_channels.channels.part import Context
from mpx_channels.history.positions import History, Position, judge, parse, salvage, split, text
from mpx_channels.history.settings import Histories, HistorySetting
from mpx_channels.history.store import Store
from mpx_channels.messages.codec import Message
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.multiplexer import BacklogFull, commands

__all__ = ["Archive", "Entry"]

# Seconds that a message waits in a mailbox at most. Channels that nobody reads end sooner or later.
DAY = 86_400


@dataclass(frozen=True, slots=True)
class Entry:
    """A message of a history; None for one that cannot be read."""

    offset: int
    item: Delivery | None
    excluded: Collection[str]


class Archive:
    """The histories of groups, by their names in Redis."""

    def __init__(self, context: Context, histories: Histories) -> None:
        self._context = context
        self._histories = histories
        names = context.names
        self.store = Store(
            context.multiplexer,
            context.process_id,
            keys_of=lambda name: names.history(names.group_of(name)),
        )

    @property
    def keeps_some(self) -> bool:
        """Whether there are groups with a history at all."""
        return self._histories.some

    def setting_of(self, name: str) -> HistorySetting | None:
        """How much is kept of a group, by its name in Redis; None if nothing is."""
        if not self._histories.some:
            return None
        return self._histories.of(self._context.names.group_of(name))

    async def send(
        self, name: str, setting: HistorySetting, data: bytes, key: str | None = None
    ) -> str:
        """Append a message and publish it; returns its position. Raises as `Store.publish`."""
        self._context.counters.messages_out += 1
        position, _ = await self.store.publish(name, setting, data, key)
        return text(position)

    async def send_many(self, frames: Sequence[tuple[str, bytes]]) -> list[str | None]:
        """Send messages, some of them to groups with a history; if one fails, the others were sent.

        Each in its own order. `BacklogFull` takes back those that have not left.
        """
        self._context.counters.messages_out += len(frames)

        async def one(name: str, data: bytes) -> str | None:
            setting = self.setting_of(name)
            try:
                if setting is None:
                    await self._context.multiplexer.publish_soon(name, data)
                    return None
                return text((await self.store.publish(name, setting, data, None))[0])
            except BacklogFull:
                for send in sends:
                    send.cancel()
                raise

        sends = [asyncio.ensure_future(one(name, data)) for name, data in frames]
        results = await asyncio.gather(*sends, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            # Of those that were cancelled, another one says why.
            raise min(errors, key=lambda error: isinstance(error, asyncio.CancelledError))
        return [result for result in results if not isinstance(result, BaseException)]

    async def send_counted(self, name: str, setting: HistorySetting, data: bytes) -> int:
        """As `send`, and return how many processes got it."""
        self._context.counters.messages_out += 1
        multiplexer = self._context.multiplexer
        _, received = await self.store.publish(name, setting, data, None)
        return await commands.subscribers(multiplexer, name, received)

    async def publish_behind(self, name: str, data: bytes) -> int:
        """Publish what is in no history the way of what is, which so comes before; who got it."""
        self._context.counters.messages_out += 1
        names, multiplexer = self._context.names, self._context.multiplexer
        stream, *_ = names.history(names.group_of(name))
        return await commands.publish_as_scripts(multiplexer, stream, name, data)

    async def read(self, name: str, setting: HistorySetting, since: object, limit: int) -> History:
        """Up to `limit` messages behind a position, or the last ones if it is None."""
        state = await self.store.state(name, setting)
        oldest = state.first - 1 if state.first else state.top
        position = parse(since)
        gap = judge(position, state, state.top)
        complete = gap.reason is None
        if since is None:
            after = max(oldest, state.top - limit)
            complete = after == 0
        elif position is None or gap.reason in ("epoch", "invalid"):
            after = max(oldest, state.top - limit)
        else:
            after = salvage(position, state)[0]
        messages: list[Message] = []
        while len(messages) < limit and after < state.top:
            page = await self.store.page(name, setting, after, limit - len(messages))
            if not page.messages:
                break  # it has expired just now
            for data in page.messages:
                position = split(data)
                after = position[1]
                entry = self.entry(name, setting, data, position)
                if entry.item is not None:
                    messages.append(entry.item.take())
        # Of the present epoch, even if the last message is older: all up to it has been seen.
        return History(messages, text((state.epoch, after)), complete)

    def expiry(self, setting: HistorySetting) -> float:
        """Seconds that a message that came live may be old."""
        return max(self._context.expiry, setting.ttl)

    def delivery(
        self, setting: HistorySetting, position: Position, body: bytes | memoryview
    ) -> Delivery:
        """A message with its position; raises `UnreadableMessage`.

        In the mailbox of a slow consumer it lives for as long as it may be in the history.
        """
        context, expiry = self._context, self.expiry(setting)
        expires = context.loop.time() + max(expiry, min(expiry * setting.size, DAY))
        extra = {"mpx_position": text(position)}
        return Delivery(context.wrapping.decode, body, expires, extra)

    def entry(self, name: str, setting: HistorySetting, data: bytes, position: Position) -> Entry:
        """A message of the history; the last one of many may be that much older than the ttl."""
        context = self._context
        try:
            age = self.expiry(setting) * setting.size
            header, body = context.wrapping.unwrap(name, data, age)
            item = self.delivery(setting, position, body)
        except UnreadableMessage as error:
            context.unreadable(name, error)
            return Entry(position[1], None, ())
        return Entry(position[1], item, frozenset(header.get("not", ())))
