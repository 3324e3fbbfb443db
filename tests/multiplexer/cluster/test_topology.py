"""Which node has a slot, by what nodes say, old or new."""

from __future__ import annotations

import pytest

from mpx_channels.multiplexer import Node
from mpx_channels.multiplexer.cluster import topology as module
from mpx_channels.multiplexer.cluster.topology import (
    MOST_STALE,
    ClusterTopology,
    require_cluster_node,
)
from mpx_channels.multiplexer.cluster.view import Share, View
from mpx_channels.multiplexer.slots import slot_of

A, B, C = ("a", 1), ("b", 2), ("c", 3)


def view(*shares: tuple[int, int, tuple[str, int], int]) -> View:
    return View("some", tuple(Share(*share) for share in shares))


HALVES = view((0, 8191, A, 1), (8192, 16383, B, 2))


@pytest.fixture
def topology() -> ClusterTopology:
    """Two masters with a half each."""
    topology = ClusterTopology([Node("redis://seed:1")], sharded=True)
    topology.believe(HALVES)
    return topology


def test_nothing_is_known_at_first() -> None:
    topology = ClusterTopology([Node("redis://one:1"), Node("redis://other:2")], sharded=True)
    assert topology.node_of(b"name") is topology.home is topology.unknown
    assert not topology.complete
    assert topology.nodes == ()
    assert str(topology.unknown) == "the cluster of redis://one:1, redis://other:2"
    changed = topology.believe(HALVES)
    assert changed == {topology.unknown: set(range(16384))}
    assert topology.complete
    assert list(map(str, topology.nodes)) == ["redis://a:1", "redis://b:2"]


def test_seeds_have_their_options_passed_on() -> None:
    seed = Node("redis://me:secret@seed:1", options={"client_name": "x"})
    topology = ClusterTopology([seed], sharded=True)
    topology.believe(HALVES)
    connection = topology.owner(0).connection()
    assert (connection.host, connection.port) == A
    assert (connection.username, connection.password) == ("me", "secret")
    assert connection.client_name == "x"


def test_the_first_seed_s_options_are_all_seeds_options() -> None:
    first = Node("redis://me:secret@seed:1", options={"client_name": "x"})
    topology = ClusterTopology([first, Node("redis://other:2")], sharded=True)
    assert list(map(str, topology.seeds)) == ["redis://seed:1", "redis://other:2"]
    connection = topology.seeds[1].connection()
    assert (connection.host, connection.port) == ("other", 2)
    assert (connection.username, connection.password) == ("me", "secret")
    assert connection.client_name == "x"


def test_names_are_on_the_master_of_their_slot(topology: ClusterTopology) -> None:
    assert topology.node_of(b"{x}1") is topology.node_of(b"{x}2") is topology.owner(slot_of(b"x"))
    assert topology.server_of(b"{x}1") is topology.node_of(b"{x}1")
    topology.sharded = False
    topology.choose_home([], [])
    assert topology.server_of(b"{x}1") is topology.home


def test_the_same_again_is_no_news(topology: ClusterTopology) -> None:
    assert topology.believe(HALVES) == {}


def test_slots_that_move_are_told_by_who_had_them(topology: ClusterTopology) -> None:
    a, b = topology.nodes
    changed = topology.believe(view((0, 8190, A, 1), (8191, 8192, C, 3), (8193, 16383, B, 2)))
    c = topology.at(C)
    assert changed == {a: {8191}, b: {8192}}
    assert topology.owner(8191) is c
    assert topology.owner(8190) is a
    assert set(topology.nodes) == {a, b, c}
    assert topology.believe(view((0, 8191, A, 4), (8192, 16383, B, 5))) == {c: {8191, 8192}}
    assert topology.nodes == (a, b)


