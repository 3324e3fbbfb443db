"""Names that Redis forbids, and allows again: nobody has to reconnect or restart for that."""

from __future__ import annotations

import asyncio

import pytest
import redis

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.multiplexer import NotConnected, SubscriptionRefused
from tests.conftest import RestartableServer, eventually
from tests.inside import ask_again_in, forbidden_in, hub_of, registry_of
from tests.layer.conftest import MakeLayer

from .test_link_events import heard, opened

# All that a layer with the prefix "asgi" listens to, but for its groups.
OTHERS = ("&asgi:p:*", "&asgi:c:*", "&asgi:r:*")


def allow(server: RestartableServer, *channels: str) -> None:
    """Have the user "app" hear these; whoever hears others is disconnected."""
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "resetchannels", *channels)


@pytest.fixture
def restricted(restartable_server: RestartableServer, make_layer: MakeLayer) -> MpxChannelLayer:
    # Redis 6.2 disconnects nobody who loses "allchannels".
    url = restartable_server.start_with_user(*OTHERS, "&asgi:g:*", "+@all", "~*")
    return make_layer(hosts=[url], prefix="asgi")


async def test_members_hear_on_once_they_may(
    restricted: MpxChannelLayer, restartable_server: RestartableServer
) -> None:
    mailbox = await opened(restricted)
    other = await restricted.new_channel()
    await restricted.group_add("room", mailbox.channel)
    assert await heard(mailbox, 1) == ["activation group room"]
    allow(restartable_server, *OTHERS)
    assert await heard(mailbox, 1) == ["disconnect"]
    await eventually(lambda: restricted.stats().multiplexer.names_refused)
    # Whoever comes gets the error, and is no member; the one who was there stays.
    for _ in range(2):
        with pytest.raises(SubscriptionRefused, match="asgi:g:room"):
            await restricted.group_add("room", other)
    stats = restricted.stats()
    assert (stats.memberships, stats.multiplexer.connected) == (1, True)

    allow(restartable_server, *OTHERS, "&asgi:g:*")
    assert await heard(mailbox, 2) == ["activation group room", "reconnect"]
    await restricted.group_add("room", other)
    with restartable_server.client() as admin:
        assert admin.pubsub_numsub("asgi:g:room") == [(b"asgi:g:room", 1)]
    await restricted.group_send("room", {"type": "x"})
    assert await restricted.receive(other) == {"type": "x"}
    assert restricted.stats().multiplexer.reconnects == 1


async def test_new_members_join_at_once_when_they_may(
    restricted: MpxChannelLayer, restartable_server: RestartableServer
) -> None:
    channel, other = [await restricted.new_channel() for _ in range(2)]
    await restricted.group_add("room", channel)
    allow(restartable_server, *OTHERS)
    await eventually(lambda: restricted.stats().multiplexer.names_refused)
    # By itself it would be asked for in an hour.
    hub = hub_of(restricted)
    forbidden = forbidden_in(registry_of(hub.multiplexer))
    ask_again_in(forbidden, 3600)
    with pytest.raises(SubscriptionRefused):
        await restricted.group_add("room", other)
    allow(restartable_server, *OTHERS, "&asgi:g:*")
    await restricted.group_add("room", other)
    await restricted.group_send("room", {"type": "x"})
    for member in (channel, other):
        assert await restricted.receive(member) == {"type": "x"}


async def test_a_process_that_lost_its_inbox_gets_it_back(
    restricted: MpxChannelLayer, restartable_server: RestartableServer
) -> None:
    channel = await restricted.new_channel()
    allow(restartable_server, "&asgi:g:*")
    await eventually(lambda: restricted.stats().multiplexer.names_refused == 3)
    with pytest.raises(SubscriptionRefused, match="asgi:p:"):
        await restricted.new_channel()
    allow(restartable_server, "allchannels")
    other = await restricted.new_channel()
    for name in (channel, other):
        await restricted.send(name, {"type": "x"})
        assert await restricted.receive(name) == {"type": "x"}
    # The control channel and the name that it is alive by, too.
    await eventually(lambda: restricted.stats().multiplexer.names_refused == 0)
    assert len((await restricted.cluster_stats()).processes) == 1


async def test_cluster_stats_have_it(
    restricted: MpxChannelLayer, restartable_server: RestartableServer
) -> None:
    channel = await restricted.new_channel()
    for number in range(3):
        await restricted.group_add(f"room-{number}", channel)
    allow(restartable_server, *OTHERS, "&asgi:g:room-0")
    await eventually(lambda: restricted.stats().multiplexer.names_refused == 2)
    await restricted.new_channel()
    (process,) = (await restricted.cluster_stats()).processes
    assert process.names_refused == 2
    assert "permissions" in process.refusal
    local = restricted.local_stats().total.multiplexer
    assert (local.names_refused, local.names_wanted, local.names_confirmed) == (2, 6, 4)


async def test_a_join_that_a_busy_server_puts_off_says_so_in_the_end(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.config["config"] = {"lua-time-limit": "10"}
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], connect_timeout=1.0)
    channel = await layer.new_channel()
    with restartable_server.client() as killer:

        def script() -> None:
            with restartable_server.client() as client, pytest.raises(Exception, match="killed"):
                client.eval("while true do end", 0)

        running = asyncio.create_task(asyncio.to_thread(script))
        await eventually(lambda: _is_busy(killer))
        with pytest.raises(NotConnected, match=r"did not confirm .* in 1.0 s: BUSY"):
            await layer.group_add("room", channel)
        killer.script_kill()
        await running
    await layer.group_add("room", channel)
    assert layer.stats().multiplexer.reconnects == 0


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError:
        return True
    return False
