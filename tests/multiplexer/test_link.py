"""One connection's life, against a real Valkey behind a proxy that breaks it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import redis
from redis.backoff import FullJitterBackoff

from mpx_channels.multiplexer import ConnectionLost
from mpx_channels.multiplexer import link as link_module
from mpx_channels.multiplexer.link import Link, LinkOptions, describe
from mpx_channels.multiplexer.packing import pack
from mpx_channels.multiplexer.topology import Node
from mpx_channels.multiplexer.wire import Frame, Wire

from ..conftest import RestartableServer, eventually
from ..proxy import Proxy
from .raw_server import RawServer

pytestmark = pytest.mark.usefixtures("clean_loop")


class Handler:
    """Writes down what the link tells it; answers nothing."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.errors: list[Exception] = []
        self.wire: Wire | None = None
        self.frames = 0
        self.frames_when_down: list[int] = []
        self.pings = 0

    def frames_received(self, frames: Sequence[Frame]) -> int:
        self.frames += len(frames)
        return len(frames)

    def writable(self) -> None: ...

    def link_up(self, wire: Wire) -> None:
        self.events.append("up")
        self.wire = wire

    def link_down(self, error: Exception) -> None:
        self.events.append("down")
        self.errors.append(error)
        self.wire = None
        self.frames_when_down.append(self.frames)

    def send_ping(self, wire: Wire) -> None:
        self.pings += 1
        wire.write(pack(b"PING"))


NewLink = Callable[..., Link]


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
async def new_link(handler: Handler) -> AsyncIterator[NewLink]:
    links = []

    def new(url: str, *, node_options: dict[str, Any] | None = None, **options: Any) -> Link:
        connect_timeout = options.get("connect_timeout", 5.0)
        node = Node(url, connect_timeout=connect_timeout, options=node_options)
        link = Link(node, handler, LinkOptions(**options), "testing")
        links.append(link)
        link.start()
        return link

    yield new
    for link in links:
        await link.stop()


async def test_it_connects_and_says_so(new_link: NewLink, redis_url: str, handler: Handler) -> None:
    link = new_link(redis_url)
    assert link.running
    assert handler.events == []  # start() waits for nothing
    await eventually(lambda: handler.events == ["up"])
    assert link.wire is handler.wire
    assert link.connected_at is not None
    assert link.connections == 1


async def test_stopping_closes_the_connection(
    new_link: NewLink, proxy: Proxy, handler: Handler
) -> None:
    link = new_link(proxy.url)
    await eventually(lambda: handler.events)
    await link.stop()
    assert handler.events == ["up", "down"]
    assert isinstance(handler.errors[0], ConnectionLost)
    assert not link.running
    assert link.wire is None
    assert link.connected_at is None
    await eventually(lambda: proxy.open == 0)
    await link.stop()  # twice is harmless
    assert handler.events == ["up", "down"]


