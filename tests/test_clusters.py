"""The clusters that other tests use do what these tests think they do."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import redis
from redis.cluster import ClusterNode
from redis.exceptions import AskError, MovedError, TryAgainError

from .clusters import SLOTS, Cluster, slot_of
from .conftest import eventually


@pytest.fixture(params=["setslot", "migrateslots"])
def how(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """Each way to migrate a slot that the servers know."""
    if request.param == "migrateslots" and not cluster.has_migrateslots:
        pytest.skip("these servers know no CLUSTER MIGRATESLOTS")
    return str(request.param)


@pytest.fixture
def parted() -> Iterator[Cluster]:
    """Three masters with a replica each, between which the network can be parted."""
    with Cluster(replicas=1, partitionable=True) as running:
        yield running


def test_three_masters_share_the_slots(cluster: Cluster) -> None:
    assert [len(cluster.slots_of(node)) for node in cluster.nodes] == [5461, 5461, 5462]
    assert cluster.masters == cluster.nodes
    with cluster.client() as client:
        for number in range(30):
            client.set(f"key{number}", number)
            where = cluster.master_of(f"key{number}")
            assert where.ask("GET", f"key{number}") == b"%d" % number
    assert all(node.ask("DBSIZE") for node in cluster.nodes)
    cluster.flushall()
    assert not any(node.ask("DBSIZE") for node in cluster.nodes)


def test_a_slot_moves_with_its_key_and_back(cluster: Cluster, how: str) -> None:
    slot = slot_of("{moves}")
    source = cluster.master_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    with cluster.client() as client:
        for number in range(25):
            client.set(f"{{moves}}{number}", number)
        steps: list[str] = []
        for _ in range(2):
            cluster.migrate_slot(slot, target, how=how, between=steps.append)
            assert cluster.master_of(slot) is target
            assert target.ask("CLUSTER COUNTKEYSINSLOT", slot) == 25
            assert source.ask("CLUSTER COUNTKEYSINSLOT", slot) == 0
            with pytest.raises(MovedError, match=rf"{slot} \S+:{target.announced}"):
                source.ask("GET", "{moves}0")
            assert client.get("{moves}7") == b"7"
            source, target = target, source
    whole = {
        "setslot": ["importing", "migrating", *["keys"] * 3, "target", "source", "done"],
        "migrateslots": ["begun", "done"],
    }
    assert steps == 2 * whole[how]
    cluster.flushall()
    cluster.wait_ok()


def test_between_the_steps_there_can_be_traffic(cluster: Cluster) -> None:
    slot = slot_of("{asked}")
    source = cluster.master_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    source.ask("SET", "{asked}", "here")
    for step in cluster.migrating(slot, target):
        if step == "migrating":
            assert source.ask("GET", "{asked}") == b"here"
            with pytest.raises(AskError, match=rf"{slot} \S+:{target.announced}"):
                source.ask("GET", "{asked}2")
            with pytest.raises(TryAgainError):
                source.ask("MGET", "{asked}", "{asked}2")
    cluster.migrate_slot(slot, source)
    cluster.flushall()


def test_a_replica_is_promoted_by_hand(own_cluster: Cluster) -> None:
    (master, *_) = own_cluster.masters
    replica = own_cluster.replica_of(master)
    own_cluster.failover(replica)
    own_cluster.wait_ok()
    assert replica in own_cluster.masters
    assert own_cluster.replica_of(replica) is master


def test_a_killed_masters_replica_has_its_data_and_it_comes_back_as_the_replica(
    own_cluster: Cluster,
) -> None:
    (master, *_) = own_cluster.masters
    replica = own_cluster.replica_of(master)
    key = own_cluster.key_at(master)
    with master.client() as client:
        client.set(key, "kept")
        assert client.wait(1, 5000) == 1
    own_cluster.kill(master)
    own_cluster.wait_promoted(replica)
    assert own_cluster.master_of(key) is replica
    assert replica.ask("GET", key) == b"kept"

    own_cluster.restart(master)
    own_cluster.wait_ok()
    assert own_cluster.replica_of(replica) is master
    assert len(own_cluster.seeds) == len(own_cluster.urls) == 6


def test_a_frozen_master_is_replaced(own_cluster: Cluster) -> None:
    (master, *_) = own_cluster.masters
    replica = own_cluster.replica_of(master)
    own_cluster.freeze(master)
    own_cluster.wait_promoted(replica)
    own_cluster.thaw(master)
    own_cluster.wait_ok()
    assert master in own_cluster.replicas


def test_the_whole_cluster_down_and_back(own_cluster: Cluster) -> None:
    before = {node: own_cluster.slots_of(node) for node in own_cluster.masters}
    for node in own_cluster.nodes:
        own_cluster.kill(node)
    assert own_cluster.seeds == []
    for node in own_cluster.nodes:
        own_cluster.restart(node)
    own_cluster.wait_ok()
    assert {node: own_cluster.slots_of(node) for node in own_cluster.masters} == before


def test_a_node_is_added_gets_slots_and_is_removed(own_cluster: Cluster) -> None:
    added = own_cluster.add_node()
    assert own_cluster.slots_of(added) == []
    replica = own_cluster.add_node(added)
    slots = own_cluster.slots_of(own_cluster.nodes[0])[:3]
    for slot in slots:
        own_cluster.migrate_slot(slot, added)
    assert own_cluster.slots_of(added) == slots
    assert own_cluster.replica_of(added) is replica

    own_cluster.remove_node(added)
    assert not added.running
    assert own_cluster.replica_of(own_cluster.masters[0])
    assert added.id not in own_cluster.nodes[0].table()


def test_a_master_with_data_is_removed(own_cluster: Cluster) -> None:
    (leaving, *_) = own_cluster.masters
    with own_cluster.client() as client:
        for number in range(30):
            client.set(f"key{number}", number)
        own_cluster.remove_node(leaving, kill=False)
        assert [client.get(f"key{number}") for number in range(30)] == [
            b"%d" % number for number in range(30)
        ]
    assert sum(len(own_cluster.slots_of(node)) for node in own_cluster.masters) == SLOTS
    assert leaving not in own_cluster.nodes
    # As a cluster of its own, which has no slots.
    assert leaving.running
    assert list(leaving.table()) == [leaving.id]


def test_two_masters_that_do_not_see_each_other(parted: Cluster) -> None:
    one, other, third = parted.masters
    parted.partition(one, other)

    def doubts(node, about) -> bool:
        return "fail?" in node.table()[about.id].flags

    parted.wait(lambda: doubts(one, other) and doubts(other, one))
    # One that sees both suspects neither, and two are a majority.
    assert not third.table()[one.id].flags & {"fail", "fail?"}
    assert one.info("cluster_info")["cluster_state"] == "ok"
    parted.heal()
    parted.wait_ok()
    assert parted.masters == [one, other, third]


def test_an_isolated_master_is_replaced_and_gives_in_when_it_is_back(parted: Cluster) -> None:
    (master, *_) = parted.masters
    replica = parted.replica_of(master)
    parted.isolate(master)
    parted.wait_promoted(replica)
    # It holds itself for the master still, and serves nobody any more.
    assert "master" in master.table()[master.id].flags
    parted.wait(lambda: master.info("cluster_info")["cluster_state"] == "fail")
    with redis.Redis(port=master.announced, socket_timeout=5) as client:
        assert client.ping()
    parted.heal()
    parted.wait_ok()
    assert parted.replica_of(replica) is master


async def test_clients_are_cut_off_from_a_node_and_nobody_else(parted: Cluster) -> None:
    (master, *_) = parted.masters
    parted.isolate(master, clients=True)
    with redis.Redis(port=master.announced, socket_timeout=0.1) as client:
        with pytest.raises(redis.TimeoutError):
            client.ping()
        parted.heal()
        client.connection_pool.connection_kwargs["socket_timeout"] = 5
        assert client.ping()
    parted.wait_ok()


def test_a_client_is_sent_from_proxy_to_proxy(parted: Cluster) -> None:
    with parted.client() as client:
        client.set("key", "value")
        assert client.get("key") == b"value"
        ports = {node.port for node in client.get_nodes() if isinstance(node, ClusterNode)}
    assert ports >= {node.announced for node in parted.masters}
    assert ports <= {node.announced for node in parted.nodes}


def test_a_password_for_all_of_it(server: object) -> None:
    with Cluster(2, 1, password="a b:@/%?#&") as running:
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=running.nodes[0].port).ping()
        with running.client() as client:
            client.set("key", "value")
        slot = slot_of("key")
        target = next(node for node in running.masters if node is not running.master_of(slot))
        running.migrate_slot(slot, target)
        running.restart(running.replica_of(target))
        running.wait_ok()
        running.ask_all("ACL", "SETUSER", "app", "on", ">secret", "~*", "+get")
        with redis.Redis(port=target.port, username="app", password="secret") as client:
            assert client.get("key") == b"value"


def test_names_that_the_nodes_announce_instead_of_addresses(server: object) -> None:
    names = {
        "cluster-announce-hostname": "node.invalid",
        "cluster-preferred-endpoint-type": "hostname",
    }
    with Cluster(config=names) as running:
        found = running.nodes[0].ask("CLUSTER SLOTS")
        assert {(row[2][0], row[2][1]) for row in found} == {
            (b"node.invalid", node.port) for node in running.nodes
        }


async def test_nothing_of_it_is_left(server: object) -> None:
    with Cluster(1, partitionable=True) as running:
        (node,) = running.nodes
        pid = node.info("server")["process_id"]
    await eventually(lambda: not os.path.exists(f"/proc/{pid}"))
