"""Channel and pattern subscriptions, over a real Valkey."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from mpx_channels.multiplexer import (
    ChannelSubscription,
    InactiveSubscription,
    Multiplexer,
    PatternSubscription,
    SubscriptionClosed,
    SubscriptionRefused,
)
from mpx_channels.multiplexer.subscriptions import encode_name
from tests.inside import late_in, registry_of, subscribers_of, waiting_for_names

from ..conftest import RestartableServer, eventually
from ..proxy import Proxy
from .conftest import NewMultiplexer
from .recorder import Recorder

pytestmark = pytest.mark.usefixtures("clean_loop")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


async def subscribed(mpx: Multiplexer, *names: str, recorder: Recorder) -> ChannelSubscription:
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add(*names)
    for name in names:
        await sub.wait_for_activation(name)
    return sub


def subscribers(client: redis.Redis, *names: str | bytes) -> list[int]:
    """How many clients Redis has for each name."""
    return [count for _, count in client.pubsub_numsub(*names)]  # type: ignore[misc]


async def settled(mpx: Multiplexer) -> None:
    """Wait until all that was published so far must have arrived."""
    marker = mpx.new_channel_subscription()
    marker.add("marker")
    await marker.wait_for_activation("marker")
    await mpx.publish("marker", b"")
    async for _ in marker:
        break
    marker.close()


# -- messages --------------------------------------------------------------------------------------


async def test_messages_arrive_in_order(mpx: Multiplexer, recorder: Recorder) -> None:
    await subscribed(mpx, "a", "b", recorder=recorder)
    for number in range(100):
        assert await mpx.publish("ab"[number % 2], b"%d" % number) == 1
    await eventually(lambda: len(recorder.messages) == 100)
    assert recorder.messages == [("ab"[number % 2], b"%d" % number) for number in range(100)]


async def test_every_subscription_of_a_name_gets_the_message(mpx: Multiplexer) -> None:
    recorders = [Recorder() for _ in range(3)]
    for recorder in recorders:
        await subscribed(mpx, "a", recorder=recorder)
    assert await mpx.publish("a", b"1") == 1  # one client for all of them
    await eventually(lambda: all(recorder.messages for recorder in recorders))
    assert all(recorder.messages == [("a", b"1")] for recorder in recorders)


@pytest.mark.parametrize(
    "name",
    ["a", "", "é☃", "with space\r\n", b"bytes", b"\xff\x00 not UTF-8", "*?[x]", "x" * 100_000],
)
async def test_names_of_all_kinds(
    mpx: Multiplexer, client: redis.Redis, recorder: Recorder, name: str | bytes
) -> None:
    text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add(name)
    assert sub.channels == {text}
    await sub.wait_for_activation(name)
    assert subscribers(client, name) == [1]
    await mpx.publish(name, b"1")
    await eventually(lambda: recorder.messages)
    assert recorder.events == [("activation", text, None), ("message", text, b"1")]
    # What came out can go in again.
    sub.remove(text)
    assert sub.channels == set()
    assert encode_name(text) == encode_name(name)


@pytest.mark.parametrize("data", [b"", b"\r\n$-1\r\n", bytes(range(256)), b"x" * 3_000_000])
async def test_data_of_all_kinds(mpx: Multiplexer, recorder: Recorder, data: bytes) -> None:
    await subscribed(mpx, "a", recorder=recorder)
    await mpx.publish("a", data)
    await eventually(lambda: recorder.messages)
    assert recorder.messages == [("a", data)]


@pytest.mark.parametrize("name", [None, 1, bytearray(b"a"), ["a"]])
async def test_names_that_are_none(mpx: Multiplexer, name: Any) -> None:
    sub = mpx.new_channel_subscription()
    for call in (sub.add, sub.remove, mpx.new_pattern_subscription, mpx.new_promise_subscription):
        with pytest.raises(TypeError, match="is str or bytes, not"):
            call(name)
    with pytest.raises(TypeError, match="is str or bytes, not"):
        sub.add("fine", name)
    assert sub.channels == set()  # all or nothing
    with pytest.raises(TypeError, match="is str or bytes, not"):
        await sub.wait_for_activation(name)
    with pytest.raises(TypeError, match="is str or bytes, not"):
        await mpx.publish(name, b"")


# -- adding and removing ---------------------------------------------------------------------------


async def test_removed_names_are_silent_at_once(mpx: Multiplexer, recorder: Recorder) -> None:
    sub = await subscribed(mpx, "a", "b", recorder=recorder)
    sub.remove("a")
    sub.remove("a", "never there")  # harmless
    await mpx.publish("a", b"1")
    await mpx.publish("b", b"2")
    await eventually(lambda: recorder.messages)
    assert recorder.messages == [("b", b"2")]
    assert sub.channels == {"b"}


async def test_names_that_nobody_wants_are_unsubscribed(
    new_multiplexer: NewMultiplexer, client: redis.Redis, recorder: Recorder
) -> None:
    async with new_multiplexer(unsubscribe_delay=0.01) as mpx:
        sub = await subscribed(mpx, "a", "b", "c", recorder=recorder)
        other = await subscribed(mpx, "c", recorder=recorder)
        sub.remove("a")
        await eventually(lambda: subscribers(client, "a", "b", "c") == [0, 1, 1])
        sub.clear()
        assert sub.channels == set()
        await eventually(lambda: subscribers(client, "a", "b", "c") == [0, 0, 1])
        sub.add("a")  # it can be added to again
        await sub.wait_for_activation("a")
        sub.close()
        other.close()
        await eventually(lambda: subscribers(client, "a", "b", "c") == [0, 0, 0])
        # And nothing of it is left.
        registry = registry_of(mpx)
        await eventually(lambda: not registry.channels)
        assert mpx.stats().listeners == 0


async def test_a_name_that_does_not_come_back_is_unsubscribed_at_once(
    mpx: Multiplexer, client: redis.Redis, recorder: Recorder
) -> None:
    sub = await subscribed(mpx, "a", "b", "c", recorder=recorder)
    sub.remove("b")
    sub.remove("a", "c", at_once=True)
    sub.add("c")
    await eventually(lambda: subscribers(client, "a", "b", "c") == [0, 1, 1])


async def test_a_name_stays_subscribed_for_a_while(
    mpx: Multiplexer, client: redis.Redis, recorder: Recorder
) -> None:
    sub = await subscribed(mpx, "a", recorder=recorder)
    commands = mpx.stats().commands_out
    for _ in range(10):
        sub.remove("a")
        await mpx.publish("other", b"")
        sub.add("a")
        await sub.wait_for_activation("a")
    assert mpx.stats().commands_out == commands + 10  # the publishes
    assert subscribers(client, "a") == [1]


async def test_remove_then_add_in_one_turn_sends_nothing(
    new_multiplexer: NewMultiplexer, client: redis.Redis, recorder: Recorder
) -> None:
    async with new_multiplexer(unsubscribe_delay=0) as mpx:
        sub = await subscribed(mpx, "a", recorder=recorder)
        commands = mpx.stats().commands_out
        sub.remove("a")
        sub.add("a")
        await sub.wait_for_activation("a")
        await mpx.publish("a", b"1")
        await eventually(lambda: recorder.messages)
        assert mpx.stats().commands_out == commands + 1
        assert subscribers(client, "a") == [1]


async def test_add_remove_add_with_turns_between(
    new_multiplexer: NewMultiplexer, client: redis.Redis, recorder: Recorder
) -> None:
    async with new_multiplexer(unsubscribe_delay=0) as mpx:
        sub = await subscribed(mpx, "a", recorder=recorder)
        for _ in range(50):
            sub.remove("a")
            await asyncio.sleep(0)
            sub.add("a")
            await asyncio.sleep(0)
        await sub.wait_for_activation("a")
        assert await mpx.publish("a", b"1") == 1
        await eventually(lambda: recorder.messages == [("a", b"1")])
        assert subscribers(client, "a") == [1]


async def test_churn_leaves_nothing_behind(
    new_multiplexer: NewMultiplexer, client: redis.Redis
) -> None:
    async with new_multiplexer(unsubscribe_delay=0.001) as mpx:
        for turn in range(50):
            subs: list[ChannelSubscription | PatternSubscription] = []
            for number in range(20):
                sub = mpx.new_channel_subscription(lambda name, data: None)
                sub.add(f"churn:{turn * 7 + number}", "churn")
                subs.append(sub)
                subs.append(mpx.new_pattern_subscription(f"churn:{turn}:{number}:*"))
            if turn % 3:
                await sub.wait_for_activation("churn")
            elif turn % 2:
                await asyncio.sleep(0)
            for each in subs:
                each.close()
        registry = registry_of(mpx)
        await eventually(lambda: not registry.channels and not registry.patterns)
        assert not subscribers_of(mpx).subscriptions
        assert not registry.dirty
        assert registry.next_due() is None
        assert not late_in(registry)
        assert client.pubsub_channels("churn*") == []
        assert client.pubsub_numpat() == 0


async def test_a_thousand_joins_are_a_handful_of_writes(
    new_multiplexer: NewMultiplexer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpx_channels.multiplexer.wire import Wire

    async with new_multiplexer(proxy.url) as mpx:
        await mpx.wait_connected(5)
        writes = 0
        write = Wire.write

        def counting(self: Wire, data: bytes) -> None:
            nonlocal writes
            writes += 1
            write(self, data)

        monkeypatch.setattr(Wire, "write", counting)
        subs = [mpx.new_channel_subscription(lambda name, data: None) for _ in range(1000)]
        for number, sub in enumerate(subs):
            sub.add(f"room:{number}")
        for number, sub in enumerate(subs):
            await sub.wait_for_activation(f"room:{number}")
        assert writes == 1
        assert bytes(proxy.to_server.data).count(b"SUBSCRIBE") == 2  # chunks of 512


# -- activation ------------------------------------------------------------------------------------


async def test_activation_means_that_redis_delivers(
    mpx: Multiplexer, client: redis.Redis, recorder: Recorder
) -> None:
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    assert recorder.events == []
    await sub.wait_for_activation("a")
    assert client.publish("a", b"1") == 1
    await eventually(lambda: recorder.messages)
    assert recorder.events == [("activation", "a", None), ("message", "a", b"1")]


async def test_waiting_for_what_is_active_returns(mpx: Multiplexer, recorder: Recorder) -> None:
    sub = await subscribed(mpx, "a", recorder=recorder)
    for _ in range(3):
        await sub.wait_for_activation("a")
    assert recorder.activations == ["a"]


async def test_late_joiners_get_their_activation(mpx: Multiplexer, recorder: Recorder) -> None:
    first = Recorder()
    await subscribed(mpx, "a", recorder=first)
    late = mpx.new_channel_subscription(*recorder.callbacks)
    late.add("a")
    assert recorder.activations == []  # not in the middle of add()
    await eventually(lambda: recorder.activations == ["a"])
    assert first.activations == ["a"]


async def test_a_late_joiner_that_waits_gets_one_activation(
    mpx: Multiplexer, recorder: Recorder
) -> None:
    await subscribed(mpx, "a", recorder=Recorder())
    late = mpx.new_channel_subscription(*recorder.callbacks)
    late.add("a")
    await late.wait_for_activation("a")
    assert recorder.activations == ["a"]
    await settled(mpx)
    assert recorder.activations == ["a"]


async def test_many_may_wait_for_one_name(mpx: Multiplexer) -> None:
    sub = mpx.new_channel_subscription()
    sub.add("a")
    await asyncio.gather(*[sub.wait_for_activation("a") for _ in range(10)])


async def test_waiting_before_the_start(new_multiplexer: NewMultiplexer) -> None:
    mpx = new_multiplexer()
    sub = mpx.new_channel_subscription()
    sub.add("a")
    waiting = asyncio.create_task(sub.wait_for_activation("a"))
    await asyncio.sleep(0)
    await mpx.start()
    await waiting


@pytest.mark.parametrize("name", ["never added", b"\xff"])
async def test_waiting_for_a_name_that_is_not_in(mpx: Multiplexer, name: str | bytes) -> None:
    sub = mpx.new_channel_subscription()
    with pytest.raises(InactiveSubscription, match="is not in this subscription"):
        await sub.wait_for_activation(name)


@pytest.mark.parametrize("how", ["remove", "clear", "close"])
async def test_waiting_for_what_is_taken_away(new_multiplexer: NewMultiplexer, how: str) -> None:
    mpx = new_multiplexer()  # not started: it would be confirmed too soon
    sub = mpx.new_channel_subscription()
    sub.add("a")
    waiting = asyncio.create_task(sub.wait_for_activation("a"))
    await asyncio.sleep(0)
    if how == "remove":
        sub.remove("a")
    else:
        getattr(sub, how)()
    with pytest.raises(SubscriptionClosed, match="'a' was removed"):
        await waiting


async def test_giving_up_waiting_leaves_nothing(new_multiplexer: NewMultiplexer) -> None:
    mpx = new_multiplexer()
    sub = mpx.new_channel_subscription()
    sub.add("a")
    waits = [asyncio.create_task(sub.wait_for_activation("a")) for _ in range(3)]
    await asyncio.sleep(0)
    for wait in waits[:2]:
        wait.cancel()
    await asyncio.wait(waits[:2])
    (waiters,) = waiting_for_names(sub)
    assert len(waiters) == 1
    await mpx.start()
    await waits[2]
    assert not waiting_for_names(sub)


async def test_activations_as_futures(mpx: Multiplexer) -> None:
    sub = mpx.new_channel_subscription()
    sub.add("a", "b")
    futures = [sub.activation(name) for name in ("a", "b", "a")]
    assert not any(future.done() for future in futures)
    forgotten = sub.activation("a")
    sub.forget("a", forgotten)
    await asyncio.gather(*futures)
    assert sub.activation("a").done()
    assert not forgotten.done()
    pattern = mpx.new_pattern_subscription("x*")
    unwanted = pattern.activation()
    pattern.forget(unwanted)
    await pattern.activation()
    assert not unwanted.done()


# -- closing ---------------------------------------------------------------------------------------


async def test_closed_it_takes_nothing(mpx: Multiplexer, recorder: Recorder) -> None:
    sub = await subscribed(mpx, "a", recorder=recorder)
    assert not sub.closed
    sub.close()
    sub.close()  # harmless
    assert sub.closed
    assert sub.channels == set()
    for call in (
        lambda: sub.add("a"),
        lambda: sub.remove("a"),
        sub.clear,
        lambda: sub.activation("a"),
    ):
        with pytest.raises(SubscriptionClosed, match="was closed; make a new one"):
            call()
    with pytest.raises(SubscriptionClosed):
        await sub.wait_for_activation("a")
    with pytest.raises(SubscriptionClosed):
        async with sub:
            pass
    await mpx.publish("a", b"1")
    await settled(mpx)
    await mpx.stop()
    assert recorder.kinds == ["activation"]


async def test_leaving_the_context_closes(mpx: Multiplexer, recorder: Recorder) -> None:
    async with mpx.new_channel_subscription(*recorder.callbacks) as sub:
        sub.add("a")
        await sub.wait_for_activation("a")
    assert sub.closed
    async with mpx.new_pattern_subscription("a*") as pattern:
        await pattern.wait_for_activation()
    assert pattern.closed


# -- iterating -------------------------------------------------------------------------------------


async def test_iterating(mpx: Multiplexer) -> None:
    async with mpx.new_channel_subscription() as sub:
        sub.add("a")
        await sub.wait_for_activation("a")
        for number in range(3):
            await mpx.publish("a", b"%d" % number)
        heard = []
        async for name, data in sub:
            heard.append((name, data))
            if len(heard) == 3:
                break
        assert heard == [("a", b"0"), ("a", b"1"), ("a", b"2")]
        # One can come back to it.
        await mpx.publish("a", b"3")
        async for _, data in sub:
            assert data == b"3"
            break


async def test_iterating_over_a_pattern(mpx: Multiplexer) -> None:
    async with mpx.new_pattern_subscription("news.*") as sub:
        await sub.wait_for_activation()
        await mpx.publish("news.sport", b"1")
        async for name, data in sub:
            assert (name, data) == ("news.sport", b"1")
            sub.close()  # ends the iteration


async def test_closing_ends_an_iteration_that_waits(mpx: Multiplexer) -> None:
    sub = mpx.new_channel_subscription()

    async def iterate() -> list[bytes]:
        return [data async for _, data in sub]

    iterating = asyncio.create_task(iterate())
    sub.add("a")
    await sub.wait_for_activation("a")
    await mpx.publish("a", b"1")
    await settled(mpx)
    sub.close()
    assert await iterating == [b"1"]


async def test_a_slow_iteration_loses_the_newest(new_multiplexer: NewMultiplexer) -> None:
    async with new_multiplexer(max_queue=2) as mpx, mpx.new_channel_subscription() as sub:
        sub.add("a")
        await sub.wait_for_activation("a")
        for number in range(5):
            await mpx.publish("a", b"%d" % number)
        await eventually(lambda: mpx.stats().drops["queue_full"] == 3)
        sub.close()
        assert [data async for _, data in sub] == [b"0", b"1"]


async def test_iterating_with_an_on_message_is_refused(
    mpx: Multiplexer, recorder: Recorder
) -> None:
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    with pytest.raises(TypeError, match="on_message"):
        async for _ in sub:
            pass


# -- callbacks -------------------------------------------------------------------------------------


async def test_async_callbacks(mpx: Multiplexer, recorder: Recorder) -> None:
    sub = mpx.new_channel_subscription(*recorder.async_callbacks)
    sub.add("a")
    await sub.wait_for_activation("a")
    for number in range(100):
        await mpx.publish("a", b"%d" % number)
    await eventually(lambda: len(recorder.events) == 101)
    assert recorder.activations == ["a"]
    assert recorder.messages == [("a", b"%d" % number) for number in range(100)]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_raising_callback_harms_nobody(
    mpx: Multiplexer,
    recorder: Recorder,
    error: type[BaseException],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*arguments: Any) -> None:
        raise error("on purpose")

    bad = mpx.new_channel_subscription(fail, fail, fail)
    bad.add("a")
    sub = mpx.new_channel_subscription(*recorder.callbacks)
    sub.add("a")
    worse = mpx.new_pattern_subscription("*", fail, fail, fail)
    await worse.wait_for_activation()
    await sub.wait_for_activation("a")
    for number in range(3):
        await mpx.publish("a", b"%d" % number)
    await eventually(lambda: len(recorder.messages) == 3)
    await eventually(lambda: mpx.stats().callback_errors == 8)
    assert mpx.stats().reconnects == 0
    assert "on purpose" in caplog.text
    assert "on_message" in caplog.text
    # All raised by the same line: each text is shown once, and the others are counted, with those
    # of the two on_disconnect.
    assert len(caplog.records) == 2
    await mpx.stop()
    assert len(caplog.records) == 3
    assert "(and 7 more in the last" in caplog.text


async def test_callbacks_may_change_subscriptions(mpx: Multiplexer) -> None:
    """Whoever is removed or closed by another's callback hears nothing more, not this message."""
    heard: list[str] = []

    def first_message(name: str, data: bytes) -> None:
        heard.append("first")
        second.remove("a")
        third.close()
        fourth.clear()
        fifth.add("a")
        first.add("b")

    first = mpx.new_channel_subscription(first_message)
    second, third, fourth, fifth = (
        mpx.new_channel_subscription(lambda name, data, who=who: heard.append(who))  # type: ignore[misc]
        for who in ("second", "third", "fourth", "fifth")
    )
    for sub in (first, second, third, fourth):
        sub.add("a")
    await fourth.wait_for_activation("a")
    await mpx.publish("a", b"1")
    await eventually(lambda: heard)
    await first.wait_for_activation("b")
    assert heard == ["first"]
    await mpx.publish("a", b"2")
    await eventually(lambda: len(heard) == 3)
    assert heard == ["first", "first", "fifth"]


