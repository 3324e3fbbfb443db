"""A worker for plain channels that takes a message only when it is ready to handle it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from asgiref.compatibility import guarantee_single_callable
from channels.worker import Worker

from mpx_channels.multiplexer.logs import LimitedLog, origin

__all__ = ["MpxWorker"]

logger = logging.getLogger("mpx_channels.worker")
log = LimitedLog(logger, burst=5)

# Seconds before a consumer that failed is made anew: a broken one must not spin.
PAUSE = 0.1


class MpxWorker(Worker):
    """Channels' worker, one message at a time per channel.

    Channels' own reads ahead without a bound, into a queue in memory, and all that is in there
    dies with the process. Here the consumer's ``receive`` reads the channel itself: Channels'
    consumers call it when they have finished with the message before.
    """

    async def listener(self, channel: str) -> None:
        """Serve one channel, with one consumer after the other."""
        application = guarantee_single_callable(self.application)  # type: ignore[no-untyped-call]
        scope = {"type": "channel", "channel": channel}
        while True:
            first: list[dict[str, Any]] = [await self._next(channel)]

            async def receive(first: list[dict[str, Any]] = first) -> dict[str, Any]:
                return first.pop() if first else await self._next(channel)

            async def send(message: dict[str, Any]) -> None:
                await self.application_send(scope, message)

            try:
                await application(scope, receive, send)
            except Exception as error:
                log.error(
                    (channel, origin(error)),
                    "A consumer of the channel %s failed: %s",
                    channel,
                    repr(error),
                    exc_info=error,
                )
                await asyncio.sleep(PAUSE)

    async def _next(self, channel: str) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = await self.channel_layer.receive(channel)
            if message.get("type"):
                return message
            log.error(channel, "Dropped a message without a type on the channel %s", channel)
