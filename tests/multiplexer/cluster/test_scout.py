"""Who is asked for the masters, and how long each has to answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mpx_channels.multiplexer import Node, NotConnected
from mpx_channels.multiplexer.cluster.publishers import ClusterPublishers
from mpx_channels.multiplexer.cluster.scout import Scout
from mpx_channels.multiplexer.cluster.topology import ClusterTopology
from mpx_channels.multiplexer.cluster.view import Share, View
from mpx_channels.multiplexer.counters import EngineCounters
from mpx_channels.multiplexer.link import LinkOptions
from tests.clusters import Cluster


class Silent:
    """Servers that let everybody in, and say nothing."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._servers: list[asyncio.Server] = []

    async def another(self) -> int:
        """The port of one more."""

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.came.append(writer.get_extra_info("sockname")[1])
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()


@pytest.fixture
async def silent() -> AsyncIterator[Silent]:
    made = Silent()
    yield made
    await made.close()


def a_scout(seeds: list[str], patience: float, masters: tuple[Share, ...] = ()) -> Scout:
    """One that was told of masters before, to none of which there is a connection."""
    topology = ClusterTopology([Node(seed) for seed in seeds], sharded=True)
    topology.believe(View("somebody", masters))
    publishers = ClusterPublishers(
        LinkOptions(),
        EngineCounters(),
        max_backlog=1,
        backlog_timeout=1.0,
        on_refusal=lambda sent, error: False,
    )
    return Scout(topology, publishers, patience=patience, remap=None)


async def test_of_masters_that_are_all_gone_few_are_asked(cluster: Cluster, silent: Silent) -> None:
    """After one of them, a seed."""
    ports = [await silent.another() for _ in range(8)]
    shares = [
        Share(number * 2048, number * 2048 + 2047, ("127.0.0.1", port), 1)
        for number, port in enumerate(ports)
    ]
    view = await a_scout(cluster.seeds[:1], 60.0, tuple(shares)).view(None)
    assert len(view.shares) == 3
    assert len(silent.came) == 1


async def test_of_many_seeds_the_silent_are_not_looked_at_for_long(
    cluster: Cluster, silent: Silent
) -> None:
    """What is wrong with them is only of interest where none is right."""
    urls = [f"redis://127.0.0.1:{await silent.another()}" for _ in range(7)]
    view = await a_scout([*urls, cluster.seeds[0]], 60.0).view(None)
    assert len(view.shares) == 3
    assert len(silent.came) == len(set(silent.came))


@pytest.mark.parametrize(("seeds", "first", "then"), [(1, "1", "2"), (4, "0.5", "1")])
async def test_many_seeds_share_the_time(seeds: int, first: str, then: str, silent: Silent) -> None:
    """But once that was in vain, each has more of it: they may be slow."""
    urls = [f"redis://127.0.0.1:{await silent.another()}" for _ in range(seeds)]
    scout = a_scout(urls, 2.5)
    for patience in (first, then):
        with pytest.raises(NotConnected, match=rf"no answer in {patience} s"):
            await scout.view(None)
    assert set(silent.came) == {int(url.rpartition(":")[2]) for url in urls}