def test_what_moved_lately(topology: ClusterTopology, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what was not known before."""
    monkeypatch.setattr(module, "LATELY", 1000.0)
    slot = slot_of(b"moves")
    assert not topology.moved_lately(b"moves")
    whose = topology.owner(slot).endpoint
    topology.believe(view((slot, slot, A if whose == B else B, 3)))
    assert topology.moved_lately(b"moves")
    assert not topology.moved_lately(b"stays")
    monkeypatch.setattr(module, "LATELY", 0.0)
    assert not topology.moved_lately(b"moves")


def test_who_is_behind_is_not_believed(topology: ClusterTopology) -> None:
    topology.believe(view((0, 8191, C, 3), (8192, 16383, B, 2)))
    c = topology.at(C)
    for _ in range(MOST_STALE - 1):
        assert topology.believe(HALVES) == {}
        assert topology.owner(0) is c


def test_of_a_view_that_is_behind_what_is_not_is_believed(topology: ClusterTopology) -> None:
    a, b = topology.nodes
    topology.believe(view((0, 100, A, 3), (101, 8191, A, 3), (8192, 16383, B, 2)))
    changed = topology.believe(view((0, 100, B, 2), (101, 8191, A, 3), (8192, 16383, C, 4)))
    assert changed == {b: set(range(8192, 16384))}
    assert topology.owner(0) is a


def test_what_is_said_again_and_again_is_true(topology: ClusterTopology) -> None:
    """The cluster was made anew, with lower epochs, under the same addresses."""
    topology.believe(view((0, 8191, A, 30), (8192, 16383, B, 31)))
    swapped = view((0, 8191, B, 1), (8192, 16383, A, 2))
    changes = [topology.believe(swapped) for _ in range(MOST_STALE + 1)]
    assert not any(changes[:-1])
    assert sum(map(len, changes[-1].values())) == 16384
    assert topology.believe(swapped) == {}


def test_a_newer_view_in_between_begins_the_count_anew(topology: ClusterTopology) -> None:
    newer = view((0, 8191, C, 3), (8192, 16383, B, 2))
    topology.believe(newer)
    for _ in range(3):
        for _ in range(MOST_STALE - 1):
            topology.believe(HALVES)
        topology.believe(newer)
    assert topology.owner(0) is topology.at(C)


def test_of_the_same_epoch_the_last_is_believed(topology: ClusterTopology) -> None:
    """Where CLUSTER NODES is forbidden, all are 0."""
    topology = ClusterTopology([Node("redis://seed:1")], sharded=True)
    topology.believe(view((0, 16383, A, 0)))
    topology.believe(view((0, 16383, B, 0)))
    assert topology.owner(5) is topology.at(B)


def test_slots_of_nobody_stay_where_they_were(topology: ClusterTopology) -> None:
    a, _ = topology.nodes
    assert topology.believe(view((0, 5, A, 1), (8192, 16383, B, 2))) == {}
    assert topology.owner(6) is a


def test_an_address_is_one_node_until_it_is_forgotten(topology: ClusterTopology) -> None:
    helper = topology.at(C)
    topology.believe(view((0, 8190, A, 1), (8191, 16383, B, 4)))
    assert topology.at(C) is helper
    topology.believe(view((0, 8190, A, 1), (8191, 16000, B, 4), (16001, 16383, C, 6)))
    assert helper in topology.nodes
    topology.forget(helper)
    assert topology.at(C) is not helper


def test_the_home_is_one_that_is_up_and_stays(topology: ClusterTopology) -> None:
    a, b = topology.nodes
    topology.choose_home([b], [a])
    assert topology.home is b
    topology.choose_home([a, b], [])
    assert topology.home is b
    topology.choose_home([], [a, b])  # all are away: no reason to go elsewhere
    assert topology.home is b
    topology.choose_home([a], [])  # it is about to connect
    assert topology.home is b
    topology.choose_home([a], [b])
    assert topology.home is a
    topology.believe(view((0, 16383, B, 7)))
    topology.choose_home([a], [])
    assert topology.home is b


@pytest.mark.parametrize(
    ("seed", "why"),
    [
        (Node("redis://h:1/3"), r"database 0 only, and the URL of redis://h:1 has 3"),
        (Node("unix:///tmp/x.sock"), r"a seed must be a host and a port, not unix:///tmp/x.sock"),
    ],
)
def test_what_is_no_seed(seed: Node, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        require_cluster_node(seed)
    with pytest.raises(ValueError, match=why):
        ClusterTopology([Node(), seed], sharded=True)
