"""Multiplexers of clusters that end with their test, and numbered traffic between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mpx_channels.multiplexer.cluster.multiplexer import ClusterMultiplexer
from tests.clusters import Cluster
from tests.conftest import PATIENCE

from .traffic import Traffic

New = Callable[..., ClusterMultiplexer]
# A connection hangs as long as a test can await several times; what is sent waits for as long and
# with as much before it as a busy machine may need to promote a replica.
OPTIONS = {
    "connect_timeout": 2.0,
    "max_backoff": 0.1,
    "unsubscribe_delay": 0.0,
    "backlog_timeout": PATIENCE,
    "max_backlog": 100_000,
}


@pytest.fixture
async def new(clean_loop: None) -> AsyncIterator[New]:
    """Makes multiplexers, for a cluster or seeds of one; stops them all."""
    made: list[ClusterMultiplexer] = []

    def new(where: Cluster | list[str], **options: Any) -> ClusterMultiplexer:
        seeds = where.seeds if isinstance(where, Cluster) else where
        made.append(ClusterMultiplexer(seeds, **{**OPTIONS, **options}))
        return made[-1]

    yield new
    for mpx in made:
        await mpx.stop()


@pytest.fixture
async def traffic(new: New) -> AsyncIterator[Callable[..., Any]]:
    """Starts traffic between two multiplexers of a cluster: see `Traffic`."""
    running: list[Traffic] = []

    async def start(cluster: Cluster, names: list[str], **options: Any) -> Traffic:
        sender, receiver = new(cluster, **options), new(cluster, **options)
        running.append(Traffic(sender, receiver, names))
        await running[-1].start()
        return running[-1]

    yield start
    for each in running:
        await each.cancel()


@pytest.fixture(params=["setslot", "migrateslots"])
def how(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """Each way to migrate a slot that the servers know."""
    if request.param == "migrateslots" and not cluster.has_migrateslots:
        pytest.skip("these servers know no CLUSTER MIGRATESLOTS")
    return str(request.param)
