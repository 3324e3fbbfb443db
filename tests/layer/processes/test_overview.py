"""fleet_stats, group_size, and flush in all processes."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import SynchronousOnlyOperation

from mpx_channels.layer import (
    ClusterStats,
    ConnectionLost,
    FleetStats,
    MpxChannelLayer,
    NotConnected,
)
from mpx_channels.messages.wrapping import Wrapping
from mpx_channels.multiplexer import Multiplexer
from tests.conftest import RestartableServer, eventually
from tests.inside import names_of
from tests.layer.conftest import MakeLayer
from tests.over import CLUSTER, Outside
from tests.proxy import Proxy

PROCESS = """
import asyncio, json, os, sys
from django.conf import settings
settings.configure()
from mpx_channels.layer import MpxChannelLayer

async def main(config, prefix):
    layer = MpxChannelLayer(**json.loads(config), prefix=prefix)
    await layer.group_add("room", await layer.new_channel())
    print(json.dumps([os.getpid(), layer.process_id]), flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""

StartProcess = Callable[[], Any]


@pytest.fixture
async def start_process(layer_json: str, prefix: str) -> AsyncIterator[StartProcess]:
    """Starts processes with a member of "room" each; returns their pid and process id."""
    started = []

    async def start() -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, layer_json, prefix, stdout=asyncio.subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        pid, process_id = json.loads(await process.stdout.readline())
        return pid, process_id

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def join(layer: MpxChannelLayer, group: str, number: int = 1) -> list[str]:
    channels = [await layer.new_channel() for _ in range(number)]
    for channel in channels:
        await layer.group_add(group, channel)
    return channels


# -- what it tells --------------------------------------------------------------------------------


@pytest.mark.everywhere(classic=True)
async def test_what_a_process_tells(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    (channel, _) = await join(layer, "room", 2)
    await layer.group_add("other", channel)
    promise = await layer.new_promise("order")
    await layer.group_send("room", {"type": "x"})
    await eventually(lambda: layer.stats().unread == 2)
    await other_layer.connect()
    stats = await other_layer.fleet_stats()
    assert len(stats.processes) == 2
    (process,) = [each for each in stats.processes if each.process_id == layer.process_id]
    assert (process.pid, process.silent) == (os.getpid(), False)
    assert process.host
    assert (process.consumers, process.groups, process.memberships) == (2, 2, 3)
    assert (process.promises, process.unread, process.deliveries) == (1, 2, 2)
    assert (process.messages_in, process.messages_out) == (1, 1)
    assert process.started is not None
    assert process.connected_since is not None
    assert process.at is not None
    assert process.started <= process.at <= stats.at
    assert process.round_trip is not None
    assert (process.dropped, process.gaps, process.reconnects) == (0, 0, 0)
    assert dict(stats.groups) == {"room": 2, "other": 1}
    assert stats.incomplete == {}
    promise.cancel()


async def test_questions_are_no_traffic(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    await join(layer, "room")
    for _ in range(3):
        stats = await other_layer.fleet_stats()
        await other_layer.group_size("room")
    (process,) = [each for each in stats.processes if each.process_id == layer.process_id]
    assert (process.messages_in, process.messages_out, process.dropped) == (0, 0, 0)


@pytest.mark.everywhere
async def test_groups_are_counted_in_all_processes(make_layer: MakeLayer) -> None:
    layers = [make_layer() for _ in range(3)]
    for number, layer in enumerate(layers):
        await join(layer, "room", number + 1)
        await join(layer, f"only-{number}")
    # Nowhere among the largest, but large in all.
    stats = await layers[0].fleet_stats(groups=2)
    assert dict(stats.groups) == {"room": 6, "only-0": 1}
    assert await layers[0].group_size("room") == 6
    assert await layers[0].group_size("only-2") == 1
    assert await layers[0].group_size("nobody") == 0
    assert (await layers[0].fleet_stats(groups=0)).groups == {}


async def test_a_group_that_is_small_in_a_process_is_counted_there_too(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    await join(layer, "room", 5)
    await join(layer, "lobby", 4)
    await join(other_layer, "lobby", 3)
    await join(other_layer, "room", 1)
    assert dict((await layer.fleet_stats(groups=1)).groups) == {"lobby": 7}


@pytest.mark.everywhere
async def test_queues(layer: MpxChannelLayer, outside: Outside, prefix: str) -> None:
    for channel, number in (("thumbnails", 3), ("mails", 1)):
        for _ in range(number):
            await layer.send(channel, {"type": "x"})
    foreign = f"{prefix}:q:q:of-a-layer-whose-prefix-begins-with-ours"
    outside.at(foreign).lpush(foreign, b"x")
    stats = await layer.fleet_stats()
    assert dict(stats.queues) == {"thumbnails": 3, "mails": 1}
    assert (await layer.fleet_stats(queues=False)).queues == {}
    foreign = names_of(layer).queue("somebody-elses")
    outside.at(foreign).set(foreign, b"no list")
    assert "WRONGTYPE" in (await layer.fleet_stats()).incomplete["queues"]


async def test_a_server_full_of_keys_is_not_searched_for_ever(
    layer: MpxChannelLayer, outside: Outside, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpx_channels.layer.processes.overview.SCAN_PATIENCE", 0.0)
    tagged = f"{{{prefix}}}"  # for one node, in a cluster
    with outside.at(tagged).pipeline() as pipeline:
        for number in range(2000):
            pipeline.set(f"{tagged}-other-{number}", b"", ex=60)
        pipeline.execute()
    assert "not all keys" in (await layer.fleet_stats()).incomplete["queues"]


async def test_every_event_loop_is_an_entry(layer: MpxChannelLayer) -> None:
    await layer.connect()
    process_ids = []

    async def in_a_loop_of_its_own() -> None:
        await layer.connect()
        process_ids.append(layer.process_id)
        ready.set()
        await asyncio.to_thread(done.wait)
        await layer.close()

    ready, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=asyncio.run, args=(in_a_loop_of_its_own(),))
    thread.start()
    try:
        await asyncio.to_thread(ready.wait)
        stats = await layer.fleet_stats()
    finally:
        done.set()
        await asyncio.to_thread(thread.join)
    assert {each.process_id for each in stats.processes} == {layer.process_id, *process_ids}
    assert {each.pid for each in stats.processes} == {os.getpid()}


async def test_wrong_arguments(layer: MpxChannelLayer) -> None:
    with pytest.raises(ValueError, match="groups must be a whole number from 0 up, not -1"):
        await layer.fleet_stats(groups=-1)
    with pytest.raises(TypeError, match="Group name"):
        await layer.group_size("two words")


# -- configurations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"serializer_format": "json"},
        {"symmetric_encryption_keys": ["a secret"]},
        {"max_message_size": 1024},
        {"serializer_format": "json", "symmetric_encryption_keys": ["k"], "max_message_size": 1024},
    ],
    ids=str,
)
async def test_configurations(make_layer: MakeLayer, config: dict[str, Any]) -> None:
    layer, other = make_layer(**config), make_layer(**config)
    channel = await layer.new_channel()
    groups = [f"{number:03}-{'x' * 90}" for number in range(100)]
    for group in groups:
        await layer.group_add(group, channel)
    await join(other, groups[7], 2)
    stats = await other.fleet_stats(groups=100)
    assert [each.silent for each in stats.processes] == [False, False]
    assert len(stats.groups) == 100
    assert next(iter(stats.groups.items())) == (groups[7], 3)


async def test_other_keys_are_other_layers(make_layer: MakeLayer) -> None:
    """Who has another key can not be asked, and is not asked what it holds; but it is seen."""
    layer = make_layer(symmetric_encryption_keys=["one"])
    other = make_layer(symmetric_encryption_keys=["another"])
    await join(layer, "room")
    await join(other, "room")
    stats = await layer.fleet_stats()
    assert {each.process_id: each.silent for each in stats.processes} == {
        layer.process_id: False,
        other.process_id: True,
    }
    assert stats.groups == {"room": 1}


# -- from synchronous code ------------------------------------------------------------------------


async def test_from_synchronous_code(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    await join(layer, "room", 2)
    with ThreadPoolExecutor(1) as executor:

        async def call(function: Any, *arguments: Any, **options: Any) -> Any:
            return await asyncio.wrap_future(executor.submit(function, *arguments, **options))

        assert await call(other_layer.sync.group_size, "room") == 2
        stats = await call(other_layer.sync.fleet_stats, groups=5)
        assert stats.groups == {"room": 2}
        assert layer.process_id in {each.process_id for each in stats.processes}
        assert await call(async_to_sync(other_layer.group_size), "room") == 2
        stats = await call(async_to_sync(other_layer.fleet_stats), groups=5)
        assert stats.groups == {"room": 2}
    with pytest.raises(SynchronousOnlyOperation):
        layer.sync.group_size("room")


# -- processes in trouble -------------------------------------------------------------------------


async def test_a_paused_process_is_silent(
    layer: MpxChannelLayer, start_process: StartProcess
) -> None:
    pid, process_id = await start_process()
    await join(layer, "room")
    assert await layer.group_size("room") == 2
    os.kill(pid, signal.SIGSTOP)
    try:
        stats = await layer.fleet_stats()
        answered, silent = stats.processes
        assert (answered.process_id, answered.silent) == (layer.process_id, False)
        assert (silent.process_id, silent.pid, silent.silent) == (process_id, pid, True)
        assert silent.host == answered.host
        assert silent.started is None
        assert stats.groups == {"room": 1}
    finally:
        os.kill(pid, signal.SIGCONT)
    # It answers the first question now, too late, which does not harm the next ones.
    stats = await layer.fleet_stats()
    assert [each.silent for each in stats.processes] == [False, False]
    assert stats.groups == {"room": 2}


async def test_a_killed_process_disappears(
    layer: MpxChannelLayer, start_process: StartProcess
) -> None:
    pid, process_id = await start_process()
    await layer.connect()
    assert process_id in {each.process_id for each in (await layer.fleet_stats()).processes}
    os.kill(pid, signal.SIGKILL)
    while len(stats := (await layer.fleet_stats()).processes) > 1:
        pass
    assert stats[0].process_id == layer.process_id
    assert await layer.group_size("room") == 0


async def test_who_begins_after_the_question_is_not_silent(
    make_layer: MakeLayer, layer: MpxChannelLayer, start_process: StartProcess
) -> None:
    pid, process_id = await start_process()
    await layer.connect()
    os.kill(pid, signal.SIGSTOP)
    look = asyncio.create_task(layer.fleet_stats())
    await asyncio.sleep(0.2)  # the question has left, and the silent one is waited for
    assert not look.done()
    late = make_layer()
    await late.connect()
    silent = {each.process_id: each.silent for each in (await look).processes}
    assert silent == {layer.process_id: False, late.process_id: False, process_id: True}


async def test_the_link_breaks_meanwhile(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url], backlog_timeout=0.2)
    await layer.connect()
    proxy.to_client.freeze()
    looks = [layer.fleet_stats(), layer.group_size("room"), layer.flush()]
    tasks = [asyncio.create_task(look) for look in looks]
    await asyncio.sleep(0.05)
    proxy.cut()
    for task in tasks:
        with pytest.raises((ConnectionLost, NotConnected)):
            await task


async def test_the_link_that_answers_come_by_breaks_meanwhile(
    make_layer: MakeLayer, redis_url: str, prefix: str, client: Any
) -> None:
    layer = make_layer(hosts=[{"address": redis_url, "client_name": prefix}])
    await layer.connect()
    async with Multiplexer(redis_url) as multiplexer:
        subscription = multiplexer.new_channel_subscription(lambda name, data: asked.set())
        subscription.add(f"{prefix}:c:")
        await subscription.wait_for_activation(f"{prefix}:c:")
        for look in (layer.fleet_stats, functools.partial(layer.group_size, "room"), layer.flush):
            await layer.connect()
            asked = asyncio.Event()
            task = asyncio.create_task(look())  # whoever waits for that subscriber's answer
            await asked.wait()
            for each in client.client_list(_type="pubsub"):
                if each["name"] == prefix:
                    client.client_kill_filter(_id=each["id"])
            with pytest.raises(ConnectionLost):
                await task


async def test_no_server(make_layer: MakeLayer, restartable_server: RestartableServer) -> None:
    layer = make_layer(hosts=[restartable_server.url], connect_timeout=0.2)
    with pytest.raises(NotConnected):
        await layer.fleet_stats()
    restartable_server.start()
    await layer.connect(10)
    assert len((await layer.fleet_stats()).processes) == 1


# -- other versions, and what is not ours ---------------------------------------------------------


@asynccontextmanager
async def answering(
    redis_url: str, prefix: str, answer: dict[str, Any], *, times: int = 1
) -> AsyncIterator[None]:
    """A process that answers every question with this."""
    wrapping = Wrapping()
    control = f"{prefix}:c:"

    def on_message(name: str, data: bytes) -> None:
        header, _ = wrapping.unwrap(name, data)
        inbox = f"{prefix}:p:{header['by']}"
        for _ in range(times):
            data = wrapping.wrap(inbox, answer, {"re": header["id"]})
            multiplexer.publish_soon(inbox, data)

    async with Multiplexer(redis_url) as multiplexer:
        subscription = multiplexer.new_channel_subscription(on_message)
        subscription.add(control, f"{control}{'f' * 16}:4711:elsewhere")
        await subscription.wait_for_activation(control)
        yield


async def test_answers_of_another_version(
    layer: MpxChannelLayer, redis_url: str, prefix: str
) -> None:
    told = {
        "process_id": "f" * 16,
        "host": "else\x1bwhere",
        "pid": "4711",
        "silent": True,
        "started": "yesterday",
        "connected_since": float("nan"),
        "consumers": 3,
        "groups": -1,
        "promises": True,
        "drops": {"full": 2, "gone": "many", 3: 3},
        "round_trip": 1,
        "from_the_future": [1],
    }
    answer = {"value": {"process": told, "groups": {"room": 3, "bad": "4", "neg": -1}, "new": 1}}
    await layer.connect()
    async with answering(redis_url, prefix, answer, times=2):
        stats = await layer.fleet_stats()
        (other,) = [each for each in stats.processes if each.process_id == "f" * 16]
        assert (other.host, other.pid, other.silent) == ("else?where", 0, False)
        assert (other.started, other.connected_since, other.round_trip) == (None, None, 1)
        assert (other.consumers, other.groups, other.promises) == (3, 0, 0)
        assert other.drops == {"full": 2}
        assert len(stats.processes) == 2
        json.dumps([each.to_answer() for each in stats.processes])


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "nobody knows here how to do 'stats'"},
        {},
        {"value": None},
        {"value": [1]},
        {"value": {"process": None}},
        {"value": {"process": {"pid": 1}}},
        {"value": {"process": {"process_id": 3}}},
    ],
    ids=str,
)
async def test_answers_that_say_nothing(
    layer: MpxChannelLayer, redis_url: str, prefix: str, answer: dict[str, Any]
) -> None:
    await join(layer, "room")
    async with answering(redis_url, prefix, answer):
        stats = await layer.fleet_stats()
        ours, other = stats.processes
        assert ours.process_id == layer.process_id
        assert (other.silent, other.host, other.pid) == (True, "elsewhere", 4711)
        assert stats.groups == {"room": 1}
        assert await layer.group_size("room") == 1
        await layer.flush()


