"""After a reconnect, what waited goes out when those who listen are back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mpx_channels.multiplexer import Multiplexer
from mpx_channels.multiplexer.link import Link
from mpx_channels.multiplexer.wire import Wire
from tests.inside import CONNECT, attempts_of, links_of, publishers_of, subscribers_of

from ..conftest import RestartableServer, eventually
from ..proxy import Proxy
from .conftest import NewMultiplexer


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """While it is not set, subscribing connections are not made; it is at first."""
    opened = asyncio.Event()
    opened.set()
    connect = getattr(Link, CONNECT)

    async def connect_through(link: Link) -> Wire | None:
        if link.label == "subscribing":
            await opened.wait()
        return await connect(link)

    monkeypatch.setattr(Link, CONNECT, connect_through)
    return opened


def publishing(mpx: Multiplexer) -> bool:
    return all(each.link.wire is not None for each in publishers_of(mpx).all)


def lost(mpx: Multiplexer) -> bool:
    links = links_of(mpx)
    return all(link.wire is None for link in links)


@pytest.fixture
async def listening(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> tuple[Multiplexer, list[bytes]]:
    """One that listens to `tea`, and what it gets; its server can be killed."""
    restartable_server.start()
    mpx = new_multiplexer(restartable_server.url)
    got: list[bytes] = []
    subscription = mpx.new_channel_subscription(lambda name, data: got.append(data))
    await mpx.start()
    subscription.add("tea")
    await subscription.wait_for_activation("tea")
    await eventually(lambda: publishing(mpx))
    return mpx, got


Listening = tuple[Multiplexer, list[bytes]]


async def test_what_waited_goes_out_when_the_names_are_back(
    listening: Listening, restartable_server: RestartableServer, gate: asyncio.Event
) -> None:
    mpx, got = listening
    gate.clear()
    restartable_server.kill()
    await eventually(lambda: lost(mpx))
    futures = [mpx.publish_soon("tea", b"%d" % number) for number in range(10)]
    restartable_server.start()
    await eventually(lambda: publishing(mpx))
    # In order with what comes while they wait.
    futures += [mpx.publish_soon("tea", b"%d" % number) for number in range(10, 20)]
    with restartable_server.client() as client:
        assert client.info("commandstats").get("cmdstat_publish") is None
    gate.set()
    assert await asyncio.gather(*futures) == [1] * 20
    await eventually(lambda: len(got) == 20)
    assert got == [b"%d" % number for number in range(20)]
    # And then no more.
    assert await mpx.publish("tea", b"20") == 1


async def test_rather_to_nobody_than_not_at_all(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer, gate: asyncio.Event
) -> None:
    restartable_server.start()
    mpx = new_multiplexer(restartable_server.url, backlog_timeout=0.5)
    subscription = mpx.new_channel_subscription(lambda name, data: None)
    await mpx.start()
    subscription.add("tea")
    await subscription.wait_for_activation("tea")
    gate.clear()
    restartable_server.kill()
    restartable_server.start()
    await eventually(lambda: publishers_of(mpx).all[0].link.connections == 2 and publishing(mpx))
    assert await mpx.publish("tea", b"1") == 0
    gate.set()


async def test_a_stop_lets_out_what_waits(
    listening: Listening, restartable_server: RestartableServer, gate: asyncio.Event
) -> None:
    mpx, _ = listening
    gate.clear()
    restartable_server.kill()
    await eventually(lambda: lost(mpx))
    restartable_server.start()
    waiting = mpx.publish_soon("tea", b"1")
    await eventually(lambda: publishing(mpx))
    await mpx.stop()
    assert waiting.result() == 0


async def test_it_waits_through_a_connection_that_breaks_again(
    listening: Listening, restartable_server: RestartableServer, gate: asyncio.Event
) -> None:
    mpx, _ = listening
    gate.clear()
    restartable_server.kill()
    await eventually(lambda: lost(mpx))
    waiting = mpx.publish_soon("tea", b"1")
    restartable_server.start()
    await eventually(lambda: publishing(mpx))
    restartable_server.kill()
    await eventually(lambda: lost(mpx))
    restartable_server.start()
    await eventually(lambda: publishing(mpx))
    gate.set()
    assert await waiting == 1


async def test_names_that_are_refused_count_as_answered(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    url = restartable_server.start_with_user("+@all", "allkeys", "resetchannels", "&allowed*")
    mpx = new_multiplexer(url, backlog_timeout=600.0)
    subscription = mpx.new_channel_subscription(lambda name, data: None)
    await mpx.start()
    subscription.add("forbidden", "allowed", "forbidden too")
    await subscription.wait_for_activation("allowed")
    await eventually(lambda: publishing(mpx))
    restartable_server.kill()
    await eventually(lambda: lost(mpx))
    waiting = mpx.publish_soon("allowed", b"1")
    restartable_server.start_with_user("+@all", "allkeys", "resetchannels", "&allowed*")
    assert await waiting == 1


async def test_who_listens_to_nothing_does_not_wait(
    new_multiplexer: NewMultiplexer, proxy: Proxy, gate: asyncio.Event
) -> None:
    mpx = new_multiplexer(proxy.url, backlog_timeout=600.0)
    await mpx.start()
    await mpx.wait_connected()
    await eventually(lambda: publishing(mpx))
    gate.clear()
    proxy.cut()
    await eventually(lambda: lost(mpx))
    assert await mpx.publish("tea", b"1") == 0
    gate.set()


async def test_the_first_connection_waits_for_nobody(
    new_multiplexer: NewMultiplexer, gate: asyncio.Event
) -> None:
    mpx = new_multiplexer(backlog_timeout=600.0)
    subscription = mpx.new_channel_subscription(lambda name, data: None)
    subscription.add("tea")
    gate.clear()
    await mpx.start()
    assert await mpx.publish("tea", b"1") == 0
    await mpx.stop()
    # Nor is one after a stop a reconnect.
    await mpx.start()
    assert await mpx.publish("tea", b"1") == 0
    gate.set()


async def test_databases_of_a_server_wait_for_its_one_subscriber(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer, gate: asyncio.Event
) -> None:
    restartable_server.start()
    mpx = new_multiplexer([f"{restartable_server.url}/{db}" for db in (0, 1)])
    names = [f"tea-{number}" for number in range(20)]
    subscription = mpx.new_channel_subscription(lambda name, data: None)
    await mpx.start()
    subscription.add(*names)
    for name in names:
        await subscription.wait_for_activation(name)
    await eventually(lambda: publishing(mpx))
    gate.clear()
    restartable_server.kill()
    await eventually(lambda: lost(mpx))
    futures = [mpx.publish_soon(name, b"1") for name in names]
    restartable_server.start()
    await eventually(lambda: publishing(mpx))
    gate.set()
    assert await asyncio.gather(*futures) == [1] * len(names)


async def test_blocking_commands_wait_for_nobody(
    listening: Listening, restartable_server: RestartableServer, gate: asyncio.Event
) -> None:
    mpx, _ = listening
    assert await mpx.blocking_command(b"BLPOP", b"nothing", b"0.01") is None
    gate.clear()
    restartable_server.kill()
    await eventually(lambda: lost(mpx))
    restartable_server.start()
    blocker = publishers_of(mpx).blocking[0]
    await eventually(lambda: blocker.link.wire is not None)
    assert await mpx.blocking_command(b"BLPOP", b"nothing", b"0.01") is None
    gate.set()


async def test_others_have_their_time_to_come_back(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    """Each draws its own moment; what goes out at once would miss whoever drew a later one."""
    restartable_server.start()
    got: dict[int, list[bytes]] = {}
    all_mpx: list[Multiplexer] = []

    def note(number: int) -> Callable[[str, bytes], object]:
        return lambda name, data: got.setdefault(number, []).append(data)

    for number in range(8):
        mpx = new_multiplexer(restartable_server.url, min_backoff=0.2, max_backoff=0.4)
        subscription = mpx.new_channel_subscription(note(number))
        await mpx.start()
        subscription.add("tea")
        await subscription.wait_for_activation("tea")
        await eventually(lambda mpx=mpx: publishing(mpx))
        all_mpx.append(mpx)
    restartable_server.kill()
    for mpx in all_mpx:
        link = publishers_of(mpx).all[0].link
        await eventually(lambda mpx=mpx, link=link: lost(mpx) and attempts_of(link) >= 2)
    futures = [mpx.publish_soon("tea", b"%d" % n) for n, mpx in enumerate(all_mpx)]
    restartable_server.start()
    assert await asyncio.gather(*futures) == [8] * 8
    await eventually(lambda: all(len(each) == 8 for each in got.values()) and len(got) == 8)


async def test_all_is_restored_where_nothing_was_lost(
    listening: Listening, restartable_server: RestartableServer
) -> None:
    """The publishing connection alone broke: there is nobody to wait for."""
    mpx, _ = listening
    publisher = publishers_of(mpx).all[0]
    with restartable_server.client() as client:
        client.client_kill_filter(_id=await mpx.command(b"CLIENT", b"ID"))
    await eventually(lambda: publisher.link.connections == 2)
    assert publisher.link.spread == 0
    assert subscribers_of(mpx).all[0].restored
    assert await mpx.publish("tea", b"1") == 1
