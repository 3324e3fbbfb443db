"""A node that would not do what it was asked for the moment: TRYAGAIN, CLUSTERDOWN."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ..exceptions import CommandRefused
from ..packing import key_of, unpack
from ..slots import slot_of
from ..wire import Frame
from .detour import Detour
from .publisher import ClusterPublisher

__all__ = ["NotNow"]


class NotNow:
    """What was refused in some slots is tried again after ``pause`` seconds.

    But not if the node has done what was sent behind it, as it had come to its senses by then: that
    would be out of order, and so it fails.
    """

    def __init__(
        self, error: Exception, source: ClusterPublisher, slots: Iterable[int], pause: float
    ) -> None:
        self.pause = pause
        self._error = error
        self._node = source.link.node
        self._behind: dict[bytes, list[asyncio.Future[Frame]]] = {}
        wanted = set(slots)
        for future, command in source.under_way():
            key = key_of(*unpack(command))
            if key is not None and slot_of(key) in wanted:
                self._behind.setdefault(key, []).append(future)

    def refuse_overtaken(self, detour: Detour) -> None:
        """All that the node has got by then is answered."""
        done = {key for key, futures in self._behind.items() if any(map(_succeeded, futures))}
        if done:
            refusal = CommandRefused(f"{self._node} refused the command: {self._error}")
            refusal.__cause__ = self._error
            detour.drop(lambda command: key_of(*unpack(command)) in done, refusal)


def _succeeded(future: asyncio.Future[Frame]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
