"""A layer whose server is found by Sentinels, through failovers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from mpx_channels.layer import Hooks, NotConnected
from tests.conftest import PATIENCE
from tests.inside import names_of
from tests.sentinels import Sentinels

from .conftest import MakeLayer

ALL = Hooks(disconnect=("mpx.disconnect",), reconnect=("mpx.reconnect",))


@pytest.fixture
def sentinels(server: object) -> Iterator[Sentinels]:
    with Sentinels(password="hush") as running:
        yield running


async def next_types(mailbox: Any, count: int) -> list[str]:
    async with asyncio.timeout(PATIENCE):
        return [(await mailbox.get())["type"] for _ in range(count)]


async def test_a_failover_under_use(make_layer: MakeLayer, sentinels: Sentinels) -> None:
    layer, other = (make_layer(hosts=[sentinels.host]) for _ in range(2))
    mailbox = await layer.open_channel(hooks=ALL)
    await layer.group_add("room", mailbox.channel)
    await other.group_send("room", {"type": "before"})
    assert await next_types(mailbox, 1) == ["before"]
    await other.send("jobs", {"type": "x"})
    assert (await layer.receive("jobs"))["type"] == "x"
    reader = asyncio.create_task(layer.receive("jobs"))

    after = await asyncio.to_thread(sentinels.failover)
    assert await next_types(mailbox, 2) == ["mpx.disconnect", "mpx.reconnect"]
    for _ in range(3):
        await other.group_send("room", {"type": "after"})
        assert await next_types(mailbox, 1) == ["after"]
    await other.send(mailbox.channel, {"type": "to you"})
    assert await next_types(mailbox, 1) == ["to you"]
    await other.send("jobs", {"type": "again"})
    async with asyncio.timeout(PATIENCE):
        assert (await reader)["type"] == "again"
    promise = await layer.new_promise("order")
    assert await other.resolve("order", 1) == 1
    assert await promise == 1
    assert (await layer.healthy(PATIENCE)).ok
    with after.client() as client:
        assert client.pubsub_numsub(names_of(layer).group("room"))[0][1] == 1


async def test_several_databases_of_one_service(
    make_layer: MakeLayer, sentinels: Sentinels
) -> None:
    layer = make_layer(hosts=[{**sentinels.host, "db": db} for db in range(5)])
    channel = await layer.new_channel()
    await layer.group_pattern_add("room-*", channel)
    for number in range(20):
        await layer.group_send(f"room-{number}", {"type": "x", "n": number})
        assert (await layer.receive(channel))["n"] == number
    assert (await layer.healthy(PATIENCE)).ok
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await layer.receive(channel)
    assert len(layer.stats().multiplexer.nodes) == 5  # type: ignore[union-attr]


async def test_no_master_is_said_with_its_name(make_layer: MakeLayer, sentinels: Sentinels) -> None:
    port = sentinels.ports[0]
    hosts = [{**sentinels.host, "master_name": "nobody", "password": "secret"}]
    layer = make_layer(hosts=hosts, connect_timeout=0.5)
    with pytest.raises(NotConnected) as caught:
        await layer.new_channel()
    unhealthy = (await layer.healthy(0.5)).reason
    assert unhealthy is not None
    assert "no Sentinel knows a master of 'nobody'" in unhealthy
    said = f"{caught.value} {unhealthy}"
    assert f"redis+sentinel://127.0.0.1:{port}/nobody did not confirm" in said
    assert "no Sentinel knows a master of 'nobody'" in said
    assert "hush" not in said
    assert "secret" not in said
