"""The parts that a hub is composed of, and what each of them gets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from mpx_channels.messages.exceptions import UndecryptableMessage
from mpx_channels.messages.wrapping import Wrapping
from mpx_channels.multiplexer import LinkLost, Multiplexer
from mpx_channels.multiplexer.confirmations import Confirmations
from mpx_channels.multiplexer.logs import LimitedLog

from .layer_stats import LayerCounters
from .names import Names

__all__ = ["Context", "Part"]


@dataclass(frozen=True, slots=True)
class Context:
    """What all parts of a hub share.

    ``process_id`` names the hub, not the process: after a fork or on another event loop there is
    another. ``expiry`` and ``connect_timeout`` are those of CONFIG, in seconds.
    """

    loop: asyncio.AbstractEventLoop
    multiplexer: Multiplexer
    names: Names
    wrapping: Wrapping
    counters: LayerCounters
    confirmations: Confirmations
    process_id: str
    expiry: float
    connect_timeout: float
    log: LimitedLog

    def unreadable(self, name: str, error: Exception) -> None:
        """Count a message that is none of ours, and say so at a limited rate."""
        if isinstance(error, UndecryptableMessage):
            self.counters.dropped_undecryptable += 1
            what = "undecryptable"
        else:
            self.counters.dropped_unreadable += 1
            what = "unreadable"
        self.log.warning(
            (what, type(error).__name__),
            "Dropped an %s message on %s from %s: %s",
            what,
            name,
            self.multiplexer.server_of(name),
            str(error),
        )


class Part:
    """One capability of the layer in one event loop; a part defines what it has need of."""

    def started(self) -> None:
        """The multiplexer is about to connect."""

    def lost(self, loss: LinkLost) -> None:
        """A link broke, and with it the names that `LinkLost.includes`, until Redis confirms anew.

        Parts hear of it in the order in which the hub has them.
        """

    def clear(self) -> None:
        """Forget memberships and unread messages, as `flush` asks."""

    async def close(self, timeout: float) -> None:
        """Leave nobody waiting, and time nothing any more, in so many seconds.

        The connections still stand.
        """

    def abandon(self) -> None:
        """The event loop was closed, and nobody had closed us: what is under way never ends."""

    def counts(self) -> Mapping[str, int]:
        """What it holds now, by the names of `LayerStats`' fields."""
        return {}
