"""Check of Redis Cluster: what works there, and what does not."""

from __future__ import annotations

from .examination import Check, Server, ServerCheck
from .findings import Finding, ok, problem, warning
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
    others = "of one node" if nodes == 1 else f"of {nodes} nodes, of which this layer uses this one"
    findings.append(
        warning(
            f"a cluster {others}",
            "Groups and promises work: every PUBLISH is sent to all nodes, so more nodes carry no "
            "more messages (the layer uses classic, not sharded Pub/Sub). The counts of receivers "
            "and of silent processes are this node's alone. Plain channels cannot be read (Redis "
            "refuses commands with keys of several slots), nor written where their key belongs to "
            "another node.",
            "Give the layer a server of its own, without cluster mode.",
        )
    )
    return findings


CHECKS: tuple[Check, ...] = (
    ServerCheck(
        "cluster",
        "Cluster",
        "In a cluster keys belong to nodes, and Pub/Sub is sent to all of them.",
        REACHED,
        run=check_cluster,
    ),
)
