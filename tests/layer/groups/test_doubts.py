"""Messages to groups with a history whose answers were lost, or that were refused."""

from __future__ import annotations

import asyncio

import pytest
import redis

from mpx_channels.layer import CommandRefused, ConnectionLost, Recovery
from mpx_channels.multiplexer import BacklogFull
from tests.conftest import RestartableServer, eventually
from tests.inside import multiplexer_of, publisher_of, unanswered_by, watched_by
from tests.layer.conftest import MakeLayer
from tests.proxy import Proxy

from .histories import GAP, HISTORY, all_known, got, nothing_more, numbers, send


@pytest.mark.parametrize("key", [None, "a"])
@pytest.mark.parametrize("arrived", [True, False])
async def test_a_publish_in_doubt(
    make_layer: MakeLayer, proxy: Proxy, arrived: bool, key: str | None
) -> None:
    """Whether it had arrived or not: it is there once, and nothing raises."""
    layer = make_layer(hosts=[proxy.url], history=HISTORY)
    watching = make_layer(history=HISTORY)
    mailbox = await watching.open_channel()
    await watching.group_add("room-1", mailbox.channel)
    await send(layer, "room-1", 0)
    assert await got(mailbox, 1) == [0]
    direction = proxy.to_client if arrived else proxy.to_server
    direction.freeze()
    sending = asyncio.create_task(
        layer.group_send("room-1", {"type": "x", "n": 1}, idempotency_key=key)
    )
    if arrived:
        assert await got(mailbox, 1) == [1]
    else:
        await asyncio.sleep(0)
    await eventually(lambda: unanswered_by(publisher_of(multiplexer_of(layer))))
    proxy.cut()
    direction.thaw()
    if not arrived:
        assert await got(mailbox, 1) == [1]
    position = await sending
    history = await watching.group_history("room-1")
    assert numbers(history) == [0, 1]
    assert history.position == position
    await nothing_more(mailbox)


