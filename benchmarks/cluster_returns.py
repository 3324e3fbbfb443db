"""How long until messages arrive again when a cluster has lost a master, or all of them."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.layer.clusters import names_for
from mpx_channels.multiplexer import MpxError
from tests.cluster_nodes import Node
from tests.clusters import Cluster

__all__ = ["Return", "returns"]

# Seconds between messages, and between looks whether the cluster is well again.
EVERY = 0.01


@dataclass(slots=True)
class Return:
    """Seconds from the moment when the servers serve again until a message arrives that was sent
    after it, by a process that does nothing else, to one that listens.
    """

    what: str
    median: float
    most: float


def _role(node: Node) -> bytes:
    with node.client() as client:
        answer: list[bytes] = client.execute_command("ROLE")
    return answer[0]


def _killed(cluster: Cluster, master: Node) -> Callable[[], bool]:
    replica = cluster.replica_of(master)
    cluster.kill(master)
    return lambda: _role(replica) in (b"master", "master")


def _demoted(cluster: Cluster, master: Node) -> Callable[[], bool]:
    replica = cluster.replica_of(master)
    replica.ask("CLUSTER", "FAILOVER")
    return lambda: _role(replica) in (b"master", "master")


def _restarted(cluster: Cluster, master: Node) -> Callable[[], bool]:
    for node in cluster.nodes:
        cluster.kill(node)
    for node in cluster.nodes:
        cluster.restart(node)
    return lambda: all(node.info("cluster_info")["cluster_state"] == "ok" for node in cluster.nodes)


CASES: dict[str, Callable[[Cluster, Node], Callable[[], bool]]] = {
    "a master is killed, from the promotion on": _killed,
    "a master is demoted, from the promotion on": _demoted,
    "all nodes restart, from CLUSTER INFO's ok on": _restarted,
}


async def _once(cluster: Cluster, happens: Callable[[Cluster, Node], Callable[[], bool]]) -> float:
    listens, sends = (
        MpxChannelLayer(hosts=cluster.seeds, cluster=True, prefix="bench") for _ in range(2)
    )
    channel = await listens.new_channel()
    await listens.group_add("room", channel)
    await sends.group_send("room", {"type": "x", "at": 0.0})
    await listens.receive(channel)

    async def send() -> None:
        with contextlib.suppress(MpxError):
            await sends.group_send("room", {"type": "x", "at": time.monotonic()})

    async def send_on() -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(send())
                await asyncio.sleep(EVERY)

    sending = asyncio.ensure_future(send_on())
    master = cluster.master_of(names_for(listens.config).group("room"))
    serves = await asyncio.to_thread(happens, cluster, master)

    def wait() -> float:
        while True:
            with contextlib.suppress(redis.RedisError):
                if serves():
                    return time.monotonic()
            time.sleep(EVERY)

    since = await asyncio.to_thread(wait)
    while (await listens.receive(channel))["at"] < since:
        pass
    took = time.monotonic() - since
    sending.cancel()
    await asyncio.wait([sending])
    await asyncio.gather(listens.close(), sends.close())
    return took


def returns(runs: int, progress: Callable[[str], None]) -> list[Return]:
    """Each in a new cluster of three masters with a replica each."""
    found = []
    for what, happens in CASES.items():
        took = []
        for run in range(runs):
            progress(f"round {run + 1} of {runs}: {what}")
            with Cluster(replicas=1) as cluster:
                took.append(asyncio.run(_once(cluster, happens)))
        found.append(Return(what, statistics.median(took), max(took)))
    return found