async def test_an_activation_may_change_subscriptions(mpx: Multiplexer, recorder: Recorder) -> None:
    others = [mpx.new_channel_subscription(*recorder.callbacks) for _ in range(3)]

    def on_activation(name: str) -> None:
        others[0].remove("a")
        others[1].close()
        others[2].remove("a")
        others[2].add("a")

    first = mpx.new_channel_subscription(None, None, on_activation)
    for sub in (first, *others):
        sub.add("a")
    await first.wait_for_activation("a")
    await settled(mpx)
    assert recorder.activations == ["a"]  # of the one that came back


async def test_a_disconnect_may_change_subscriptions(
    new_multiplexer: NewMultiplexer, proxy: Proxy, recorder: Recorder
) -> None:
    async with new_multiplexer(proxy.url) as mpx:
        made: list[ChannelSubscription] = []

        def on_disconnect(error: Exception) -> None:
            for sub in subs:
                if sub.closed:
                    return
                sub.close()
            made.append(mpx.new_channel_subscription(*recorder.callbacks))
            made[0].add("b")

        subs = [mpx.new_channel_subscription(None, on_disconnect) for _ in range(5)]
        for sub in subs:
            sub.add("a")
            await sub.wait_for_activation("a")
        proxy.cut()
        await eventually(lambda: recorder.events)
        assert recorder.events == [("activation", "b", None)]
        assert mpx.stats().names_wanted == 1


