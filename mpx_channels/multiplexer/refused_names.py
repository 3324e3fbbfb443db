"""Names that Redis refuses to subscribe to: who is told of it, and what the log says."""

from __future__ import annotations

from collections.abc import Callable

from redis.exceptions import ResponseError

from .logs import LimitedLog
from .refusals import explained, is_transient, slot_moved
from .registry import Entry, Registry
from .topology import Node

__all__ = ["RefusedNames"]


class RefusedNames:
    """What is to be said of the names of a registry that its server refuses."""

    def __init__(self, registry: Registry, node: Node, log: LimitedLog) -> None:
        self._registry = registry
        self._node = node
        self._log = log
        # Called when the server says that names are another's.
        self.on_moved: Callable[[], object] = lambda: None

    def refuse(self, error: Exception, now: float) -> None:
        """The server's answer was an error."""
        slot = slot_moved(error)
        if slot is not None:
            self._registry.refuse(error, now, moved=slot)
            self.on_moved()
            return
        transient = is_transient(error)
        if not transient and (text := explained(error)) != str(error):
            error = ResponseError(text)
        refused = self._registry.refuse(error, now, transient=transient)
        if transient:
            # Whoever waits goes on waiting.
            if refused:
                self._log.warning(
                    "refused",
                    "%s put off subscribing to %d names, asking again: %s",
                    self._node,
                    len(refused),
                    error,
                )
            return
        for entry in refused:
            self._log.error(
                "refused",
                "%s refused to subscribe to %r, asking again now and then: %s",
                self._node,
                entry.text,
                error,
            )
            for listener in entry.listeners:
                listener.refused(entry)

    def allow(self, entry: Entry) -> None:
        """The server has confirmed what it refused before."""
        self._log.info(
            "refused", "%s subscribed to %r, which it had refused", self._node, entry.text
        )
        self._registry.allowed(entry)
