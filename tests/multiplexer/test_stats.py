"""What is counted, and that a snapshot stays as it was taken."""

from __future__ import annotations

import dataclasses
import time

import pytest

from mpx_channels.multiplexer import Multiplexer, MultiplexerStats, NodeStats
from mpx_channels.multiplexer.counters import EngineCounters

from ..conftest import eventually
from ..proxy import Proxy
from .conftest import NewMultiplexer
from .recorder import Recorder


def test_before_the_start_all_is_zero() -> None:
    stats = Multiplexer().stats()
    assert stats == MultiplexerStats(
        connected=False,
        connected_since=None,
        names_wanted=0,
        names_confirmed=0,
        patterns=0,
        listeners=0,
        messages_in=0,
        deliveries=0,
        bytes_in=0,
        bytes_out=0,
        commands_out=0,
        reconnects=0,
        probe_reconnects=0,
        slots_moved=0,
        redirections=0,
        callback_errors=0,
        drops=EngineCounters().drops(),
        nodes=(NodeStats("redis://localhost:6379", 0, False, None, 0, False, 0, None),),
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.reconnects = 1  # type: ignore[misc]


async def test_a_life_in_numbers(new_multiplexer: NewMultiplexer, proxy: Proxy) -> None:
    begin = time.time()
    mpx = new_multiplexer(proxy.url, unsubscribe_delay=0)
    recorders = [Recorder(), Recorder()]
    subs = [mpx.new_channel_subscription(*recorder.callbacks) for recorder in recorders]
    for sub in subs:
        sub.add("a", "b")
    pattern = mpx.new_pattern_subscription("b*", *recorders[0].callbacks)
    promises = mpx.new_promise_subscription("job:")
    mpx.new_pattern_subscription("other*")
    stats = mpx.stats()
    assert (stats.names_wanted, stats.names_confirmed) == (2, 0)
    assert (stats.patterns, stats.listeners) == (3, 7)

    await mpx.start()
    for name in ("a", "b"):
        await subs[1].wait_for_activation(name)
    await pattern.wait_for_activation()
    await promises.wait_for_activation()
    stats = mpx.stats()
    assert stats.connected
    assert stats.connected_since is not None
    assert begin <= stats.connected_since <= time.time()
    assert (stats.names_wanted, stats.names_confirmed) == (2, 2)
    assert stats.commands_out == 2  # SUBSCRIBE a b, PSUBSCRIBE b* job:* other*

    assert await mpx.publish("b", b"data") == 2
    await eventually(lambda: len(recorders[0].messages) == 2)
    await mpx.publish("job:1", b"")
    await eventually(lambda: mpx.stats().messages_in == 3)
    stats = mpx.stats()
    assert stats.deliveries == 4
    assert stats.commands_out == 4
    assert stats.drops == {**EngineCounters().drops(), "no_promise": 1}
    assert stats.bytes_in > len("data") * 2
    # The handshakes are not counted, so the proxy saw more.
    assert 0 < stats.bytes_out < len(proxy.to_server.data)
    assert bytes(proxy.to_server.data).count(b"PUBLISH") == 2

    subs[0].close()
    subs[1].remove("a")
    await eventually(lambda: mpx.stats().commands_out == 5)
    stats = mpx.stats()
    assert (stats.names_wanted, stats.names_confirmed, stats.listeners) == (1, 1, 4)

    before = mpx.stats()
    proxy.cut()
    await eventually(lambda: mpx.stats().reconnects == 1)
    await subs[1].wait_for_activation("b")
    stats = mpx.stats()
    # Totals go on where they were.
    assert stats.bytes_in > before.bytes_in
    assert stats.bytes_out > before.bytes_out
    assert stats.messages_in == 3

    await mpx.stop()
    stats = mpx.stats()
    assert not stats.connected
    assert stats.connected_since is None
    assert (stats.names_wanted, stats.names_confirmed) == (1, 0)
    assert stats.bytes_in >= before.bytes_in


async def test_messages_that_nobody_listens_to_any_more(mpx: Multiplexer) -> None:
    """The name lingers, the listener does not."""
    recorder = Recorder()
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    await sub.wait_for_activation("a")
    sub.remove("a")
    assert await mpx.publish("a", b"1") == 1
    await eventually(lambda: mpx.stats().drops["no_listener"] == 1)
    assert mpx.stats().messages_in == 1
    assert mpx.stats().deliveries == 0
    assert recorder.messages == []


async def test_names_that_redis_refuses(
    new_multiplexer: NewMultiplexer, restricted_url: str
) -> None:
    async with new_multiplexer(restricted_url) as mpx:
        sub = mpx.new_channel_subscription()
        sub.add("allowed", "secret")
        pattern = mpx.new_pattern_subscription("*")
        await eventually(lambda: mpx.stats().names_refused == 2)
        (node,) = mpx.stats().nodes
        assert node.names_refused == 2
        assert node.refusal is not None
        assert "permissions" in node.refusal
        assert node.last_error is None
        pattern.close()
        sub.remove("secret")
        await sub.wait_for_activation("allowed")
        (node,) = mpx.stats().nodes
        assert (mpx.stats().names_refused, node.names_refused, node.refusal) == (0, 0, None)


async def test_callbacks_that_raise_are_counted(mpx: Multiplexer) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("on purpose")

    sub = mpx.new_channel_subscription(fail, None, fail)
    sub.add("a")
    await sub.wait_for_activation("a")
    await mpx.publish("a", b"1")
    await eventually(lambda: mpx.stats().callback_errors == 2)