async def test_a_callback_may_publish_much(mpx: Multiplexer) -> None:
    """In go-mpx a callback that issued many requests was a deadlock."""
    heard = []
    futures = []

    def on_message(name: str, data: bytes) -> None:
        if name == "a":
            futures.extend(mpx.publish_soon("b", b"%d" % number) for number in range(5000))
            sub.add(*map(str, range(2000)))
        else:
            heard.append(data)

    sub = mpx.new_channel_subscription(on_message)
    sub.add("a", "b")
    await sub.wait_for_activation("a")
    await mpx.publish("a", b"")
    await eventually(lambda: len(heard) == 5000)
    assert heard == [b"%d" % number for number in range(5000)]
    assert await asyncio.gather(*futures) == [1] * 5000
    await sub.wait_for_activation("1999")


async def test_an_async_callback_may_publish_and_wait(mpx: Multiplexer) -> None:
    heard = []

    async def on_message(name: str, data: bytes) -> None:
        if name == "a":
            await asyncio.gather(*[mpx.publish("b", data) for _ in range(100)])
            sub.add("c")
            await sub.wait_for_activation("c")
        heard.append(name)

    sub = mpx.new_channel_subscription(on_message)
    sub.add("a", "b")
    await sub.wait_for_activation("b")
    await mpx.publish("a", b"")
    await eventually(lambda: len(heard) == 101)
    assert heard == ["a"] + ["b"] * 100


