"""Waiting for names to be confirmed: for a bounded time, with one timer for all who wait."""

from __future__ import annotations

import asyncio

import pytest

from mpx_channels.multiplexer import Multiplexer, NotConnected, SubscriptionRefused
from mpx_channels.multiplexer.confirmations import Confirmations
from tests.conftest import RestartableServer, eventually
from tests.inside import waiting_for_names
from tests.proxy import Proxy

from .conftest import NewMultiplexer


async def test_it_returns_once_redis_has_confirmed(mpx: Multiplexer) -> None:
    confirmations = Confirmations(mpx, 30)
    sub = mpx.new_channel_subscription()
    sub.add("a")
    await asyncio.gather(*[confirmations.wait(sub, "a") for _ in range(10)])
    assert sub.is_active("a")
    await confirmations.wait(sub, "a")
    confirmations.close()


async def test_who_waits_too_long_is_told_for_what_and_where(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    mpx = new_multiplexer(restartable_server.url)
    await mpx.start()
    confirmations = Confirmations(mpx, 0.05)
    sub = mpx.new_channel_subscription()
    sub.add("a", "b")
    waits = [confirmations.wait(sub, name) for name in "aab"]
    errors = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(error) for error in errors] == [NotConnected] * 3
    assert f"{mpx.node} did not confirm 'b' in 0.05 s: " in str(errors[2])
    assert not any(waiting_for_names(sub))
    # One that comes after that has its own time.
    restartable_server.start()
    await Confirmations(mpx, 30).wait(sub, "a")


async def test_why_redis_refused_is_said(
    new_multiplexer: NewMultiplexer, restricted_url: str
) -> None:
    async with new_multiplexer(restricted_url) as mpx:
        confirmations = Confirmations(mpx, 30)
        sub = mpx.new_channel_subscription()
        sub.add("secret")
        with pytest.raises(SubscriptionRefused, match="secret"):
            await confirmations.wait(sub, "secret")
        confirmations.close()


async def test_whoever_is_cancelled_leaves_nothing(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    mpx = new_multiplexer(proxy.url)
    await mpx.start()
    await mpx.wait_connected(10)
    proxy.freeze()
    confirmations = Confirmations(mpx, 30)
    sub = mpx.new_channel_subscription()
    sub.add("a")
    waits = [asyncio.create_task(confirmations.wait(sub, "a")) for _ in range(2)]
    await eventually(lambda: [len(each) for each in waiting_for_names(sub)] == [2])
    waits[0].cancel()
    await asyncio.wait(waits[:1])
    assert [len(each) for each in waiting_for_names(sub)] == [1]
    proxy.thaw()
    await waits[1]
    confirmations.close()


async def test_closing_leaves_nobody_waiting(new_multiplexer: NewMultiplexer, proxy: Proxy) -> None:
    mpx = new_multiplexer(proxy.url)
    await mpx.start()
    await mpx.wait_connected(10)
    proxy.freeze()
    confirmations = Confirmations(mpx, 30)
    sub = mpx.new_channel_subscription()
    sub.add("a")
    wait = asyncio.create_task(confirmations.wait(sub, "a"))
    await eventually(lambda: waiting_for_names(sub))
    confirmations.close()
    with pytest.raises(NotConnected, match=r"closed before .* confirmed 'a'"):
        await wait
    proxy.thaw()
