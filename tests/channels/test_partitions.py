"""Which groups share a slot, and how evenly that loads the nodes."""

from __future__ import annotations

from collections import Counter

import pytest

from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.channels.partitions import (
    DEFAULT_PARTITIONS,
    MOST_PARTITIONS,
    partition_of,
    tags,
)
from mpx_channels.multiplexer.slots import SLOTS, slot_of
from tests.clusters import Cluster

POWERS = [2**power for power in range(MOST_PARTITIONS.bit_length())]
# As many groups as spread by chance come to within a twentieth of each other.
GROUPS = [f"room-{number}" for number in range(100_000)]


@pytest.mark.parametrize("partitions", POWERS)
def test_a_tag_is_in_its_part_of_the_slots(partitions: int) -> None:
    found = tags(partitions)
    assert len(set(found)) == partitions
    assert [slot_of(tag.encode()) * partitions // SLOTS for tag in found] == list(range(partitions))


@pytest.mark.parametrize("partitions", [1, 16, 128])
def test_it_is_the_smallest_such_number(partitions: int) -> None:
    for partition, tag in enumerate(tags(partitions)):
        smaller = {partition_of(str(number), partitions) for number in range(int(tag))}
        assert partition not in smaller


def owner(slot: int, nodes: int) -> int:
    """As redis-cli --cluster create deals them out."""
    return slot * nodes // SLOTS


@pytest.mark.parametrize("nodes", range(2, 65))
def test_every_node_has_its_share_of_the_partitions(nodes: int) -> None:
    """About as even as whole partitions can be."""
    for partitions in (128, 256, 1024):
        shares = Counter(owner(slot_of(tag.encode()), nodes) for tag in tags(partitions))
        assert len(shares) == nodes
        # A tag stands somewhere in its part, and a part that two nodes share may be either's.
        assert all(abs(share - partitions / nodes) < 2 for share in shares.values())
        if nodes & (nodes - 1) == 0:
            assert set(shares.values()) == {partitions // nodes}


@pytest.mark.parametrize("nodes", [2, 3, 5, 8, 16, 24, 32, 64])
def test_every_node_has_its_share_of_the_groups(nodes: int) -> None:
    names = ClusterNames("mpx", DEFAULT_PARTITIONS)
    shares = Counter(owner(slot_of(names.group(group).encode()), nodes) for group in GROUPS)
    even = DEFAULT_PARTITIONS / nodes
    most, least = (int(even) + 2) / even, max(1, int(even) - 1) / even
    assert len(shares) == nodes
    assert max(shares.values()) <= 1.15 * most * len(GROUPS) / nodes
    assert min(shares.values()) >= 0.85 * least * len(GROUPS) / nodes


def test_every_partition_has_its_share_of_the_groups() -> None:
    shares = Counter(partition_of(group, DEFAULT_PARTITIONS) for group in GROUPS)
    assert len(shares) == DEFAULT_PARTITIONS
    assert max(shares.values()) < 1.25 * len(GROUPS) / DEFAULT_PARTITIONS
    assert min(shares.values()) > 0.75 * len(GROUPS) / DEFAULT_PARTITIONS


def test_a_group_with_braces_is_hashed_as_redis_does() -> None:
    """By what is in them: such groups share a partition, as keys share a slot."""
    assert len({partition_of(group, 4096) for group in ("a{same}b", "{same}", "same")}) == 1


def test_all_names_of_a_group_are_in_one_slot(cluster: Cluster) -> None:
    """And redis-cli says the same: what docs/cluster.md has others do."""
    names = ClusterNames("mpx", DEFAULT_PARTITIONS)
    node = cluster.nodes[0]
    for group in ("chat", "room-17", "ü", "a{b}c", "x" * 90):
        slot = node.ask("CLUSTER", "KEYSLOT", group)
        tag = tags(DEFAULT_PARTITIONS)[slot * DEFAULT_PARTITIONS // SLOTS]
        expected = node.ask("CLUSTER", "KEYSLOT", tag)
        assert names.group(group).startswith("mpx:g:{" + tag + "}")
        for name in (names.group(group), *names.history(group)):
            assert node.ask("CLUSTER", "KEYSLOT", name) == expected
