"""Groups: group_add, group_discard, group_send, flush."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from mpx_channels.layer import ForeignChannel, MpxChannelLayer, PlainChannel
from mpx_channels.layer.groups.topics import Topics
from mpx_channels.multiplexer import (
    CommandRefused,
    NotConnected,
    SubscriptionClosed,
    SubscriptionRefused,
)
from tests.channels.test_channels import receives_nothing
from tests.conftest import RestartableServer, eventually
from tests.inside import hub_of, names_of
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy


async def members(layer: MpxChannelLayer, group: str, count: int) -> list[str]:
    """New channels, all in the group."""
    channels = [await layer.new_channel() for _ in range(count)]
    for channel in channels:
        await layer.group_add(group, channel)
    return channels


@pytest.mark.everywhere(classic=True)
async def test_every_member_gets_the_message(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    here, there = await members(layer, "room", 3), await members(other_layer, "room", 2)
    await layer.group_send("room", {"type": "hello", "n": [1]})
    for owner, channels in ((layer, here), (other_layer, there)):
        for channel in channels:
            assert await owner.receive(channel) == {"type": "hello", "n": [1]}


async def test_members_cannot_change_each_others_message(layer: MpxChannelLayer) -> None:
    channels = await members(layer, "room", 3)
    for message in ({"type": "flat", "n": 1}, {"type": "deep", "list": [1], "dict": {"a": [1]}}):
        await layer.group_send("room", message)
        for channel in channels:
            got = await layer.receive(channel)
            assert got == message
            got["mine"] = channel
            if "list" in got:
                got["list"].append(2)
                got["dict"]["a"].clear()


async def test_what_is_sent_after_group_add_arrives(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    for number in range(100):
        channel = await layer.new_channel()
        await layer.group_add(f"room-{number}", channel)
        await other_layer.group_send(f"room-{number}", {"type": "x", "n": number})
        assert await layer.receive(channel) == {"type": "x", "n": number}


async def test_discarded_members_hear_no_more(layer: MpxChannelLayer) -> None:
    stays, goes = await members(layer, "room", 2)
    await layer.group_discard("room", goes)
    await layer.group_send("room", {"type": "x"})
    assert await layer.receive(stays) == {"type": "x"}
    assert await receives_nothing(layer, goes)


async def test_discarding_what_is_not_there_does_nothing(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_discard("room", channel)
    await layer.group_add("room", channel)
    await layer.group_discard("room", channel)
    await layer.group_discard("room", channel)
    await layer.group_discard("room", "specific.0123456789abcdef!1")


async def test_joining_twice_is_joining_once(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}
    assert await receives_nothing(layer, channel)
    await layer.group_discard("room", channel)
    assert layer.stats().memberships == 0


async def test_leaving_and_coming_back_in_one_breath(layer: MpxChannelLayer) -> None:
    (channel,) = await members(layer, "room", 1)
    await layer.group_discard("room", channel)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}


@pytest.mark.everywhere
async def test_the_last_member_takes_the_subscription_along(
    make_layer: MakeLayer, outside: Outside
) -> None:
    layer = make_layer(unsubscribe_delay=0.05)
    one, two = await members(layer, "room", 2)
    name = names_of(layer).group("room")
    assert outside.numsub(name) == 1
    await layer.group_discard("room", one)
    await layer.group_discard("room", two)
    await eventually(lambda: outside.numsub(name) == 0)


async def test_a_group_without_members_is_silent(layer: MpxChannelLayer) -> None:
    await layer.group_send("nobody", {"type": "x"})


@pytest.mark.everywhere
async def test_encrypted(make_layer: MakeLayer) -> None:
    layer, other = (make_layer(symmetric_encryption_keys=["a secret"]) for _ in range(2))
    stranger = make_layer(symmetric_encryption_keys=["another"])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await stranger.group_send("room", {"type": "x"})
    await other.group_send("room", {"type": "to.group"})
    assert await layer.receive(channel) == {"type": "to.group"}
    await other.send(channel, {"type": "to.channel"})
    assert await layer.receive(channel) == {"type": "to.channel"}
    await other.send("jobs", {"type": "plain"})
    assert await layer.receive("jobs") == {"type": "plain"}
    await eventually(lambda: layer.stats().drops["undecryptable"] == 1)


@pytest.mark.everywhere
async def test_prefixes_keep_layers_apart(make_layer: MakeLayer, prefix: str) -> None:
    layers = [make_layer(prefix=name) for name in (prefix, f"{prefix}:g", f"{prefix}:g:room")]
    channels = [(await members(layer, "room", 1))[0] for layer in layers]
    for number, layer in enumerate(layers):
        await layer.group_send("room", {"type": "x", "n": number})
    for number, (layer, channel) in enumerate(zip(layers, channels, strict=True)):
        assert await layer.receive(channel) == {"type": "x", "n": number}
        assert await receives_nothing(layer, channel)


async def test_one_process_holds_two_connections(
    make_layer: MakeLayer, redis_url: str, client: Any
) -> None:
    name = "two-connections"
    layer = make_layer(hosts=[{"address": redis_url, "client_name": name}])
    channels = [await layer.new_channel() for _ in range(100)]
    await asyncio.gather(*[layer.group_add(f"g{n}", c) for n, c in enumerate(channels)])
    readers = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    await asyncio.gather(*[layer.group_send(f"g{n}", {"type": "x"}) for n in range(100)])
    await asyncio.gather(*readers)
    assert [entry["name"] for entry in client.client_list()].count(name) == 2


@pytest.mark.everywhere
async def test_a_channel_of_another_process_is_added_by_that_process(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    theirs = await other_layer.new_channel()
    await layer.group_add("room", theirs)
    await layer.group_send("room", {"type": "x"})
    assert await other_layer.receive(theirs) == {"type": "x"}
    await layer.group_discard("room", theirs)
    assert other_layer.stats().groups == 0
    with pytest.raises(ForeignChannel, match="nobody has the channel"):
        await layer.group_add("room", theirs.partition("!")[0] + "!nobody")
    with pytest.raises(ForeignChannel, match="no process has the channel"):
        await layer.group_add("room", "specific.0123456789abcdef!1")
    await layer.group_discard("room", "specific.0123456789abcdef!1")


@pytest.mark.everywhere
async def test_sync_code_can_add_a_consumer_to_a_group(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer
) -> None:
    theirs = await other_layer.new_channel()
    with ThreadPoolExecutor(1) as executor:
        add = executor.submit(async_to_sync(layer.group_add), "room", theirs)
        await asyncio.wrap_future(add)
    await layer.group_send("room", {"type": "x"})
    assert await other_layer.receive(theirs) == {"type": "x"}


async def test_a_plain_channel_is_no_member(layer: MpxChannelLayer) -> None:
    with pytest.raises(PlainChannel, match="'thumbnails' is a plain channel"):
        await layer.group_add("room", "thumbnails")


@pytest.mark.parametrize("name", ["", "ä", "two words", "a!b", "a:b", "x" * 100, 17, None])
async def test_invalid_group_names(layer: MpxChannelLayer, name: Any) -> None:
    channel = await layer.new_channel()
    for call in (
        layer.group_add(name, channel),
        layer.group_discard(name, channel),
        layer.group_send(name, {"type": "x"}),
    ):
        with pytest.raises(TypeError, match="Group name must be a valid unicode string"):
            await call


async def test_invalid_channel_in_group_calls(layer: MpxChannelLayer) -> None:
    for call in (layer.group_add("room", "no spaces"), layer.group_discard("room", "no spaces")):
        with pytest.raises(TypeError, match="Channel name"):
            await call


@pytest.mark.everywhere
async def test_flush_forgets_groups_and_messages(layer: MpxChannelLayer) -> None:
    (channel,) = await members(layer, "room", 1)
    await layer.group_send("room", {"type": "x"})
    await eventually(lambda: layer.stats().unread == 1)
    await layer.flush()
    await layer.group_send("room", {"type": "x"})
    assert await receives_nothing(layer, channel)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "after"})
    assert await layer.receive(channel) == {"type": "after"}


async def test_close_leaves_no_connection_and_can_be_used_again(
    make_layer: MakeLayer, redis_url: str, client: Any
) -> None:
    layer = make_layer(hosts=[{"address": redis_url, "client_name": "close-me"}])

    def connections() -> int:
        return [entry["name"] for entry in client.client_list()].count("close-me")

    await members(layer, "room", 2)
    await layer.close()
    await eventually(lambda: connections() == 0)
    (channel,) = await members(layer, "room", 1)
    await layer.group_send("room", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}


async def test_groups_survive_a_broken_link(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    one, two = await members(layer, "room", 2)
    for number in range(3):
        before = layer.stats().multiplexer.reconnects
        proxy.cut()
        await eventually(lambda before=before: layer.stats().multiplexer.reconnects > before)
        # Joining a group that is being subscribed to again waits for that, too.
        await layer.group_add("room", one)
        await layer.group_send("room", {"type": "x", "n": number})
        for channel in (one, two):
            assert await layer.receive(channel) == {"type": "x", "n": number}


async def test_a_join_that_is_not_confirmed_is_no_join(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], connect_timeout=0.4, max_backoff=0.02)
    (channel,) = await members(layer, "before", 1)
    restartable_server.kill()
    await eventually(lambda: not layer.stats().multiplexer.connected)
    with pytest.raises(NotConnected, match="did not confirm"):
        await layer.group_add("room", channel)
    assert layer.stats().groups == 1
    restartable_server.start()
    await layer.group_add("room", channel)
    await layer.group_send("before", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}


async def test_a_cancelled_join_is_no_join(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    channel = await layer.new_channel()
    proxy.freeze()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(layer.group_add("room", channel), 0.05)
    proxy.thaw()
    assert layer.stats().groups == 0


JOINS = ["group_add", "channel_add", "pattern_add", "group_pattern_add"]


async def joining(layer: MpxChannelLayer, add: str, channel: str, times: int) -> list[Any]:
    """Tasks that join one name, all at once, and wait for Redis."""
    tasks = [asyncio.create_task(getattr(layer, add)("room", channel)) for _ in range(times)]
    hub = hub_of(layer)
    await eventually(
        lambda: (
            [
                each.waiting
                for topics in hub.parts
                if isinstance(topics, Topics)
                for each in topics.tentative.values()
            ]
            == [times]
        )
    )
    return tasks


async def publish(layer: MpxChannelLayer, add: str) -> None:
    if add.startswith("group"):
        await layer.group_send("room", {"type": "x"})
    else:
        hub = hub_of(layer)
        await hub.multiplexer.publish("room", b"x")


@pytest.mark.parametrize("add", JOINS)
async def test_a_cancelled_join_takes_no_other_along(
    make_layer: MakeLayer, proxy: Proxy, other_layer: MpxChannelLayer, add: str
) -> None:
    layer = make_layer(hosts=[proxy.url])
    channel = await layer.new_channel()
    await other_layer.new_channel()
    proxy.to_server.freeze()
    first, second, third = await joining(layer, add, channel, 3)
    first.cancel()
    await asyncio.wait([first])
    proxy.thaw()
    await asyncio.gather(second, third)
    assert first.cancelled()
    await publish(other_layer, add)
    assert (await layer.receive(channel))["type"] in ("x", "channel.message", "pattern.message")
    assert await receives_nothing(layer, channel)


async def test_joins_that_all_end_in_vain_are_no_join(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    channel = await layer.new_channel()
    proxy.to_server.freeze()
    tasks = await joining(layer, "group_add", channel, 2)
    for number, task in enumerate(tasks):
        assert layer.stats().memberships == 1, number
        task.cancel()
        await asyncio.wait([task])
    assert layer.stats().groups == 0
    proxy.thaw()


async def test_a_cancelled_join_does_not_undo_what_came_after_it(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    layer = make_layer(hosts=[proxy.url])
    channel = await layer.new_channel()
    proxy.to_server.freeze()
    (first,) = await joining(layer, "group_add", channel, 1)
    # It left, and joins anew: of that the first knows nothing.
    await layer.group_discard("room", channel)
    second = asyncio.create_task(layer.group_add("room", channel))
    await eventually(lambda: layer.stats().memberships == 1)
    with pytest.raises(SubscriptionClosed):
        await first
    proxy.thaw()
    await second
    assert layer.stats().memberships == 1


async def test_a_join_that_is_cancelled_when_it_is_confirmed(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    """Another join finds the group live before the first one's task gets its turn."""
    layer = make_layer(hosts=[proxy.url])
    channel = await layer.new_channel()
    proxy.to_server.freeze()
    (first,) = await joining(layer, "group_add", channel, 1)
    hub = hub_of(layer)
    joined = []

    def on_activation(name: str) -> None:
        first.cancel()
        join = layer.group_add("room", channel)
        try:
            join.send(None)
        except StopIteration:
            joined.append(name)

    listener = hub.multiplexer.new_channel_subscription(print, None, on_activation)
    listener.add(hub.names.group("room"))
    proxy.thaw()
    await asyncio.wait([first])
    assert first.cancelled()
    assert joined
    assert layer.stats().memberships == 1
    assert not hub.groups.tentative


async def test_what_an_acl_forbids_is_said(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    url = restartable_server.start_with_user(
        "resetchannels", "&allowed:p:*", "&allowed:g:room", "+@all"
    )
    layer = make_layer(hosts=[url], prefix="allowed")
    (channel,) = await members(layer, "room", 1)
    with pytest.raises(SubscriptionRefused, match="allowed:g:other"):
        await layer.group_add("other", channel)
    with pytest.raises(CommandRefused, match="permission"):
        await layer.group_send("other", {"type": "x"})
    assert layer.stats().groups == 1
    await layer.group_send("room", {"type": "x"})
    assert await layer.receive(channel) == {"type": "x"}
