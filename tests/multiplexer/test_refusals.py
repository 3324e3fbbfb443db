"""What Redis refuses to subscribe to: whoever waits is told, and nothing is given up."""

from __future__ import annotations

import asyncio

import pytest
import redis

from mpx_channels.multiplexer import Multiplexer, SubscriptionRefused
from mpx_channels.multiplexer.refusals import explained, is_transient
from tests.inside import ask_again_in, forbidden_in, registry_of, rounds_of, subscriber_of

from ..conftest import RestartableServer, eventually
from ..proxy import Proxy
from .conftest import NewMultiplexer
from .raw_server import RawServer
from .recorder import Recorder
from .test_subscriber import confirmation

pytestmark = pytest.mark.usefixtures("clean_loop")

TRANSIENT = [
    b"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    b"LOADING Redis is loading the dataset in memory",
    b"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    b"READONLY You can't write against a read only replica.",
    b"CLUSTERDOWN The cluster is down",
    b"TRYAGAIN Multiple keys request during rehashing of slot",
]


def allow(client: redis.Redis, *rules: str) -> None:
    client.execute_command("ACL", "SETUSER", "restricted", *rules)


async def test_what_is_forbidden_and_allowed_again_is_heard_without_a_new_connection(
    new_multiplexer: NewMultiplexer,
    restricted_url: str,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "mpx_channels.multiplexer")
    recorder, other = Recorder(), Recorder()
    async with new_multiplexer(restricted_url) as mpx:
        sub = mpx.new_channel_subscription(*recorder.callbacks)
        sub.add("allowed:1", "allowed:2")
        for name in sub.channels:
            await sub.wait_for_activation(name)
        pattern = mpx.new_pattern_subscription("allowed*", *other.callbacks)
        await pattern.wait_for_activation()
        # Redis closes the connection of whoever is subscribed to what he may hear no more.
        allow(client, "resetchannels")
        await eventually(lambda: mpx.stats().names_refused == 3)
        assert mpx.stats().connected
        for waiting in (sub.wait_for_activation("allowed:1"), pattern.wait_for_activation()):
            with pytest.raises(SubscriptionRefused, match="permissions"):
                await waiting
        assert len(recorder.disconnects) == len(other.disconnects) == 1

        allow(client, "&allowed*")
        await eventually(lambda: mpx.stats().names_refused == 0)
        assert mpx.stats().reconnects == 1
        assert client.publish("allowed:1", b"x") == 2
        await eventually(lambda: recorder.messages and other.messages)
        assert recorder.kinds.count("activation") == 4
        assert other.activations == ["allowed*"] * 2
    assert "asking again now and then" in caplog.text
    assert "which it had refused" in caplog.text


async def test_whoever_waits_has_redis_asked_at_once(
    new_multiplexer: NewMultiplexer, restricted_url: str, client: redis.Redis
) -> None:
    async with new_multiplexer(restricted_url) as mpx:
        # It would be asked for by itself in an hour.
        ask_again_in(forbidden_in(registry_of(mpx)), 3600)
        sub = mpx.new_channel_subscription()
        sub.add("secret")
        patterns = [mpx.new_pattern_subscription("secret*") for _ in range(2)]
        for _ in range(2):
            with pytest.raises(SubscriptionRefused):
                await sub.wait_for_activation("secret")
            with pytest.raises(SubscriptionRefused):
                await patterns[0].wait_for_activation()
        assert not patterns[1].active
        allow(client, "&secret", "&secret*")
        await sub.wait_for_activation("secret")
        await patterns[0].wait_for_activation()
        assert patterns[1].active


async def test_many_forbidden_names_are_not_many_commands(
    new_multiplexer: NewMultiplexer, restricted_url: str, client: redis.Redis
) -> None:
    async with new_multiplexer(restricted_url) as mpx:
        sub = mpx.new_channel_subscription()
        sub.add(*[f"secret:{number}" for number in range(1000)])
        await eventually(lambda: mpx.stats().names_refused == 1000)
        registry = registry_of(mpx)
        commands = mpx.stats().commands_out
        attempts = rounds_of(forbidden_in(registry))
        await eventually(lambda: rounds_of(forbidden_in(registry)) == attempts + 2)
        assert mpx.stats().commands_out - commands == 200
        # Once one is allowed, all are asked for.
        allow(client, "&secret*")
        await eventually(lambda: mpx.stats().names_confirmed == 1000)
        assert mpx.stats().commands_out - commands < 1000


@pytest.fixture
def busy(restartable_server: RestartableServer) -> RestartableServer:
    """A server that answers -BUSY soon once a script runs."""
    restartable_server.config["config"] = {"lua-time-limit": "10"}
    restartable_server.start()
    return restartable_server


