"""A layer over several real servers, of which one may go away and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from mpx_channels.layer import Hooks, MpxChannelLayer, NotConnected, PromiseDisconnected
from mpx_channels.multiplexer import Node
from tests.conftest import PATIENCE, RestartableServer, eventually
from tests.inside import (
    group_received,
    hub_of,
    hubs_of,
    multiplexer_of,
    names_of,
    publishers_of,
    subscribers_of,
    wildcard_received,
)
from tests.proxy import Proxy

from .conftest import MakeLayer

ALL = Hooks(("mpx.activation",), ("mpx.disconnect",), ("mpx.reconnect",))


@pytest.fixture(scope="module")
def more_servers(server: object) -> Iterator[list[RestartableServer]]:
    """Two servers besides the session's; who kills one starts it again."""
    servers = [RestartableServer(), RestartableServer()]
    for each in servers:
        each.start()
    yield servers
    for each in servers:
        each.kill()


@pytest.fixture
def hosts(redis_url: str, more_servers: list[RestartableServer]) -> list[str]:
    return [redis_url, *[each.url for each in more_servers]]


@pytest.fixture
def make(make_layer: MakeLayer, hosts: list[str]) -> MakeLayer:
    def make(**config: Any) -> MpxChannelLayer:
        return make_layer(**{"hosts": hosts, "backlog_timeout": 0.3, "max_backoff": 0.05, **config})

    return make


def groups_by_node(layer: MpxChannelLayer, count: int = 500) -> dict[Node, list[str]]:
    """Names of groups, by the node that they are on."""
    mpx = multiplexer_of(layer)
    found: dict[Node, list[str]] = {node: [] for node in mpx.nodes}
    for number in range(count):
        group = f"room-{number}"
        found[mpx.node_of(names_of(layer).group(group))].append(group)
    assert all(len(groups) >= 5 for groups in found.values())
    return found


async def got(layer: MpxChannelLayer, channel: str) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await layer.receive(channel)


