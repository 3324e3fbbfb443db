"""Subscriptions beyond groups: raw Redis channels, patterns, wildcard groups; and for any code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self, cast

from .base import LayerBase
from .codec import Message
from .hub import Hub
from .mailbox import Failure, Mailbox

if TYPE_CHECKING:
    from .core import MpxChannelLayer

__all__ = ["Listening", "Subscription", "require_name"]

# What a group's name may be made of, and what Redis' patterns are made of.
_GROUP_PATTERN = re.compile(r"[a-zA-Z\d\-_.*?\[\]^\\]+")


class Listening(LayerBase):
    """The part of the layer that subscribes a channel of this process to more than groups.

    All of them return once Redis has confirmed, and raise as `group_add`.
    """

    async def channel_add(self, name: str, channel: str) -> None:
        """Have `channel` get what anybody publishes to the Redis channel `name`.

        Each message comes as ``{"type": "channel.message", "channel": str, "data": bytes}``.
        """
        name = require_name(name)
        if self._visiting():
            await self._elsewhere(self.channel_add(name, channel))
            return
        hub, mailbox = await self._own_mailbox(channel)
        await hub.join(hub.raw_channels, name, mailbox)

    async def channel_discard(self, name: str, channel: str) -> None:
        """End `channel_add`; does nothing if there was none."""
        name = require_name(name)
        if self._visiting():
            await self._elsewhere(self.channel_discard(name, channel))
            return
        if here := self._mailbox_here(channel):
            hub, mailbox = here
            hub.raw_channels.leave(name, mailbox)

    async def pattern_add(self, pattern: str, channel: str) -> None:
        """Have `channel` get what anybody publishes to Redis channels that match `pattern`.

        Each message comes as ``{"type": "pattern.message", "pattern": str, "channel": str,
        "data": bytes}``, once per pattern that matches.
        """
        pattern = require_name(pattern)
        if self._visiting():
            await self._elsewhere(self.pattern_add(pattern, channel))
            return
        hub, mailbox = await self._own_mailbox(channel)
        await hub.join(hub.raw_patterns, pattern, mailbox)

    async def pattern_discard(self, pattern: str, channel: str) -> None:
        """End `pattern_add`; does nothing if there was none."""
        pattern = require_name(pattern)
        if self._visiting():
            await self._elsewhere(self.pattern_discard(pattern, channel))
            return
        if here := self._mailbox_here(channel):
            hub, mailbox = here
            hub.raw_patterns.leave(pattern, mailbox)

    async def group_pattern_add(self, pattern: str, channel: str) -> None:
        """Have `channel` get every message to every group that matches `pattern`.

        Each comes as an ordinary event with the group's name under ``"mpx_group"``, and once,
        also when the channel is a member of the group or several patterns match. The syntax is
        Redis' (``*``, ``?``, ``[a-z]``).
        """
        name = self._group_pattern(pattern)
        if self._visiting():
            await self._elsewhere(self.group_pattern_add(pattern, channel))
            return
        hub, mailbox = await self._own_mailbox(channel)
        mailbox.wildcards += 1
        try:
            await hub.join(hub.wildcards, name, mailbox)
        finally:
            _count_wildcards(hub, mailbox)

    async def group_pattern_discard(self, pattern: str, channel: str) -> None:
        """End `group_pattern_add`; does nothing if there was none.

        What this process has sent before still arrives, as with `group_discard`.
        """
        name = self._group_pattern(pattern)
        if self._visiting():
            await self._elsewhere(self.group_pattern_discard(pattern, channel))
            return
        if here := self._mailbox_here(channel):
            hub, mailbox = here
            try:
                await hub.wildcards.leave_after(self._published.latest(), name, mailbox)
            finally:
                _count_wildcards(hub, mailbox)

    def _group_pattern(self, pattern: str) -> str:
        if (
            not isinstance(pattern, str)
            or len(pattern) >= self.MAX_NAME_LENGTH
            or not _GROUP_PATTERN.fullmatch(pattern)
        ):
            raise TypeError(
                f"a group pattern must be a str of less than {self.MAX_NAME_LENGTH} ASCII "
                f"alphanumerics, hyphens, underscores, periods and *?[]^\\, not {pattern!r}"
            )
        return self._names.group_pattern(pattern)

    def subscribe(
        self,
        *,
        groups: Iterable[str] = (),
        group_patterns: Iterable[str] = (),
        channels: Iterable[str] = (),
        patterns: Iterable[str] = (),
    ) -> Subscription:
        """Listen from code that is no consumer: a view, a task, a management command.

        For example::

            async with layer.subscribe(groups=["room-1"]) as events:
                async for event in events:
                    ...
        """
        return Subscription(self, groups, group_patterns, channels, patterns)


class Subscription:
    """A channel of its own for whoever listens; made by `Listening.subscribe`.

    Entering it returns once Redis has confirmed everything; leaving it ends everything. The
    layer's ``capacity`` and ``expiry`` hold for it as for a consumer.
    """

    def __init__(
        self,
        layer: Listening,
        groups: Iterable[str],
        group_patterns: Iterable[str],
        channels: Iterable[str],
        patterns: Iterable[str],
    ) -> None:
        self._layer = cast("MpxChannelLayer", layer)
        self._wanted = (
            (self._layer.group_add, tuple(groups)),
            (self._layer.group_pattern_add, tuple(group_patterns)),
            (self._layer.channel_add, tuple(channels)),
            (self._layer.pattern_add, tuple(patterns)),
        )
        self._mailbox: Mailbox | None = None

    @property
    def channel_name(self) -> str:
        """The name of the channel, while it is open: for `send`, `request` and ``exclude``."""
        return self._opened.channel

    async def __aenter__(self) -> Self:
        if self._mailbox is not None:
            raise RuntimeError("this subscription is open already: make another one")
        self._mailbox = mailbox = await self._layer.open_channel()
        try:
            for add, names in self._wanted:
                for name in names:
                    await add(name, mailbox.channel)
        except BaseException:
            self._layer.close_channel(mailbox)
            self._mailbox = None
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        mailbox, self._mailbox = self._opened, None
        self._layer.close_channel(mailbox)
        # Whoever still iterates, in another task, comes to the end.
        while mailbox.waited_for:
            mailbox.put_always(Failure(StopAsyncIteration()))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        return await self._opened.get()

    @property
    def _opened(self) -> Mailbox:
        if self._mailbox is None:
            raise RuntimeError("a subscription is open between 'async with' and its end only")
        return self._mailbox


def require_name(name: str) -> str:
    """A name of Redis' own, or a pattern; raises `TypeError` for what is none."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"a Redis channel or pattern is a non-empty str, not {name!r}")
    return name


def _count_wildcards(hub: Hub, mailbox: Mailbox) -> None:
    mailbox.wildcards = sum(topic.owner is hub.wildcards for topic in mailbox.memberships or ())
