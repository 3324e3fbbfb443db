"""A worker for plain channels that takes a message only when it is ready to handle it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import Any

from asgiref.compatibility import guarantee_single_callable
from channels.exceptions import StopConsumer
from channels.worker import Worker

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.layer.exceptions import OUTAGES
from mpx_channels.multiplexer.logs import LimitedLog, origin

__all__ = ["MpxWorker"]

logger = logging.getLogger("mpx_channels.worker")
log = LimitedLog(logger, burst=5)

# Seconds before a consumer that failed is made anew: a broken one must not spin.
PAUSE = 0.1


class Stopping(StopConsumer):
    """The worker is to end: there are no more messages for its consumers."""


class MpxWorker(Worker):
    """Channels' worker, one message at a time per channel.

    Channels' own reads ahead without a bound, into a queue in memory, and all that is in there
    dies with the process. Here the consumer's ``receive`` reads the channel itself: Channels'
    consumers call it when they have finished with the message before.

    SIGTERM and SIGINT have the consumers finish the messages in hand, and then the worker ends; a
    second one ends it at once.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stopping = asyncio.Event()
        # Those that wait for a message, and have none in hand.
        self._waiting: set[asyncio.Task[Any]] = set()

    async def handle(self) -> None:
        """Serve all channels, until a signal."""
        loop = asyncio.get_running_loop()
        listeners = [asyncio.create_task(self.listener(channel)) for channel in self.channels]

        def stop() -> None:
            if not self._stopping.is_set():
                self._stopping.set()
                log.info("end", "Ending when the messages in hand are finished")
            else:
                self._waiting.update(listeners)
            for task in self._waiting:
                task.cancel()

        for signum in (signal.SIGTERM, signal.SIGINT):
            # Not on Windows, and in the main thread only: there they end the process at once.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(signum, stop)
        ended, others = await asyncio.wait(listeners, return_when=asyncio.FIRST_EXCEPTION)
        if others:
            # Not on with the others: whoever watches over processes is to see that one does not do
            # its work, and start another.
            for listener in ended:
                if not listener.cancelled() and (error := listener.exception()) is not None:
                    log.error("end", "Ending, as a channel cannot be served: %s", str(error))
            if not self._stopping.is_set():
                stop()
            await asyncio.wait(others)
        if isinstance(self.channel_layer, MpxChannelLayer):
            await self.channel_layer.close()
        # Such as what Redis refused. Several may have met it in the same moment.
        ends = [listener.exception() for listener in listeners if not listener.cancelled()]
        if error := next(filter(None, ends), None):
            raise error

    async def listener(self, channel: str) -> None:
        """Serve one channel, with one consumer after the other."""
        application = guarantee_single_callable(self.application)  # type: ignore[no-untyped-call]
        scope = {"type": "channel", "channel": channel}
        while True:
            try:
                first = [await self._next(channel)]
            except Stopping:
                return

            async def receive(first: list[dict[str, Any]] = first) -> dict[str, Any]:
                return first.pop() if first else await self._next(channel)

            async def send(message: dict[str, Any]) -> None:
                await self.application_send(scope, message)

            try:
                await application(scope, receive, send)
            except Stopping:
                return
            except Exception as error:
                log.error(
                    (channel, origin(error)),
                    "A consumer of the channel %s failed: %s",
                    channel,
                    repr(error),
                    exc_info=None if isinstance(error, OUTAGES) else error,
                )
                await asyncio.sleep(PAUSE)

    async def _next(self, channel: str) -> dict[str, Any]:
        """The next message of a channel; raises `Stopping` when there is to be none."""
        task = asyncio.current_task()
        assert task is not None
        while not self._stopping.is_set():
            self._waiting.add(task)
            try:
                message: dict[str, Any] = await self.channel_layer.receive(channel)
            except asyncio.CancelledError:
                if not self._stopping.is_set():
                    raise
                task.uncancel()
                break
            finally:
                self._waiting.discard(task)
            if message.get("type"):
                return message
            log.error(channel, "Dropped a message without a type on the channel %s", channel)
        raise Stopping
