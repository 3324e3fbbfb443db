"""What is said of a multiplexer that does not hear itself; and that nothing is raised for it."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from typing import Any

import pytest
import redis

from mpx_channels.multiplexer import Health, Multiplexer
from tests.inside import ask_again_in, forbidden_in, links_of, registry_of

from ..conftest import RestartableServer, eventually
from ..proxy import Proxy, free_port, without
from .conftest import NewMultiplexer

pytestmark = pytest.mark.usefixtures("clean_loop")

# Until something comes, which it does at once; and for what never comes.
LONG, SHORT = 10.0, 0.1


@pytest.fixture
def server_of_its_own() -> Any:
    server = RestartableServer()
    yield server
    server.kill()


async def started(mpx: Multiplexer) -> Multiplexer:
    mpx.probe_over("probe:1")
    await mpx.start()
    return mpx


def unhealthy(health: Health) -> str:
    assert (health.ok, health.round_trip) == (False, None)
    assert health.reason is not None
    assert "secret" not in health.reason
    return health.reason


async def test_the_round_trip_is_that_of_the_slowest_host(
    new_multiplexer: NewMultiplexer, redis_url: str, proxy: Proxy
) -> None:
    mpx = await started(new_multiplexer([redis_url, proxy.url]))
    quick = await mpx.healthy(LONG)
    assert quick.ok
    assert quick.reason is None
    assert quick.round_trip is not None
    assert 0 < quick.round_trip < LONG
    proxy.to_client.delay = 0.2
    slow = await mpx.healthy(LONG)
    assert slow.round_trip is not None
    assert slow.round_trip >= 0.2
    with pytest.raises(dataclasses.FrozenInstanceError):
        slow.ok = False  # type: ignore[misc]


async def test_a_server_that_is_down(new_multiplexer: NewMultiplexer) -> None:
    port = free_port()
    mpx = await started(new_multiplexer(f"redis://user:secret@127.0.0.1:{port}"))
    reason = unhealthy(await mpx.healthy(SHORT))
    assert reason.startswith(f"no connection to redis://127.0.0.1:{port}: ")
    assert "Error 111" in reason


async def test_a_wrong_password(
    new_multiplexer: NewMultiplexer, server_of_its_own: RestartableServer
) -> None:
    url = server_of_its_own.start_with_user("&*", "+@all").replace("secret", "secret2")
    mpx = await started(new_multiplexer(url))
    assert "invalid username-password pair" in unhealthy(await mpx.healthy(SHORT))


async def test_the_host_that_fails_is_named_and_no_other(
    new_multiplexer: NewMultiplexer, redis_url: str
) -> None:
    down = [f"redis://127.0.0.1:{free_port()}" for _ in range(2)]
    mpx = await started(new_multiplexer([redis_url, *down]))
    reason = unhealthy(await mpx.healthy(1.0))
    assert redis_url not in reason
    assert all(each in reason for each in down)


async def test_a_link_that_delivers_nothing(new_multiplexer: NewMultiplexer, proxy: Proxy) -> None:
    mpx = await started(new_multiplexer(proxy.url))
    assert (await mpx.healthy(LONG)).ok
    proxy.to_client.rewrite = without(b"message")
    assert unhealthy(await mpx.healthy(SHORT)) == (
        f"{proxy.url} did not deliver in 0.1 s what this process published there"
    )
    proxy.to_client.rewrite = None
    assert (await mpx.healthy(LONG)).ok


async def test_a_server_that_does_not_answer(new_multiplexer: NewMultiplexer, proxy: Proxy) -> None:
    mpx = await started(new_multiplexer(proxy.url))
    proxy.to_client.freeze_at = lambda piece: b"subscribe" in piece
    await mpx.wait_connected(LONG)
    assert unhealthy(await mpx.healthy(SHORT)) == (
        f"{proxy.url} did not confirm a subscription in 0.1 s"
    )


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (("&other:*", "+@all"), "refused to subscribe: "),
        (("&probe:*", "+@all", "-publish"), "refused the command: "),
    ],
)
async def test_what_the_acl_forbids(
    new_multiplexer: NewMultiplexer,
    server_of_its_own: RestartableServer,
    rules: tuple[str, ...],
    words: str,
) -> None:
    mpx = new_multiplexer(server_of_its_own.start_with_user(*rules))
    ask_again_in(forbidden_in(registry_of(mpx)), 1000.0)
    await started(mpx)
    # Said at once, and not when the time is over.
    reasons = [unhealthy(await mpx.healthy(LONG)) for _ in range(2)]
    assert all(f"{server_of_its_own.url} {words}" in each for each in reasons)
    # It is asked again at once, so that it gets well when the ACL does.
    with server_of_its_own.client() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "&probe:*", "+publish")
    assert (await mpx.healthy(LONG)).ok


async def test_an_acl_that_changes_under_us(
    new_multiplexer: NewMultiplexer, server_of_its_own: RestartableServer
) -> None:
    mpx = await started(new_multiplexer(server_of_its_own.start_with_user("&probe:*", "+@all")))
    assert (await mpx.healthy(LONG)).ok
    with server_of_its_own.client() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "resetchannels", "&other:*")
    unhealthy(await mpx.healthy(LONG))
    assert sum(mpx.stats().drops.values()) == 0


async def test_a_link_that_breaks_meanwhile_may_be_back_in_time(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    mpx = await started(new_multiplexer(proxy.url))
    assert (await mpx.healthy(LONG)).ok
    proxy.to_client.rewrite = without(b"message")
    asked = asyncio.create_task(mpx.healthy(LONG))
    await eventually(lambda: bytes(proxy.to_server.data).count(b"PUBLISH") == 2)
    proxy.to_client.rewrite = None
    proxy.cut()
    assert (await asked).ok


async def test_one_that_is_stopped_meanwhile(new_multiplexer: NewMultiplexer, proxy: Proxy) -> None:
    mpx = await started(new_multiplexer(proxy.url))
    assert (await mpx.healthy(LONG)).ok
    proxy.to_client.rewrite = without(b"message")
    asked = asyncio.create_task(mpx.healthy(0.5))
    await eventually(lambda: bytes(proxy.to_server.data).count(b"PUBLISH") == 2)
    await mpx.stop()
    assert unhealthy(await asked)
    assert all(link.wire is None for link in links_of(mpx))
    # And before it is started.
    assert unhealthy(await mpx.healthy(SHORT)).startswith("no connection to ")
    await mpx.start()
    proxy.to_client.rewrite = None
    assert (await mpx.healthy(LONG)).ok


async def test_two_databases_of_one_server(
    new_multiplexer: NewMultiplexer, redis_url: str, client: redis.Redis
) -> None:
    mpx = await started(new_multiplexer([f"{redis_url}/0", f"{redis_url}/1"]))
    assert (await mpx.healthy(LONG)).ok
    assert client.pubsub_numsub("probe:1") == [(b"probe:1", 1)]


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, "1", None, True])
async def test_a_timeout_that_is_none(mpx: Multiplexer, timeout: Any) -> None:
    mpx.probe_over("probe:1")
    with pytest.raises(ValueError, match="timeout must be .*, not " + repr(timeout)):
        await mpx.healthy(timeout)


async def test_it_needs_a_name(mpx: Multiplexer) -> None:
    with pytest.raises(ValueError, match="probe_over"):
        await mpx.healthy()


@pytest.mark.parametrize("interval", [-1, math.nan])
def test_an_interval_that_is_none(interval: float) -> None:
    with pytest.raises(ValueError, match="probe_interval must be"):
        Multiplexer(probe_interval=interval)