async def test_questions_that_are_none(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, outside: Outside, prefix: str
) -> None:
    await join(layer, "room")
    await other_layer.connect()
    wrapping, control = Wrapping(), f"{prefix}:c:"
    by = {"by": other_layer.process_id, "id": 999}
    for data in (
        b"rubbish",
        b"",
        wrapping.wrap(control, {"do": "stats"}),
        wrapping.wrap(control, {"do": "stats"}, {"by": "?"}),
        wrapping.seal(control, b"\xc1", by),
        wrapping.wrap(control, {}, by),
        wrapping.wrap(control, {"do": ["flush"]}, by),
        wrapping.wrap(control, {"do": "from.the.future"}, by),
        wrapping.wrap(control, {"do": "stats", "groups": "many"}, by),
        wrapping.wrap(control, {"do": "stats", "groups": 10**12}, by),
        wrapping.wrap(control, {"do": "group_sizes"}, by),
        wrapping.wrap(control, {"do": "group_sizes", "groups": [3, None]}, by),
    ):
        outside.publish(control, data)
    await eventually(lambda: layer.stats().drops["unreadable"] == 3)
    stats = await other_layer.fleet_stats()
    assert [each.silent for each in stats.processes] == [False, False]
    assert stats.groups == {"room": 1}
    (process,) = [each for each in stats.processes if each.process_id == layer.process_id]
    assert process.drops["unreadable"] == 3


