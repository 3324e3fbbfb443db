"""`mpx doctor` on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.diagnostics.doctor.permissions import acl_rules, commands, uses
from mpx_channels.layer import MpxChannelLayer
from tests.clusters import Cluster
from tests.proxy import free_port

from .examine import examine, of, one, worst

USER = "mpx-doctor-test"


@pytest.fixture
def config(cluster: Cluster, prefix: str) -> dict[str, Any]:
    return {"hosts": cluster.seeds[:1], "cluster": True, "prefix": prefix}


class User:
    """A user of all nodes of the session's cluster."""

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self.config = {
            "hosts": [cluster.seeds[0].replace("redis://", f"redis://{USER}:secret@")],
            "cluster": True,
            "prefix": prefix,
        }
        self.prefix = prefix
        self._cluster = cluster

    def set(self, *rules: str) -> None:
        for node in self._cluster.masters:
            words = " ".join(rules).split()
            node.ask("ACL", "SETUSER", USER, "reset", "on", ">secret", *words)

    def delete(self) -> None:
        for node in self._cluster.masters:
            node.ask("ACL", "DELUSER", USER)


@pytest.fixture
def user(cluster: Cluster, prefix: str) -> Iterator[User]:
    made = User(cluster, prefix)
    yield made
    made.delete()


@pytest.mark.parametrize("sharded", [True, False])
async def test_all_is_well(config: dict[str, Any], cluster: Cluster, sharded: bool) -> None:
    rows = await examine({**config, "sharded_pubsub": sharded})
    bad = [row.as_json() for row in rows if row.finding.level in (Level.PROBLEM, Level.WARNING)]
    assert bad == []
    assert {row.node for row in of(rows, "reachable")} == set(cluster.seeds)
    assert "3 masters" in one(rows, "masters")[1]
    assert one(rows, "groups")[1].startswith("a message to a group came back by each of 3 masters")
    first, replicas = [row.finding for row in of(rows, "slots")]
    assert first.found.startswith("all 16,384 have a master")
    assert (replicas.level, "without a replica" in replicas.found) == (Level.INFO, True)
    assert one(rows, "patterns")[0] == (Level.INFO if sharded else Level.OK)


async def test_it_leaves_nothing_but_the_number(
    config: dict[str, Any], cluster: Cluster, prefix: str
) -> None:
    await examine(config)
    with cluster.client() as client:
        left = client.keys(f"{prefix}*", target_nodes=client.PRIMARIES)
    assert left == [f"{prefix}:n:".encode()]


async def test_another_number_of_partitions(config: dict[str, Any], cluster: Cluster) -> None:
    rows = await examine(config, "settings", "masters", "partitions")
    assert one(rows, "partitions") == (
        Level.OK,
        "128 partitions: no process of this prefix has noted its number yet",
    )
    layer = MpxChannelLayer(**config)
    await layer.connect()
    await layer.close()
    assert (
        one(await examine(config, "settings", "masters", "partitions"), "partitions")[0] == Level.OK
    )
    rows = await examine({**config, "partitions": 64})
    (row,) = of(rows, "partitions")
    assert row.finding.level == Level.PROBLEM
    assert "CONFIG has 64 partitions" in row.finding.found
    assert "have 128" in row.finding.found
    key = ClusterNames(config["prefix"], 64).partitions
    assert f"UNLINK '{key}'" in row.finding.todo
    # What would only fail in other words is not tried.
    assert one(rows, "connect")[0] == Level.SKIPPED


async def test_a_cluster_that_config_knows_nothing_of(config: dict[str, Any]) -> None:
    rows = await examine({**config, "cluster": False}, "cluster")
    (row,) = of(rows, "cluster")
    assert row.finding.level == Level.WARNING
    assert "Set 'cluster': True" in row.finding.todo
    assert of(rows, "masters") == []


