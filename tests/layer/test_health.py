"""Whether a process hears itself over its layer: from every kind of caller, and on every host."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from mpx_channels.layer import Health, MpxChannelLayer
from mpx_channels.multiplexer import MultiplexerStopped
from tests.conftest import RestartableServer, eventually
from tests.inside import hub_of, hubs_of, multiplexer_of
from tests.over import CLUSTER, Outside
from tests.proxy import Proxy, free_port, without

from .conftest import MakeLayer
from .test_sync import in_thread

LONG, SHORT = 10.0, 0.2


@pytest.fixture
def second_server() -> Iterator[RestartableServer]:
    server = RestartableServer()
    server.start()
    yield server
    server.kill()


def names_in(outside: Outside, prefix: str) -> set[str]:
    return outside.channels(f"{prefix}:*")


@pytest.mark.everywhere(classic=True)
async def test_a_fresh_process_becomes_healthy_by_it(
    layer: MpxChannelLayer, outside: Outside, prefix: str, topology: str
) -> None:
    assert layer.process_id is None
    health = await layer.healthy(LONG)
    assert isinstance(health, Health)
    assert (health.ok, health.reason) == (True, None)
    assert health.round_trip is not None
    assert 0 < health.round_trip < LONG
    # With what it is subscribed to anyway, and nothing is added by asking again.
    await layer.connect()
    names, wanted = names_in(outside, prefix), multiplexer_of(layer).stats().names_wanted
    # The inbox, the control channel and what it is alive by; in a cluster, a probe at each node.
    assert wanted == len(names) == (6 if topology == CLUSTER else 3)
    for _ in range(3):
        assert (await layer.healthy(LONG)).ok
    assert names_in(outside, prefix) == names
    assert multiplexer_of(layer).stats().names_wanted == wanted


async def test_a_probe_is_nobodys_message(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, client: redis.Redis, prefix: str
) -> None:
    await other_layer.connect()
    with client.pubsub(ignore_subscribe_messages=True) as looker:
        looker.psubscribe(f"{prefix}:*")
        looker.get_message(timeout=LONG)
        assert (await layer.healthy(LONG)).ok
        message = None
        while message is None:
            message = looker.get_message(timeout=LONG)
        channel = message["channel"].decode()
    assert channel.startswith(f"{prefix}:c:{layer.process_id}:")
    for each in (layer, other_layer):
        stats = each.stats()
        assert stats is not None
        assert (stats.messages_in, stats.messages_out) == (0, 0)
        assert sum(stats.drops.values()) == 0
    assert multiplexer_of(other_layer).stats().messages_in == 0


async def test_a_hundred_at_once(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    found = await asyncio.gather(*[layer.healthy(LONG) for _ in range(100)])
    assert all(each.ok for each in found)
    assert bytes(proxy.to_server.data).count(b"PUBLISH") <= 3


@pytest.mark.everywhere
async def test_synchronous_callers_and_several_loops(
    layer: MpxChannelLayer, outside: Outside, prefix: str
) -> None:
    assert (await layer.healthy(LONG)).ok
    synchronous = await asyncio.gather(*[in_thread(layer.sync.healthy, LONG) for _ in range(8)])
    calls = await asyncio.gather(*[in_thread(async_to_sync(layer.healthy), LONG) for _ in range(8)])
    assert all(each.ok for each in (*synchronous, *calls))
    assert len(hubs_of(layer)) == 2, "theirs is one, whatever the thread"

    async def other() -> Health:
        try:
            return await layer.healthy(LONG)
        finally:
            await layer.close_pools()

    assert (await asyncio.to_thread(asyncio.run, other())).ok
    assert len(hubs_of(layer)) == 2
    await layer.close()
    await eventually(lambda: not names_in(outside, prefix))


async def test_it_names_the_host_that_fails(
    make_layer: MakeLayer, redis_url: str, second_server: RestartableServer
) -> None:
    layer = make_layer(hosts=[redis_url, second_server.url])
    assert (await layer.healthy(LONG)).ok
    names = multiplexer_of(layer).stats().names_wanted
    assert names == 5, "the inbox, and on each host a control channel and what it is alive by"
    second_server.kill()
    health = await layer.healthy(SHORT)
    assert (health.ok, health.round_trip) == (False, None)
    assert health.reason is not None
    assert second_server.url in health.reason
    assert redis_url not in health.reason
    second_server.start()
    assert (await layer.healthy(LONG)).ok


async def test_a_host_that_is_not_there_and_no_password(make_layer: MakeLayer) -> None:
    port = free_port()
    layer = make_layer(hosts=[f"redis://user:secret@127.0.0.1:{port}"])
    reason = (await layer.healthy(SHORT)).reason
    assert reason is not None
    assert f"redis://127.0.0.1:{port}" in reason
    assert "secret" not in reason


async def test_the_interval_is_that_of_config(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url], probe_interval=0.02, connect_timeout=0.3)
    await layer.connect(LONG)
    proxy.to_client.rewrite = without(b"message")
    await eventually(lambda: multiplexer_of(layer).stats().probe_reconnects)
    proxy.to_client.rewrite = None
    assert (await layer.healthy(LONG)).ok


async def test_one_that_is_closed_meanwhile(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    assert (await layer.healthy(LONG)).ok
    proxy.to_client.freeze()
    asked = asyncio.create_task(layer.healthy(0.7))
    await eventually(lambda: bytes(proxy.to_server.data).count(b"PUBLISH") == 2)
    await layer.close()
    health = await asked
    assert not health.ok
    assert health.reason
    # The next use opens others.
    proxy.to_client.thaw()
    assert (await layer.healthy(LONG)).ok


async def test_what_keeps_it_from_connecting_is_said(
    layer: MpxChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse() -> None:
        raise MultiplexerStopped("no more")

    await layer.connect()
    monkeypatch.setattr(hubs_of(layer), "open", refuse)
    assert await layer.healthy() == Health(False, None, "no more")


async def test_it_works_while_the_process_has_a_message_under_way(layer: MpxChannelLayer) -> None:
    """A mailbox that is full holds messages back, and so the probe, for a moment."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for number in range(300):
        await layer.group_send("room", {"type": "x", "number": number})
    assert (await layer.healthy(LONG)).ok
    assert hub_of(layer).counters.messages_in == 300


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, "1", None, False])
async def test_a_timeout_that_is_none(layer: MpxChannelLayer, timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be .*, not " + repr(timeout)):
        await layer.healthy(timeout)
    assert layer.process_id is None, "nothing was opened for it"
    with pytest.raises(ValueError, match="timeout must be"):
        await in_thread(layer.sync.healthy, timeout)
