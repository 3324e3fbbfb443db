"""What a cluster costs, how it grows with its nodes, and what large ones need.

    python -m benchmarks.cluster [--runs N] [--only costs growth model returns] [--json]

- costs: CPU time of this process for a publish, a delivery and a join, over three masters and over
  one server, by turns.
- growth: publishes per second over 1, 2 and 3 masters, with sharded and with classic Pub/Sub, and
  what Redis' processes work for each. All of it shares this machine's cores.
- model: connections, commands after a restart and bytes between nodes, as computed and as counted
  here; then computed for 16 masters and 200 processes.
- returns: seconds until messages arrive again after a promotion, and after a restart of all nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings

from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.channels.partitions import DEFAULT_PARTITIONS
from mpx_channels.diagnostics.bench.contest import Ratio
from mpx_channels.layer import MpxChannelLayer
from tests.clusters import Cluster
from tests.conftest import RestartableServer

from .cluster_model import Setup, after_restart, bus_bytes, connections
from .cluster_returns import returns

MESSAGE = {"type": "bench.message", "text": "x" * 64}
BURST, READERS, JOINS = 200, 500, 2000
# Groups that growth publishes to: enough to be on all nodes.
GROUPS = 1024
# Seconds of a turn.
RUN = 1.0
# What of the model is counted here.
HERE = Setup(masters=3, replicas=1, processes=4, groups=1000)
LARGE = Setup(masters=16, replicas=1, processes=200, groups=5000)


@dataclass(slots=True)
class Cost:
    """CPU time of this process for a thing, over one server and over three masters."""

    title: str
    unit: str
    one: float
    three: float
    ratio: Ratio


@dataclass(slots=True)
class Growth:
    """Publishes per second, and what all nodes together work for one."""

    masters: int
    sharded: bool
    publishes: float
    redis_cpu: float  # microseconds


@dataclass(slots=True)
class Check:
    """A figure of the model: computed, and counted where it was."""

    what: str
    computed: float
    counted: float | None
    large: float


def layer_over(hosts: list[str], **config: Any) -> MpxChannelLayer:
    return MpxChannelLayer(hosts=hosts, prefix="bench", capacity=10_000, **config)


# -- costs ----------------------------------------------------------------------------------------


async def burst(layer: MpxChannelLayer) -> float:
    names = [f"nobody-{number}" for number in range(BURST)]
    await asyncio.gather(*[layer.group_send(name, MESSAGE) for name in names])
    started = time.process_time()
    await asyncio.gather(*[layer.group_send(name, MESSAGE) for name in names])
    return (time.process_time() - started) / BURST * 1e6


async def alone(layer: MpxChannelLayer) -> float:
    started = time.process_time()
    for _ in range(BURST):
        await layer.group_send("nobody", MESSAGE)
    return (time.process_time() - started) / BURST * 1e6


async def delivery(layer: MpxChannelLayer) -> float:
    channels = [await layer.new_channel() for _ in range(READERS)]
    for channel in channels:
        await layer.group_add("room", channel)
    started = time.process_time()
    for _ in range(20):
        await layer.group_send("room", MESSAGE)
    for channel in channels:
        for _ in range(20):
            await layer.receive(channel)
    took = time.process_time() - started
    for channel in channels:
        await layer.group_discard("room", channel)
    return took / (READERS * 20) * 1e6


async def join(layer: MpxChannelLayer) -> float:
    channel = await layer.new_channel()
    names = [f"join-{number}" for number in range(JOINS)]
    started = time.process_time()
    await asyncio.gather(*[layer.group_add(name, channel) for name in names])
    took = time.process_time() - started
    await asyncio.gather(*[layer.group_discard(name, channel) for name in names])
    await layer.flush()  # else they linger, and the next turn finds them subscribed
    return took / JOINS * 1e6


COSTS: tuple[tuple[str, Callable[[MpxChannelLayer], Awaitable[float]]], ...] = (
    ("a publish, 200 at once", burst),
    ("a publish, one after the other", alone),
    ("a delivery, to 500 consumers", delivery),
    ("a join, 2,000 groups at once", join),
)


async def costs(runs: int, one: list[str], three: list[str]) -> list[Cost]:
    layers = layer_over(one), layer_over(three, cluster=True)
    found = []
    for layer in layers:
        await layer.connect()
    for title, measure in COSTS:
        pairs = []
        for run in range(runs):
            progress(f"round {run + 1} of {runs}: {title}")
            figures = {}
            for each in (0, 1) if run % 2 else (1, 0):
                figures[each] = min([await measure(layers[each]) for _ in range(3)])
            pairs.append((figures[0], figures[1]))
        first, second = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = Ratio.of([b / a for a, b in pairs])
        found.append(Cost(title, "µs", first, second, ratio))
    for layer in layers:
        await layer.close()
    return found


# -- growth ---------------------------------------------------------------------------------------


def worked(cluster: Cluster) -> float:
    """Seconds of CPU that all nodes have taken."""
    total = 0.0
    for node in cluster.nodes:
        cpu = node.info("cpu")
        total += float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])
    return total


async def publishes(cluster: Cluster, *, sharded: bool) -> Growth:
    layer = layer_over(cluster.seeds, cluster=True, sharded_pubsub=sharded)
    await layer.connect()
    count, before, started = 0, worked(cluster), time.perf_counter()
    while time.perf_counter() < started + RUN:
        names = [f"nobody-{(count + number) % GROUPS}" for number in range(BURST)]
        await asyncio.gather(*[layer.group_send(name, MESSAGE) for name in names])
        count += BURST
    took = time.perf_counter() - started
    cpu = (worked(cluster) - before) / count * 1e6
    await layer.close()
    return Growth(len(cluster.masters), sharded, count / took, cpu)


def growth(runs: int) -> list[Growth]:
    found: list[Growth] = []
    for masters in (1, 2, 3):
        with Cluster(masters=masters) as cluster:
            for sharded in (True, False):
                turns = []
                for run in range(runs):
                    kind = "sharded" if sharded else "classic"
                    progress(f"round {run + 1} of {runs}: {masters} masters, {kind}")
                    turns.append(asyncio.run(publishes(cluster, sharded=sharded)))
                found.append(
                    Growth(
                        masters,
                        sharded,
                        statistics.median(each.publishes for each in turns),
                        statistics.median(each.redis_cpu for each in turns),
                    )
                )
    return found


# -- the model ------------------------------------------------------------------------------------


def counted(cluster: Cluster, ask: Callable[[redis.Redis], float]) -> float:
    total = 0.0
    for node in cluster.nodes:
        with node.client() as client:
            total += ask(client)
    return total


def clients(client: redis.Redis) -> float:
    """Connections of clients, without this one and those of replicas."""
    return sum(1 for each in client.client_list() if each["flags"] not in ("S", "M")) - 1


def ssubscribes(client: redis.Redis) -> float:
    stats: Any = client.info("commandstats")
    return float(stats.get("cmdstat_ssubscribe", {}).get("calls", 0))


def bytes_sent(client: redis.Redis) -> float:
    told: Any = client.execute_command("CLUSTER INFO")
    return float(told.get("cluster_stats_pubsub_bytes_sent", "nan"))


async def model() -> list[Check]:
    progress("counting what the model computes")
    with Cluster(masters=HERE.masters, replicas=HERE.replicas) as cluster:
        idle = counted(cluster, clients)
        layers = [layer_over(cluster.seeds[:1], cluster=True) for _ in range(HERE.processes)]
        for layer in layers:
            channel = await layer.new_channel()
            await asyncio.gather(
                *[layer.group_add(f"room-{n}", channel) for n in range(HERE.groups)]
            )
        await asyncio.sleep(1.0)  # who asked for the slots by itself has gone
        connected = counted(cluster, clients) - idle
        before = counted(cluster, ssubscribes)
        for node in cluster.masters:
            with node.client() as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.sleep(3.0)  # all links are back, and their names with them
        commands = counted(cluster, ssubscribes) - before
        sent = {}
        for sharded in (True, False):
            layer = layer_over(cluster.seeds[:1], cluster=True, sharded_pubsub=sharded)
            await layer.connect()
            before, number = counted(cluster, bytes_sent), 2000
            await asyncio.gather(*[layer.group_send("room-1", MESSAGE) for _ in range(number)])
            await asyncio.sleep(0.5)  # the bus has sent what it had to
            sent[sharded] = (counted(cluster, bytes_sent) - before) / number
            await layer.close()
        group = ClusterNames("bench", DEFAULT_PARTITIONS).group("room-1")
        size = len(group) + len(layers[0].wrapping.wrap(group, MESSAGE))
        for layer in layers:
            await layer.close()
    return [
        Check("connections", connections(HERE), connected, connections(LARGE)),
        Check(
            "SSUBSCRIBE after all links broke",
            after_restart(HERE),
            commands,
            after_restart(LARGE),
        ),
        *[
            Check(
                f"bytes between nodes, a publish, {'sharded' if sharded else 'classic'}",
                bus_bytes(HERE, size, sharded=sharded),
                sent[sharded],
                bus_bytes(LARGE, size, sharded=sharded),
            )
            for sharded in (True, False)
        ],
    ]


# -- output ---------------------------------------------------------------------------------------


def progress(what: str) -> None:
    print(f"{what:79}", file=sys.stderr, end="\r")


def print_all(found: dict[str, Any]) -> None:
    if "costs" in found:
        print(
            f"\n{'CPU of this process':34}{'one server':>12}{'3 masters':>12}"
            "   ratio (least to most)"
        )
        for each in found["costs"]:
            ratio = f"{each.ratio.median:.2f} ({each.ratio.least:.2f} to {each.ratio.most:.2f})"
            print(
                f"{each.title:34}{each.one:9.2f} {each.unit}{each.three:9.2f} {each.unit}   {ratio}"
            )
    if "growth" in found:
        print(f"\n{'Publishes':20}{'masters':>10}{'a second':>12}{'CPU of Redis, each':>22}")
        for each in found["growth"]:
            kind = "sharded" if each.sharded else "classic"
            print(f"{kind:20}{each.masters:>10}{each.publishes:12,.0f}{each.redis_cpu:19.2f} µs")
    if "model" in found:
        here, large = (
            f"{setup.masters} masters, {setup.processes} processes" for setup in (HERE, LARGE)
        )
        print(f"\n{'':44}{here:>26}{'':>12}{large:>28}")
        print(f"{'The model':44}{'computed':>14}{'counted':>12}{'':>12}{'computed':>28}")
        for each in found["model"]:
            print(f"{each.what:44}{each.computed:14,.0f}{each.counted:12,.0f}{each.large:40,.0f}")

    if "returns" in found:
        print(f"\n{'Until a message arrives again':50}{'median':>10}{'most':>10}")
        for each in found["returns"]:
            print(f"{each.what:50}{each.median:8.2f} s{each.most:8.2f} s")


def main() -> None:
    parts = ("costs", "growth", "model", "returns")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns")
    parser.add_argument("--only", nargs="*", choices=parts, default=parts, help="what to measure")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    if not settings.configured:
        settings.configure()
    logging.disable(logging.WARNING)
    found: dict[str, Any] = {}
    if "costs" in arguments.only:
        one = RestartableServer()
        one.start()
        with Cluster() as cluster:
            found["costs"] = asyncio.run(costs(arguments.runs, [one.url], cluster.seeds))
        one.kill()
    if "growth" in arguments.only:
        found["growth"] = growth(arguments.runs)
    if "model" in arguments.only:
        found["model"] = asyncio.run(model())
    if "returns" in arguments.only:
        found["returns"] = returns(arguments.runs, progress)
    progress("")
    if arguments.json:
        print(json.dumps(found, indent=2, default=dataclasses.asdict))
        return
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores; "
        f"{arguments.runs} runs, medians"
    )
    print_all(found)


if __name__ == "__main__":
    main()