async def test_what_may_not_be_asked_hides_nothing_else(user: User) -> None:
    """CLUSTER INFO, which a user with the layer's rules may not: INFO says that it is a cluster."""
    for rule, others in (("+cluster|info", " of 3 nodes, of which"), ("-cluster|info", "")):
        user.set(acl_rules(user.prefix), rule)
        rows = await examine({**user.config, "cluster": False}, "cluster")
        (warned,) = [row for row in of(rows, "cluster") if row.finding.level == Level.WARNING]
        assert warned.finding.found.startswith(f"a cluster{others}")
        assert "Set 'cluster': True" in warned.finding.todo
        unseen = [row for row in of(rows, "cluster") if row.finding.level == Level.SKIPPED]
        assert len(unseen) == (rule == "-cluster|info")


async def test_a_server_that_is_none(redis_url: str) -> None:
    rows = await examine({"hosts": [redis_url], "cluster": True})
    (row,) = of(rows, "masters")
    assert row.finding.level == Level.PROBLEM
    assert "is no node of a cluster" in row.finding.found
    assert one(rows, "connect")[0] == Level.SKIPPED


async def test_seeds_that_are_away(config: dict[str, Any]) -> None:
    gone = [f"redis://127.0.0.1:{free_port()}" for _ in range(2)]
    rows = await examine({**config, "hosts": [gone[0], *config["hosts"]]}, "reachable", "masters")
    well, away = [row.finding for row in of(rows, "masters")]
    assert (well.level, away.level) == (Level.OK, Level.WARNING)
    assert gone[0] in away.found
    assert worst(rows, "reachable") == Level.OK
    rows = await examine({**config, "hosts": gone})
    assert of(rows, "masters") == []
    assert {row.finding.level for row in of(rows, "reachable")} == {Level.PROBLEM}
    for row in of(rows, "reachable"):
        assert row.node in gone


async def test_seeds_that_are_of_no_use(config: dict[str, Any], redis_url: str) -> None:
    """Wherever they stand in hosts: a process begins with the one that is good."""
    gone = f"redis://127.0.0.1:{free_port()}"
    for hosts in ([*config["hosts"], redis_url, gone], [redis_url, gone, *config["hosts"]]):
        rows = await examine({**config, "hosts": hosts})
        findings = [row.finding for row in of(rows, "masters")]
        assert [each.level for each in findings] == [Level.OK, Level.WARNING, Level.WARNING]
        said = {url: each for url in (redis_url, gone) for each in findings if url in each.found}
        assert "is no node of a cluster" in said[redis_url].found
        assert "does not answer: the connection was refused" in said[gone].found
        # And the masters are looked at.
        assert one(rows, "groups")[0] == Level.OK


async def test_a_user_of_some_nodes_only(user: User, cluster: Cluster, prefix: str) -> None:
    """A seed that is a master is looked at as such: what it refuses is said once."""
    user.set(acl_rules(prefix, cluster=True))
    first, second = cluster.masters[:2]
    first.ask("ACL", "SETUSER", USER, "-cluster|slots")
    seeds = [each.url.replace("://", f"://{USER}:secret@") for each in (first, second)]
    rows = await examine({**user.config, "hosts": seeds}, "masters", "permissions")
    assert one(rows, "masters")[0] == Level.OK
    (refused,) = [row for row in of(rows, "permissions") if row.finding.level == Level.PROBLEM]
    assert (refused.node, refused.finding.todo) == (
        first.url,
        f"ACL SETUSER {USER} +cluster|slots",
    )


async def test_the_first_seed_has_the_options_of_all(user: User, cluster: Cluster) -> None:
    """As the layer connects with these to whatever node."""
    user.set(acl_rules(user.prefix, cluster=True))
    (good,) = user.config["hosts"]
    wrong = cluster.seeds[1].replace("redis://", f"redis://{USER}:wrong@")
    rows = await examine({**user.config, "hosts": [wrong, good]}, "masters", "login")
    assert {row.finding.level for row in of(rows, "login")} == {Level.PROBLEM}