async def test_names_that_no_process_is_alive_by(
    layer: MpxChannelLayer, redis_url: str, prefix: str
) -> None:
    await layer.connect()
    async with Multiplexer(redis_url) as multiplexer:
        subscription = multiplexer.new_channel_subscription(lambda name, data: None)
        names = [
            f"{prefix}:c:",  # so that somebody does not answer
            f"{prefix}:c:g:room",
            f"{prefix}:c:c:{'1' * 16}:host",
            f"{prefix}:c:{'f' * 16}:x:host",
            f"{prefix}:c:{'f' * 16}",
            f"{prefix}:c:{'e' * 16}:1:\udcff\x1b[2J",
        ]
        subscription.add(*names)
        for name in names:
            await subscription.wait_for_activation(name)
        stats = await layer.fleet_stats()
    assert len(stats.processes) == 2
    assert "\x1b" not in stats.processes[1].host


# -- an ACL ---------------------------------------------------------------------------------------


async def test_an_acl_that_allows_messages_only(
    make_layer: MakeLayer, layer: MpxChannelLayer, client: Any, prefix: str, redis_url: str
) -> None:
    client.acl_setuser(
        prefix,
        enabled=True,
        passwords=["+secret"],
        reset_channels=True,
        channels=[f"{prefix}:*"],
        commands=["-@all", "+subscribe", "+unsubscribe", "+publish", "+ping"],
    )
    try:
        url = redis_url.replace("://", f"://{prefix}:secret@")
        restricted = make_layer(hosts=[url])
        await join(restricted, "room")
        await join(layer, "room")
        stats = await restricted.fleet_stats()
        assert len(stats.processes) == 2
        assert stats.groups == {"room": 2}
        assert "queues" in stats.incomplete
        assert "silent" not in stats.incomplete
        async with answering(redis_url, prefix, {}):
            stats = await restricted.fleet_stats()
        assert len(stats.processes) == 2
        assert "1 did not answer" in stats.incomplete["silent"]
    finally:
        client.acl_deluser(prefix)