# -- broken links ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_every_subscription_hears_of_a_break_and_is_activated_again(
    new_multiplexer: NewMultiplexer, proxy: Proxy, kind: str
) -> None:
    async with new_multiplexer(proxy.url) as mpx:
        recorders = [Recorder() for _ in range(3)]
        callbacks = [
            recorder.callbacks if kind == "plain" else recorder.async_callbacks
            for recorder in recorders
        ]
        sub = mpx.new_channel_subscription(*callbacks[0])
        sub.add("a", "b")
        empty = mpx.new_channel_subscription(*callbacks[1])
        pattern = mpx.new_pattern_subscription("a*", *callbacks[2])
        await sub.wait_for_activation("b")
        await pattern.wait_for_activation()
        await mpx.publish("a", b"1")
        await eventually(lambda: recorders[0].messages and recorders[2].messages)
        proxy.cut()
        await eventually(lambda: mpx.stats().reconnects)
        await sub.wait_for_activation("b")
        await pattern.wait_for_activation()
        await mpx.publish("a", b"2")
        await eventually(lambda: len(recorders[0].messages) == 2)
        await eventually(lambda: len(recorders[2].messages) == 2)
        assert recorders[0].kinds == ["activation"] * 2 + ["message", "disconnect"] + [
            "activation"
        ] * 2 + ["message"]
        assert sorted(recorders[0].activations) == ["a", "a", "b", "b"]
        assert recorders[1].kinds == ["disconnect"]
        assert not empty.closed
        assert recorders[2].kinds == [
            "activation",
            "message",
            "disconnect",
            "activation",
            "message",
        ]
        assert all(isinstance(error, Exception) for error in recorders[0].disconnects)


