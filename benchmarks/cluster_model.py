"""What a cluster needs, computed: connections, commands, and bytes between its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

__all__ = ["Setup", "after_restart", "bus_bytes", "connections"]

PARTITIONS = 128
# Names that one command takes.
CHUNK = 512
# Bytes that a message between two nodes has besides the channel's name and the data: the light
# header that Valkey has since 8.0. Before, it is about 2 KiB.
HEADER = 24


@dataclass(frozen=True, slots=True)
class Setup:
    """``replicas`` of each master; ``groups`` that each process has members in."""

    masters: int
    replicas: int
    processes: int
    groups: int


def connections(setup: Setup) -> int:
    """Of all processes, to all nodes: a subscribing and a publishing one to each master."""
    return setup.processes * setup.masters * 2


def after_restart(setup: Setup) -> int:
    """SSUBSCRIBE commands when all links come back: one per partition and 512 names.

    The inbox, and whatever else a process listens to, are of some partition, too.
    """
    used = min(PARTITIONS, setup.groups)
    each = ceil(setup.groups / used / CHUNK) if used else 0
    return setup.processes * used * each


def bus_bytes(setup: Setup, size: int, *, sharded: bool) -> int:
    """Bytes that the nodes send each other for a publish of so many bytes, its name included.

    A sharded channel's message goes to the other nodes of its shard, a classic one's to all.
    """
    others = setup.replicas if sharded else setup.masters * (1 + setup.replicas) - 1
    return others * (HEADER + size)
