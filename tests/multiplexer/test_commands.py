"""What is asked of Redis besides publishing and subscribing."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
import redis

from mpx_channels.multiplexer import CommandRefused, Multiplexer, commands

from .conftest import NewMultiplexer


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def without_pubsub(client: redis.Redis, redis_url: str) -> Iterator[str]:
    """For a user who may do everything but ask who is subscribed."""
    client.execute_command("ACL", "SETUSER", "uncounted", "reset", "on", ">x", "+@all", "-pubsub")
    client.execute_command("ACL", "SETUSER", "uncounted", "allkeys", "allchannels")
    yield redis_url.replace("redis://", "redis://uncounted:x@")
    client.execute_command("ACL", "DELUSER", "uncounted")


async def test_who_listens_by_a_pattern_does_not_count(
    mpx: Multiplexer, new_multiplexer: NewMultiplexer, prefix: str, without_pubsub: str
) -> None:
    assert await commands.publish_counted(mpx, prefix, b"x") == 0
    pattern = mpx.new_pattern_subscription(f"{prefix}*")
    await pattern.wait_for_activation()
    assert await mpx.publish(prefix, b"x") == 1
    assert await commands.publish_counted(mpx, prefix, b"x") == 0
    channel = mpx.new_channel_subscription()
    channel.add(prefix)
    await channel.wait_for_activation(prefix)
    assert await commands.publish_counted(mpx, prefix, b"x") == 1
    # Without the permission, all that Redis counts do.
    async with new_multiplexer(without_pubsub) as uncounted:
        assert await commands.publish_counted(uncounted, prefix, b"x") == 2


async def test_what_is_refused_is_said(
    new_multiplexer: NewMultiplexer, restricted_url: str
) -> None:
    async with new_multiplexer(restricted_url) as mpx:
        with pytest.raises(CommandRefused):
            await commands.publish_counted(mpx, "allowed", b"x")


async def test_the_names_that_somebody_is_subscribed_to(mpx: Multiplexer, prefix: str) -> None:
    channel = mpx.new_channel_subscription()
    names = [f"{prefix}:a", f"{prefix}:b"]
    channel.add(*names)
    for name in names:
        await channel.wait_for_activation(name)
    found = await commands.subscribed(mpx, mpx.node, f"{prefix}:*")
    assert sorted(found) == [name.encode() for name in names]


@pytest.mark.parametrize("count", [0, 1, 2500])
async def test_keys_are_found_and_deleted(
    mpx: Multiplexer, client: redis.Redis, prefix: str, count: int
) -> None:
    keys = {f"{prefix}:{number}".encode() for number in range(count)}
    if keys:
        client.mset(dict.fromkeys(keys, b""))
    found: list[bytes] = []
    async for batch in commands.scan(mpx, mpx.node, f"{prefix}:*"):
        found += batch
        await commands.unlink(mpx, mpx.node, batch)
    assert set(found) == keys
    assert client.keys(f"{prefix}:*") == []


@pytest.mark.parametrize("count", [0, 1, 100, 101, 250])
async def test_a_list_is_looked_at_and_stays(
    mpx: Multiplexer, client: redis.Redis, prefix: str, count: int
) -> None:
    items = [b"%d" % number for number in range(count)]
    if items:
        client.rpush(prefix, *items)
    try:
        assert [item async for item in commands.list_items(mpx, prefix)] == items
        assert await commands.list_length(mpx, mpx.node, prefix.encode()) == count
    finally:
        client.delete(prefix)


async def test_the_servers_clock(mpx: Multiplexer) -> None:
    await commands.ping(mpx, mpx.node)
    # It is this machine's.
    before = time.time()
    told = await commands.server_time(mpx, mpx.node)
    assert before - 1 < told < time.time() + 1
