"""Plain channels without a connection that blocks, as in a cluster; here on one server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from mpx_channels.channels import woken_reader
from mpx_channels.channels.queues import Queues
from mpx_channels.channels.reader import STAMP
from mpx_channels.layer import MpxChannelLayer, hub
from mpx_channels.multiplexer import CommandRefused, MultiplexerStopped
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.inside import (
    held_by,
    hub_of,
    listened_to,
    multiplexer_of,
    popped_from,
    queue_reader,
)
from tests.layer.conftest import MakeLayer
from tests.proxy import Proxy, free_port
from tests.servers import major_version

from .test_queues import (
    numbers,
    refusals,
    test_a_broken_link_loses_no_more_than_what_was_on_its_way,
    test_a_busy_channel_does_not_starve_a_quiet_one,
    test_a_call_that_is_cancelled_while_the_script_is_loaded_again,
    test_a_cancelled_receive_loses_nothing,
    test_a_loop_that_ends_after_a_cancelled_receive_takes_nothing_along,
    test_a_reader_outlives_a_long_script,
    test_a_reader_that_waits_gets_it,
    test_a_server_that_forgets_the_script_reorders_nothing,
    test_after_a_restart_the_script_is_there_before_its_calls,
    test_an_expired_one_behind_another_is_not_delivered,
    test_capacity_is_decided_atomically,
    test_each_message_to_exactly_one_reader,
    test_expired_messages_neither_arrive_nor_count,
    test_flush_leaves_nothing_behind,
    test_full_is_said_to_the_sender,
    test_kept_until_somebody_reads_in_order,
    test_requests_to_a_plain_channel,
    test_what_others_put_into_the_list_stops_nobody,
)

# What holds of both readers.
__all__ = [
    "test_a_broken_link_loses_no_more_than_what_was_on_its_way",
    "test_a_busy_channel_does_not_starve_a_quiet_one",
    "test_a_call_that_is_cancelled_while_the_script_is_loaded_again",
    "test_a_cancelled_receive_loses_nothing",
    "test_a_loop_that_ends_after_a_cancelled_receive_takes_nothing_along",
    "test_a_reader_outlives_a_long_script",
    "test_a_reader_that_waits_gets_it",
    "test_a_server_that_forgets_the_script_reorders_nothing",
    "test_after_a_restart_the_script_is_there_before_its_calls",
    "test_an_expired_one_behind_another_is_not_delivered",
    "test_capacity_is_decided_atomically",
    "test_each_message_to_exactly_one_reader",
    "test_expired_messages_neither_arrive_nor_count",
    "test_flush_leaves_nothing_behind",
    "test_full_is_said_to_the_sender",
    "test_kept_until_somebody_reads_in_order",
    "test_requests_to_a_plain_channel",
    "test_what_others_put_into_the_list_stops_nobody",
]

NEVER = 1000.0

pytestmark = pytest.mark.only_single("all readers of a cluster are this one")


@pytest.fixture(autouse=True)
def woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers have this reader, and none looks again by itself."""
    monkeypatch.setattr(hub, "Queues", lambda context, _: Queues(context, "PUBLISH"))
    monkeypatch.setattr(woken_reader, "PATIENCE", NEVER)


@pytest.fixture
def admin(restartable_server: RestartableServer) -> Iterator[redis.Redis]:
    """A client of a server of the test's own, which runs."""
    restartable_server.start()
    with restartable_server.client() as client:
        yield client


def calls(client: redis.Redis, command: str) -> int:
    """How often a server has run it, in scripts, too."""
    return int(client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


def is_up(layer: MpxChannelLayer) -> bool:
    """Whether the connection stands that it is told by."""
    multiplexer = multiplexer_of(layer)
    return multiplexer.is_up(multiplexer.node)


async def waits(layer: MpxChannelLayer, client: redis.Redis, channel: str = "jobs") -> Any:
    """A task that reads the channel, of which Redis tells it by now."""
    task = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0)
    name = hub_of(layer).names.queue(channel)
    await eventually(lambda: client.pubsub_numsub(name)[0][1])
    await eventually(lambda: not popped_from(queue_reader(layer, channel)))
    return task


