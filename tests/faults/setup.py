"""What a case needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["OPTIONS", "PASSWORD", "RULES", "USER", "Setup"]

# Timeouts of which a case can await several in seconds; and room for all that comes at once.
OPTIONS = {
    "ping_interval": 0.4,
    "connect_timeout": 1.0,
    "backlog_timeout": 1.0,
    "max_backoff": 0.1,
    "capacity": 100_000,
    # Enough for all that is sent in a case, and then some: nothing is lost for want of it.
    "history": {
        "kept-*": {"size": 100_000, "ttl": 600},
        "idle-1*": {"size": 10, "ttl": 600},
    },
    "recovery_limit": 100_000,
}
USER, PASSWORD = "app", "secret"
RULES = ("~*", "&*", "+@all")


@dataclass(frozen=True)
class Setup:
    """What a case needs; cases that need the same share it."""

    processes: int = 3
    groups: int = 18
    # More groups, which have a history.
    kept: int = 6
    # Groups that every process is in, and nobody sends to.
    idle: int = 0
    queues: int = 2
    # Of each process; the groups are dealt out to them.
    channels: int = 2
    # Messages a second, from each process to each group.
    rate: float = 4.0
    servers: int = 1
    sentinel: bool = False
    # Three masters with so many replicas each; without any, the network can be parted.
    cluster: bool = False
    replicas: int = 0
    # Of the layer, over OPTIONS.
    options: tuple[tuple[str, Any], ...] = ()
    # Seconds that the clock of the last process is off: nothing here goes by it.
    clock: float = 86_400.0
