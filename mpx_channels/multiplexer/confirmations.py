"""Waiting for Redis to confirm names, for a bounded time and without a timer each."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from .exceptions import NotConnected
from .multiplexer import Multiplexer
from .topology import Node

__all__ = ["Confirmations"]


class Source(Protocol):
    """Where names are confirmed: topics, or a channel subscription."""

    def activation(self, name: str, /) -> asyncio.Future[None]:
        """Done once Redis has confirmed the name."""

    def forget(self, name: str, activation: asyncio.Future[None], /) -> None:
        """Nobody waits for this future any more."""

    def pending(self, name: str, /) -> tuple[Node, ...]:
        """The servers that have not confirmed the name."""

    def refusal(self, name: str, /) -> Exception | None:
        """Why Redis refused the name when it was last asked; None if it did not."""


class Confirmations:
    """Waits that end after ``patience`` seconds each: joins come in storms, so one timer does."""

    def __init__(self, multiplexer: Multiplexer, patience: float) -> None:
        self._multiplexer = multiplexer
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._waits: deque[tuple[float, asyncio.Future[None], Source, str]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, source: Source, name: str) -> None:
        """Return once Redis has confirmed `name`; raises `NotConnected` after the patience."""
        activation = source.activation(name)
        self._waits.append((self._loop.time() + self._patience, activation, source, name))
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._end)
        try:
            await activation
        except BaseException:
            source.forget(name, activation)
            raise

    def close(self) -> None:
        """Time nothing any more, and leave nobody waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waits:
            _, activation, source, name = self._waits.popleft()
            if not activation.done():
                where = ", ".join(map(str, source.pending(name)))
                text = f"the layer was closed before {where} confirmed {name!r}"
                activation.set_exception(NotConnected(text))

    def _end(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._waits:
            due, activation, source, name = self._waits[0]
            if not activation.done():
                if due > now:
                    self._timer = self._loop.call_at(due, self._end)
                    return
                activation.set_exception(self._error(source, name))
            self._waits.popleft()

    def _error(self, source: Source, name: str) -> NotConnected:
        nodes = source.pending(name)
        causes = [self._multiplexer.error_of(node) for node in nodes]
        causes.append(source.refusal(name))
        cause = next((cause for cause in causes if cause is not None), None)
        error = NotConnected(
            f"{', '.join(map(str, nodes))} did not confirm {name!r} in {self._patience} s"
            + (f": {cause}" if cause is not None else "")
        )
        error.__cause__ = cause
        return error
