"""Scripts that Redis runs: sent whole, or by a digest that it may forget."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest
import redis

from mpx_channels.multiplexer import CommandRefused, Multiplexer
from mpx_channels.multiplexer.scripts import FrequentScript, Script
from tests.conftest import RestartableServer, eventually
from tests.inside import publisher_of

from .conftest import NewMultiplexer

PUSH = "return redis.call('RPUSH', KEYS[1], ARGV[1])"


@pytest.fixture
def key(client: redis.Redis) -> Iterator[str]:
    """A list of this test's."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    client.delete(name)


async def test_a_script_sent_whole(mpx: Multiplexer, client: redis.Redis, key: str) -> None:
    push = Script(PUSH)
    assert await asyncio.gather(*[push(mpx, mpx.node, key, b"%d" % n) for n in range(3)]) == [
        1,
        2,
        3,
    ]
    assert client.lrange(key, 0, -1) == [b"0", b"1", b"2"]


async def test_a_frequent_script_is_loaded_once(
    mpx: Multiplexer, client: redis.Redis, key: str
) -> None:
    push = FrequentScript(PUSH, mpx, mpx.node)
    client.config_resetstat()
    assert await asyncio.gather(*[push(key, b"%d" % n) for n in range(100)]) == [*range(1, 101)]
    calls = client.info("commandstats")
    assert calls["cmdstat_eval"]["calls"] == 1
    assert calls["cmdstat_evalsha"]["calls"] == 100


async def test_a_server_that_forgot_it_gets_it_again_in_order(
    mpx: Multiplexer, client: redis.Redis, key: str
) -> None:
    push = FrequentScript(PUSH, mpx, mpx.node)
    await push(key, b"first")
    client.script_flush()
    calls = [asyncio.create_task(push(key, b"%d" % n)) for n in range(50)]
    await asyncio.sleep(0)
    cancelled = asyncio.create_task(push(key, b"cancelled before it left"))
    cancelled.cancel()
    await asyncio.gather(*calls)
    assert client.lrange(key, 0, -1) == [b"first", *[b"%d" % n for n in range(50)]]
    await push(key, b"last")
    assert client.lindex(key, -1) == b"last"


async def test_a_server_that_was_restarted_knows_it_at_once(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    mpx = new_multiplexer(restartable_server.url)
    await mpx.start()
    push = FrequentScript(PUSH, mpx, mpx.node)
    assert await push("list", b"a") == 1
    restartable_server.kill()
    await eventually(lambda: publisher_of(mpx).link.wire is None)
    restartable_server.start()
    assert await push("list", b"b") == 1
    with restartable_server.client() as client:
        assert client.info("commandstats")["cmdstat_evalsha"]["failed_calls"] == 0


async def test_what_a_script_says_is_wrong_is_its_callers(mpx: Multiplexer, key: str) -> None:
    fail = FrequentScript("return redis.error_reply('no such luck')", mpx, mpx.node)
    for _ in range(2):
        with pytest.raises(CommandRefused, match="no such luck"):
            await fail(key, b"x")