async def test_what_is_sent_later_does_not_overtake_what_is_in_doubt(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    """Also not what was to leave in the moment when the connection broke."""
    layer = make_layer(hosts=[proxy.url], history=HISTORY)
    await send(layer, "room-1", 0)
    publisher = publisher_of(multiplexer_of(layer))
    proxy.to_server.freeze()
    sending = [asyncio.create_task(send(layer, "room-1", n)) for n in range(1, 6)]
    await eventually(lambda: unanswered_by(publisher))
    sending += [asyncio.create_task(send(layer, "room-1", n)) for n in range(6, 11)]
    assert publisher.link.wire is not None
    publisher.link.wire.abort(ConnectionLost("cut"))
    proxy.cut()
    proxy.to_server.thaw()
    await asyncio.gather(*sending)
    assert numbers(await layer.group_history("room-1")) == list(range(11))


async def test_what_is_in_doubt_while_the_server_refuses(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    with restartable_server.client() as client:
        async with Proxy("127.0.0.1", restartable_server.port) as proxy:
            layer = make_layer(hosts=[proxy.url], history=HISTORY)
            await send(layer, "room-1", 0)
            proxy.to_server.freeze()
            sending = asyncio.create_task(send(layer, "room-1", 1))
            publisher = publisher_of(multiplexer_of(layer))
            await eventually(lambda: unanswered_by(publisher))
            client.config_set("maxmemory", 1)
            broken = publisher.link.wire
            proxy.cut()
            proxy.to_server.thaw()
            await eventually(lambda: publisher.link.wire not in (None, broken))
            with pytest.raises(CommandRefused):
                await send(layer, "room-1", 2)
            await asyncio.sleep(0.02)
            client.config_set("maxmemory", 0)
            await send(layer, "room-1", 3)
            await sending
            assert numbers(await layer.group_history("room-1")) == [0, 1, 3]
            await layer.close()


async def test_a_publish_that_nobody_can_know_of(
    make_layer: MakeLayer, proxy: Proxy, client: redis.Redis, prefix: str
) -> None:
    """What may have been trimmed since is not sent again."""
    layer, other = (
        make_layer(hosts=[proxy.url], history={"*": {"size": 5, "ttl": 60}}),
        make_layer(history={"*": {"size": 5, "ttl": 60}}),
    )
    await send(layer, "room", 0)
    proxy.to_client.freeze()
    sending = asyncio.create_task(layer.group_send("room", {"type": "x", "n": 1}))
    await eventually(lambda: client.xlen(f"{prefix}:h:room") == 2)
    await send(other, "room", *range(2, 9))
    # Where there are keys, it is trimmed to the message.
    await other.group_send("room", {"type": "x", "n": 9}, idempotency_key="a")
    proxy.cut()
    proxy.to_client.thaw()
    with pytest.raises(ConnectionLost):
        await sending
    assert numbers(await other.group_history("room")) == [5, 6, 7, 8, 9]


async def test_the_first_publish_of_a_member_in_doubt(
    make_layer: MakeLayer, proxy: Proxy, client: redis.Redis, prefix: str
) -> None:
    """It knows how far the group has come, though it has sent nothing yet, nor heard."""
    config = {"history": {"*": {"size": 5, "ttl": 60}}}
    layer, other = make_layer(hosts=[proxy.url], **config), make_layer(**config)
    await send(other, "room", *range(9))
    client.xtrim(f"{prefix}:h:room", maxlen=5, approximate=False)
    await layer.group_add("room", await layer.new_channel())
    await eventually(lambda: all_known(layer))
    proxy.to_server.freeze()
    sending = asyncio.create_task(layer.group_send("room", {"type": "x", "n": 9}))
    await eventually(lambda: unanswered_by(publisher_of(multiplexer_of(layer))))
    proxy.cut()
    proxy.to_server.thaw()
    assert (await sending or "").endswith("-10")
    assert numbers(await other.group_history("room")) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("arrived", [True, False])
async def test_whoever_is_cancelled_in_doubt_leaves_nothing_behind(
    make_layer: MakeLayer, proxy: Proxy, arrived: bool
) -> None:
    """What has arrived stays, and what has not is not sent again."""
    layer, other = make_layer(hosts=[proxy.url], history=HISTORY), make_layer(history=HISTORY)
    await send(layer, "room-1", 0)
    mailbox = await other.open_channel()
    await other.group_add("room-1", mailbox.channel)
    publisher = publisher_of(multiplexer_of(layer))
    direction = proxy.to_client if arrived else proxy.to_server
    direction.freeze()
    sending = asyncio.create_task(layer.group_send("room-1", {"type": "x", "n": 1}))
    if arrived:
        assert await got(mailbox, 1) == [1]
    await eventually(lambda: unanswered_by(publisher))
    proxy.refuse()
    proxy.cut()
    direction.thaw()
    await eventually(lambda: publisher.waiting)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await proxy.accept()
    await send(layer, "room-1", 2)
    assert await got(mailbox, 1) == [2]
    assert numbers(await other.group_history("room-1")) == [0, *([1] if arrived else []), 2]
    assert not publisher.waiting
    assert not watched_by(publisher)


async def test_more_than_can_wait_is_none(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """While the server is away: no half of them later, after they were said not to be sent."""
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], history=HISTORY, max_backlog=10)
    await send(layer, "room-1", 0)
    publisher = publisher_of(multiplexer_of(layer))
    restartable_server.kill()
    await eventually(lambda: publisher.link.wire is None)
    with pytest.raises(BacklogFull):
        await send(layer, "room-1", *range(1, 13))
    restartable_server.start()
    await eventually(lambda: publisher.link.wire is not None and not publisher.waiting)
    await send(layer, "room-1", 13)
    assert numbers(await layer.group_history("room-1")) == [13]


async def test_closing_ends_the_doubt(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    async with Proxy("127.0.0.1", restartable_server.port) as proxy:
        layer = make_layer(hosts=[proxy.url], history=HISTORY)
        await send(layer, "room-1", 0)
        proxy.to_client.freeze()
        sending = asyncio.create_task(layer.group_send("room-1", {"type": "x", "n": 1}))
        await eventually(lambda: unanswered_by(publisher_of(multiplexer_of(layer))))
        proxy.refuse()
        proxy.cut()
        proxy.to_client.thaw()
        await eventually(lambda: not layer.stats().multiplexer.connected)  # type: ignore[union-attr]
        await layer.close()
        with pytest.raises(ConnectionLost):
            await sending


async def test_what_is_refused_has_not_happened(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], history=HISTORY)
    await send(layer, "room-1", 0)
    with restartable_server.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(CommandRefused):
            await layer.group_send("room-1", {"type": "x", "n": 1})
        client.config_set("maxmemory", 0)
    assert numbers(await layer.group_history("room-1")) == [0]


@pytest.mark.parametrize("key", [None, "a"])
async def test_what_may_not_be_published_is_not_in_the_history(
    make_layer: MakeLayer, restartable_server: RestartableServer, key: str | None
) -> None:
    """An ACL that takes the channel away, and gives it back."""
    url = restartable_server.start_with_user("~*", "&*", "+@all")
    layer, receiver = (
        make_layer(hosts=[each], history=HISTORY) for each in (url, restartable_server.url)
    )
    mailbox = await receiver.open_channel(hooks=GAP)
    await receiver.group_add("room-1", mailbox.channel)
    await send(layer, "room-1", 0)
    message = {"type": "x", "n": 1}
    with restartable_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "resetchannels")
        with pytest.raises(CommandRefused):
            await layer.group_send("room-1", message, idempotency_key=key)
        assert numbers(await receiver.group_history("room-1")) == [0]
        admin.execute_command("ACL", "SETUSER", "app", "allchannels")
    await layer.group_send("room-1", {**message, "n": 2}, idempotency_key=key)
    assert await got(mailbox, 2) == [0, 2]
    assert numbers(await layer.group_history("room-1")) == [0, 2]


async def test_the_history_may_not_be_read(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    url = restartable_server.start_with_user("~*", "&*", "+@all", "-info")
    layer = make_layer(hosts=[url], history=HISTORY)
    sent = await send(layer, "room-1", 0, 1)  # INFO is not needed
    mailbox = await layer.open_channel(hooks=GAP)
    assert await layer.group_add("room-1", mailbox.channel, since=sent[0]) == Recovery(
        True, 1, sent[1]
    )
    assert await got(mailbox, 1) == [1]
    with restartable_server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "-xrange")
    refused = await layer.open_channel()
    with pytest.raises(CommandRefused):
        await layer.group_add("room-1", refused.channel, since=sent[0])
    assert not refused.memberships
    await send(layer, "room-1", 2)
    assert await got(mailbox, 1) == [2]
