"""Partitions: which groups share a slot in a cluster.

A name's partition is the part of the slot range in which its own slot is: of 128 partitions each
has 128 of the 16,384 slots, the first those from 0 to 127. The tag of a partition, which stands in
braces in every name of it in Redis, is the smallest number whose slot is in that part. So any
layout of slots that is even gives each node an even share, and a command takes names of a whole
partition. docs/cluster.md tells how other programs find a group's name.
"""

from __future__ import annotations

import functools

from mpx_channels.multiplexer.slots import SLOTS, slot_of

__all__ = ["DEFAULT_PARTITIONS", "MOST_PARTITIONS", "partition_of", "tags"]

DEFAULT_PARTITIONS = 128
MOST_PARTITIONS = 4096


def partition_of(name: str, partitions: int) -> int:
    """The number of a name's partition, from 0 up."""
    return slot_of(name.encode()) * partitions // SLOTS


@functools.cache
def tags(partitions: int) -> tuple[str, ...]:
    """The tags of all partitions, of which there is a power of two."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < partitions:
        found.setdefault(partition_of(str(number), partitions), str(number))
        number += 1
    return tuple(found[partition] for partition in range(partitions))
