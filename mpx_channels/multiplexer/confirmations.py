"""Waiting for Redis to confirm names, for a bounded time and without a timer each."""

from __future__ import annotations

import asyncio
from typing import Protocol

from .deadlines import Deadlines
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


Wait = tuple[asyncio.Future[None], Source, str]


class Confirmations:
    """Waits that end after ``patience`` seconds each: joins come in storms, so one timer does."""

    def __init__(self, multiplexer: Multiplexer, patience: float) -> None:
        self._multiplexer = multiplexer
        self._patience = patience
        self._waits: Deadlines[Wait] = Deadlines(self._give_up, patience)

    async def wait(self, source: Source, name: str) -> None:
        """Return once Redis has confirmed `name`; raises `NotConnected` after the patience."""
        activation = source.activation(name)
        # Left there when it is over: to take it out would cost every join.
        self._waits.add((activation, source, name))
        try:
            await activation
        except BaseException:
            source.forget(name, activation)
            raise

    def close(self) -> None:
        """Time nothing any more, and leave nobody waiting."""
        self._waits.close()
        for activation, source, name in self._waits:
            if not activation.done():
                where = ", ".join(map(str, source.pending(name)))
                text = f"the layer was closed before {where} confirmed {name!r}"
                activation.set_exception(NotConnected(text))

    def _give_up(self, wait: Wait) -> None:
        activation, source, name = wait
        if not activation.done():
            activation.set_exception(self.error(source, name, self._patience))

    def error(self, source: Source, name: str, patience: float) -> NotConnected:
        """What to say of a name that was not confirmed in so many seconds, and why it was not."""
        nodes = source.pending(name)
        causes = [self._multiplexer.error_of(node) for node in nodes]
        causes.append(source.refusal(name))
        cause = next((cause for cause in causes if cause is not None), None)
        error = NotConnected(
            f"{', '.join(map(str, nodes))} did not confirm {name!r} in {patience} s"
            + (f": {cause}" if cause is not None else "")
        )
        error.__cause__ = cause
        return error
