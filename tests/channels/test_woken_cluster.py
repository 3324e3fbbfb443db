"""Plain channels in a cluster, whose readers have no connection that blocks."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from mpx_channels.channels import woken_reader
from mpx_channels.channels.layer_stats import LayerCounters
from mpx_channels.channels.names import Names
from mpx_channels.channels.part import Context
from mpx_channels.channels.queues import Queues
from mpx_channels.layer.config import LayerConfig
from mpx_channels.multiplexer import MpxError
from mpx_channels.multiplexer.confirmations import Confirmations
from mpx_channels.multiplexer.logs import LimitedLog
from tests.clusters import Cluster, one_by_one, slot_of
from tests.conftest import PATIENCE, eventually

engine = pytest.importorskip("mpx_channels.multiplexer.cluster.multiplexer")

Make = Callable[[Cluster], Awaitable["Channels"]]


class Channels:
    """The plain channels of a layer, without the layer."""

    def __init__(self, cluster: Cluster, prefix: str, sharded: bool) -> None:
        self.names = Names(prefix)
        self.multiplexer = engine.ClusterMultiplexer(
            cluster.seeds,
            sharded=sharded,
            min_backoff=0.02,
            max_backoff=0.1,
            backlog_timeout=PATIENCE,
        )
        self.counters = LayerCounters()
        context = Context(
            loop=asyncio.get_running_loop(),
            multiplexer=self.multiplexer,
            names=self.names,
            wrapping=LayerConfig().wrapping(),
            counters=self.counters,
            confirmations=Confirmations(self.multiplexer, PATIENCE),
            process_id="p",
            expiry=60.0,
            connect_timeout=PATIENCE,
            log=LimitedLog(logging.getLogger("mpx_channels.layer")),
        )
        self.queues = Queues(context, woken_by="SPUBLISH" if sharded else "PUBLISH")

    async def send(self, channel: str, number: int) -> None:
        await self.queues.send(channel, {"type": "x", "n": number}, 100_000)

    async def receive(self, channel: str) -> int:
        return int((await self.queues.take(channel))[0]["n"])


@pytest.fixture(params=[True, False], ids=["sharded", "classic"])
def sharded(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def make(sharded: bool) -> AsyncIterator[Make]:
    """Makes what each process of one layer would have."""
    made: list[Channels] = []
    prefix = f"test-{uuid.uuid4().hex[:8]}"

    async def make(cluster: Cluster) -> Channels:
        made.append(Channels(cluster, prefix, sharded))
        await made[-1].multiplexer.start()
        return made[-1]

    yield make
    for channels in made:
        await channels.queues.close(1.0)
        await channels.multiplexer.stop()


class Traffic:
    """Numbers to one channel for as long as it is wanted, and who reads them."""

    def __init__(self, sender: Channels, readers: list[Channels]) -> None:
        self.sent = 0
        self.got: list[int] = []
        self.failed: list[MpxError] = []
        self._stop = asyncio.Event()
        self._sending = asyncio.create_task(self._send(sender))
        self._reading = [asyncio.create_task(self._read(each)) for each in readers]

    async def _send(self, sender: Channels) -> None:
        while not self._stop.is_set():
            try:
                await sender.send("jobs", self.sent)
            except MpxError as error:
                self.failed.append(error)
            self.sent += 1
            await asyncio.sleep(0.002)

    async def _read(self, reader: Channels) -> None:
        while True:
            self.got.append(await reader.receive("jobs"))

    async def more(self, count: int = 20) -> None:
        """Wait until so many more have come."""
        enough = len(self.got) + count
        await eventually(lambda: len(self.got) >= enough)

    async def end(self, lost: int = 0) -> None:
        """Send no more, and wait until all is there but for so many."""
        self._stop.set()
        await self._sending
        await eventually(lambda: len(set(self.got)) >= self.sent - len(self.failed) - lost)
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)


async def test_channels_of_all_nodes(cluster: Cluster, make: Make) -> None:
    sender, reader = await make(cluster), await make(cluster)
    numbers = range(50)
    reading = [asyncio.create_task(reader.receive(f"jobs-{n}")) for n in numbers]
    await asyncio.gather(*[sender.send(f"jobs-{n}", n) for n in numbers])
    assert await asyncio.wait_for(asyncio.gather(*reading), PATIENCE) == list(numbers)
    assert {cluster.master_of(reader.names.queue(f"jobs-{n}")) for n in numbers} == set(
        cluster.nodes
    )


async def test_whoever_waits_is_woken(
    cluster: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(woken_reader, "PATIENCE", 1000.0)
    sender, reader = await make(cluster), await make(cluster)
    for number in range(30):
        waiting = asyncio.create_task(reader.receive(f"jobs-{number % 3}"))
        await asyncio.sleep(0.01)
        await sender.send(f"jobs-{number % 3}", number)
        assert await asyncio.wait_for(waiting, PATIENCE) == number


@pytest.mark.parametrize("how", ["setslot", "migrateslots"])
async def test_a_slot_moves_under_traffic(cluster: Cluster, make: Make, how: str) -> None:
    if how == "migrateslots" and not cluster.has_migrateslots:
        pytest.skip("these servers know no CLUSTER MIGRATESLOTS")
    sender, one, other = [await make(cluster) for _ in range(3)]
    slot = slot_of(sender.names.queue("jobs"))
    source = cluster.master_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    traffic = Traffic(sender, [one, other])
    await traffic.more()
    for to in (target, source):
        async for _ in one_by_one(cluster.migrating(slot, to, how=how)):
            await traffic.more(5)
        await traffic.more()
    await traffic.end()
    assert not traffic.failed
    assert sorted(traffic.got) == list(range(traffic.sent))
    cluster.wait_ok()


async def test_a_master_dies_under_traffic(own_cluster: Cluster, make: Make) -> None:
    sender, one, other = [await make(own_cluster) for _ in range(3)]
    master = own_cluster.master_of(sender.names.queue("jobs"))
    replica = own_cluster.replica_of(master)
    traffic = Traffic(sender, [one, other])
    await traffic.more()
    own_cluster.kill(master)
    await asyncio.to_thread(own_cluster.wait_promoted, replica)
    await traffic.more()
    # The replica was a moment behind: in that, messages are lost, and those that were read are
    # read again.
    await traffic.end(lost=10)
    assert len(traffic.got) - len(set(traffic.got)) < 10


async def test_a_cancelled_reader_loses_nothing_while_a_slot_moves(
    cluster: Cluster, make: Make
) -> None:
    sender, reader = await make(cluster), await make(cluster)
    slot = slot_of(sender.names.queue("jobs"))
    source = cluster.master_of(slot)
    target = next(node for node in cluster.nodes if node is not source)
    got: list[int] = []
    sent = 0
    for to in (target, source):
        async for _ in one_by_one(cluster.migrating(slot, to)):
            for _ in range(10):
                reading = asyncio.create_task(reader.receive("jobs"))
                await sender.send("jobs", sent)
                sent += 1
                reading.cancel()
                await asyncio.wait([reading])
                if not reading.cancelled():
                    got.append(reading.result())
    while len(got) < sent:
        got.append(await asyncio.wait_for(reader.receive("jobs"), PATIENCE))
    assert got == list(range(sent))
