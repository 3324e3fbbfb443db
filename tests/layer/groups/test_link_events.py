"""What channels hear of the link: the hooks of consumers, and CONFIG's events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mpx_channels.layer import Hooks, InvalidConfig, Mailbox, MpxChannelLayer
from mpx_channels.multiplexer import SubscriptionRefused
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.layer.conftest import MakeLayer
from tests.over import Outside
from tests.proxy import Proxy

ALL = Hooks(("mpx.activation",), ("mpx.disconnect",), ("mpx.reconnect",))


async def opened(layer: MpxChannelLayer) -> Mailbox:
    """A channel that hears all, as a consumer that has all handlers."""
    return await layer.open_channel(hooks=ALL)


async def heard(mailbox: Mailbox, count: int) -> list[str]:
    """The next events of a channel, in short."""
    events = []
    for _ in range(count):
        async with asyncio.timeout(PATIENCE):
            event = await mailbox.get()
        kind = event["type"].removeprefix("mpx.")
        events.append(f"{kind} {event['kind']} {event['name']}" if kind == "activation" else kind)
    return events


@pytest.mark.classic
async def test_activations(layer: MpxChannelLayer) -> None:
    mailbox = await opened(layer)
    channel = mailbox.channel
    await layer.group_add("room", channel)
    await layer.group_pattern_add("room-*", channel)
    await layer.channel_add("raw", channel)
    await layer.pattern_add("raw-*", channel)
    assert await heard(mailbox, 4) == [
        "activation group room",
        "activation group_pattern room-*",
        "activation channel raw",
        "activation pattern raw-*",
    ]


async def test_an_activation_is_told_once(layer: MpxChannelLayer) -> None:
    """To each member, whether the name was live before or not, and however often it is added."""
    first, second = await opened(layer), await opened(layer)
    for mailbox in (first, second):
        for _ in range(3):
            await layer.group_add("room", mailbox.channel)
    await layer.group_add("end", first.channel)
    await layer.group_add("end", second.channel)
    for mailbox in (first, second):
        assert await heard(mailbox, 2) == ["activation group room", "activation group end"]
    # Who leaves and comes back is told again.
    await layer.group_discard("room", first.channel)
    await layer.group_add("room", first.channel)
    assert await heard(first, 1) == ["activation group room"]
    assert len(first) == len(second) == 0


async def test_a_break_counts_once(make_layer: MakeLayer, proxy: Proxy) -> None:
    """However many kinds of names a channel has subscribed to."""
    layer = make_layer(hosts=[proxy.url])
    mailbox, idle = await opened(layer), await opened(layer)
    await layer.group_add("room", mailbox.channel)
    await layer.group_pattern_add("room-*", mailbox.channel)
    await layer.channel_add("raw", mailbox.channel)
    await layer.pattern_add("raw-*", mailbox.channel)
    await layer.pattern_add("more-*", mailbox.channel)
    await heard(mailbox, 5)
    proxy.cut()
    assert await heard(idle, 2) == ["disconnect", "reconnect"]
    assert (await heard(mailbox, 7))[-1] == "reconnect"
    stats = layer.stats()
    assert stats is not None
    assert stats.gaps == 1


async def test_who_asks_for_nothing_hears_nothing(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    only_disconnects = await layer.open_channel(hooks=Hooks(disconnect=("mpx.disconnect",)))
    nothing = await layer.open_channel()
    watcher = await opened(layer)
    for mailbox in (only_disconnects, nothing, watcher):
        await layer.group_add("room", mailbox.channel)
    proxy.cut()
    assert (await heard(watcher, 4))[-1] == "reconnect"
    assert await heard(only_disconnects, 1) == ["disconnect"]
    assert len(only_disconnects) == len(nothing) == 0


async def test_the_link_breaks(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    idle, member = await opened(layer), await opened(layer)
    await layer.group_add("room", member.channel)
    assert await heard(member, 1) == ["activation group room"]
    proxy.cut()
    event = await member.get()
    assert event.keys() == {"type", "reason"}
    assert event["type"] == "mpx.disconnect"
    assert "closed" in event["reason"]  # in redis-py's words without hiredis
    assert await heard(member, 2) == ["activation group room", "reconnect"]
    assert await heard(idle, 2) == ["disconnect", "reconnect"]


async def test_reconnect_comes_when_all_is_live_again(
    make_layer: MakeLayer, other_layer: MpxChannelLayer, proxy: Proxy
) -> None:
    """What is sent after it arrives, on whatever the channel has."""
    layer = make_layer(hosts=[proxy.url])
    mailbox = await opened(layer)
    names = [f"group-{number}" for number in range(600)]  # more than one SUBSCRIBE takes
    await asyncio.gather(*[layer.group_add(name, mailbox.channel) for name in names])
    await layer.group_pattern_add("wild-*", mailbox.channel)
    await heard(mailbox, 601)
    for _ in range(3):
        proxy.cut()
        events = await heard(mailbox, 603)
        assert events[0] == "disconnect"
        assert len({*events[1:-1]}) == 601
        assert events[-1] == "reconnect"
        assert all(topic.live for topic in mailbox.memberships or ())
        for group in ("group-0", "group-599", "wild-1"):
            await other_layer.group_send(group, {"type": "mpx.x"})
        await other_layer.send(mailbox.channel, {"type": "mpx.x"})
        assert await heard(mailbox, 4) == ["x"] * 4


@pytest.mark.everywhere(classic=True)
async def test_the_server_breaks_it(layer: MpxChannelLayer, outside: Outside) -> None:
    idle, member = await opened(layer), await opened(layer)
    await layer.group_add("room", member.channel)
    assert await heard(member, 1) == ["activation group room"]
    outside.cut()
    assert await heard(member, 3) == ["disconnect", "activation group room", "reconnect"]
    assert await heard(idle, 2) == ["disconnect", "reconnect"]
    await layer.group_send("room", {"type": "mpx.x"})
    assert await heard(member, 1) == ["x"]
    assert layer.stats().gaps == 1


async def test_a_flapping_link(make_layer: MakeLayer, proxy: Proxy) -> None:
    """Cut again before all is live again: told of one break and one return, not of each."""
    layer = make_layer(hosts=[proxy.url], max_backoff=0.01)
    mailbox = await opened(layer)
    await layer.group_add("room", mailbox.channel)
    assert await heard(mailbox, 1) == ["activation group room"]
    stats = lambda: layer.stats().multiplexer  # noqa: E731
    proxy.to_client.freeze()  # from here on, no subscription is confirmed
    for _ in range(5):
        accepted = proxy.accepted
        proxy.cut()
        await eventually(lambda accepted=accepted: proxy.accepted > accepted)
    proxy.to_client.thaw()
    await eventually(lambda: stats().connected)
    assert await heard(mailbox, 3) == ["disconnect", "activation group room", "reconnect"]
    proxy.cut()
    assert await heard(mailbox, 3) == ["disconnect", "activation group room", "reconnect"]


async def test_flapping_between_connection_and_confirmation(
    make_layer: MakeLayer, proxy: Proxy
) -> None:
    """A connection that stands, and ends before it has confirmed anything: several in a row."""
    layer = make_layer(hosts=[proxy.url], max_backoff=0.01)
    mailbox = await opened(layer)
    await layer.group_add("room", mailbox.channel)
    assert await heard(mailbox, 1) == ["activation group room"]
    inbox = mailbox.channel.partition("!")[0][-16:].encode()
    proxy.to_client.delay = 0.05
    for number in range(3):
        proxy.to_server.data.clear()
        proxy.cut()
        proxy.to_client.thaw()
        # Subscribed again, so it stands; the confirmation is held up on its way.
        await eventually(lambda: inbox in proxy.to_server.data)
        proxy.to_client.freeze()
        assert layer.stats().multiplexer.reconnects == number + 1
    proxy.to_client.thaw()
    assert await heard(mailbox, 3) == ["disconnect", "activation group room", "reconnect"]
    assert len(mailbox) == 0


async def test_leaving_while_the_link_is_down(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """Who has nothing left is not back before the link is."""
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], max_backoff=0.02)
    mailbox = await opened(layer)
    await layer.group_add("room", mailbox.channel)
    assert await heard(mailbox, 1) == ["activation group room"]
    restartable_server.kill()
    assert await heard(mailbox, 1) == ["disconnect"]
    await layer.group_discard("room", mailbox.channel)
    assert len(mailbox) == 0
    restartable_server.start()
    assert await heard(mailbox, 1) == ["reconnect"]


async def test_a_full_mailbox_hears_of_the_link(
    make_layer: MakeLayer, other_layer: MpxChannelLayer, proxy: Proxy
) -> None:
    layer = make_layer(hosts=[proxy.url], capacity=2)
    mailbox = await opened(layer)
    await layer.group_add("room", mailbox.channel)
    for number in range(5):
        await other_layer.group_send("room", {"type": f"mpx.{number}"})
    await eventually(lambda: layer.stats().drops["full"] == 4)
    proxy.cut()
    await eventually(lambda: len(mailbox) == 5)
    assert await heard(mailbox, 5) == [
        "activation group room", "0", "disconnect", "activation group room", "reconnect",
    ]  # fmt: skip


async def test_the_hooks_never_expire(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url], expiry=0.01)
    mailbox = await opened(layer)
    proxy.cut()
    await eventually(lambda: len(mailbox) == 2)
    await asyncio.sleep(0.02)
    assert await heard(mailbox, 2) == ["disconnect", "reconnect"]


async def test_joining_while_the_link_is_down(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], max_backoff=0.02)
    mailbox, other = await opened(layer), await opened(layer)
    await layer.group_add("before", mailbox.channel)
    assert await heard(mailbox, 1) == ["activation group before"]
    restartable_server.kill()
    assert await heard(mailbox, 1) == ["disconnect"]
    joins = [
        asyncio.create_task(layer.group_add("after", each.channel))
        for each in (mailbox, mailbox, other)
    ]
    await eventually(lambda: layer.stats().memberships == 3)
    restartable_server.start()
    await asyncio.gather(*joins)
    events = await heard(mailbox, 3)
    assert sorted(events[:2]) == ["activation group after", "activation group before"]
    assert events[2] == "reconnect"
    assert await heard(other, 3) == ["disconnect", "activation group after", "reconnect"]


async def test_a_join_that_fails_does_not_hold_up_the_news(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    """Everything is live again once the only name that is not was given up."""
    restartable_server.start_with_user("resetchannels", "&asgi:p:*", "&asgi:g:room", "+@all")
    async with Proxy("127.0.0.1", restartable_server.port) as proxy:
        url = proxy.url.replace("redis://", "redis://app:secret@")
        layer = make_layer(hosts=[url], prefix="asgi", max_backoff=0.02)
        mailbox = await opened(layer)
        await layer.group_add("room", mailbox.channel)
        assert await heard(mailbox, 1) == ["activation group room"]
        proxy.refuse()
        proxy.cut()
        assert await heard(mailbox, 1) == ["disconnect"]
        joining = asyncio.create_task(layer.group_add("forbidden", mailbox.channel))
        await eventually(lambda: layer.stats().memberships == 2)
        await proxy.accept()
        with pytest.raises(SubscriptionRefused):
            await joining
        assert await heard(mailbox, 2) == ["activation group room", "reconnect"]
        await layer.close()


async def test_a_channel_opened_while_the_link_is_down_waits_for_it(
    make_layer: MakeLayer, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    layer = make_layer(hosts=[restartable_server.url], max_backoff=0.02)
    await opened(layer)
    restartable_server.kill()
    await eventually(lambda: not layer.stats().multiplexer.connected)
    opening = asyncio.create_task(opened(layer))
    restartable_server.start()
    mailbox = await opening
    await layer.group_add("room", mailbox.channel)
    assert await heard(mailbox, 1) == ["activation group room"]


async def test_closed_channels_hear_nothing(make_layer: MakeLayer, proxy: Proxy) -> None:
    layer = make_layer(hosts=[proxy.url])
    mailbox, watcher = await opened(layer), await opened(layer)
    await layer.group_add("room", mailbox.channel)
    assert await heard(mailbox, 1) == ["activation group room"]
    layer.close_channel(mailbox)
    layer.close_channel(mailbox)
    proxy.cut()
    assert await heard(watcher, 2) == ["disconnect", "reconnect"]
    assert len(mailbox) == 0


# -- CONFIG ---------------------------------------------------------------------------------------


async def test_events_of_the_configuration(make_layer: MakeLayer, proxy: Proxy) -> None:
    """As those of channels_redis: ``{"type": value}`` for every channel, and nothing else."""
    layer = make_layer(
        hosts=[proxy.url], on_disconnect="redis.disconnect", on_reconnect="redis.reconnect"
    )
    channels = [await layer.new_channel() for _ in range(3)]
    await layer.group_add("room", channels[0])
    for _ in range(2):
        proxy.cut()
        for channel in channels:
            assert await layer.receive(channel) == {"type": "redis.disconnect"}
            assert await layer.receive(channel) == {"type": "redis.reconnect"}
    async with layer.subscribe() as events:
        proxy.cut()
        assert await anext(events) == {"type": "redis.disconnect"}


@pytest.mark.parametrize("key", ["on_disconnect", "on_reconnect"])
async def test_either_alone(make_layer: MakeLayer, proxy: Proxy, key: str) -> None:
    layer = make_layer(hosts=[proxy.url], **{key: "redis.news"})
    channel = await layer.new_channel()
    watcher = await opened(layer)
    proxy.cut()
    await eventually(lambda: len(watcher) == 3)
    assert await layer.receive(channel) == {"type": "redis.news"}
    assert layer.stats().unread == 3
    kinds = [(await watcher.get())["type"] for _ in range(3)]
    assert sorted(kinds) == ["mpx.disconnect", "mpx.reconnect", "redis.news"]


@pytest.mark.parametrize("key", ["on_disconnect", "on_reconnect"])
@pytest.mark.parametrize("value", ["", 7, b"x", ["x"]])
def test_the_configuration_is_checked(key: str, value: Any) -> None:
    with pytest.raises(InvalidConfig, match=f"{key} must be the type of an event"):
        MpxChannelLayer(**{key: value})
