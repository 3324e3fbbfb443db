"""Networked promises, over a real Valkey."""

from __future__ import annotations

import asyncio
import fnmatch
import gc
from collections.abc import AsyncIterator

import pytest
import redis

from mpx_channels.multiplexer import (
    ConnectionLost,
    InactiveSubscription,
    Multiplexer,
    Promise,
    PromiseDisconnected,
    PromiseSubscription,
    SubscriptionClosed,
)
from mpx_channels.multiplexer.promises import escape_glob
from tests.inside import promises_in

from ..conftest import RestartableServer, eventually
from ..proxy import Proxy
from .conftest import NewMultiplexer

pytestmark = pytest.mark.usefixtures("clean_loop")


@pytest.fixture
async def jobs(mpx: Multiplexer) -> AsyncIterator[PromiseSubscription]:
    """Promises under ``job:``, active."""
    async with mpx.new_promise_subscription("job:") as subscription:
        await subscription.wait_for_activation()
        yield subscription


async def test_a_message_fulfils_the_promise(mpx: Multiplexer, jobs: PromiseSubscription) -> None:
    promise = jobs.new_promise("42", timeout=10.0)
    assert isinstance(promise, Promise)
    assert promise.name == "42"
    assert not promise.done()
    assert await mpx.publish("job:42", b"done") == 1
    assert await promise == b"done"
    assert promise.done()
    assert await promise == b"done"  # as often as one likes
    assert not promise.cancel()  # too late


async def test_one_message_fulfils_every_promise_of_its_name(
    mpx: Multiplexer, jobs: PromiseSubscription
) -> None:
    promises = [jobs.new_promise("42") for _ in range(10)]
    other = jobs.new_promise("43")
    assert await mpx.publish("job:42", b"done") == 1
    assert await asyncio.gather(*promises) == [b"done"] * 10
    assert not other.done()
    assert mpx.stats().drops["no_promise"] == 0


async def test_a_promise_takes_one_message(mpx: Multiplexer, jobs: PromiseSubscription) -> None:
    promise = jobs.new_promise("42")
    await mpx.publish("job:42", b"1")
    await mpx.publish("job:42", b"2")
    assert await promise == b"1"
    await eventually(lambda: mpx.stats().drops["no_promise"] == 1)
    again = jobs.new_promise("42")
    await mpx.publish("job:42", b"3")
    assert await again == b"3"


async def test_a_promise_needs_no_subscribe_of_its_own(
    mpx: Multiplexer, jobs: PromiseSubscription, client: redis.Redis
) -> None:
    commands = mpx.stats().commands_out
    promises = [jobs.new_promise(str(number)) for number in range(100)]
    for number in range(50):
        client.publish(f"job:{number}", b"%d" % number)
    assert await asyncio.gather(*promises[:50]) == [b"%d" % number for number in range(50)]
    jobs.clear()
    assert mpx.stats().commands_out == commands
    assert client.pubsub_channels() == []
    assert client.pubsub_numpat() == 1


async def test_a_message_without_a_promise_is_dropped_and_counted(
    mpx: Multiplexer, jobs: PromiseSubscription
) -> None:
    await mpx.publish("job:42", b"")
    await eventually(lambda: mpx.stats().drops["no_promise"] == 1)


@pytest.mark.parametrize("name", ["", "é☃", b"bytes", b"\xff", "with space", "*"])
async def test_names_of_all_kinds(
    mpx: Multiplexer, jobs: PromiseSubscription, name: str | bytes
) -> None:
    promise = jobs.new_promise(name)
    raw = name if isinstance(name, bytes) else name.encode()
    await mpx.publish(b"job:" + raw, b"done")
    assert await promise == b"done"
    assert promise.name == raw.decode("utf-8", "surrogateescape")


# -- timeouts and cancelling -----------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.01])
async def test_a_promise_times_out(jobs: PromiseSubscription, timeout: float) -> None:
    promise = jobs.new_promise("42", timeout)
    with pytest.raises(TimeoutError, match=f"no message for the promise '42' in {timeout} s"):
        await promise
    assert promise.done()
    assert not promises_in(jobs)