async def test_no_connection_for_it(make_layer: MakeLayer, redis_url: str, client: Any) -> None:
    layer = make_layer(hosts=[{"address": redis_url, "client_name": "woken-plain"}])
    readers = [asyncio.create_task(layer.receive(f"jobs-{n}")) for n in range(20)]
    for number in range(20):
        await layer.send(f"jobs-{number}", {"type": "x", "n": number})
    assert [(await reader)["n"] for reader in readers] == list(range(20))
    assert [entry["name"] for entry in client.client_list()].count("woken-plain") == 2


async def test_only_what_was_empty_wakes(
    make_layer: MakeLayer, restartable_server: RestartableServer, admin: redis.Redis
) -> None:
    layer = make_layer(hosts=[restartable_server.url])
    for number in range(10):
        await layer.send("jobs", {"type": "x", "n": number})
    assert calls(admin, "publish") == 1
    assert await numbers(layer, "jobs", 10) == list(range(10))
    await layer.send("jobs", {"type": "x", "n": 10})
    assert calls(admin, "publish") == 2
    await layer.close()


async def test_whoever_waits_is_woken_each_time(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, client: Any
) -> None:
    for number in range(20):
        reader = await waits(layer, client)
        await other_layer.send("jobs", {"type": "x", "n": number})
        assert (await asyncio.wait_for(reader, PATIENCE))["n"] == number


async def test_more_readers_than_messages(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, client: Any
) -> None:
    readers = [await waits(layer, client) for _ in range(5)]
    for number in range(3):
        await other_layer.send("jobs", {"type": "x", "n": number})
    await eventually(lambda: sum(reader.done() for reader in readers) == 3)
    assert [reader.result()["n"] for reader in readers[:3]] == [0, 1, 2]
    for number in (3, 4):
        await other_layer.send("jobs", {"type": "x", "n": number})
    assert [(await asyncio.wait_for(reader, PATIENCE))["n"] for reader in readers[3:]] == [3, 4]


async def test_what_comes_while_the_link_is_broken_is_there_when_it_stands(
    make_layer: MakeLayer, proxy: Proxy, layer: MpxChannelLayer, client: Any
) -> None:
    reading = make_layer(hosts=[proxy.url], min_backoff=0.01, max_backoff=0.02)
    reader = await waits(reading, client)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: not is_up(reading))
    await layer.send("jobs", {"type": "x", "n": 1})
    assert not reader.done()
    await proxy.accept()
    assert (await asyncio.wait_for(reader, PATIENCE))["n"] == 1


async def test_news_that_come_before_the_answer_of_a_pop_that_found_nothing(
    make_layer: MakeLayer, proxy: Proxy, layer: MpxChannelLayer, client: Any
) -> None:
    reading = make_layer(hosts=[proxy.url])
    first = await waits(reading, client)
    await layer.send("jobs", {"type": "x", "n": 1})
    assert (await first)["n"] == 1

    proxy.to_client.freeze_at = lambda piece: piece == b"*1\r\n:0\r\n"
    second = asyncio.create_task(reading.receive("jobs"))
    await eventually(lambda: popped_from(queue_reader(reading, "jobs")))
    heard = reading.stats().multiplexer.messages_in
    await layer.send("jobs", {"type": "x", "n": 2})
    await eventually(lambda: reading.stats().multiplexer.messages_in > heard)
    assert not second.done()
    proxy.to_client.thaw()
    assert (await asyncio.wait_for(second, PATIENCE))["n"] == 2