# -- flush ----------------------------------------------------------------------------------------


@pytest.mark.everywhere(classic=True)
async def test_flush_reaches_every_process(
    layer: MpxChannelLayer,
    other_layer: MpxChannelLayer,
    outside: Outside,
    prefix: str,
    topology: str,
) -> None:
    (channel,) = await join(layer, "room")
    await join(other_layer, "room")
    await other_layer.group_add("lobby", channel)
    await layer.send("jobs", {"type": "x"})
    await layer.group_send("room", {"type": "x"})
    await eventually(lambda: layer.stats().unread == 1)
    await other_layer.flush()
    assert layer.stats().unread == layer.stats().groups == layer.stats().memberships == 0
    assert await layer.group_size("room") == 0

    def names() -> set[str]:
        return outside.channels(f"{prefix}:*")

    # At once: nothing lingers until the unsubscribe_delay is over.
    await eventually(lambda: not any(":g:" in name for name in names()), timeout=0.9)
    kinds = sorted(name.removeprefix(f"{prefix}:").split(":")[0] for name in names())
    assert [kind for kind in kinds if kind != "c"] == ["p", "p"]
    assert len(kinds) == 5 or topology == CLUSTER  # where there is a probe at each node
    assert outside.keys(f"{prefix}:*") <= {f"{prefix}:n:"}  # in a cluster it stays
    # Channels stay.
    await layer.group_add("room", channel)
    await other_layer.group_send("room", {"type": "after"})
    assert await layer.receive(channel) == {"type": "after"}


