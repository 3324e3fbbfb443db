"""Two real processes talk; sync callers come and go."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from mpx_channels.layer import MpxChannelLayer
from tests.conftest import eventually
from tests.inside import hubs_of
from tests.over import Outside

from .conftest import MakeLayer

ECHO = """
import asyncio, json, logging, sys
logging.getLogger("asyncio").setLevel(logging.ERROR)  # a busy machine's slow callbacks aside
from django.conf import settings
settings.configure()
from mpx_channels.layer import MpxChannelLayer

async def main(config, prefix):
    layer = MpxChannelLayer(**json.loads(config), prefix=prefix)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    print(channel, flush=True)
    while True:
        message = await layer.receive(channel)
        if message["type"] == "stop":
            break
        await layer.group_send("answers", {"type": "answer", "to": message})
    await layer.close()

asyncio.run(main(*sys.argv[1:]), debug=True)
"""


@pytest.mark.everywhere
async def test_two_processes_talk(layer: MpxChannelLayer, layer_json: str, prefix: str) -> None:
    mine = await layer.new_channel()
    await layer.group_add("answers", mine)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", ECHO, layer_json, prefix,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    theirs = (await process.stdout.readline()).decode().strip()
    await layer.group_send("room", {"type": "to.group"})
    assert await layer.receive(mine) == {"type": "answer", "to": {"type": "to.group"}}
    await layer.send(theirs, {"type": "to.channel"})
    assert await layer.receive(mine) == {"type": "answer", "to": {"type": "to.channel"}}
    await layer.send(theirs, {"type": "stop"})
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    # The process is gone, and its membership with it.
    await layer.send(theirs, {"type": "nobody.there"})
    assert layer.stats().drops["unroutable"] == 1


async def test_sync_code_sends_and_leaves_nothing_behind(
    make_layer: MakeLayer, layer: MpxChannelLayer, redis_url: str, client: Any
) -> None:
    mine = await layer.new_channel()
    await layer.group_add("room", mine)
    sender = make_layer(hosts=[{"address": redis_url, "client_name": "sync-sender"}])

    def connections() -> int:
        return [entry["name"] for entry in client.client_list()].count("sync-sender")

    def send() -> None:
        for number in range(50):
            async_to_sync(sender.group_send)("room", {"type": "x", "n": number})
            assert connections() <= 2

    # A thread that was not started by asgiref has no loop to go back to.
    with ThreadPoolExecutor(1) as executor:
        await asyncio.wrap_future(executor.submit(send))
    assert [(await layer.receive(mine))["n"] for _ in range(50)] == list(range(50))
    await sender.close()
    await eventually(lambda: connections() == 0)


@pytest.mark.everywhere
async def test_event_loops_in_other_threads(layer: MpxChannelLayer) -> None:
    """Each loop has a hub of its own, and all hear each other."""
    mine = await layer.new_channel()
    await layer.group_add("answers", mine)
    ready = threading.Event()

    async def echo() -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        ready.set()
        message = await layer.receive(channel)
        await layer.group_send("answers", {"type": "answer", "to": message})

    thread = threading.Thread(target=lambda: asyncio.run(echo()))
    thread.start()
    await asyncio.to_thread(ready.wait, 10)
    await layer.group_send("room", {"type": "x"})
    assert await layer.receive(mine) == {"type": "answer", "to": {"type": "x"}}
    await asyncio.to_thread(thread.join)


@pytest.mark.everywhere
def test_a_loop_per_call_leaves_no_warning(layer_config: dict[str, Any], prefix: str) -> None:
    """A layer made at import time, used by one `asyncio.run` after the other, never closed."""
    layer = MpxChannelLayer(**layer_config, prefix=prefix)

    async def use() -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "x"})
        assert await layer.receive(channel) == {"type": "x"}

    for _ in range(3):
        asyncio.run(use(), debug=True)
        gc.collect()
    assert not hubs_of(layer)


BARE_LOOPS = """
import asyncio, gc, json, logging, sys
logging.getLogger("asyncio").setLevel(logging.ERROR)  # a busy machine's slow callbacks aside
from django.conf import settings
settings.configure()
from mpx_channels.layer import MpxChannelLayer

layer = MpxChannelLayer(**json.loads(sys.argv[1]), prefix=sys.argv[2])

async def use():
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}

for _ in range(3):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    assert "close" not in vars(loop), "the loop was patched"
    loop.close()
    gc.collect()
"""


async def test_a_loop_that_is_just_closed_leaves_no_warning(
    layer_json: str, prefix: str, outside: Outside
) -> None:
    def connections() -> int:
        return sum(len(node.client_list()) for node in outside.nodes)

    before = connections()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-W", "error", "-c", BARE_LOOPS, layer_json, prefix,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert (process.returncode, output.decode()) == (0, "")
    await eventually(lambda: connections() <= before)


def test_uvloop(layer_config: dict[str, Any], prefix: str) -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    layer = MpxChannelLayer(**layer_config, prefix=prefix)

    async def use() -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await asyncio.gather(*[layer.group_send("room", {"type": "x"}) for _ in range(50)])
        for _ in range(50):
            assert await layer.receive(channel) == {"type": "x"}
        await layer.send("jobs", {"type": "plain"})
        assert await layer.receive("jobs") == {"type": "plain"}

    for _ in range(2):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop, debug=True) as runner:
            runner.run(use())
        gc.collect()
