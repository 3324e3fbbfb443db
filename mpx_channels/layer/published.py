"""When a process last published to which group: whoever leaves one waits for that to arrive."""

from __future__ import annotations

import math

__all__ = ["MOST", "Published"]

# Groups that are remembered, about: 100 bytes each.
MOST = 8192


class Published:
    """The moments (`time.monotonic`) at which Redis had answered a layer, on any event loop.

    One loop publishes, that of synchronous code for instance, and a channel of another leaves.

    Nothing is taken out when it is old: that would cost every publish. So `make_room` is called
    when a layer meets a name that it does not know.
    """

    def __init__(self) -> None:
        # By the group's name in Redis. Publishing writes to it directly.
        self.at: dict[str, float] = {}
        # Everything may have been published at this moment, if not later: 0 while nothing was
        # forgotten.
        self.forgotten = 0.0

    def last(self, name: str) -> float:
        """When something was published to a group last, or may have been."""
        return self.at.get(name, self.forgotten)

    def latest(self) -> float:
        """When something was published to any group last, or may have been."""
        # A list at once, as other threads go on publishing.
        return max([self.forgotten, *list(self.at.values())])

    def make_room(self, now: float) -> None:
        """Forget all, if it is much. It costs those who leave next a fence in vain."""
        if len(self.at) >= MOST:
            self.forgotten = math.inf  # for whoever looks in between, from another thread
            self.at.clear()
            self.forgotten = now