async def test_it_reconnects_when_the_connection_is_cut(
    new_link: NewLink, proxy: Proxy, handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    link = new_link(proxy.url)
    await eventually(lambda: handler.events)
    for times in (1, 2):
        proxy.cut()
        await eventually(lambda times=times: handler.events.count("up") == times + 1)
    assert handler.events == ["up", "down"] * 2 + ["up"]
    assert link.connections == 3
    assert link.last_error is None
    assert caplog.text.count("Lost the connection") == 2
    assert caplog.text.count("Reconnected to redis://") == 2


async def test_a_link_that_flaps_is_mentioned_at_a_limited_rate(
    new_link: NewLink, proxy: Proxy, handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    link = new_link(proxy.url, min_backoff=0.001, max_backoff=0.002)
    await eventually(lambda: handler.events)
    for times in range(1, 11):
        proxy.cut()
        await eventually(lambda times=times: handler.events.count("up") == times + 1)
    assert caplog.text.count("Lost the connection") == 2
    assert caplog.text.count("Reconnected") == 2
    await link.stop()
    # The others are told in the end, with how the last of them left things.
    assert len(caplog.records) == 5
    last = caplog.messages[-1]
    assert last.startswith(f"Reconnected to redis://127.0.0.1:{proxy.port} (")
    assert "(and 15 more in the last" in last


async def test_an_outage_of_a_link_that_flapped_is_mentioned_at_once(
    new_link: NewLink,
    restartable_server: RestartableServer,
    handler: Handler,
    caplog: pytest.LogCaptureFixture,
) -> None:
    restartable_server.start()
    new_link(restartable_server.url, min_backoff=0.001, max_backoff=0.002)
    with restartable_server.client() as client:
        for times in range(1, 6):
            await eventually(lambda times=times: handler.events.count("up") == times)
            client.client_kill_filter(_type="normal", skipme=True)
            await eventually(lambda times=times: handler.events.count("down") == times)
    restartable_server.kill()
    await eventually(lambda: "Cannot connect" in caplog.text)
    assert caplog.text.count("Lost the connection") == 2


async def test_it_reconnects_when_the_server_closes_in_good_order(
    new_link: NewLink, handler: Handler
) -> None:
    async with RawServer() as server:
        new_link(server.url)
        await eventually(lambda: server.connected and handler.events)
        await server.end()
        await eventually(lambda: handler.events == ["up", "down", "up"])


async def test_it_goes_on_trying_while_the_server_is_away(
    new_link: NewLink,
    restartable_server: RestartableServer,
    handler: Handler,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures: list[int] = []
    compute = FullJitterBackoff.compute

    def noting(self: FullJitterBackoff, count: int) -> float:
        failures.append(count)
        return compute(self, count)

    monkeypatch.setattr(FullJitterBackoff, "compute", noting)
    link = new_link(restartable_server.url, min_backoff=0.001, max_backoff=0.01)
    await eventually(lambda: len(failures) >= 5)
    assert failures[:5] == [1, 2, 3, 4, 5]  # exponential: redis-py makes 2**n of it
    assert isinstance(link.last_error, redis.ConnectionError)
    # It is mentioned once, not at every attempt.
    assert caplog.text.count("Cannot connect") == 1
    assert str(restartable_server.port) in caplog.text
    restartable_server.start()
    await eventually(lambda: handler.events == ["up"])
    restartable_server.kill()
    await eventually(lambda: caplog.text.count("Cannot connect") == 2)


async def test_a_server_that_stays_away_is_mentioned_again(
    new_link: NewLink,
    restartable_server: RestartableServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "REMIND_EVERY", 0.001)
    new_link(restartable_server.url, min_backoff=0.001, max_backoff=0.01)
    await eventually(lambda: caplog.text.count("Cannot connect") > 2)


async def test_the_backoff_never_overflows(
    new_link: NewLink, restartable_server: RestartableServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "MOST_FAILURES", 3)
    waits: list[int] = []
    monkeypatch.setattr(
        FullJitterBackoff, "compute", lambda self, count: waits.append(count) or 0.0
    )
    new_link(restartable_server.url)
    await eventually(lambda: len(waits) > 5)
    assert max(waits) == 3
    assert FullJitterBackoff(cap=1, base=1e-3).compute(64) <= 1


async def test_a_good_connection_lets_the_backoff_start_afresh(
    new_link: NewLink, proxy: Proxy, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(
        FullJitterBackoff, "compute", lambda self, count: waits.append(count) or 0.0
    )
    new_link(proxy.url)
    for good_life, expected in ((60.0, [1, 2]), (0.0, [1, 2, 1, 1])):
        monkeypatch.setattr(link_module, "GOOD_LIFE", good_life)
        for _ in range(2):
            await eventually(lambda: handler.wire)
            downs = handler.events.count("down")
            proxy.cut()
            await eventually(lambda downs=downs: handler.events.count("down") > downs)
        await eventually(lambda expected=expected: waits == expected)


async def test_a_silent_connection_is_asked_for_a_sign_of_life(
    new_link: NewLink, redis_url: str, handler: Handler
) -> None:
    link = new_link(redis_url, ping_interval=0.15)
    await eventually(lambda: handler.frames >= 3)
    assert handler.events == ["up"]
    assert link.connections == 1


async def test_whatever_is_heard_is_a_sign_of_life(new_link: NewLink, handler: Handler) -> None:
    async with RawServer() as server:
        new_link(server.url, ping_interval=0.15)
        await eventually(lambda: server.connected and handler.wire)
        for count in range(1, 4):
            await eventually(lambda count=count: handler.pings >= count)
            server.send(b"+hello\r\n")
        assert handler.events == ["up"]
        # And then it falls silent.
        await eventually(lambda: handler.events[:2] == ["up", "down"])


async def test_a_handler_that_leaves_frames_is_not_taken_for_a_dead_peer(
    new_link: NewLink, proxy: Proxy, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_link(proxy.url, ping_interval=0.02)
    await eventually(lambda: handler.wire)
    wire, frames = handler.wire, handler.frames
    assert wire is not None
    monkeypatch.setattr(handler, "frames_received", lambda frames: 0)
    await eventually(lambda: wire.holding)
    loop = asyncio.get_running_loop()
    since = loop.time()
    await eventually(lambda: loop.time() > since + 0.2)
    assert handler.events == ["up"]
    monkeypatch.undo()
    wire.go_on()
    await eventually(lambda: handler.frames > frames + 1)
    assert handler.events == ["up"]


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_two_unanswered_pings_end_a_frozen_connection(
    new_link: NewLink, proxy: Proxy, handler: Handler, direction: str
) -> None:
    link = new_link(proxy.url, ping_interval=0.1, connect_timeout=0.1)
    await eventually(lambda: handler.frames)  # a PING was answered
    getattr(proxy, direction).freeze()
    answered = handler.pings
    await eventually(lambda: handler.events == ["up", "down"])
    assert handler.pings <= answered + 2
    assert "two PINGs" in str(handler.errors[0])
    # New connections hang in the handshake until the connect timeout, over and over.
    await eventually(lambda: proxy.accepted >= 3)
    assert isinstance(link.last_error, (TimeoutError, redis.RedisError))
    proxy.thaw()
    await eventually(lambda: handler.events == ["up", "down", "up"])
    await link.stop()
    await eventually(lambda: proxy.open == 0)


async def test_down_comes_after_all_that_was_received(new_link: NewLink, handler: Handler) -> None:
    async with RawServer() as server:
        new_link(server.url)
        await eventually(lambda: server.connected and handler.wire)
        server.send(b"+hello\r\n" * 5000)
        await server.end()
        await eventually(lambda: handler.frames_when_down)
        assert handler.frames_when_down == [5000]


async def test_a_wrong_password_is_tried_on(
    new_link: NewLink, redis_url: str, handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    link = new_link(
        redis_url,
        min_backoff=0.001,
        max_backoff=0.001,
        node_options={"username": "nobody", "password": "hush"},
    )
    await eventually(lambda: link.last_error)
    assert isinstance(link.last_error, redis.AuthenticationError)
    assert "hush" not in caplog.text
    assert handler.events == []


async def test_a_failing_credential_provider_is_tried_on(
    new_link: NewLink, redis_url: str, handler: Handler
) -> None:
    """redis-py lets through whatever a provider raises."""
    attempts = 0

    class Provider(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str]:
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                raise KeyError("no token yet")
            raise redis.AuthenticationError("none at all") if attempts < 5 else Found

    class Found(Exception): ...

    link = new_link(
        redis_url,
        min_backoff=0.001,
        max_backoff=0.001,
        node_options={"credential_provider": Provider()},
    )
    await eventually(lambda: attempts > 5)
    assert handler.events == []
    assert link.running


@pytest.mark.parametrize("moment", ["connecting", "waiting", "at once"])
async def test_stopping_while_there_is_no_connection(
    new_link: NewLink, proxy: Proxy, handler: Handler, moment: str
) -> None:
    if moment == "connecting":
        proxy.freeze()
    else:
        proxy.refuse()
    link = new_link(proxy.url, min_backoff=60.0, max_backoff=60.0)
    if moment == "connecting":
        await eventually(lambda: proxy.open)
    elif moment == "waiting":
        await eventually(lambda: link.last_error)
    await link.stop()
    assert handler.events == []
    proxy.thaw()
    await eventually(lambda: proxy.open == 0)


async def test_stopping_at_any_moment_of_connecting(
    new_link: NewLink, proxy: Proxy, handler: Handler
) -> None:
    """Up to Python 3.11 `asyncio.wait_for`, in redis-py's hands, could swallow the cancellation."""
    for turns in range(40):
        link = new_link(proxy.url)
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await link.stop()
        assert not link.running
        assert handler.events.count("up") == handler.events.count("down")
        await eventually(lambda: proxy.open == 0)


async def test_a_cancelled_stop_stays_cancelled(
    new_link: NewLink, redis_url: str, handler: Handler
) -> None:
    link = new_link(redis_url)
    await eventually(lambda: handler.wire)
    stopping = asyncio.create_task(link.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert stopping.cancelled()
    await eventually(lambda: handler.events == ["up", "down"])


async def test_a_cancelled_task_leaves_nothing(
    new_link: NewLink, proxy: Proxy, handler: Handler
) -> None:
    """As when `asyncio.run` ends around a multiplexer that nobody stopped."""
    before = asyncio.all_tasks()
    link = new_link(proxy.url)
    await eventually(lambda: handler.wire)
    for task in asyncio.all_tasks() - before:
        if task.get_name() == "mpx-testing":
            task.cancel()
    await eventually(lambda: not link.running)
    assert handler.events == ["up", "down"]
    await eventually(lambda: proxy.open == 0)


@pytest.mark.parametrize(
    "option", ["ping_interval", "min_backoff", "max_backoff", "connect_timeout"]
)
@pytest.mark.parametrize("value", [0, -1, float("nan"), "5", None, True])
def test_bad_options_are_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} must be a number of seconds above 0"):
        LinkOptions(**{option: value})


def test_backoffs_must_be_in_order() -> None:
    with pytest.raises(ValueError, match=r"min_backoff \(2\) must not be above"):
        LinkOptions(min_backoff=2, max_backoff=1)


def test_errors_in_a_line() -> None:
    assert describe(OSError("gone")) == "gone"
    assert describe(TimeoutError()) == "TimeoutError"
