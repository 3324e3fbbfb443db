"""Checks of Redis Cluster: what works there, and what does not."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.multiplexer.slots import SLOTS, slot_of
from mpx_channels.multiplexer.tls import host_and_port

from .examination import Check, Examination, ProjectCheck, Server, ServerCheck, not_shown
from .findings import Finding, info, ok, problem, skipped, warning
from .nodes import REACHED
from .probe import Forbidden

__all__ = ["CHECKS"]

# The first version of Redis that has sharded Pub/Sub; all versions of Valkey have it.
SHARDED_SINCE = 7
# Replicas, masters and addresses that are named at most.
NAMED = 5


async def check_cluster(server: Server) -> list[Finding]:
    """Whether the server is a node of a cluster, as CONFIG has it, and whether that is well."""
    try:
        facts = await server.info()
        in_cluster, version = facts.get("cluster_enabled") == "1", facts.get("redis_version", "")
    except Forbidden:
        facts = await server.hello()
        in_cluster, version = facts.get("mode") == "cluster", facts.get("version", "")
    config = server.config
    if not in_cluster:
        if config.cluster:
            return [
                problem(
                    f"{server.node} is no node of a cluster, and CONFIG has 'cluster': True",
                    todo="Name nodes of a cluster in hosts, or leave 'cluster' out of CONFIG.",
                )
            ]
        return [ok("not a cluster: one server carries all channels")]
    findings = []
    major = int((re.findall(r"\d+", version) or [SHARDED_SINCE])[0])
    if config.cluster and config.sharded_pubsub and major < SHARDED_SINCE:
        findings.append(
            problem(
                f"Redis {version} has no sharded Pub/Sub",
                "Groups are sharded channels, which Redis has from 7.0 on: nobody can subscribe.",
                "Upgrade the cluster, or set 'sharded_pubsub': False in CONFIG, in all processes.",
            )
        )
    try:
        state = await _state(server)
    except Forbidden as error:
        # What is known without is said all the same.
        findings.append(not_shown(error, server))
        state = {"cluster_state": "ok"}
    if state.get("cluster_state") != "ok":
        findings.append(
            problem(
                f"the cluster is down for this node (cluster_state:{state.get('cluster_state')}, "
                f"{state.get('cluster_slots_ok')} of {SLOTS:,} slots are well)",
                "It refuses commands: what is sent waits, and fails after backlog_timeout.",
                "See CLUSTER NODES there: slots without a node, a node that failed, or a network "
                "that keeps it from the others.",
            )
        )
    if not config.cluster:
        findings.append(_used_as_one(state))
    return findings or [ok(f"cluster_state:ok, {state.get('cluster_known_nodes')} nodes known")]


async def _state(server: Server) -> dict[str, str]:
    text = (await server.probe.ask("+cluster|info", "CLUSTER", "INFO")).decode()
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key: value for key, _, value in pairs}


def _used_as_one(state: dict[str, str]) -> Finding:
    """A node of a cluster whose users do not know that it is one."""
    nodes = state.get("cluster_known_nodes")
    others = f" of {nodes} nodes, of which this layer uses this one" if nodes else ""
    return warning(
        f"a cluster{' of one node' if nodes == '1' else others}",
        "Without 'cluster': True in CONFIG the layer takes it for a server like any other: every "
        "PUBLISH is sent to all nodes, counts of receivers are this node's alone, and plain "
        "channels and histories fail where a key belongs to another node.",
        "Set 'cluster': True in CONFIG, in all processes; hosts are its seeds then.",
    )


async def check_slots(exam: Examination) -> list[Finding]:
    """Whether every slot has a master that can be reached, and a replica behind that."""
    layout = exam.layout
    if layout is None:
        return []
    findings = []
    if layout.missing:
        findings.append(
            problem(
                f"{layout.missing:,} of {SLOTS:,} slots have no master",
                "What belongs there waits, and fails after backlog_timeout; by default the other "
                "slots are refused, too (cluster-require-full-coverage).",
                "redis-cli --cluster check, and --cluster fix, of any node.",
            )
        )
    away = [server for server in exam.servers if "reachable" in server.failed]
    seeds = {node.endpoint for node in exam.session.nodes()}
    announced = [each for each in away if each.node.endpoint not in seeds]
    if announced:
        findings.append(_unreachable(exam, announced))
    if alone := [each for each in layout.masters if not each.replicas]:
        findings.append(
            info(
                f"without a replica: {_listed(host_and_port(*each.address) for each in alone)}",
                "When such a master dies, its share of the groups is silent until it is back, and "
                "what is kept there may be lost.",
                "Add replicas (redis-cli --cluster add-node ... --cluster-slave) if that matters.",
            )
        )
    if not layout.missing and not announced:
        shares = [sum(map(len, each.slots)) for each in layout.masters]
        findings.insert(
            0, ok(f"all {SLOTS:,} have a master; each has {min(shares):,} to {max(shares):,}")
        )
    return findings


def _unreachable(exam: Examination, servers: list[Server]) -> Finding:
    """Nodes tell an address that is none for us: behind NAT, in containers, in tunnels."""
    assert exam.layout is not None
    assert exam.config is not None
    told = {each.address: each.announced for each in exam.layout.masters}
    listed = []
    for server in servers:
        address = server.node.endpoint
        via = "" if told[address] == address else f" (announced as {host_and_port(*told[address])})"
        listed.append(f"{host_and_port(*address)}{via}")
    remap = exam.config.address_remap is not None
    return problem(
        f"{len(servers)} of {len(exam.servers)} masters cannot be reached at the address that the "
        f"cluster has for them: {_listed(listed)}",
        "Their share of the groups is silent here. Nodes behind NAT, in containers or in a tunnel "
        "announce addresses that only they can reach.",
        "If they run: "
        + ("have address_remap in CONFIG return" if remap else "set address_remap in CONFIG to")
        + " addresses that this machine reaches, or cluster-announce-ip and cluster-announce-port "
        "of the nodes. Else start them.",
    )


async def check_partitions(exam: Examination) -> list[Finding]:
    """Whether the cluster has the number noted that CONFIG has."""
    config, layout = exam.config, exam.layout
    if config is None or layout is None:
        return []
    key = ClusterNames(config.prefix, config.partitions).partitions
    master = layout.owner(slot_of(key.encode()))
    there = [each for each in exam.servers if master and each.node.endpoint == master.address]
    if not there or not there[0].failed.keys().isdisjoint(("reachable", "login")):
        return [skipped(f"the master of the key {key!r}, where the number is noted, is away")]
    found = await there[0].probe.ask("+get", "GET", key)
    number = f"{config.partitions} partitions"
    if found is None:
        return [ok(f"{number}: no process of this prefix has noted its number yet")]
    noted = found.decode(errors="replace")
    if noted == str(config.partitions):
        return [ok(f"{number}, as all processes of this prefix")]
    return [
        problem(
            f"CONFIG has {number}, and the processes of the prefix {config.prefix!r} have {noted} "
            f"(noted in the key {key!r})",
            "A group would have another name here than there, so such a process refuses to start.",
            f"Set 'partitions': {noted} in CONFIG. To have {config.partitions} in all processes: "
            f"stop them, delete the key (redis-cli -c UNLINK '{key}'), and start them.",
        )
    ]


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


CHECKS: tuple[Check, ...] = (
    ServerCheck(
        "cluster",
        "Cluster",
        "In a cluster keys belong to nodes, and the layer has to know.",
        REACHED,
        run=check_cluster,
    ),
    ProjectCheck(
        "slots",
        "Cluster slots",
        "Every group, history and plain channel belongs to a slot.",
        run=check_slots,
    ),
    ProjectCheck(
        "partitions",
        "Partitions",
        "All processes of a prefix need the same number.",
        run=check_partitions,
    ),
)