async def test_now_and_then_it_looks_by_itself(
    layer: MpxChannelLayer,
    other_layer: MpxChannelLayer,
    client: Any,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For what was published when nobody could hear it; here it never is."""
    name = f"{prefix}:q:jobs"
    await other_layer.send("jobs", {"type": "x", "n": 1})
    (stamped,) = client.lrange(name, 0, -1)
    assert stamped[:STAMP].isdigit()
    client.delete(name)
    monkeypatch.setattr(woken_reader, "PATIENCE", 0.05)
    reader = await waits(layer, client)
    client.rpush(name, stamped)
    assert (await asyncio.wait_for(reader, PATIENCE))["n"] == 1


async def test_a_channel_that_nobody_waits_for_any_more_is_left_after_a_while(
    make_layer: MakeLayer,
    restartable_server: RestartableServer,
    admin: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(woken_reader, "PATIENCE", 2.0)  # from one to the next: busy machine
    layer = make_layer(hosts=[restartable_server.url], unsubscribe_delay=0)
    await layer.connect()
    before = calls(admin, "subscribe")
    for number in range(20):
        await layer.send("jobs", {"type": "x", "n": number})
        assert await numbers(layer, "jobs", 1) == [number]
    assert calls(admin, "subscribe") - before <= 1
    monkeypatch.setattr(woken_reader, "PATIENCE", 0.1)
    name = hub_of(layer).names.queue("jobs")
    await eventually(lambda: not listened_to(queue_reader(layer, "jobs")))
    await eventually(lambda: not admin.pubsub_numsub(name)[0][1])
    await layer.send("jobs", {"type": "x", "n": 20})
    assert await numbers(layer, "jobs", 1) == [20]
    await layer.close()


async def test_what_was_popped_for_a_cancelled_reader_goes_to_the_next(
    make_layer: MakeLayer, proxy: Proxy, layer: MpxChannelLayer, client: Any
) -> None:
    reading = make_layer(hosts=[proxy.url])
    first = await waits(reading, client)
    proxy.to_client.freeze_at = lambda piece: b"in the air" in piece
    await layer.send("jobs", {"type": "in the air"})
    await eventually(lambda: not client.llen(hub_of(layer).names.queue("jobs")))
    first.cancel()
    second = asyncio.create_task(reading.receive("jobs"))
    await asyncio.sleep(0)
    proxy.to_client.thaw()
    assert (await asyncio.wait_for(second, PATIENCE))["type"] == "in the air"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_reader_that_is_cancelled_before_there_is_a_connection_asks_for_nothing(
    make_layer: MakeLayer,
) -> None:
    """It might leave while the event loop ends, and nobody would be there for the answer."""
    layer = make_layer(hosts=[f"redis://127.0.0.1:{free_port()}"])
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await layer.receive("jobs")
        assert not popped_from(queue_reader(layer, "jobs"))


async def test_what_was_popped_for_a_cancelled_reader_goes_to_other_processes(
    make_layer: MakeLayer, proxy: Proxy, layer: MpxChannelLayer, client: Any
) -> None:
    reading = make_layer(hosts=[proxy.url])
    first = await waits(reading, client)
    proxy.to_client.freeze_at = lambda piece: b"in the air" in piece
    await layer.send("jobs", {"type": "in the air"})
    await eventually(lambda: not client.llen(hub_of(layer).names.queue("jobs")))
    # One that waits already, and is woken when it comes back.
    other = asyncio.create_task(layer.receive("jobs"))
    first.cancel()
    await asyncio.sleep(0)
    proxy.to_client.thaw()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await asyncio.wait_for(other, PATIENCE))["type"] == "in the air"


async def test_what_cannot_be_used_goes_back_to_the_head(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    """As where a reader by way of another thread was cancelled."""
    for number in range(2):
        await other_layer.send("jobs", {"type": "x", "n": number})
    await layer.connect()
    message, give_back = await hub_of(layer).queues.take("jobs")
    assert message["n"] == 0
    give_back()
    assert held_by(queue_reader(layer, "jobs"))
    assert await numbers(other_layer, "jobs", 1) == [1]
    assert await asyncio.wait_for(numbers(other_layer, "jobs", 1), PATIENCE) == [0]


async def test_closing_fails_who_waits_and_gives_back_what_comes(
    make_layer: MakeLayer, proxy: Proxy, layer: MpxChannelLayer, client: Any
) -> None:
    reading = make_layer(hosts=[proxy.url])
    reader = await waits(reading, client)
    other = await waits(reading, client, "other-jobs")
    proxy.to_client.freeze_at = lambda piece: b"in the air" in piece
    await layer.send("jobs", {"type": "in the air"})
    await eventually(lambda: not client.llen(hub_of(layer).names.queue("jobs")))
    closing = asyncio.create_task(reading.close())
    for task in (reader, other):
        with pytest.raises(MultiplexerStopped, match="the layer was closed"):
            await asyncio.wait_for(task, PATIENCE)
    proxy.to_client.thaw()
    await closing
    assert (await asyncio.wait_for(layer.receive("jobs"), PATIENCE))["type"] == "in the air"
    # And the layer can be used again.
    await layer.send("jobs", {"type": "x", "n": 1})
    assert await asyncio.wait_for(numbers(reading, "jobs", 1), PATIENCE) == [1]


async def test_a_server_that_answers_nobody_keeps_nobody_from_closing(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    layer = make_layer(hosts=[proxy.url])
    await layer.connect()
    proxy.freeze()
    reader = asyncio.create_task(layer.receive("jobs"))
    await eventually(lambda: popped_from(queue_reader(layer, "jobs")))
    await layer.close()
    with pytest.raises(MultiplexerStopped, match="the layer was closed"):
        await asyncio.wait_for(reader, PATIENCE)
    proxy.thaw()


async def test_flush_forgets_what_nobody_took(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, client: Any, prefix: str
) -> None:
    await other_layer.send("jobs", {"type": "x"})
    await layer.connect()
    _, give_back = await hub_of(layer).queues.take("jobs")
    give_back()
    await other_layer.flush()
    await layer.close()
    assert client.keys(f"{prefix}:q:*") == []


async def test_the_permissions_that_it_needs(
    make_layer: MakeLayer, restartable_server: RestartableServer, prefix: str
) -> None:
    url = restartable_server.start_with_user(
        f"~{prefix}:*", f"&{prefix}:*", "-@all", "+evalsha", "+eval", "+time", "+lindex", "+lpop",
        "+llen", "+rpush", "+pttl", "+pexpire", "+subscribe", "+unsubscribe", "+publish", "+ping",
    )  # fmt: skip
    layer = make_layer(hosts=[url])
    with restartable_server.client() as admin:
        for number in range(3):
            reader = await waits(layer, admin)
            await layer.send("jobs", {"type": "x", "n": number})
            assert (await asyncio.wait_for(reader, PATIENCE))["n"] == number
    await layer.close()


async def test_want_of_a_permission_is_said_to_the_readers_of_that_channel(
    make_layer: MakeLayer, restartable_server: RestartableServer, admin: redis.Redis, prefix: str
) -> None:
    rules = ("on", ">x", "&*", f"~{prefix}:q:jobs", f"~{prefix}:s:*", "+@all")
    admin.execute_command("ACL", "SETUSER", "app", *rules)
    layer = make_layer(hosts=[restartable_server.url.replace("//", "//app:x@")])
    other = await waits(layer, admin)
    with pytest.raises(CommandRefused, match="plain channels cannot be read"):
        await layer.receive("others")
    await layer.send("jobs", {"type": "x", "n": 1})
    assert (await asyncio.wait_for(other, PATIENCE))["n"] == 1
    await layer.close()


async def test_a_reader_outlives_a_demotion(
    make_layer: MakeLayer,
    restartable_server: RestartableServer,
    admin: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = make_layer(hosts=[restartable_server.url])
    await layer.connect()
    admin.replicaof("127.0.0.1", "1")
    reader = asyncio.create_task(layer.receive("jobs"))
    await eventually(lambda: "read only replica" in caplog.text)
    if major_version() >= 7:  # before, what a script says is counted as ERR
        await eventually(lambda: refusals(admin, "READONLY") > 1)
    assert not reader.done()
    admin.replicaof("NO", "ONE")
    await layer.send("jobs", {"type": "x", "n": 2})
    assert (await asyncio.wait_for(reader, PATIENCE))["n"] == 2
    await layer.close()


def test_a_loop_that_is_closed_while_it_pops(redis_url: str, prefix: str) -> None:
    """Nothing complains; pytest notices warnings."""
    layer = MpxChannelLayer(hosts=[redis_url], prefix=prefix)
    loop = asyncio.new_event_loop()
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reports.append(context))

    async def use() -> None:
        await layer.connect()
        reader = hub_of(layer).queues.reader_of(f"{prefix}:q:jobs")
        waiting = asyncio.ensure_future(reader.get(f"{prefix}:q:jobs"))
        await asyncio.sleep(0)
        assert popped_from(reader)
        waiting.cancel()

    loop.run_until_complete(use())
    loop.close()
    assert not reports