async def test_adds_and_removes_while_the_server_is_away_count(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer, recorder: Recorder
) -> None:
    restartable_server.start()
    mpx = new_multiplexer(restartable_server.url, unsubscribe_delay=0)
    await mpx.start()
    sub = await subscribed(mpx, "kept", "removed", recorder=recorder)
    closed = await subscribed(mpx, "closed", recorder=Recorder())
    restartable_server.kill()
    await eventually(lambda: recorder.disconnects)
    sub.remove("removed")
    sub.add("added", "added and removed")
    sub.remove("added and removed")
    closed.close()
    pattern = mpx.new_pattern_subscription("p*")
    await asyncio.sleep(0)
    restartable_server.start()
    await sub.wait_for_activation("added")
    await sub.wait_for_activation("kept")
    await pattern.wait_for_activation()
    with restartable_server.client() as client:
        assert sorted(client.pubsub_channels()) == [b"added", b"kept"]
        assert client.pubsub_numpat() == 1
    assert sorted(recorder.activations[-2:]) == ["added", "kept"]


async def test_visitors_of_a_long_outage_leave_nothing(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    mpx = new_multiplexer(restartable_server.url)
    await mpx.start()
    for number in range(100):
        with_names = mpx.new_channel_subscription()
        with_names.add(f"visitor:{number}")
        pattern = mpx.new_pattern_subscription(f"visitor:{number}:*")
        await asyncio.sleep(0)
        with_names.close()
        pattern.close()
    registry = registry_of(mpx)
    assert not registry.channels
    assert not registry.patterns
    assert not registry.dirty


async def test_resubscribing_goes_in_chunks(
    new_multiplexer: NewMultiplexer, proxy: Proxy, recorder: Recorder
) -> None:
    async with new_multiplexer(proxy.url) as mpx:
        names = [f"room:{number}" for number in range(1100)]
        sub = await subscribed(mpx, *names, recorder=recorder)
        del proxy.to_server.data[:]
        proxy.cut()
        await eventually(lambda: mpx.stats().reconnects)
        for name in names:
            await sub.wait_for_activation(name)
        assert bytes(proxy.to_server.data).count(b"SUBSCRIBE\r\n") == 3
        assert sorted(recorder.activations) == sorted(names * 2)
        assert recorder.kinds == ["activation"] * 1100 + ["disconnect"] + ["activation"] * 1100


async def test_a_break_before_the_confirmation_tells_once(
    new_multiplexer: NewMultiplexer, proxy: Proxy, recorder: Recorder
) -> None:
    async with new_multiplexer(proxy.url) as mpx:
        await mpx.wait_connected(5)
        proxy.to_client.freeze()
        sub = mpx.new_channel_subscription(*recorder.callbacks)
        sub.add("a")
        waiting = asyncio.create_task(sub.wait_for_activation("a"))
        await eventually(lambda: b"SUBSCRIBE" in proxy.to_server.data)
        proxy.thaw()
        proxy.cut()
        await waiting  # goes on over the break
        assert recorder.kinds in (["disconnect", "activation"], ["activation"])
        await eventually(lambda: mpx.stats().reconnects)
        await sub.wait_for_activation("a")
        assert recorder.kinds.count("disconnect") == 1
        assert recorder.kinds[-1] == "activation"


# -- refusals --------------------------------------------------------------------------------------


async def test_a_refused_name_does_not_spoil_the_others(
    new_multiplexer: NewMultiplexer, restricted_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    async with new_multiplexer(restricted_url) as mpx:
        sub = mpx.new_channel_subscription(*recorder.callbacks)
        sub.add("allowed:1", "secret", "allowed:2", "secret too")
        waits = await asyncio.gather(
            *[sub.wait_for_activation(name) for name in sorted(sub.channels)],
            return_exceptions=True,
        )
        assert [type(wait) for wait in waits] == [type(None)] * 2 + [SubscriptionRefused] * 2
        assert sorted(recorder.activations) == ["allowed:1", "allowed:2"]
        assert "permissions to access" in str(waits[2])
        assert "'secret'" in str(waits[2])
        assert caplog.text.count("refused to subscribe to 'secret'") == 1
        # Asking again says so at once.
        with pytest.raises(SubscriptionRefused):
            await sub.wait_for_activation("secret")
        assert mpx.stats().names_wanted == 4
        assert mpx.stats().names_confirmed == 2


async def test_a_refused_pattern(new_multiplexer: NewMultiplexer, restricted_url: str) -> None:
    async with new_multiplexer(restricted_url) as mpx:
        refused = mpx.new_pattern_subscription("secret*")
        allowed = mpx.new_pattern_subscription("allowed*")
        promises = mpx.new_promise_subscription("secret:")
        for sub in (refused, promises):
            with pytest.raises(SubscriptionRefused):
                await sub.wait_for_activation()
            assert not sub.active
        await allowed.wait_for_activation()
        with pytest.raises(SubscriptionRefused):
            await promises.wait_for_new_promise("1")


async def test_a_refused_name_is_asked_for_again_after_a_break(
    new_multiplexer: NewMultiplexer,
    restricted_url: str,
    client: redis.Redis,
) -> None:
    recorder = Recorder()
    async with new_multiplexer(restricted_url) as mpx:
        sub = mpx.new_channel_subscription(*recorder.callbacks)
        sub.add("secret", "allowed")
        with pytest.raises(SubscriptionRefused):
            await sub.wait_for_activation("secret")
        client.execute_command("ACL", "SETUSER", "restricted", "&secret")
        client.execute_command("CLIENT", "KILL", "USER", "restricted")
        await eventually(lambda: recorder.disconnects)
        await sub.wait_for_activation("secret")
        assert client.publish("secret", b"1") == 1
        await eventually(lambda: recorder.messages == [("secret", b"1")])


async def test_permissions_taken_away_break_the_link(
    new_multiplexer: NewMultiplexer, restricted_url: str, client: redis.Redis
) -> None:
    """Redis closes the connection of whoever is subscribed to what he may hear no more."""
    recorder = Recorder()
    async with new_multiplexer(restricted_url) as mpx:
        sub = mpx.new_channel_subscription(*recorder.callbacks)
        sub.add("allowed:1")
        await sub.wait_for_activation("allowed:1")
        client.execute_command("ACL", "SETUSER", "restricted", "resetchannels", "&allowed:2")
        await eventually(lambda: recorder.disconnects)
        sub.add("allowed:2")
        await sub.wait_for_activation("allowed:2")
        with pytest.raises(SubscriptionRefused):
            await sub.wait_for_activation("allowed:1")


# -- patterns --------------------------------------------------------------------------------------


async def test_a_pattern_hears_the_channel_s_name(mpx: Multiplexer, recorder: Recorder) -> None:
    sub = mpx.new_pattern_subscription("news.*", *recorder.callbacks)
    assert sub.pattern == "news.*"
    assert not sub.active
    await sub.wait_for_activation()
    assert sub.active
    await mpx.publish("news.sport", b"1")
    await mpx.publish("other", b"2")
    await mpx.publish(b"news.\xff", b"3")
    await eventually(lambda: len(recorder.messages) == 2)
    assert recorder.events == [
        ("activation", "news.*", None),
        ("message", "news.sport", b"1"),
        ("message", "news.\udcff", b"3"),
    ]


async def test_closing_a_pattern_unsubscribes_that_pattern(
    new_multiplexer: NewMultiplexer, client: redis.Redis
) -> None:
    # go-mpx unsubscribed the wrong name.
    recorders = [Recorder() for _ in range(3)]
    async with new_multiplexer(unsubscribe_delay=0) as mpx:
        first = mpx.new_pattern_subscription("a*", *recorders[0].callbacks)
        second = mpx.new_pattern_subscription("*b", *recorders[1].callbacks)
        channel = await subscribed(mpx, "a*", recorder=recorders[2])
        await first.wait_for_activation()
        await second.wait_for_activation()
        assert client.pubsub_numpat() == 2
        first.close()
        assert not first.active
        await eventually(lambda: client.pubsub_numpat() == 1)
        await mpx.publish("ab", b"1")
        await mpx.publish("a*", b"2")
        await settled(mpx)
        assert [recorder.messages for recorder in recorders] == [
            [],
            [("ab", b"1")],
            [("a*", b"2")],
        ]
        assert channel.channels == {"a*"}


async def test_two_subscriptions_of_one_pattern(
    new_multiplexer: NewMultiplexer, client: redis.Redis
) -> None:
    recorders = [Recorder() for _ in range(2)]
    async with new_multiplexer(unsubscribe_delay=0) as mpx:
        subs = [mpx.new_pattern_subscription("a*", *each.callbacks) for each in recorders]
        for sub in subs:
            await sub.wait_for_activation()
        assert client.publish("ab", b"1") == 1
        await eventually(lambda: all(each.messages for each in recorders))
        subs[0].close()
        subs[0].close()  # harmless
        await settled(mpx)
        assert client.publish("ab", b"2") == 1
        await eventually(lambda: len(recorders[1].messages) == 2)
        assert len(recorders[0].messages) == 1
        with pytest.raises(SubscriptionClosed):
            await subs[0].wait_for_activation()


async def test_a_pattern_and_a_channel_each_get_the_message(mpx: Multiplexer) -> None:
    recorder, other = Recorder(), Recorder()
    await subscribed(mpx, "ab", recorder=recorder)
    pattern = mpx.new_pattern_subscription("a*", *other.callbacks)
    await pattern.wait_for_activation()
    assert await mpx.publish("ab", b"1") == 2
    await eventually(lambda: recorder.messages and other.messages)
    assert recorder.messages == other.messages == [("ab", b"1")]
