"""The probes of all servers, one each."""

from __future__ import annotations

from collections.abc import Callable

from .exceptions import LinkLost
from .probe import Probe
from .subscriber import Subscriber
from .subscribers import Subscribers

__all__ = ["Probes"]


class Probes:
    """A probe at each server, for as long as it is ours; `make` makes one."""

    def __init__(self, subscribers: Subscribers, make: Callable[[Subscriber], Probe]) -> None:
        self._make = make
        self.of: dict[Subscriber, Probe] = {}
        for subscriber in subscribers.all:
            self.server_added(subscriber)
        subscribers.subscriptions.add(self)

    def disconnected(self, loss: LinkLost, subscriber: Subscriber) -> None:
        """The link to a server broke, of one perhaps that is ours no more."""
        if subscriber in self.of:
            self.of[subscriber].lost(loss)

    def server_added(self, subscriber: Subscriber) -> None:
        """There is one more server."""
        self.of[subscriber] = self._make(subscriber)

    def server_removed(self, subscriber: Subscriber) -> None:
        """There is one server less."""
        self.of.pop(subscriber).close()