async def nothing_for(layer: MpxChannelLayer, channel: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await layer.receive(channel)


async def test_groups_are_on_all_of_them(make: MakeLayer) -> None:
    layer, other = make(), make()
    channels = [await layer.new_channel(), await other.new_channel()]
    groups = [group for each in groups_by_node(layer).values() for group in each[:20]]
    for each, channel in zip((layer, other), channels, strict=True):
        await asyncio.gather(*[each.group_add(group, channel) for group in groups])
    for number, group in enumerate(groups):
        await layer.group_send(group, {"type": "x", "n": number})
        assert (await got(layer, channels[0]))["n"] == number
        assert (await got(other, channels[1]))["n"] == number
    await other.group_send_many([(group, {"type": "x", "group": group}) for group in groups])
    arrived = {(await got(layer, channels[0]))["group"] for _ in groups}
    assert arrived == set(groups)
    await layer.group_discard(groups[0], channels[0])
    await layer.group_send(groups[0], {"type": "x"})
    await nothing_for(layer, channels[0])


async def test_processes_have_their_inboxes_on_different_ones(make: MakeLayer) -> None:
    layers = [make() for _ in range(8)]
    channels = [await layer.new_channel() for layer in layers]
    for sender in layers:
        for layer, channel in zip(layers, channels, strict=True):
            await sender.send(channel, {"type": "x", "from": id(sender)})
            assert (await got(layer, channel))["from"] == id(sender)
    assert len({multiplexer_of(layer).node_of(hub_of(layer).inbox.name) for layer in layers}) > 1
    # The owner is asked, wherever its inbox is.
    for layer, channel in zip(layers, channels, strict=True):
        await layers[0].group_add("room", channel)
        assert await layers[0].group_size("room") == layers.index(layer) + 1


async def test_promises_and_requests(make: MakeLayer) -> None:
    layer, other = make(), make()
    for number in range(20):
        promises = [await each.new_promise(f"order-{number}") for each in (layer, other)]
        assert await other.resolve(f"order-{number}", number) == 2
        assert [await promise for promise in promises] == [number, number]
    channel = await layer.new_channel()

    async def answer() -> None:
        for _ in range(20):
            event = await layer.receive(channel)
            await layer.reply(event, event["n"] * 2)

    answering = asyncio.create_task(answer())
    for number in range(20):
        assert await other.request(channel, {"type": "x", "n": number}) == number * 2
    await answering


async def test_plain_channels(make: MakeLayer) -> None:
    layer, other = make(), make()
    await layer.new_channel()
    mpx = multiplexer_of(layer)
    by_node: dict[Node, list[str]] = {node: [] for node in mpx.nodes}
    for number in range(500):
        name = f"jobs-{number}"
        by_node[mpx.node_of(names_of(layer).queue(name))].append(name)
    names = [name for each in by_node.values() for name in each[:10]]
    assert len(names) == 30
    for name in names:
        for number in range(3):
            await other.send(name, {"type": "x", "name": name, "n": number})
    for name in names:
        assert len([each async for each in layer.peek(name)]) == 3
        assert [(await got(layer, name))["n"] for _ in range(3)] == [0, 1, 2]
    # Readers that were there before, on all nodes at once.
    readers = [asyncio.create_task(got(layer, name)) for name in names]
    await asyncio.sleep(0)
    for name in names:
        await other.send(name, {"type": "x", "name": name})
    assert [event["name"] for event in await asyncio.gather(*readers)] == names
    assert await other.fleet_stats()


async def test_only_what_is_read_has_a_blocking_connection(make: MakeLayer) -> None:
    layer = make()
    await layer.send("jobs", {"type": "x"})
    await got(layer, "jobs")
    mpx = multiplexer_of(layer)
    blocking = [each.link.running for each in publishers_of(mpx).blocking]
    at = mpx.nodes.index(mpx.node_of(names_of(layer).queue("jobs")))
    assert blocking == [number == at for number in range(3)]


async def test_a_wildcard_hears_every_publish_once(make: MakeLayer) -> None:
    """Also when the copies of several servers come in between each other."""
    layer, other = make(), make()
    channel = await layer.new_channel()
    groups = [group for each in groups_by_node(layer).values() for group in each[:5]]
    await layer.group_pattern_add("room-*", channel)
    await layer.group_pattern_add("*", channel)
    for group in groups[::2]:
        await layer.group_add(group, channel)
    for _ in range(5):
        # The same bytes every time.
        await asyncio.gather(*[other.group_send(group, {"type": "x"}) for group in groups])
    arrived = [(await got(layer, channel))["mpx_group"] for _ in range(5 * len(groups))]
    assert sorted(arrived) == sorted(groups * 5)
    await nothing_for(layer, channel)


async def test_copies_that_others_come_between(make: MakeLayer) -> None:
    layer = make()
    channel = await layer.new_channel()
    here, there = (groups[0] for groups in list(groups_by_node(layer).values())[:2])
    for group in (here, there):
        await layer.group_add(group, channel)
    await layer.group_pattern_add("room-*", channel)
    names, wrapping = names_of(layer), layer.wrapping
    pattern = names.group_pattern("room-*")
    data = {
        group: wrapping.wrap(names.group(group), {"type": "x", "n": group})
        for group in (here, there)
    }
    group_received(hub_of(layer), names.group(here), data[here])
    group_received(hub_of(layer), names.group(there), data[there])
    wildcard_received(hub_of(layer), pattern, names.group(here), data[here])
    wildcard_received(hub_of(layer), pattern, names.group(there), data[there])
    assert [(await got(layer, channel))["n"] for _ in range(2)] == [here, there]
    await nothing_for(layer, channel)
    # The same again is another publish.
    wildcard_received(hub_of(layer), pattern, names.group(here), data[here])
    wildcard_received(hub_of(layer), pattern, names.group(there), data[there])
    assert [(await got(layer, channel))["n"] for _ in range(2)] == [here, there]


async def test_raw_channels_and_patterns(make: MakeLayer) -> None:
    layer = make()
    channel = await layer.new_channel()
    mpx = multiplexer_of(layer)
    names = [f"raw-{layer.prefix}-{number}" for number in range(20)]
    for name in names:
        await layer.channel_add(name, channel)
        await mpx.publish(name, b"x")
        assert (await got(layer, channel))["channel"] == name
        await layer.channel_discard(name, channel)
    await layer.pattern_add(f"raw-{layer.prefix}-*", channel)
    for name in names:
        await mpx.publish(name, b"x")
        assert (await got(layer, channel))["channel"] == name
    await nothing_for(layer, channel)


async def keys(mpx: Any, pattern: bytes, node: Any) -> list[bytes]:
    """All at once; KEYS is not for a user of least privilege."""
    _, found = await mpx.command(b"SCAN", b"0", b"MATCH", pattern, b"COUNT", b"1000000", node=node)
    return found


async def test_flush_leaves_nothing_on_any(make: MakeLayer, hosts: list[str]) -> None:
    layer = make()
    for number in range(200):
        await layer.send(f"jobs-{number}", {"type": "x"})
    mpx = multiplexer_of(layer)
    pattern = f"{layer.prefix}:*".encode()
    assert all([await keys(mpx, pattern, node) for node in mpx.nodes])
    stats = await layer.fleet_stats()
    assert stats.queues == {f"jobs-{number}": 1 for number in range(200)}
    await layer.flush()
    assert not any([await keys(mpx, pattern, node) for node in mpx.nodes])


async def test_databases_of_one_server(make_layer: MakeLayer, redis_url: str) -> None:
    layer = make_layer(hosts=[f"{redis_url}/{db}" for db in range(4)])
    channel = await layer.new_channel()
    await layer.group_pattern_add("room-*", channel)
    await layer.pattern_add(f"{layer.prefix}-raw-*", channel)
    for number in range(20):
        if number % 2:
            await layer.group_add(f"room-{number}", channel)
        await layer.group_send(f"room-{number}", {"type": "x", "n": number})
        assert (await got(layer, channel))["n"] == number
        await multiplexer_of(layer).publish(f"{layer.prefix}-raw-{number}", b"x")
        assert (await got(layer, channel))["channel"] == f"{layer.prefix}-raw-{number}"
        await layer.send(f"jobs-{number}", {"type": "x", "n": number})
        assert (await got(layer, f"jobs-{number}"))["n"] == number
    await nothing_for(layer, channel)
    assert len(subscribers_of(multiplexer_of(layer)).all) == 1
    assert (await layer.fleet_stats()).processes[0].consumers == 1


# -- one of them is away ---------------------------------------------------------------------------


async def heard(mailbox: Any, count: int) -> list[str]:
    events = []
    for _ in range(count):
        async with asyncio.timeout(PATIENCE):
            event = await mailbox.get()
        events.append(event["type"].removeprefix("mpx.") + event.get("name", ""))
    return events


async def layer_with_its_inbox_on(make: MakeLayer, index: int) -> MpxChannelLayer:
    while True:
        layer = make(connect_timeout=1)
        await layer.new_channel()
        mpx = multiplexer_of(layer)
        if mpx.node_of(hub_of(layer).inbox.name) is mpx.nodes[index]:
            await mpx.wait_connected(PATIENCE)
            return layer
        await layer.close()


async def test_a_server_that_is_not_that_of_the_inbox(
    make: MakeLayer, more_servers: list[RestartableServer]
) -> None:
    layer = await layer_with_its_inbox_on(make, 0)
    gone = more_servers[0]
    here, there, _ = groups_by_node(layer).values()
    only_here, both, idle = [await layer.open_channel(hooks=ALL) for _ in range(3)]
    await layer.group_add(here[0], only_here.channel)
    await layer.group_add(here[0], both.channel)
    await layer.group_add(there[0], both.channel)
    assert await heard(only_here, 1) == [f"activation{here[0]}"]
    assert await heard(both, 2) == [f"activation{here[0]}", f"activation{there[0]}"]
    promises = {group: await layer.new_promise(group) for group in map(str, range(200))}
    mpx = multiplexer_of(layer)
    lost = {p for p in promises if mpx.node_of(names_of(layer).promise(p)) is mpx.nodes[1]}

    assert 0 < len(lost) < 200

    gone.kill()
    async with asyncio.timeout(PATIENCE):
        event = await both.get()
    assert event["type"] == "mpx.disconnect"
    assert gone.url in event["reason"]
    assert layer.stats().gaps == 1  # type: ignore[union-attr]
    for name, promise in promises.items():
        if name in lost:
            with pytest.raises(PromiseDisconnected):
                await promise
        else:
            assert await layer.resolve(name, name) == 1
            assert await promise == name

    # Names of the others work.
    await layer.group_send(here[0], {"type": "x"})
    assert await heard(only_here, 1) == ["x"]
    assert await heard(both, 1) == ["x"]
    anything = names_of(layer).group(here[-1])
    assert await multiplexer_of(layer).publish(anything, b"x") is not None
    channel = await layer.new_channel()
    await layer.group_add(here[1], channel)
    with pytest.raises(NotConnected, match=gone.url):
        await layer.group_send(there[0], {"type": "x"})
    with pytest.raises(NotConnected, match=f"{gone.url} did not confirm"):
        await layer.group_add(there[1], channel)
    with pytest.raises(NotConnected, match=f"{gone.url} did not confirm"):
        await layer.group_pattern_add("*", channel)
    assert len(only_here) == len(idle) == len(both) == 0
    assert [node.connected for node in layer.stats().multiplexer.nodes] == [True, False, True]  # type: ignore[union-attr]

    # Questions to all processes go over one that is there.
    assert (await layer.fleet_stats()).processes[0].process_id == hub_of(layer).process_id

    gone.start()
    assert await heard(both, 2) == [f"activation{there[0]}", "reconnect"]
    await layer.group_send(there[0], {"type": "back"})
    assert await heard(both, 1) == ["back"]
    assert len(only_here) == len(idle) == 0


async def test_the_server_of_the_inbox(
    make: MakeLayer, more_servers: list[RestartableServer]
) -> None:
    layer = await layer_with_its_inbox_on(make, 2)
    gone = more_servers[1]
    here = next(iter(groups_by_node(layer).values()))
    mailbox = await layer.open_channel(hooks=ALL)
    await layer.group_add(here[0], mailbox.channel)
    await heard(mailbox, 1)
    asking = asyncio.create_task(layer.request(mailbox.channel, {"type": "question"}))
    assert await heard(mailbox, 1) == ["question"]

    gone.kill()
    assert await heard(mailbox, 1) == ["disconnect"]
    with pytest.raises(PromiseDisconnected):
        await asking
    # Groups elsewhere go on, what is sent to a channel does not arrive.
    await layer.group_send(here[0], {"type": "x"})
    assert await heard(mailbox, 1) == ["x"]
    with pytest.raises(NotConnected, match=gone.url):
        await layer.send(mailbox.channel, {"type": "x"})
    with pytest.raises(NotConnected, match=gone.url):
        await layer.new_channel()

    gone.start()
    assert await heard(mailbox, 1) == ["reconnect"]
    await layer.send(mailbox.channel, {"type": "back"})
    assert await heard(mailbox, 1) == ["back"]


async def test_plain_channels_of_the_others_are_read(
    make: MakeLayer, more_servers: list[RestartableServer]
) -> None:
    layer = await layer_with_its_inbox_on(make, 0)
    mpx = multiplexer_of(layer)
    names = [f"jobs-{number}" for number in range(20)]
    there = [n for n in names if mpx.node_of(names_of(layer).queue(n)) is mpx.nodes[1]]
    here = [n for n in names if n not in there]
    readers = {name: asyncio.create_task(got(layer, name)) for name in names}
    await asyncio.sleep(0.1)
    more_servers[0].kill()
    for name in here:
        await layer.send(name, {"type": "x"})
        await readers[name]
    with pytest.raises(NotConnected, match=more_servers[0].url):
        await layer.send(there[0], {"type": "x"})
    more_servers[0].start()
    await mpx.wait_connected(PATIENCE)
    for name in there:
        await layer.send(name, {"type": "x"})
        await readers[name]


async def test_flush_empties_those_that_are_there(
    make: MakeLayer, more_servers: list[RestartableServer]
) -> None:
    layer = await layer_with_its_inbox_on(make, 2)
    mpx = multiplexer_of(layer)
    for number in range(30):
        await layer.send(f"jobs-{number}", {"type": "x"})
    more_servers[0].kill()
    await eventually(lambda: mpx.error_of(mpx.nodes[1]))
    with pytest.raises(NotConnected, match=more_servers[0].url):
        await layer.flush()
    pattern = f"{layer.prefix}:*".encode()
    for node in (mpx.nodes[0], mpx.nodes[2]):
        assert await keys(mpx, pattern, node) == []
    more_servers[0].start()


async def test_sync_code(make: MakeLayer) -> None:
    layer, sender = make(), make()
    channel = await layer.new_channel()
    groups = [groups[0] for groups in groups_by_node(layer).values()]
    for group in groups:
        await layer.group_add(group, channel)
    for group in groups:
        await asyncio.to_thread(sender.sync.group_send, group, {"type": "x", "group": group})
        assert (await got(layer, channel))["group"] == group
    await sender.close()
    await eventually(lambda: not hubs_of(sender))


async def test_a_server_that_hangs(make_layer: MakeLayer, redis_url: str, proxy: Proxy) -> None:
    proxy.freeze()
    while True:
        layer = make_layer(hosts=[redis_url, proxy.url])
        await hubs_of(layer).open()
        mpx = multiplexer_of(layer)
        if mpx.node_of(hub_of(layer).inbox.name) is mpx.nodes[0]:
            break
        await layer.close()
    async with asyncio.timeout(PATIENCE / 2):
        channel = await layer.new_channel()
        stats = await layer.fleet_stats()
    assert [each.silent for each in stats.processes] == [False]
    assert proxy.url in stats.incomplete["servers"]
    assert channel
    proxy.thaw()
    await mpx.wait_connected(PATIENCE)
    assert (await layer.fleet_stats()).incomplete == {}
