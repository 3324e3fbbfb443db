"""Promises: wait for an answer that anybody may give, anywhere."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from mpx_channels.layer import MpxChannelLayer, PromiseRejected, UnserializableMessage
from mpx_channels.multiplexer import NotConnected, PromiseDisconnected
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.inside import names_of
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy, without


def waited_for(layer: MpxChannelLayer) -> int:
    """How many answers a layer waits for."""
    stats = layer.stats()
    return stats.promises if stats is not None else 0


@pytest.mark.parametrize(
    "value", [None, 0, "", "grüße", b"\x00", 1.5, True, [1, {"a": [None]}], {"type": "no event"}]
)
async def test_resolved_with_any_value(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, value: Any
) -> None:
    promise = await layer.new_promise("order-42")
    assert promise.name == "order-42"
    assert await other_layer.resolve("order-42", value) == 1
    assert await promise == value
    assert waited_for(layer) == 0


async def test_rejected_with_a_reason(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    promise = await layer.new_promise("order-42")
    assert await other_layer.reject("order-42", "sold out") == 1
    with pytest.raises(PromiseRejected, match=r"^sold out$"):
        await promise


@pytest.mark.everywhere(classic=True)
async def test_all_who_wait_are_told_and_counted(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, make_layer: MakeLayer
) -> None:
    promises = [await layer.new_promise("order-42") for _ in range(3)]
    promises += [await other_layer.new_promise("order-42") for _ in range(2)]
    others = [await layer.new_promise(name) for name in ("order-4", "order-420", "Order-42")]
    assert await make_layer().resolve("order-42", "done") == 5
    assert await asyncio.gather(*promises) == ["done"] * 5
    assert waited_for(layer) == 3
    for promise in others:
        promise.cancel()


async def test_each_waiter_gets_the_value(layer: MpxChannelLayer) -> None:
    waiting = [asyncio.create_task(layer.promise("order-42")) for _ in range(2)]
    await eventually(lambda: waited_for(layer) == 2)
    assert await layer.resolve("order-42", [1]) == 2
    assert [await each for each in waiting] == [[1], [1]]


@pytest.mark.everywhere
async def test_nobody_waits(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    assert await layer.resolve("order-42", "x") == 0
    assert await layer.reject("order-42", "x") == 0
    # The answer is gone: who comes later waits for the next one.
    promise = await layer.new_promise("order-42")
    assert await other_layer.resolve("order-42", "y") == 1
    assert await promise == "y"


async def test_nobody_waits_any_more(make_layer: MakeLayer, other_layer: MpxChannelLayer) -> None:
    """Redis still delivers the name to who waited just now: nobody waits for the other's word."""
    layer = make_layer(connect_timeout=600)
    other_layer = make_layer(connect_timeout=600)
    promise = await layer.new_promise("order-42")
    assert await other_layer.resolve("order-42", "first") == 1
    async with asyncio.timeout(30):
        assert await other_layer.resolve("order-42", "second") == 0
        assert await other_layer.reject("order-42", "third") == 0
    assert await promise == "first"
    with pytest.raises(TimeoutError):
        await layer.promise("order-43", timeout=0)
    async with asyncio.timeout(30):
        assert await other_layer.resolve("order-43") == 0


async def test_who_listens_by_a_pattern_is_not_waited_for(
    make_layer: MakeLayer, other_layer: MpxChannelLayer, prefix: str
) -> None:
    """Somebody who watches Redis, or a consumer with a pattern: Redis counts them as receivers."""
    layer = make_layer(connect_timeout=600)
    async with other_layer.subscribe(patterns=["*", f"{prefix}:r:*"]):
        promise = await other_layer.new_promise("order-42")
        async with asyncio.timeout(30):
            assert await layer.resolve("order-42", "x") == 1
            assert await layer.resolve("nobody", "x") == 0
        assert await promise == "x"