async def test_addresses_that_cannot_be_reached(config: dict[str, Any], cluster: Cluster) -> None:
    port = free_port()
    second = cluster.masters[1]

    def remap(address: tuple[str, int]) -> tuple[str, int]:
        return ("127.0.0.1", port) if address[1] == second.announced else address

    rows = await examine({**config, "address_remap": remap}, "masters", "slots", "reachable")
    problem = of(rows, "slots")[0].finding
    assert problem.level == Level.PROBLEM
    assert f"127.0.0.1:{port} (announced as 127.0.0.1:{second.announced})" in problem.found
    assert "address_remap" in problem.todo


async def test_a_remap_that_fails(config: dict[str, Any]) -> None:
    for remap, said in (
        (lambda address: {}[address], "address_remap raised KeyError"),
        (lambda address: None, "address_remap returned None for ('127.0.0.1', "),
        (lambda address: ("127.0.0.1", 1), "for both ('127.0.0.1', "),
    ):
        rows = await examine({**config, "address_remap": remap})
        (row,) = of(rows, "masters")
        assert row.finding.level == Level.PROBLEM
        assert said in row.finding.found
        assert one(rows, "connect")[0] == Level.SKIPPED


async def test_slots_without_a_master(own_cluster: Cluster, prefix: str) -> None:
    config = {"hosts": own_cluster.seeds, "cluster": True, "prefix": prefix}
    rows = await examine(config, "masters", "slots", "cluster", "reachable")
    assert worst(rows, "slots") == Level.OK
    for node in own_cluster.masters:
        node.ask("CLUSTER", "DELSLOTS", 0, 1, 2)
    own_cluster.wait(
        lambda: all(n.info("cluster_info")["cluster_state"] == "fail" for n in own_cluster.masters)
    )
    rows = await examine(config, "masters", "slots", "cluster", "reachable")
    assert "3 of 16,384 slots have no master" in of(rows, "slots")[0].finding.found
    assert {row.finding.level for row in of(rows, "cluster")} == {Level.PROBLEM}


def test_what_a_cluster_needs() -> None:
    assert "spublish" in commands(cluster=True)
    assert "spublish" not in commands(cluster=True, sharded=False)
    assert "blpop" not in commands(cluster=True)
    assert "cluster|slots" not in commands()
    assert "+ssubscribe" in acl_rules("asgi", cluster=True)
    assert "+select" not in acl_rules("asgi", cluster=True)


async def test_the_rules_are_enough(user: User) -> None:
    user.set(acl_rules(user.prefix, cluster=True))
    rows = await examine(
        user.config, "permissions", "connect", "groups", "promises", "plain-channels", "processes"
    )
    assert {row.finding.level for row in of(rows, "permissions")} <= {Level.OK, Level.INFO}
    for id in ("connect", "groups", "promises", "plain-channels", "processes"):
        assert worst(rows, id) == Level.OK, [row.as_json() for row in of(rows, id)]


NEW = sorted(set(commands(cluster=True)) - set(commands()))


@pytest.mark.parametrize("command", [each for each in NEW if each != "cluster|slots"])
async def test_a_missing_command_is_named(user: User, command: str) -> None:
    user.set(acl_rules(user.prefix, cluster=True), f"-{command}")
    rows = await examine(user.config, "masters", "permissions")
    named = [row for row in rows if row.finding.todo == f"ACL SETUSER {USER} +{command}"]
    assert len(named) == 3, [row.as_json() for row in of(rows, "permissions")]
    (use,) = [use for use in uses(cluster=True) if command in use.commands]
    assert named[0].finding.level == use.level
    assert use.what in named[0].finding.why


async def test_who_may_not_ask_for_the_masters(user: User) -> None:
    user.set(acl_rules(user.prefix, cluster=True), "-cluster|slots")
    (row,) = of(await examine(user.config, "settings", "masters"), "masters")
    assert (row.finding.level, row.finding.todo) == (
        Level.PROBLEM,
        f"ACL SETUSER {USER} +cluster|slots",
    )
