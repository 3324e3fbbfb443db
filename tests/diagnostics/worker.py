"""A worker process to look at: joins groups, answers requests, until its input ends.

    python -m tests.diagnostics.worker '{"groups": {"room-1": 3}, "send": "room-1", "promise": "p"}'

``groups``: how many channels join each; ``send``: a group that gets a message now and then;
``promise``: a name that is waited for; ``present``: how many are present in room-1. Prints a line
of JSON when it is ready: the names of its channels, and one for everything that it receives, unless
it is told to be ``quiet``: who reads only some of them has to, lest the pipe be full. Requests
(``{"type": "ask"}``) are answered with ``{"pid": ...}``, those of type "fail" with a failure, those
of type "slow" never.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.diagnostics.settings")


def say(value: Any) -> None:
    print(json.dumps(value, default=repr), flush=True)


async def work(told: dict[str, Any]) -> None:
    from channels.layers import get_channel_layer

    layer = get_channel_layer(told.get("layer", "default"))
    channels = []
    tasks = []

    async def receive(channel: str) -> None:
        while True:
            event = await layer.receive(channel)
            if "mpx_reply_to" in event and event["type"] == "ask":
                await layer.reply(event, {"pid": os.getpid(), "data": b"\x00"})
            elif "mpx_reply_to" in event and event["type"] == "fail":
                await layer.reply_error(event, "the consumer is not in the mood")
            if not told.get("quiet"):
                say({"received": {key: event[key] for key in event if key != "mpx_reply_to"}})

    async def send(group: str) -> None:
        while True:
            await layer.group_send(group, {"type": "tick"})
            await asyncio.sleep(0.01)

    async def wait(name: str) -> None:
        while True:
            say({"promised": await layer.promise(name)})

    for group, number in (told.get("groups") or {"room-1": 1}).items():
        for _ in range(number):
            channel = await layer.new_channel()
            await layer.group_add(group, channel)
            channels.append(channel)
            tasks.append(asyncio.create_task(receive(channel)))
    for number, channel in enumerate(channels[: told.get("present", 0)]):
        await layer.presence_join("room-1", channel, f"user-{number}")
    if told.get("send"):
        tasks.append(asyncio.create_task(send(told["send"])))
    if told.get("promise"):
        tasks.append(asyncio.create_task(wait(told["promise"])))
        await layer.group_size("room-1")  # a round trip later it is in force
    say({"channels": channels, "pid": os.getpid(), "process_id": layer.process_id})
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for task in tasks:
        task.cancel()
    await layer.close()


if __name__ == "__main__":
    django.setup()
    asyncio.run(work(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))