@pytest.mark.parametrize("timeout", [-1, -0.001])
async def test_timeouts_below_zero_are_refused(jobs: PromiseSubscription, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        jobs.new_promise("42", timeout)
    assert not promises_in(jobs)


async def test_a_cancelled_promise(mpx: Multiplexer, jobs: PromiseSubscription) -> None:
    cancelled, other = jobs.new_promise("42"), jobs.new_promise("42")
    assert cancelled.cancel()
    assert not cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await mpx.publish("job:42", b"done")
    assert await other == b"done"


async def test_cancelling_the_waiting_task_cancels_the_promise(
    mpx: Multiplexer, jobs: PromiseSubscription
) -> None:
    async def wait() -> bytes:
        return await jobs.new_promise("42", timeout=10)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert promises_in(jobs)
    task.cancel()
    await asyncio.wait([task])
    await eventually(lambda: not promises_in(jobs))
    await mpx.publish("job:42", b"")
    await eventually(lambda: mpx.stats().drops["no_promise"] == 1)


async def test_clear_cancels_every_promise_and_no_more(
    mpx: Multiplexer, jobs: PromiseSubscription
) -> None:
    promises = [jobs.new_promise(str(number // 2)) for number in range(6)]
    jobs.clear()
    for promise in promises:
        with pytest.raises(asyncio.CancelledError):
            await promise
    assert jobs.active
    promise = jobs.new_promise("0")
    await mpx.publish("job:0", b"done")
    assert await promise == b"done"


async def test_nothing_is_left_of_settled_promises(
    mpx: Multiplexer, jobs: PromiseSubscription
) -> None:
    fulfilled, timed_out, cancelled = (
        [jobs.new_promise(str(number), 0.001 if what == "timed out" else 60) for number in range(9)]
        for what in ("fulfilled", "timed out", "cancelled")
    )
    for promise in cancelled:
        promise.cancel()
    for number in range(9):
        await mpx.publish(f"job:{number}", b"")
    await asyncio.gather(*fulfilled)
    await asyncio.gather(*timed_out, return_exceptions=True)
    await eventually(lambda: not promises_in(jobs))
    loop = asyncio.get_running_loop()
    scheduled = loop._scheduled  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio's timers
    timers = [each for each in scheduled if not each.cancelled()]
    assert not [each for each in timers if "Promise" in repr(each)]


async def test_failures_that_nobody_awaits_are_not_reported(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    """The fixture of the loop would see asyncio's complaint."""
    async with new_multiplexer(proxy.url) as mpx:
        jobs = mpx.new_promise_subscription("job:")
        promises = [await jobs.wait_for_new_promise("42", 0), await jobs.wait_for_new_promise("43")]
        await eventually(promises[0].done)
        proxy.cut()
        await eventually(promises[1].done)
        promises.clear()
        gc.collect()


# -- activation ------------------------------------------------------------------------------------


async def test_inactive_it_makes_no_promises(new_multiplexer: NewMultiplexer) -> None:
    mpx = new_multiplexer()
    jobs = mpx.new_promise_subscription("job:")
    assert jobs.prefix == "job:"
    assert not jobs.active
    with pytest.raises(InactiveSubscription, match="wait_for_activation"):
        jobs.new_promise("42")
    await mpx.start()
    await jobs.wait_for_activation()
    assert jobs.active
    await jobs.wait_for_activation()  # says yes again
    jobs.new_promise("42").cancel()


async def test_waiting_for_a_new_promise(new_multiplexer: NewMultiplexer) -> None:
    mpx = new_multiplexer()
    jobs = mpx.new_promise_subscription("job:")
    waiting = asyncio.create_task(jobs.wait_for_new_promise("42", timeout=10.0))
    await asyncio.sleep(0)
    await mpx.start()
    promise = await waiting
    await mpx.publish("job:42", b"done")
    assert await promise == b"done"


async def test_the_promise_s_time_begins_with_the_promise(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    """Not while it waits for the server: here that is long after the timeout."""
    mpx = new_multiplexer(restartable_server.url)
    await mpx.start()
    jobs = mpx.new_promise_subscription("job:")
    waiting = asyncio.create_task(jobs.wait_for_new_promise("42", timeout=0.01))
    restartable_server.start()
    with pytest.raises(TimeoutError):
        await (await waiting)


async def test_a_broken_link_fails_promises_at_once(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    async with new_multiplexer(proxy.url) as mpx:
        jobs = mpx.new_promise_subscription("job:")
        promises = [await jobs.wait_for_new_promise(str(number % 3), 60) for number in range(5)]
        proxy.refuse()
        proxy.cut()
        for promise in promises:
            with pytest.raises(PromiseDisconnected, match="connection broke"):
                await promise
        assert not promises_in(jobs)
        assert not jobs.active
        with pytest.raises(InactiveSubscription):
            jobs.new_promise("1")
        waiting = asyncio.create_task(jobs.wait_for_new_promise("1"))
        await proxy.accept()
        promise = await waiting
        assert await mpx.publish("job:1", b"done") == 1
        assert await promise == b"done"


async def test_stopping_fails_promises(mpx: Multiplexer, jobs: PromiseSubscription) -> None:
    promise = jobs.new_promise("42")
    await mpx.stop()
    with pytest.raises(PromiseDisconnected):
        await promise
    with pytest.raises(ConnectionLost):  # it is one
        await promise
    await mpx.start()
    promise = await jobs.wait_for_new_promise("42")
    await mpx.publish("job:42", b"done")
    assert await promise == b"done"


# -- closing ---------------------------------------------------------------------------------------


async def test_closing_cancels_and_unsubscribes(
    new_multiplexer: NewMultiplexer, client: redis.Redis
) -> None:
    async with new_multiplexer(unsubscribe_delay=0) as mpx:
        jobs = mpx.new_promise_subscription("job:")
        await jobs.wait_for_activation()
        promise = jobs.new_promise("42")
        assert not jobs.closed
        jobs.close()
        jobs.close()  # harmless
        assert jobs.closed
        assert not jobs.active
        with pytest.raises(asyncio.CancelledError):
            await promise
        for call in (lambda: jobs.new_promise("42"), jobs.clear):
            with pytest.raises(SubscriptionClosed, match="was closed; make a new one"):
                call()
        for waiting in (jobs.wait_for_activation(), jobs.wait_for_new_promise("42")):
            with pytest.raises(SubscriptionClosed):
                await waiting
        with pytest.raises(SubscriptionClosed):
            async with jobs:
                pass
        await eventually(lambda: client.pubsub_numpat() == 0)


async def test_closing_while_somebody_waits(new_multiplexer: NewMultiplexer) -> None:
    jobs = new_multiplexer().new_promise_subscription("job:")
    waiting = asyncio.create_task(jobs.wait_for_new_promise("42"))
    await asyncio.sleep(0)
    jobs.close()
    with pytest.raises(SubscriptionClosed):
        await waiting


async def test_leaving_the_context_closes(mpx: Multiplexer) -> None:
    async with mpx.new_promise_subscription("job:") as jobs:
        promise = await jobs.wait_for_new_promise("42")
    assert jobs.closed
    with pytest.raises(asyncio.CancelledError):
        await promise


# -- prefixes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["*", "a?", "[ab]", "a\\", "^a-b]", "", b"\xff*"])
async def test_prefixes_mean_themselves(mpx: Multiplexer, prefix: str | bytes) -> None:
    subscription = mpx.new_promise_subscription(prefix)
    promise = await subscription.wait_for_new_promise("42")
    raw = prefix if isinstance(prefix, bytes) else prefix.encode()
    if raw:
        for other in (b"xx42", b"aa42", b"a42", b"[ab42", b"\\a42"):
            assert await mpx.publish(other, b"wrong") == 0
    assert await mpx.publish(raw + b"42", b"done") == 1
    assert await promise == b"done"


def test_escaped_characters() -> None:
    assert escape_glob(r"a*b?c[d]e\f^g-h") == r"a\*b\?c\[d\]e\\f^g-h"
    assert fnmatch.fnmatch("plain", escape_glob("plain"))


async def test_two_subscriptions_under_one_prefix(mpx: Multiplexer) -> None:
    subs = [mpx.new_promise_subscription("job:") for _ in range(2)]
    promises = [await sub.wait_for_new_promise("42") for sub in subs]
    assert await mpx.publish("job:42", b"done") == 1
    assert await asyncio.gather(*promises) == [b"done"] * 2


async def test_prefixes_within_prefixes(mpx: Multiplexer) -> None:
    outer, inner = (mpx.new_promise_subscription(prefix) for prefix in ("job:", "job:x:"))
    promises = [
        await outer.wait_for_new_promise("x:42"),
        await inner.wait_for_new_promise("42"),
    ]
    assert await mpx.publish("job:x:42", b"done") == 2
    assert await asyncio.gather(*promises) == [b"done"] * 2
