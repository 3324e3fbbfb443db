"""A process with consumers to drain, until its input ends; each prints what it was closed with.

    python -m tests.diagnostics.drained '{"consumers": 5, "stays": 1}'

``stays``: how many clients do not answer a close until a line comes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import django

from .worker import say


async def serve(told: dict[str, Any]) -> None:
    from channels.layers import get_channel_layer

    from mpx_channels.generic.websocket import AsyncWebsocketConsumer
    from tests.consumers.socket import Socket

    async def client(socket: Socket, stays: bool) -> None:
        frame = await socket.next()
        if stays:
            await released.wait()
        socket.hang_up(frame["code"])
        await socket.ended()
        say({"closed": frame["code"]})

    released = asyncio.Event()
    sockets = [await Socket(AsyncWebsocketConsumer).connect() for _ in range(told["consumers"])]
    stays = told.get("stays", 0)
    clients = [
        asyncio.create_task(client(socket, number < stays)) for number, socket in enumerate(sockets)
    ]
    layer = get_channel_layer()
    say({"channels": [], "pid": os.getpid(), "process_id": layer.process_id})
    await asyncio.to_thread(sys.stdin.readline)
    released.set()
    await asyncio.to_thread(sys.stdin.read)
    for task in [*clients, *(socket.task for socket in sockets)]:
        task.cancel()
    await layer.close()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.diagnostics.settings")
    django.setup()
    asyncio.run(serve(json.loads(sys.argv[1])))
