"""What is classic: one node delivers all of it, and another one when that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis import Redis

from mpx_channels.multiplexer import LinkLost
from tests.clusters import Cluster, Node
from tests.conftest import PATIENCE, eventually

from .conftest import New

Make = Callable[[Cluster], Awaitable["Ears"]]


class Ears:
    """Classic names and a pattern of one multiplexer, and what they hear."""

    def __init__(self, new: New, cluster: Cluster) -> None:
        self.mpx = new(cluster)
        self.got: list[tuple[str, bytes]] = []
        self.losses: list[LinkLost] = []
        self.names = self.mpx.new_channel_subscription(
            lambda name, data: self.got.append((name, data)),
            on_disconnect=lambda loss: self.losses.append(loss),  # type: ignore[arg-type]
            classic=True,
        )
        self.names.add("raw-1", "raw-2")
        self.pattern = self.mpx.new_pattern_subscription(
            "raw-*", lambda name, data: self.got.append(("pattern", data))
        )

    @property
    def active(self) -> bool:
        return self.names.is_active("raw-1") and self.pattern.active

    def home(self, cluster: Cluster) -> Node:
        url = str(self.mpx.node)
        return next(node for node in cluster.nodes if node.url == url)


@pytest.fixture
def ears(new: New) -> Make:
    async def make(cluster: Cluster) -> Ears:
        made = Ears(new, cluster)
        await made.mpx.start()
        await eventually(lambda: made.active)
        return made

    return make


def publish(node: Node, data: str) -> None:
    with Redis(port=node.port) as client:
        client.publish("raw-1", data)


def patterns(node: Node) -> tuple[int, list[bytes]]:
    return node.ask("PUBSUB", "NUMPAT"), node.ask("PUBSUB", "CHANNELS", "raw-*")


async def test_from_every_node_and_once(cluster: Cluster, ears: Make) -> None:
    heard = await ears(cluster)
    for number, node in enumerate(cluster.nodes):
        await asyncio.to_thread(publish, node, f"{number}")
        await eventually(lambda number=number: len(heard.got) >= 2 * number + 2)
    for number in range(3, 6):
        await heard.mpx.publish_soon("raw-1", b"%d" % number, classic=True)
    await eventually(lambda: len(heard.got) >= 12)
    assert sorted(heard.got) == sorted(
        (kind, b"%d" % number) for kind in ("raw-1", "pattern") for number in range(6)
    )


async def test_the_home_is_killed(own_cluster: Cluster, ears: Make) -> None:
    heard = await ears(own_cluster)
    home = heard.home(own_cluster)
    own_cluster.kill(home)
    await eventually(lambda: str(heard.mpx.node) != home.url)
    await eventually(lambda: heard.active)
    assert all(loss.includes("raw-1") and loss.patterns for loss in heard.losses)
    assert heard.losses
    for node in own_cluster.nodes:
        if node.running:
            await asyncio.to_thread(publish, node, str(node.number))
    await eventually(lambda: len(heard.got) == 2 * 5)
    assert len(set(heard.got)) == len(heard.got)


async def test_the_home_is_a_replica_now(own_cluster: Cluster, ears: Make) -> None:
    heard = await ears(own_cluster)
    home = heard.home(own_cluster)
    await asyncio.to_thread(own_cluster.failover, own_cluster.replica_of(home))
    await eventually(lambda: str(heard.mpx.node) != home.url)
    await eventually(lambda: heard.active)
    await eventually(lambda: patterns(home) == (0, []))
    await asyncio.to_thread(publish, home, "x")
    await eventually(lambda: len(heard.got) >= 2)
    assert sorted(heard.got) == [("pattern", b"x"), ("raw-1", b"x")]


async def test_only_the_link_to_it_breaks(cluster: Cluster, ears: Make) -> None:
    """Another one has them for good; where they were, they are no more."""
    heard = await ears(cluster)
    home = heard.home(cluster)
    await asyncio.to_thread(home.ask, "CLIENT", "KILL", "TYPE", "pubsub")
    await eventually(lambda: heard.losses)
    await eventually(lambda: heard.active)
    await eventually(lambda: sum(patterns(node)[0] for node in cluster.nodes) == 1)
    for node in cluster.nodes:
        await asyncio.to_thread(publish, node, str(node.number))
    await eventually(lambda: len(heard.got) >= 6)
    await asyncio.sleep(0.05)
    assert len(heard.got) == 6


async def test_what_waits_for_the_home_goes_before_what_comes_later(
    own_cluster: Cluster, ears: Make
) -> None:
    heard = await ears(own_cluster)
    home = heard.home(own_cluster)
    other = next(node for node in own_cluster.masters if node is not home)
    with other.client() as client, client.pubsub() as outside:
        outside.subscribe("raw-1")
        assert outside.get_message(timeout=PATIENCE)
        sends: list[asyncio.Future[int]] = []

        def send() -> None:
            data = b"%d" % len(sends)
            sends.append(heard.mpx.publish_soon("raw-1", data, classic=True))

        own_cluster.kill(home)
        await eventually(lambda: str(heard.mpx.node) != home.url or heard.mpx.last_error)
        while str(heard.mpx.node) == home.url:
            send()
            await asyncio.sleep(0.01)
        for _ in range(20):
            send()
        answers = await asyncio.gather(*sends, return_exceptions=True)
        count = sum(not isinstance(answer, BaseException) for answer in answers)
        got: list[int] = []
        while len(got) < count:
            message = await asyncio.to_thread(outside.get_message, timeout=PATIENCE)
            assert message is not None
            got.append(int(message["data"]))
    assert count >= 20
    assert got == sorted(got)
