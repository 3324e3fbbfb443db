"""What a process publishes in order to hear it itself, on real links."""

from __future__ import annotations

import asyncio
import logging

import pytest
import redis

from mpx_channels.multiplexer import ConnectionLost, Multiplexer
from tests.inside import (
    are_watched,
    link_of,
    links_of,
    probes_of,
    publisher_of,
    subscribers_of,
)

from ..conftest import RestartableServer, eventually
from ..proxy import Proxy, without
from .conftest import NewMultiplexer
from .recorder import Recorder

pytestmark = pytest.mark.usefixtures("clean_loop")

# Soon deaf.
QUICK = {"probe_interval": 0.02, "connect_timeout": 0.5}


def probes_through(proxy: Proxy) -> int:
    """How many publishes went through a proxy."""
    return bytes(proxy.to_server.data).count(b"PUBLISH")


async def connected(mpx: Multiplexer) -> None:
    mpx.probe_over("probe")
    await mpx.start()
    await eventually(lambda: all(link.wire for link in links_of(mpx)))
    await eventually(lambda: mpx.stats().names_confirmed == mpx.stats().names_wanted)


def deaf_links(mpx: Multiplexer) -> int:
    return mpx.stats().probe_reconnects


async def test_a_link_that_answers_and_delivers_nothing_is_made_anew(
    new_multiplexer: NewMultiplexer,
    proxy: Proxy,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mpx = new_multiplexer(proxy.url, ping_interval=0.25, **QUICK)
    recorder = Recorder()
    mpx.new_channel_subscription(*recorder.callbacks).add("room")
    await connected(mpx)
    first = link_of(mpx).wire
    proxy.to_client.rewrite = without(b"message")
    client.publish("room", "lost")
    await eventually(lambda: recorder.disconnects)
    proxy.to_client.rewrite = None
    assert "it delivers nothing" in str(recorder.disconnects[0])
    assert bytes(proxy.to_client.data).count(b"PONG"), "it was no link that looked dead"
    await eventually(lambda: recorder.activations == ["room", "room"])
    client.publish("room", "heard")
    await eventually(lambda: recorder.messages == [("room", b"heard")])
    assert link_of(mpx).wire is not first
    assert deaf_links(mpx) == 1
    (line,) = [each for each in caplog.records if "it delivers nothing" in each.message]
    assert line.levelno == logging.WARNING
    assert f"Lost the connection to {mpx.node} (subscribing), reconnecting" in line.message


async def test_a_subscription_removed_behind_our_back_comes_back(
    new_multiplexer: NewMultiplexer, proxy: Proxy, client: redis.Redis
) -> None:
    mpx = new_multiplexer(proxy.url, **QUICK)
    recorder = Recorder()
    mpx.new_channel_subscription(*recorder.callbacks).add("lost-room")
    await connected(mpx)
    proxy.to_client.rewrite = without(b"unsubscribe")
    proxy.inject(b"UNSUBSCRIBE\r\n", client=False)
    await eventually(lambda: client.publish("lost-room", "lost") == 0)
    await eventually(lambda: recorder.activations == ["lost-room", "lost-room"])
    client.publish("lost-room", "heard")
    await eventually(lambda: recorder.messages[-1:] == [("lost-room", b"heard")])
    assert deaf_links(mpx) >= 1


async def test_a_link_that_delivers_stays(new_multiplexer: NewMultiplexer, proxy: Proxy) -> None:
    mpx = new_multiplexer(proxy.url, probe_interval=0.005)
    await connected(mpx)
    await eventually(lambda: mpx.stats().messages_in >= 10)
    assert probes_through(proxy) >= 10
    assert (deaf_links(mpx), mpx.stats().reconnects) == (0, 0)
    assert sum(mpx.stats().drops.values()) == 0


async def test_it_is_off_at_0(new_multiplexer: NewMultiplexer, proxy: Proxy) -> None:
    mpx = new_multiplexer(proxy.url, probe_interval=0)
    await connected(mpx)
    proxy.to_client.rewrite = without(b"message")
    assert not (await mpx.healthy(0.1)).ok
    assert probes_through(proxy) == 1
    assert deaf_links(mpx) == 0


async def test_a_new_link_that_is_deaf_as_well_is_given_longer(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    mpx = new_multiplexer(proxy.url, probe_interval=0.02, connect_timeout=0.1)
    proxy.to_client.rewrite = without(b"message")
    await connected(mpx)
    await eventually(lambda: deaf_links(mpx) == 3)
    assert mpx.stats().messages_in == 0
    # The first that comes sets it back, and the link stays.
    proxy.to_client.rewrite = None
    await eventually(lambda: mpx.stats().messages_in >= 3)


async def test_each_server_is_watched_by_itself(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    server = RestartableServer()
    server.start()
    try:
        mpx = new_multiplexer([server.url, proxy.url], **QUICK)
        await connected(mpx)
        assert mpx.stats().names_confirmed == 2, "the same name at each"
        proxy.to_client.rewrite = without(b"message")
        await eventually(lambda: deaf_links(mpx) >= 1)
        proxy.to_client.rewrite = None
        await eventually(lambda: mpx.stats().nodes[1].reconnects)
        assert mpx.stats().nodes[0].reconnects == 0
        await eventually(lambda: mpx.is_up(mpx.nodes[1]))
    finally:
        await mpx.stop()
        server.kill()


async def test_servers_that_come_and_go_are_probed_while_they_are_there(
    new_multiplexer: NewMultiplexer, redis_url: str
) -> None:
    """The same server under another name, as a cluster may get one."""
    mpx = new_multiplexer([redis_url, redis_url.replace("127.0.0.1", "localhost")])
    await connected(mpx)
    assert (await mpx.healthy(10)).ok
    before = mpx.stats().messages_in
    assert before
    subscribers = subscribers_of(mpx)
    gone = subscribers.remove(mpx.nodes[1])
    subscribers.add(mpx.nodes[1]).start()
    assert mpx.stats().messages_in == before
    await eventually(lambda: not gone.wanted)
    await gone.stop()
    assert (await mpx.healthy(10)).ok
    assert mpx.stats().names_confirmed == 2


async def test_all_who_ask_at_once_share_a_publish(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    mpx = new_multiplexer(proxy.url, probe_interval=0)
    await connected(mpx)
    found = await asyncio.gather(*[mpx.healthy(10) for _ in range(100)])
    assert len(set(found)) == 1
    assert found[0].ok
    assert probes_through(proxy) == 1
    # And who asks later gets an answer of its own, also while another is on its way.
    proxy.to_client.freeze()
    first = asyncio.create_task(mpx.healthy(10))
    await eventually(lambda: probes_through(proxy) == 2)
    second = asyncio.create_task(mpx.healthy(10))
    await eventually(lambda: probes_through(proxy) == 3)
    proxy.to_client.thaw()
    assert (await first).ok
    assert (await second).ok


async def test_who_is_cancelled_leaves_the_others_to_it(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    mpx = new_multiplexer(proxy.url, probe_interval=0)
    await connected(mpx)
    proxy.to_client.freeze()
    first, *others = [asyncio.create_task(mpx.healthy(10)) for _ in range(3)]
    await eventually(lambda: probes_through(proxy) == 1)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    proxy.to_client.thaw()
    assert all(each.ok for each in await asyncio.gather(*others))
    assert not probes_of(mpx)


async def test_nothing_is_kept_of_what_never_came_back(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    mpx = new_multiplexer(proxy.url, probe_interval=0)
    await connected(mpx)
    proxy.to_client.rewrite = without(b"message")
    found = await asyncio.gather(*[mpx.healthy(0.01 * number) for number in range(1, 6)])
    assert not any(each.ok for each in found)
    assert not probes_of(mpx)


async def test_a_probe_that_found_no_connection_is_no_drop(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    """Nobody misses it, and drops are what somebody missed."""
    mpx = new_multiplexer(proxy.url, probe_interval=0, backlog_timeout=0.2)
    await connected(mpx)
    proxy.refuse()
    publisher = publisher_of(mpx)
    assert publisher.link.wire is not None
    publisher.link.wire.abort(ConnectionLost("by the test"))
    await eventually(lambda: publisher.link.wire is None)
    reason = (await mpx.healthy(0.02)).reason
    assert reason is not None
    assert reason.startswith(f"no connection to {mpx.node}: ")
    assert publisher.waiting == 1
    await eventually(lambda: publisher.waiting == 0)
    assert sum(mpx.stats().drops.values()) == 0


async def test_a_link_that_is_gone_is_not_watched(
    new_multiplexer: NewMultiplexer, proxy: Proxy
) -> None:
    mpx = new_multiplexer(proxy.url)
    await connected(mpx)
    assert are_watched(mpx)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: not mpx.stats().connected)
    assert not are_watched(mpx)
    await proxy.accept()
    await eventually(lambda: mpx.stats().connected)
    await eventually(lambda: are_watched(mpx))
    await mpx.stop()
    assert not are_watched(mpx)


async def test_what_somebody_else_publishes_there_is_no_answer(
    mpx: Multiplexer, client: redis.Redis
) -> None:
    mpx.probe_over("probe")
    assert (await mpx.healthy(10)).ok
    client.publish("probe", "0")
    client.publish("probe", b"\xff" * 100)
    assert (await mpx.healthy(10)).ok
    assert mpx.stats().callback_errors == 0


async def test_a_second_call_changes_nothing(mpx: Multiplexer) -> None:
    mpx.probe_over("probe")
    mpx.probe_over("other")
    assert (await mpx.healthy(10)).ok
    assert mpx.stats().names_wanted == 1
