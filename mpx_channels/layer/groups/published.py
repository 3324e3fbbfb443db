"""When a process last published to which group: whoever leaves one waits for that to arrive."""

from __future__ import annotations

from time import monotonic

__all__ = ["MANY", "Published"]

# Groups that are remembered before it is worth looking which of them are to be forgotten.
MANY = 8192


class Published:
    """The moments (`time.monotonic`) at which Redis had answered a layer, on any event loop.

    One loop publishes, that of synchronous code for instance, and a channel of another leaves.
    Nobody waits for what was published longer than ``patience`` seconds ago. Nothing is taken out
    for that at each publish, which would cost all of them: `make_room` is called when a layer
    meets a name that it does not know.
    """

    def __init__(self, patience: float) -> None:
        # By the group's name in Redis. Publishing writes to it directly.
        self.at: dict[str, float] = {}
        self._patience = patience
        self._many = MANY

    def just_now(self, name: str) -> bool:
        """Whether something was published to a group so lately that it may be on its way."""
        return self.at.get(name, 0.0) > monotonic() - self._patience

    def latest(self) -> float:
        """When something was published to any group last; 0 for never."""
        # A list at once, as other threads go on publishing.
        return max(list(self.at.values()), default=0.0)

    def make_room(self) -> None:
        """If it is much, forget what is old."""
        if len(self.at) < self._many:
            return
        # Whoever waits for one, and that may be as long again, is not to find it forgotten.
        old = monotonic() - 2 * self._patience
        for name, moment in list(self.at.items()):
            if moment <= old and (now := self.at.pop(name, old)) > old:
                self.at.setdefault(name, now)  # published this very moment, by another thread
        self._many = max(MANY, 2 * len(self.at))
