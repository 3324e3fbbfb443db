"""Plain channels: each message to one reader across all processes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest
import redis
from channels.exceptions import ChannelFull

from mpx_channels.channels import reader as reading_of
from mpx_channels.layer import MpxChannelLayer
from mpx_channels.multiplexer import CommandRefused
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.inside import (
    asked_for,
    held_by,
    multiplexer_of,
    names_of,
    publisher_of,
    puts_under_way,
    queue_readers,
)
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy


async def numbers(layer: MpxChannelLayer, channel: str, count: int) -> list[int]:
    return [(await layer.receive(channel))["n"] for _ in range(count)]


def reading(layer: MpxChannelLayer) -> bool:
    """Whether a blocking pop is under way."""
    return any(asked_for(reader) for reader in queue_readers(layer))


def refusals(admin: redis.Redis, code: str) -> int:
    """How often the server has answered with this error."""
    return int(admin.info("errorstats").get(f"errorstat_{code}", {}).get("count", 0))


def is_busy(admin: redis.Redis) -> bool:
    try:
        admin.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


def forever(client: redis.Redis) -> None:
    """Run a script until it is killed."""
    with contextlib.suppress(redis.ResponseError):
        client.eval("while true do end", 0)


async def test_kept_until_somebody_reads_in_order(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    for number in range(50):
        await layer.send("jobs", {"type": "x", "n": number})
    assert await numbers(other_layer, "jobs", 50) == list(range(50))


@pytest.mark.everywhere(classic=True)
async def test_a_reader_that_waits_gets_it(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    reader = asyncio.create_task(other_layer.receive("jobs"))
    await layer.send("jobs", {"type": "x", "bytes": b"\x00\xff"})
    assert await reader == {"type": "x", "bytes": b"\x00\xff"}


@pytest.mark.everywhere
async def test_each_message_to_exactly_one_reader(make_layer: MakeLayer) -> None:
    sender = make_layer(capacity=1000)
    readers = [make_layer() for _ in range(4)]
    got: list[int] = []

    async def read(layer: MpxChannelLayer) -> None:
        while True:
            got.append((await layer.receive("jobs"))["n"])

    tasks = [asyncio.create_task(read(layer)) for layer in readers for _ in range(2)]
    await asyncio.gather(*[sender.send("jobs", {"type": "x", "n": n}) for n in range(500)])
    await eventually(lambda: len(got) >= 500)
    assert sorted(got) == list(range(500))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.everywhere
async def test_full_is_said_to_the_sender(make_layer: MakeLayer) -> None:
    layer = make_layer(capacity=3, channel_capacity={"big*": 5})
    for channel, capacity in (("small", 3), ("big-one", 5)):
        for number in range(capacity):
            await layer.send(channel, {"type": "x", "n": number})
        with pytest.raises(ChannelFull, match="its capacity"):
            await layer.send(channel, {"type": "x", "n": -1})
        assert await numbers(layer, channel, 1) == [0]
        await layer.send(channel, {"type": "x", "n": capacity})
        assert await numbers(layer, channel, capacity) == list(range(1, capacity + 1))


async def test_a_server_that_forgets_the_script_reorders_nothing(
    make_layer: MakeLayer, client: redis.Redis, proxy: Proxy, prefix: str
) -> None:
    layer = make_layer(hosts=[proxy.url], capacity=100_000)
    # So that answers come when others have left already.
    proxy.to_client.delay = 0.001
    sends: list[asyncio.Task[None]] = []
    for number in range(1000):
        if number % 100 == 50:
            client.script_flush()
        sends.append(asyncio.create_task(layer.send("jobs", {"type": "x", "n": number})))
        await asyncio.sleep(0)
    await asyncio.gather(*sends)
    assert await numbers(layer, "jobs", 1000) == list(range(1000))


async def test_a_call_that_is_cancelled_while_the_script_is_loaded_again(
    layer: MpxChannelLayer, outside: Outside
) -> None:
    await layer.send("jobs", {"type": "x", "n": 0})
    for turns in range(20):
        outside.forget_scripts()
        sends = [
            asyncio.create_task(layer.send("jobs", {"type": "x", "n": 3 * turns + n}))
            for n in range(3)
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        sends[1].cancel()
        await asyncio.wait(sends)
        assert sends[0].exception() is sends[2].exception() is None
    assert puts_under_way(layer) == 0
    await layer.send("jobs", {"type": "x", "n": 100})
    got: list[int] = []
    while 100 not in got:
        got += await numbers(layer, "jobs", 1)
    assert got == sorted(got)


async def test_after_a_restart_the_script_is_there_before_its_calls(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """Where it is not, those that were told so come after those that were not."""
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url])
    await layer.send("jobs", {"type": "x", "n": -1})
    publisher = publisher_of(multiplexer_of(layer))
    restartable_server.kill()
    await eventually(lambda: publisher.link.wire is None)
    sends = [asyncio.create_task(layer.send("jobs", {"type": "x", "n": n})) for n in range(50)]
    await eventually(lambda: publisher.waiting == 50)
    restartable_server.start()
    await asyncio.gather(*sends)
    with restartable_server.client() as admin:
        assert refusals(admin, "NOSCRIPT") == 0
    assert await numbers(layer, "jobs", 50) == list(range(50))
    await layer.close()


async def test_where_loading_alone_is_refused(
    make_layer: MakeLayer, restartable_server: RestartableServer, prefix: str
) -> None:
    """The permissions of the documentation do: SCRIPT LOAD is not among them."""
    url = restartable_server.start_with_user(
        f"~{prefix}:*", f"&{prefix}:*", "-@all", "+evalsha", "+eval", "+blpop", "+time", "+lindex",
        "+lpop", "+llen", "+rpush", "+pttl", "+pexpire", "+subscribe", "+unsubscribe", "+publish",
        "+ping",
    )  # fmt: skip
    layer = make_layer(hosts=[url])
    for number in range(3):
        await layer.send("jobs", {"type": "x", "n": number})
    assert await numbers(layer, "jobs", 3) == [0, 1, 2]
    with restartable_server.client() as admin:
        assert refusals(admin, "NOSCRIPT") == 0
    await layer.close()


async def test_capacity_is_decided_atomically(make_layer: MakeLayer) -> None:
    layers = [make_layer(capacity=10) for _ in range(4)]
    sends = [layer.send("jobs", {"type": "x", "n": n}) for n in range(20) for layer in layers]
    results = await asyncio.gather(*sends, return_exceptions=True)
    assert results.count(None) == 10
    assert sum(isinstance(result, ChannelFull) for result in results) == 70


async def test_expired_messages_neither_arrive_nor_count(make_layer: MakeLayer) -> None:
    brief, patient = make_layer(expiry=0.05, capacity=2), make_layer(capacity=2)
    loop = asyncio.get_running_loop()
    for number in range(2):
        await brief.send("jobs", {"type": "x", "n": number})
    until = loop.time() + 0.1
    await eventually(lambda: loop.time() > until)
    await patient.send("jobs", {"type": "x", "n": 2})
    await patient.send("jobs", {"type": "x", "n": 3})
    assert await numbers(patient, "jobs", 2) == [2, 3]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(patient.receive("jobs"), 0.05)


async def test_an_expired_one_behind_another_is_not_delivered(make_layer: MakeLayer) -> None:
    patient, brief = make_layer(), make_layer(expiry=0.05)
    loop = asyncio.get_running_loop()
    await patient.send("jobs", {"type": "x", "n": 0})
    await brief.send("jobs", {"type": "x", "n": 1})
    await patient.send("jobs", {"type": "x", "n": 2})
    until = loop.time() + 0.1
    await eventually(lambda: loop.time() > until)
    assert await numbers(patient, "jobs", 2) == [0, 2]
    assert patient.stats().drops["expired"] == 1


async def test_what_nobody_reads_leaves_redis_by_itself(
    make_layer: MakeLayer, outside: Outside
) -> None:
    layer = make_layer(expiry=1)
    queue = names_of(layer).queue("jobs")
    await layer.send("jobs", {"type": "x"})
    assert outside.at(queue).exists(queue)
    await eventually(lambda: not outside.at(queue).exists(queue))


async def test_a_cancelled_receive_loses_nothing(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    for number in range(30):
        reader = asyncio.create_task(layer.receive("jobs"))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        send = asyncio.create_task(other_layer.send("jobs", {"type": "x", "n": number}))
        for _ in range(number):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader, send])
        got = (await layer.receive("jobs")) if reader.cancelled() else reader.result()
        assert got["n"] == number


async def test_what_a_cancelled_reader_left_goes_to_other_processes(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    reader = asyncio.create_task(layer.receive("jobs"))
    await eventually(lambda: reading(layer))
    reader.cancel()
    await asyncio.wait([reader])
    for number in range(5):
        await other_layer.send("jobs", {"type": "x", "n": number})
    assert sorted(await numbers(other_layer, "jobs", 5)) == list(range(5))


async def test_many_channels_over_one_connection(
    make_layer: MakeLayer, redis_url: str, client: Any
) -> None:
    layer = make_layer(hosts=[{"address": redis_url, "client_name": "many-plain"}])

    def connections() -> int:
        return [entry["name"] for entry in client.client_list()].count("many-plain")

    await layer.send("jobs-0", {"type": "x", "n": 0})
    assert connections() == 2
    readers = [asyncio.create_task(layer.receive(f"jobs-{n}")) for n in range(20)]
    for number in range(1, 20):
        await layer.send(f"jobs-{number}", {"type": "x", "n": number})
    assert [(await reader)["n"] for reader in readers] == list(range(20))
    assert connections() == 3


async def test_a_busy_channel_does_not_starve_a_quiet_one(make_layer: MakeLayer) -> None:
    layer = make_layer(capacity=10_000)
    await asyncio.gather(*[layer.send("busy", {"type": "x", "n": n}) for n in range(300)])
    await layer.send("quiet", {"type": "x", "n": -1})
    order: list[str] = []

    async def read(channel: str) -> None:
        while len(order) < 301:
            await layer.receive(channel)
            order.append(channel)

    tasks = [asyncio.create_task(read(channel)) for channel in ("busy", "quiet")]
    await eventually(lambda: len(order) == 301)
    assert order.index("quiet") < 10
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_broken_link_loses_no_more_than_what_was_on_its_way(
    make_layer: MakeLayer, proxy: Proxy, layer: MpxChannelLayer
) -> None:
    reading = make_layer(hosts=[proxy.url], max_backoff=0.02)
    got: list[int] = []

    async def read() -> None:
        while True:
            got.append((await reading.receive("jobs"))["n"])

    task = asyncio.create_task(read())
    for number in range(60):
        await layer.send("jobs", {"type": "x", "n": number})
        if number % 20 == 10:
            proxy.cut()
    await layer.send("jobs", {"type": "x", "n": 1000})
    await eventually(lambda: got and got[-1] == 1000)
    assert len(got) == len(set(got)) >= 61 - 3
    assert got == sorted(got)
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.everywhere
async def test_requests_to_a_plain_channel(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    async def worker() -> None:
        event = await other_layer.receive("thumbnails")
        await other_layer.reply(event, {"made": event["size"]})

    task = asyncio.create_task(worker())
    assert await layer.request("thumbnails", {"type": "make", "size": 3}) == {"made": 3}
    await task


async def test_flush_leaves_nothing_behind(
    layer: MpxChannelLayer, make_layer: MakeLayer, outside: Outside, prefix: str
) -> None:
    other = make_layer(prefix=f"{prefix}x")
    for number in range(20):
        await layer.send(f"jobs-{number}", {"type": "x"})
    await other.send("jobs", {"type": "x", "n": 1})
    await layer.flush()
    assert outside.keys(f"{prefix}:*") <= {f"{prefix}:n:"}  # in a cluster it stays
    assert await numbers(other, "jobs", 1) == [1]


@pytest.mark.only_single("in a cluster nothing is popped until somebody waits")
async def test_flush_forgets_what_was_popped_for_a_cancelled_reader(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, outside: Outside, prefix: str
) -> None:
    reader = asyncio.create_task(layer.receive("jobs"))
    await eventually(lambda: reading(layer))
    reader.cancel()
    await asyncio.wait([reader])
    await other_layer.send("jobs", {"type": "x"})
    await eventually(lambda: any(held_by(reader) for reader in queue_readers(layer)))
    await other_layer.flush()
    await layer.close()  # which gives back what is held
    assert outside.keys(f"{prefix}:q:*") == set()


async def test_what_others_put_into_the_list_stops_nobody(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, outside: Outside, prefix: str
) -> None:
    poison = [b"", b"poison", b"poison that is longer than a stamp", b"9" * 14, b"9" * 14 + b"\xff"]
    queue = names_of(layer).queue("jobs")
    for data in poison:
        outside.at(queue).rpush(queue, data)
    await other_layer.send("jobs", {"type": "x", "n": 1})
    assert await asyncio.wait_for(numbers(layer, "jobs", 1), 10) == [1]
    assert layer.stats().drops["unreadable"] == len(poison)


async def test_closing_gives_back_what_was_popped(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    reader = asyncio.create_task(layer.receive("jobs"))
    await eventually(lambda: reading(layer))
    reader.cancel()
    await asyncio.wait([reader])
    await other_layer.send("jobs", {"type": "x", "n": 1})
    await layer.close()
    assert await asyncio.wait_for(numbers(other_layer, "jobs", 1), 10) == [1]


async def test_want_of_a_permission_is_said(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    with restartable_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", ">x", "&*", "~*", "+@all", "-blpop")
    layer = make_layer(hosts=[restartable_server.url.replace("//", "//app:x@")])
    await layer.send("jobs", {"type": "x"})
    with pytest.raises(CommandRefused, match="blpop"):
        await layer.receive("jobs")
    await layer.close()


async def test_a_reader_outlives_a_demotion(
    make_layer: MakeLayer, restartable_server: RestartableServer, caplog: pytest.LogCaptureFixture
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url])
    await layer.send("jobs", {"type": "x", "n": 1})
    assert await numbers(layer, "jobs", 1) == [1]
    reader = asyncio.create_task(layer.receive("jobs"))
    await eventually(lambda: reading(layer))
    with restartable_server.client() as admin:
        # UNBLOCKED for the pop that is under way, READONLY for those that follow.
        admin.replicaof("127.0.0.1", "1")
        await eventually(lambda: "UNBLOCKED" in caplog.text)
        await eventually(lambda: refusals(admin, "READONLY"))
        assert not reader.done()
        admin.replicaof("NO", "ONE")
    await layer.send("jobs", {"type": "x", "n": 2})
    assert (await reader)["n"] == 2
    await layer.close()


async def test_a_reader_outlives_a_long_script(
    make_layer: MakeLayer, restartable_server: RestartableServer, caplog: pytest.LogCaptureFixture
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url])
    await layer.send("jobs", {"type": "x", "n": 1})
    assert await numbers(layer, "jobs", 1) == [1]
    with restartable_server.client() as admin, restartable_server.client() as other:
        admin.config_set("lua-time-limit", 10)
        script = asyncio.create_task(asyncio.to_thread(forever, other))
        await eventually(lambda: is_busy(admin))
        reader = asyncio.create_task(layer.receive("jobs"))
        await eventually(lambda: "BUSY" in caplog.text)
        assert not reader.done()
        admin.script_kill()
        await script
    await layer.send("jobs", {"type": "x", "n": 2})
    assert (await reader)["n"] == 2
    await layer.close()


@pytest.mark.parametrize("name", ["", "two words", "ä", "x" * 100])
async def test_invalid_names(layer: MpxChannelLayer, name: str) -> None:
    for call in (layer.send(name, {"type": "x"}), layer.receive(name)):
        with pytest.raises(TypeError, match="Channel name"):
            await call


def test_a_loop_that_ends_after_a_cancelled_receive_takes_nothing_along(
    redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A round trip may take longer than that on a busy machine.
    monkeypatch.setattr(reading_of, "LAST_WORD", PATIENCE)
    config: Any = {"hosts": [redis_url], "prefix": prefix, "capacity": 10_000}
    sender, reader = MpxChannelLayer(**config), MpxChannelLayer(**config)
    got: list[int] = []
    sent = 0
    enough = threading.Event()

    def send() -> None:
        nonlocal sent
        while not enough.wait(0.001):
            if sent > len(got) + 100:
                continue  # what is left at the end is read soon
            sender.sync.send("jobs", {"type": "x", "n": sent})
            sent += 1

    async def read(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    got.append((await reader.receive("jobs"))["n"])

    sending = threading.Thread(target=send)
    sending.start()
    for number in range(40):
        asyncio.run(read(0.01 + number * 0.0003))
    enough.set()
    sending.join()

    async def rest() -> None:
        async with asyncio.timeout(PATIENCE):
            while len(got) < sent:
                got.append((await reader.receive("jobs"))["n"])
        await reader.close()

    asyncio.run(rest())
    assert got == list(range(sent))
    sender.sync.close()
