"""Those who look on at sharded channels, and do not count among those who listen.

Of a pattern's subscribers PUBSUB NUMSUB knows nothing, so classic Pub/Sub has no need of this.
Who looks on at a sharded channel subscribes, in the same command, to a second one of the same slot,
whose number is taken off that of the first. It has to do so over a connection that it uses for
nothing else.
"""

from __future__ import annotations

__all__ = ["is_onlooker", "onlooker"]

_BEHIND = ":tap"


def onlooker(name: str) -> str:
    """The name of the second channel: nobody publishes there."""
    return name + _BEHIND


def is_onlooker(name: str) -> bool:
    """Whether that is what a name is."""
    return name.endswith(_BEHIND)