async def test_without_permission_to_count_there_is_patience(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    url = restartable_server.start_with_user("allchannels", "+@all", "-pubsub")
    layer = make_layer(hosts=[url], connect_timeout=0.5)
    promise = await layer.new_promise("order-42")
    assert await layer.resolve("order-42", "x") == 1
    assert await promise == "x"
    await layer.pattern_add("*", await layer.new_channel())
    assert await layer.resolve("order-42", "x") == 0


async def test_a_name_can_be_used_again_at_once(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    for number in range(20):
        promise = await layer.new_promise("order-42", timeout=10)
        assert await other_layer.resolve("order-42", number) == 1
        assert await promise == number
    assert waited_for(layer) == 0


async def test_names_are_left_again(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, outside: Outside, prefix: str
) -> None:
    name = names_of(layer).promise("order-42")
    promise = await layer.new_promise("order-42")
    assert outside.numsub(name) == 1
    await other_layer.resolve("order-42")
    await promise
    abandoned = await layer.new_promise("order-43")
    abandoned.cancel()
    await eventually(lambda: not outside.channels(f"{prefix}:r:*"))


@pytest.mark.parametrize("timeout", [0, 0.01, 0.2])
async def test_time_is_over(layer: MpxChannelLayer, timeout: float) -> None:
    await layer.connect()
    with pytest.raises(
        TimeoutError, match=rf"nobody settled the promise 'order-42' in {timeout} s"
    ):
        await layer.promise("order-42", timeout=timeout)
    assert waited_for(layer) == 0


async def test_one_that_times_out_leaves_the_other(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    patient = await layer.new_promise("order-42")
    with pytest.raises(TimeoutError):
        await layer.promise("order-42", timeout=0.01)
    assert await other_layer.resolve("order-42", "x") == 1
    assert await patient == "x"


async def test_a_settled_promise_keeps_its_value(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    """Settled before anybody awaits it, awaited later, and more than once."""
    promise = await layer.new_promise("order-42", timeout=1)
    await other_layer.resolve("order-42", "x")
    marker = await layer.new_promise("marker", timeout=1.1)
    with pytest.raises(TimeoutError):
        await marker
    assert await promise == "x"
    assert await promise == "x"


async def test_a_promise_that_nobody_awaits_is_no_error(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    await layer.new_promise("order-42")
    await other_layer.reject("order-42", "no")
    await layer.new_promise("order-43", timeout=0)
    await eventually(lambda: waited_for(layer) == 0)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_cancelled(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    waiting = asyncio.create_task(layer.promise("order-42"))
    await eventually(lambda: waited_for(layer) == 1)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    promise = await layer.new_promise("order-42")
    promise.cancel()
    promise.cancel()
    with pytest.raises(asyncio.CancelledError):
        await promise
    assert waited_for(layer) == 0
    assert await other_layer.resolve("order-42") == 0


async def test_cancelled_before_it_is_in_force(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    await layer.new_channel()
    proxy.to_server.freeze()
    waiting = asyncio.create_task(layer.promise("order-42"))
    await eventually(lambda: waited_for(layer) == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert waited_for(layer) == 0
    proxy.to_server.thaw()


async def test_callbacks_are_called_at_the_end_of_each(layer: MpxChannelLayer) -> None:
    done: list[Any] = []
    settled, cancelled = [await layer.new_promise(name) for name in ("a", "b")]
    for promise in (settled, cancelled):
        promise.add_done_callback(done.append)
    cancelled.cancel()
    await layer.resolve("a")
    await eventually(lambda: done == [cancelled, settled])


@pytest.mark.parametrize("name", ["", "ä", "two words", "a!b", "a:b", "x" * 100, 17, None])
async def test_names_are_checked(layer: MpxChannelLayer, name: Any) -> None:
    for call in (layer.promise(name), layer.resolve(name), layer.reject(name, "no")):
        with pytest.raises(TypeError, match="Promise name must be a valid unicode string"):
            await call


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", b""])
async def test_timeouts_are_checked(layer: MpxChannelLayer, timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        await layer.promise("order-42", timeout)


async def test_values_are_checked(layer: MpxChannelLayer) -> None:
    with pytest.raises(UnserializableMessage, match=r"'value'.*'bad'"):
        await layer.resolve("order-42", {"bad": object()})


# -- the link -------------------------------------------------------------------------------------


async def test_the_link_breaks(
    make_layer: MakeLayer, other_layer: MpxChannelLayer, proxy: Proxy
) -> None:
    layer = make_layer(hosts=[proxy.url])
    promises = [await layer.new_promise(name) for name in ("order-42", "order-42", "order-43")]
    proxy.cut()
    for promise in promises:
        with pytest.raises(PromiseDisconnected, match="order-4"):
            await promise
    assert waited_for(layer) == 0
    # The next one waits for the link.
    promise = await layer.new_promise("order-42")
    assert await other_layer.resolve("order-42", "again") == 1
    assert await promise == "again"


async def test_the_link_breaks_before_it_is_known_who_waited(
    make_layer: MakeLayer, other_layer: MpxChannelLayer, proxy: Proxy, client: redis.Redis
) -> None:
    layer = make_layer(hosts=[proxy.url], connect_timeout=600)
    await layer.connect()
    promise = await other_layer.new_promise("order-42", timeout=PATIENCE)
    proxy.to_client.rewrite = without(b"message")
    resolving = asyncio.ensure_future(layer.resolve("order-42", "shipped"))
    assert await promise == "shipped"
    client.client_kill_filter(_type="pubsub")
    with pytest.raises(PromiseDisconnected, match="before the answer came"):
        await asyncio.wait_for(resolving, PATIENCE)


async def test_the_link_breaks_before_it_is_in_force(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    await layer.new_channel()
    proxy.to_client.freeze()
    waiting = [asyncio.create_task(layer.promise("order-42")) for _ in range(2)]
    await eventually(lambda: b"order-42" in proxy.to_server.data)
    proxy.cut()
    proxy.to_client.thaw()
    for each in waiting:
        with pytest.raises(PromiseDisconnected):
            await each
    assert waited_for(layer) == 0


async def test_the_link_does_not_come_up(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    layer = make_layer(
        hosts=[restartable_server.url], connect_timeout=2.0, backlog_timeout=2.0, max_backoff=0.02
    )
    with pytest.raises(NotConnected, match="did not confirm"):
        await layer.promise("order-42")
    for _ in range(2):
        # Sooner than the layer itself gives up; it is not for want of somebody who settles it.
        with pytest.raises(
            NotConnected, match=r"did not confirm .* in 0.1 s: .*Connect call failed"
        ):
            await layer.promise("order-42", timeout=0.1)
    with pytest.raises(NotConnected):
        await layer.resolve("order-42")
    assert waited_for(layer) == 0
    restartable_server.start()
    await layer.connect(PATIENCE)
    promise = await layer.new_promise("order-42")
    assert await layer.resolve("order-42", 1) == 1
    assert await promise == 1


async def test_the_server_stands_still(make_layer: MakeLayer, proxy: Proxy) -> None:
    """A connection to a server that answers nothing is as good as none."""
    layer = make_layer(hosts=[proxy.url])
    await layer.connect()
    proxy.freeze()
    with pytest.raises(NotConnected, match=r"did not confirm '.*order-42' in 0.6 s"):
        await layer.promise("order-42", timeout=0.6)
    proxy.thaw()
    assert waited_for(layer) == 0


async def test_the_layer_is_closed(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """Nobody is left waiting: neither who is in force, nor who is not yet."""
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url])
    in_force = await layer.new_promise("order-42")
    await layer.close()
    with pytest.raises(PromiseDisconnected):
        await in_force
    restartable_server.kill()
    channel_of_nobody = asyncio.create_task(layer.new_channel())
    waiting = asyncio.create_task(layer.promise("order-42"))
    asking = asyncio.create_task(layer.resolve("order-43"))
    await eventually(lambda: waited_for(layer))
    await layer.close()
    for task in (channel_of_nobody, waiting, asking):
        with pytest.raises((NotConnected, PromiseDisconnected), match="closed"):
            await asyncio.wait_for(task, 10)


# -- from elsewhere -------------------------------------------------------------------------------


async def test_from_sync_code(layer: MpxChannelLayer, make_layer: MakeLayer) -> None:
    sync_layer = make_layer()
    promise = await layer.new_promise("order-42")
    assert await asyncio.to_thread(async_to_sync(sync_layer.resolve), "order-42", "x") == 1
    assert await promise == "x"
    waiting = asyncio.create_task(
        asyncio.to_thread(async_to_sync(sync_layer.promise), "order-43", 10)
    )

    # With classic Pub/Sub in a cluster, who came in this moment may hear it and not be counted.
    while not await layer.resolve("order-43", "y") and not waiting.done():
        pass
    assert await waiting == "y"


WAITER = """
import asyncio, json, sys
from django.conf import settings
settings.configure()
from mpx_channels.layer import MpxChannelLayer, PromiseRejected

async def main(config, prefix):
    asyncio.get_running_loop().slow_callback_duration = 60  # the machine may be busy
    layer = MpxChannelLayer(**json.loads(config), prefix=prefix)
    promises = [await layer.new_promise("order-42", timeout=30) for _ in range(2)]
    rejected = await layer.new_promise("order-43", timeout=30)
    assert await layer.resolve("ready") == 1
    print([await promise for promise in promises])
    try:
        await rejected
    except PromiseRejected as error:
        print(error)
    print(await layer.resolve("mine", "from the other process"))
    await layer.close()

asyncio.run(main(*sys.argv[1:]), debug=True)
"""


async def test_two_processes(layer: MpxChannelLayer, layer_json: str, prefix: str) -> None:
    ready = await layer.new_promise("ready", timeout=30)
    mine = await layer.new_promise("mine", timeout=30)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", WAITER, layer_json, prefix,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await ready
    here = await layer.new_promise("order-42")
    assert await layer.resolve("order-42", ["done"]) == 3
    assert await here == ["done"]
    assert await layer.reject("order-43", "sold out") == 1
    assert await mine == "from the other process"
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert output.decode() == "[['done'], ['done']]\nsold out\n1\n"


async def test_foreign_bytes_settle_nothing(
    layer: MpxChannelLayer, outside: Outside, prefix: str
) -> None:
    promise = await layer.new_promise("order-42")
    for data in (b"", b"hello", b"\xc1\x01\x00\x00\x93", b"\xc1\x01\x00\x01\xc1"):
        outside.publish_as_layers(names_of(layer).promise("order-42"), data)
    assert await layer.resolve("order-42", "x") == 1
    assert await promise == "x"
    assert layer.stats().drops["unreadable"] == 4
