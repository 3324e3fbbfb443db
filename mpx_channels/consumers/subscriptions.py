"""Raw Redis Pub/Sub on a consumer: channels and patterns, from any publisher in any language."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from .mixin import MpxConsumerMixin

__all__ = ["ChannelSubscriptionMixin", "PatternSubscriptionMixin"]


class ChannelSubscriptionMixin(MpxConsumerMixin):
    """Redis Pub/Sub channels, by their full names in Redis: the layer's prefix plays no part.

    Messages come to the handler ``channel_message(self, event)`` with
    ``{"type": "channel.message", "channel": str, "data": bytes}``. Those of `redis_channels` are
    live before the consumer's first event.
    """

    redis_channels: Iterable[str] = ()

    async def channel_add(self, name: str) -> None:
        """Subscribe to a Redis channel; returns once Redis has confirmed it."""
        await self._mpx_layer.channel_add(name, self.channel_name)

    async def channel_discard(self, name: str) -> None:
        """Unsubscribe from a Redis channel; does nothing if it was not subscribed to."""
        await self._mpx_layer.channel_discard(name, self.channel_name)

    async def _mpx_subscribe(self) -> None:
        await super()._mpx_subscribe()
        await asyncio.gather(*map(self.channel_add, self.redis_channels))


class PatternSubscriptionMixin(MpxConsumerMixin):
    """Redis patterns (https://redis.io/docs/latest/commands/psubscribe/), on full names.

    Messages come to the handler ``pattern_message(self, event)`` with
    ``{"type": "pattern.message", "pattern": str, "channel": str, "data": bytes}``, once per
    pattern that matches. Those of `redis_patterns` are live before the consumer's first event.
    """

    redis_patterns: Iterable[str] = ()

    async def pattern_add(self, pattern: str) -> None:
        """Subscribe to a pattern; returns once Redis has confirmed it."""
        await self._mpx_layer.pattern_add(pattern, self.channel_name)

    async def pattern_discard(self, pattern: str) -> None:
        """Unsubscribe from a pattern; does nothing if it was not subscribed to."""
        await self._mpx_layer.pattern_discard(pattern, self.channel_name)

    async def _mpx_subscribe(self) -> None:
        await super()._mpx_subscribe()
        await asyncio.gather(*map(self.pattern_add, self.redis_patterns))
