"""`layer.sync`: the layer for synchronous code."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation

from mpx_channels.layer import (
    MpxChannelLayer,
    PromiseRejected,
    RequestFailed,
    UnserializableMessage,
)
from tests.conftest import eventually

from .conftest import MakeLayer


async def in_thread(function: Any, *arguments: Any, **options: Any) -> Any:
    """Run in a thread that knows of no event loop."""
    with ThreadPoolExecutor(1) as executor:
        return await asyncio.wrap_future(executor.submit(function, *arguments, **options))


@pytest.mark.everywhere
async def test_sending(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    sync = other_layer.sync
    await in_thread(sync.send, channel, {"type": "one"})
    await in_thread(sync.group_send, "room", {"type": "two"})
    await in_thread(sync.group_send_many, [("room", {"type": "three"})])
    await in_thread(sync.group_broadcast, "room", "four")
    await in_thread(sync.group_send, "room", {"type": "not.for.you"}, exclude=[channel])
    await in_thread(sync.send, channel, {"type": "last"})
    got = [await layer.receive(channel) for _ in range(5)]
    assert got == [
        {"type": "one"},
        {"type": "two"},
        {"type": "three"},
        {"type": "mpx.broadcast", "text": "four"},
        {"type": "last"},
    ]


@pytest.mark.everywhere
async def test_asking(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    promise = await layer.new_promise("order-42", timeout=10)
    assert await in_thread(other_layer.sync.resolve, "order-42", [1]) == 1
    assert await promise == [1]
    assert await in_thread(other_layer.sync.reject, "order-42", "no") == 0

    channel = await layer.new_channel()
    asked = asyncio.create_task(in_thread(other_layer.sync.request, channel, {"type": "make"}))
    await layer.reply(await layer.receive(channel), "made")
    assert await asked == "made"
    with pytest.raises(RequestFailed):
        await in_thread(
            other_layer.sync.request, channel.partition("!")[0] + "!x", {"type": "make"}
        )


async def test_many_threads_share_a_connection(
    make_layer: MakeLayer, layer: MpxChannelLayer, redis_url: str, client: Any
) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    sender = make_layer(hosts=[{"address": redis_url, "client_name": "many-threads"}])

    def send(number: int) -> None:
        for _ in range(10):
            sender.sync.group_send("room", {"type": "x", "n": number})

    threads = [threading.Thread(target=send, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    names = [entry["name"] for entry in client.client_list()]
    assert 1 <= names.count("many-threads") <= 2
    got = [(await layer.receive(channel))["n"] for _ in range(100)]
    assert sorted(got) == sorted([*range(10)] * 10)


async def test_not_in_an_event_loops_thread(layer: MpxChannelLayer) -> None:
    with pytest.raises(SynchronousOnlyOperation, match="await the layer's own methods"):
        layer.sync.group_send("room", {"type": "x"})


async def test_errors_come_back(layer: MpxChannelLayer) -> None:
    with pytest.raises(UnserializableMessage):
        await in_thread(layer.sync.group_send, "room", {"type": "x", "bad": object()})
    with pytest.raises(TypeError, match="Group name"):
        await in_thread(layer.sync.group_send, "two words", {"type": "x"})


ON_COMMIT = """
import json, sys
from django.conf import settings
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.configure(DATABASES={"default": SQLITE})
import django
django.setup()
from django.db import transaction
from mpx_channels.layer import MpxChannelLayer

layer = MpxChannelLayer(**json.loads(sys.argv[1]), prefix=sys.argv[2])
try:
    with transaction.atomic():
        layer.sync.group_send("room", {"type": "rolled.back"}, on_commit=True)
        raise KeyError
except KeyError:
    pass
message = {"type": "committed"}
with transaction.atomic():
    layer.sync.group_send("room", message, on_commit=True)
    message["type"] = "changed.afterwards"
    excluded = []
    layer.sync.group_send("room", {"type": "to.all"}, exclude=excluded, on_commit=True)
    excluded.append(sys.argv[3])
    layer.sync.group_send("room", {"type": "at.once"})
    try:
        layer.sync.group_send("room", {"type": "x", "bad": object()}, on_commit=True)
    except TypeError:
        layer.sync.group_send("room", {"type": "checked.at.the.call"})
    try:
        layer.sync.group_send("room", {"type": "x"}, exclude="channel", on_commit=True)
    except TypeError:
        layer.sync.group_send("room", {"type": "and.its.exclude"})
try:
    with transaction.atomic():
        layer.sync.resolve("order-42", "rolled back", on_commit=True)
        layer.sync.group_close("members", 4001, on_commit=True)
        raise KeyError
except KeyError:
    pass
with transaction.atomic():
    value = ["committed"]
    assert layer.sync.resolve("order-42", value, on_commit=True) is None
    value.append("changed afterwards")
    assert layer.sync.reject("order-43", "sold out", on_commit=True) is None
    assert layer.sync.group_close("members", 4002, on_commit=True) is None
    try:
        layer.sync.resolve("two words", 1, on_commit=True)
    except TypeError:
        layer.sync.group_send("room", {"type": "a.bad.name"}, on_commit=True)
layer.sync.group_send("room", {"type": "no.transaction"}, on_commit=True)
"""

FORK = """
import json, os, sys
from django.conf import settings
settings.configure()
from asgiref.sync import async_to_sync
from mpx_channels.layer import MpxChannelLayer

layer = MpxChannelLayer(**json.loads(sys.argv[1]), prefix=sys.argv[2])
layer.sync.group_send("room", {"type": "parent", "n": 0})
children = []
for number in range(3):
    pid = os.fork()
    if pid == 0:
        for _ in range(20):
            layer.sync.group_send("room", {"type": "child", "n": number})
            async_to_sync(layer.group_send)("room", {"type": "child", "n": number})
        sys.exit(0)
    children.append(pid)
for _ in range(20):
    layer.sync.group_send("room", {"type": "parent", "n": 1})
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
layer.sync.group_send("room", {"type": "parent", "n": 2})
"""


async def run(code: str, *arguments: str) -> None:
    """Run a program in a process of its own; it has to end well and say nothing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert (process.returncode, output.decode()) == (0, "")


async def test_on_commit(layer: MpxChannelLayer, layer_json: str, prefix: str) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    member = await layer.open_channel()
    member.closable = True
    await layer.group_add("members", member.channel)
    resolved, rejected = await layer.new_promise("order-42"), await layer.new_promise("order-43")
    await run(ON_COMMIT, layer_json, prefix, channel)
    assert await resolved == ["committed"]
    with pytest.raises(PromiseRejected, match="sold out"):
        await rejected
    assert (await member.get())["code"] == 4002
    got = [(await layer.receive(channel))["type"] for _ in range(7)]
    assert got == [
        "at.once",
        "checked.at.the.call",
        "and.its.exclude",
        "committed",
        "to.all",
        "a.bad.name",
        "no.transaction",
    ]
    assert layer.stats().unread == 0


@pytest.mark.everywhere
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
async def test_children_of_a_fork_have_connections_of_their_own(
    make_layer: MakeLayer, layer_json: str, prefix: str
) -> None:
    layer = make_layer(capacity=1000)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await run(FORK, layer_json, prefix)
    await eventually(lambda: layer.stats().unread == 22 + 3 * 40)