async def test_the_older_names(layer: MpxChannelLayer) -> None:
    assert ClusterStats is FleetStats
    await layer.connect()
    (process,) = (await layer.cluster_stats(queues=False)).processes
    stats = await asyncio.to_thread(layer.sync.cluster_stats, groups=1)
    assert process.process_id in {each.process_id for each in stats.processes}


async def test_only_living_processes_have_a_name(
    layer: MpxChannelLayer, start_process: StartProcess, outside: Outside, prefix: str
) -> None:
    pid, process_id = await start_process()
    await layer.connect()

    def alive() -> set[str]:
        names = outside.channels(f"{prefix}:c:?*")
        return {name.removeprefix(f"{prefix}:c:").split(":")[0] for name in names}

    assert alive() == {layer.process_id, process_id}
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: alive() == {layer.process_id})
    await layer.flush()
    assert alive() == {layer.process_id}
    await layer.close()
    await eventually(lambda: not alive())


# -- many -----------------------------------------------------------------------------------------


async def test_many_processes_with_many_groups(make_layer: MakeLayer) -> None:
    layers = [make_layer() for _ in range(20)]
    for layer in layers:
        (channel, _) = await join(layer, "all", 2)
        await asyncio.gather(*(layer.group_add(f"group-{n}", channel) for n in range(500)))
    stats = await layers[0].fleet_stats(groups=3)
    assert len(stats.processes) == 20
    assert not any(each.silent for each in stats.processes)
    assert next(iter(stats.groups.items())) == ("all", 40)
    assert {each.groups for each in stats.processes} == {501}
