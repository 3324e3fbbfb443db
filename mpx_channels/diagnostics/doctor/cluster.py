"""Check of Redis Cluster: what works there, and what does not."""

from __future__ import annotations

from .examination import Server
from .findings import Check, Finding, ServerCheck, ok, problem, warning
from .nodes import REACHED
from .probe import Forbidden

__all__ = ["CHECKS"]


async def check_cluster(server: Server) -> list[Finding]:
    """Whether the server is a node of a cluster, and how Pub/Sub travels in it."""
    try:
        in_cluster = (await server.info()).get("cluster_enabled") == "1"
    except Forbidden:
        in_cluster = (await server.hello()).get("mode") == "cluster"
    if not in_cluster:
        return [ok("not a cluster: one server carries all channels")]
    text = (await server.probe.ask("+cluster|info", "CLUSTER", "INFO")).decode()
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    nodes = int(facts.get("cluster_known_nodes", 1))
    findings = []
    if facts.get("cluster_state") != "ok":
        findings.append(
            problem(
                f"the cluster is down (cluster_state:{facts.get('cluster_state')}, "
                f"{facts.get('cluster_slots_assigned')} of 16384 slots assigned)",
                "Keys cannot be used, so plain channels fail; groups still work.",
                "See CLUSTER NODES and CLUSTER SLOTS: slots without a node, or a node that failed.",
            )
        )
    masters = int(facts.get("cluster_size", 0))
    if masters > 1 or nodes > 1:
        findings.append(
            warning(
                f"a cluster of {nodes} nodes, of which this layer uses this one",
                "Groups and promises work: every PUBLISH is sent to all nodes, so more nodes carry "
                "no more messages (the layer uses classic, not sharded Pub/Sub). The counts of "
                "receivers and silent processes are this node's alone. Plain channels whose key "
                "belongs to another node fail (MOVED).",
                "Give the layer a server of its own, without cluster mode.",
            )
        )
    return findings or [ok("a cluster of one node: all channels and keys are here")]


CHECKS: tuple[Check, ...] = (
    ServerCheck(
        "cluster",
        "Cluster",
        "In a cluster keys belong to nodes, and Pub/Sub is sent to all of them.",
        REACHED,
        run=check_cluster,
    ),
)