async def test_a_busy_server_refuses_nobody_for_good(
    busy: RestartableServer,
    new_multiplexer: NewMultiplexer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Proxy("127.0.0.1", busy.port) as proxy:
        mpx = new_multiplexer(proxy.url, unsubscribe_delay=0)
        await mpx.start()
        recorder = Recorder()
        sub = mpx.new_channel_subscription(*recorder.callbacks)
        sub.add("a", "gone")
        await sub.wait_for_activation("a")
        with busy.client() as killer:
            script = asyncio.create_task(asyncio.to_thread(_endless_script, busy))
            await eventually(lambda: _is_busy(killer))
            proxy.cut()
            await eventually(lambda: mpx.stats().reconnects and mpx.stats().names_refused)
            sub.add("b")
            waiting = [sub.activation(name) for name in "ab"]
            sub.remove("gone")
            # All of them have been asked for, more than once.
            commands = mpx.stats().commands_out
            await eventually(lambda: mpx.stats().commands_out > commands + 3)
            assert not any(each.done() for each in waiting)
            assert mpx.stats().nodes[0].refusal.startswith("BUSY")
            killer.script_kill()
            await asyncio.gather(*waiting)
            await script
            assert mpx.stats().names_refused == 0
            assert mpx.stats().reconnects == 1
            assert recorder.activations.count("a") == 2
            await eventually(lambda: sorted(killer.pubsub_channels()) == [b"a", b"b"])
        await mpx.stop()
    assert caplog.text.count("put off subscribing to") >= 1


async def test_an_unsubscribe_that_a_busy_server_refused_is_sent_again(
    busy: RestartableServer, new_multiplexer: NewMultiplexer
) -> None:
    mpx = new_multiplexer(busy.url, unsubscribe_delay=0)
    await mpx.start()
    sub = mpx.new_channel_subscription()
    sub.add("a", "b")
    await sub.wait_for_activation("b")
    with busy.client() as killer:
        script = asyncio.create_task(asyncio.to_thread(_endless_script, busy))
        await eventually(lambda: _is_busy(killer))
        commands = mpx.stats().commands_out
        sub.remove("a")
        await eventually(lambda: mpx.stats().commands_out > commands + 1)
        killer.script_kill()
        await script
        await eventually(lambda: killer.pubsub_channels() == [b"b"])
    await mpx.stop()


def _endless_script(server: RestartableServer) -> None:
    with server.client() as client, pytest.raises(redis.ResponseError):
        client.eval("while true do end", 0)


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: error.split()[0].decode())
async def test_states_of_the_server_are_no_refusals(
    new_multiplexer: NewMultiplexer, error: bytes
) -> None:
    """With and without hiredis, and with redis-py's classes for some of the errors."""
    async with RawServer() as raw:
        mpx = new_multiplexer(raw.url)
        subscriber_of(mpx).start()
        await eventually(lambda: raw.connected)
        sub = mpx.new_channel_subscription()
        sub.add("a", "b")
        waiting = sub.activation("a")
        for count in range(1, 4):
            # Both names together, each time.
            await eventually(
                lambda count=count: raw.received.count(b"*3\r\n$9\r\nSUBSCRIBE") >= count
            )
            raw.send(b"-" + error + b"\r\n")
        await eventually(lambda: raw.received.count(b"*3\r\n$9\r\nSUBSCRIBE") >= 4)
        assert mpx.stats().names_refused == 2
        assert not waiting.done()
        raw.send(confirmation("subscribe", "a") + confirmation("subscribe", "b"))
        await waiting
        assert mpx.stats().names_refused == mpx.stats().reconnects == 0
        await mpx.stop()


@pytest.mark.parametrize(
    ("text", "transient"),
    [
        ("BUSY Redis is busy", True),
        ("BUSYKEY Target key name already exists.", False),
        ("ERR unknown command", False),
        ("", False),
        ("Error running script (call to f_0a): @user_script:8: @user_script: 8: -BUSY x", True),
        ("Error running script (call to f_0a): @user_script:8: @user_script: 8: -NOPERM x", False),
    ],
)
def test_what_is_transient(text: str, transient: bool) -> None:
    assert is_transient(redis.ResponseError(text)) is transient


@pytest.mark.parametrize("quotes", ["`SSUBSCRIBE`", "'SSUBSCRIBE'"])
async def test_servers_that_know_no_sharded_channels(
    new_multiplexer: NewMultiplexer, quotes: str
) -> None:
    """As those before Redis 7: what to set is said, and not what was sent."""
    async with RawServer() as raw:
        mpx = new_multiplexer(raw.url)
        subscriber_of(mpx).start()
        await eventually(lambda: raw.connected)
        sub = mpx.new_channel_subscription()
        sub.add("name")
        waiting = sub.activation("name")
        await eventually(lambda: b"SUBSCRIBE" in raw.received)
        raw.send(f"-ERR unknown command {quotes}, with args beginning with: `name`, \r\n".encode())
        with pytest.raises(SubscriptionRefused, match="'sharded_pubsub': False") as caught:
            await waiting
        assert "beginning" not in str(caught.value)
        await mpx.stop()


def test_what_is_explained() -> None:
    moved = redis.exceptions.MovedError("1 127.0.0.1:7000")
    assert "set 'cluster': True" in explained(moved)
    assert explained(moved, clustered=True) == str(moved)
    assert "set 'sharded_pubsub'" in explained(redis.ResponseError("unknown command 'SPUBLISH', x"))
    assert explained(redis.ResponseError("unknown command 'X'")) == "unknown command 'X'"


def test_names_stay_refused_over_a_break() -> None:
    """Whoever looks sees why nothing is heard, until Redis has said otherwise."""
    mpx = Multiplexer()
    sub = mpx.new_channel_subscription()
    sub.add("a")
    registry = registry_of(mpx)
    registry.commands(0)
    registry.refuse(redis.ResponseError("NOPERM"), 0)
    registry.disconnect()
    assert mpx.stats().names_refused == 1
    assert sub.refusal("a") is not None
    sub.close()
    assert mpx.stats().names_refused == 0
