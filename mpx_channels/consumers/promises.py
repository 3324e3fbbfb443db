"""Networked promises on a consumer."""

from __future__ import annotations

import functools
from typing import Any

from mpx_channels.layer import LayerPromise

from .mixin import MpxConsumerMixin

__all__ = ["PromiseMixin"]


class PromiseMixin(MpxConsumerMixin):
    """Wait for an answer that anybody may give, anywhere: ``await layer.resolve(name, value)``.

    Handlers run one at a time, so a handler that awaits a promise holds up its consumer, the
    socket included. Where that is not wanted, wait in a task: ``self.start_task(self.ask())``.
    """

    async def promise(self, name: str, timeout: float | None = None) -> Any:
        """The value that `name` is resolved with; `timeout` is in seconds.

        Raises `TimeoutError`, `PromiseRejected`, `PromiseDisconnected` when the link to Redis
        broke meanwhile, or `NotConnected` when there was none before the time was over.
        """
        return await (await self.new_promise(name, timeout))

    async def new_promise(self, name: str, timeout: float | None = None) -> LayerPromise:
        """A promise in force, to be awaited later: first promise, then ask, then await.

        It is cancelled when the consumer ends.
        """
        promise = await self._mpx_layer.new_promise(name, timeout)
        if self._mpx_mailbox is None:
            promise.cancel()
        else:
            self._mpx_promises.add(promise)
            promise.add_done_callback(self._mpx_promises.discard)
        return promise

    async def resolve(self, name: str, value: Any = None) -> int:
        """Settle the promises on `name`; returns how many waited for it."""
        return await self._mpx_layer.resolve(name, value)

    async def reject(self, name: str, reason: str) -> int:
        """Fail the promises on `name`; returns how many waited for it."""
        return await self._mpx_layer.reject(name, reason)

    @functools.cached_property
    def _mpx_promises(self) -> set[LayerPromise]:
        return set()

    async def _mpx_end_tasks(self) -> None:
        for promise in tuple(self._mpx_promises):
            promise.cancel()
        await super()._mpx_end_tasks()
