"""What befalls groups with a history, beyond what befalls all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.faults.stage import Setup, Stage
from tests.faults.traffic import Process

from .links import kill_links
from .processes import PROMPT
from .registry import case

# A stage of its own: Sentinel takes its time to see to the master that was.
LOSSES = Setup(sentinel=True, queues=0, groups=6)
# Seconds in which some messages are sent.
SOME = 0.1


@contextlib.asynccontextmanager
async def away(stage: Stage, worker: Process) -> AsyncIterator[None]:
    """A worker has no connection meanwhile."""
    proxy = stage.proxy(worker)
    before = stage.gaps(worker)
    proxy.refuse()
    proxy.cut()
    await stage.gap(worker, before)
    try:
        yield
    finally:
        await proxy.accept()


async def evict(stage: Stage, *, streams: bool) -> None:
    """Delete a key of every group with a history: its stream, or the hash with its count."""
    gone = []
    for key in await stage.admin("KEYS", "faults:*kept-*"):
        kind = await stage.admin("TYPE", key)
        if streams:
            gone += [key] if kind == b"stream" else []
        elif kind == b"hash" and await stage.admin("HEXISTS", key, "e"):
            gone.append(key)
    if gone:
        await stage.admin("DEL", *gone)


async def evicted(stage: Stage, *, streams: bool) -> None:
    """Under everybody's eyes, and while one is away."""
    stage.ledger.data_lost = True
    await evict(stage, streams=streams)
    await asyncio.sleep(SOME)
    for pause in (0.0, SOME):
        async with away(stage, stage.some()):
            await asyncio.sleep(SOME)
            await evict(stage, streams=streams)
            await asyncio.sleep(pause)
        await stage.back()


@case()
async def streams_evicted(stage: Stage) -> None:
    """The streams of groups are evicted, but not what counts their messages."""
    await evicted(stage, streams=True)


@case()
async def counts_evicted(stage: Stage) -> None:
    """What counts the messages of groups is evicted, but not their streams."""
    await evicted(stage, streams=False)


@case()
async def flushed_while_away(stage: Stage) -> None:
    """FLUSHALL while a process has no connection."""
    stage.ledger.data_lost = True
    for _ in range(3):
        async with away(stage, stage.some()):
            await stage.admin("FLUSHALL")
            await asyncio.sleep(stage.random.choice([0.0, SOME]))
        await stage.back()


@case(LOSSES)
async def failover_with_losses(stage: Stage) -> None:
    """A failover of Sentinel to a replica that has not had the last messages: all are told."""
    sentinels, ledger = stage.sentinels, stage.ledger
    assert sentinels is not None
    ledger.failed_over = True
    await asyncio.to_thread(sentinels.settle)
    await asyncio.sleep(2 * SOME)
    master = await asyncio.to_thread(lambda: sentinels.master)
    (replica,) = [number for number, each in enumerate(stage.servers) if each is not master]
    await stage.admin("REPLICAOF", "127.0.0.1", 1, server=replica)
    await asyncio.sleep(5 * SOME)
    await asyncio.to_thread(sentinels.failover)
    for worker in stage.workers:
        await stage.gap(worker)
    await stage.back()
    kept = [
        (receiver, group)
        for receiver, groups in ledger.members.items()
        for group in sorted(groups & ledger.kept)
    ]

    def all_are_told() -> bool:
        return all(
            any(notice.reason == "failover" for notice in ledger.receivers[receiver].notices[group])
            for receiver, group in kept
        )

    await stage.until(all_are_told, "all groups with a history are told of the failover")
    recovered = [
        f"{group} at {receiver}: {notice.reason}"
        for receiver, group in kept
        for notice in ledger.receivers[receiver].notices[group]
        if notice.recovered
    ]
    assert not recovered, f"said to be recovered: {recovered}"


@case()
async def guests_reconnect(stage: Stage) -> None:
    """Some join again and again from where they were, at any process, while links are killed."""
    names = [f"guest-{number}" for number in range(4)]
    for turn in range(40 if stage.long else 12):
        for name in names:
            await stage.guests.come(stage.ledger, stage.some(), name, stage.members.kept)
        if turn % 2:
            await kill_links(stage, subscribing=stage.random.random() < 0.7)
        elif turn % 4 == 0:
            stage.proxy(stage.some()).cut()
        await asyncio.sleep(stage.random.choice([0.0, 0.03, SOME]))
    await stage.back()


@case()
async def missed_in_silence(stage: Stage) -> None:
    """What was missed is replayed, and told, though nothing more is sent."""
    ledger = stage.ledger
    for worker in stage.workers:
        await worker.ask("be_quiet", True)
    for worker in (stage.some(), stage.some()):
        (sender, *_) = [other for other in stage.workers if other is not worker]
        counts = {
            (receiver, group): len(ledger.receivers[receiver].notices[group])
            for receiver, groups in ledger.members.items()
            for group in groups & ledger.kept
            if receiver.startswith(f"{worker.name}/")
        }
        async with away(stage, worker):
            for group in stage.members.kept:
                await sender.ask("burst", group, 5, 10, 5)

        def told(counts: dict[tuple[str, str], int] = counts) -> bool:
            return not ledger.missing() and all(
                any(each.recovered for each in ledger.receivers[receiver].notices[group][count:])
                for (receiver, group), count in counts.items()
            )

        await stage.until(told, "what was missed comes, and is told")
    for worker in stage.workers:
        await worker.ask("be_quiet", False)


@case()
async def copies(stage: Stage) -> None:
    """Messages are published a second time: each is known by its position."""
    for _ in range(3):
        for group in stage.members.kept:
            for _, fields in await stage.admin(
                "XREVRANGE", f"faults:h:{group}", "+", "-", "COUNT", 3
            ):
                data, *_ = fields.values()
                await stage.admin("PUBLISH", f"faults:g:{group}", data)
        await asyncio.sleep(SOME)


@case(PROMPT)
async def slow_reader(stage: Stage) -> None:
    """A reader's mailbox overflows with messages that have a history: it gets all of them."""
    ledger, groups = stage.ledger, stage.members.kept[:2]
    slow = stage.some()
    await stage.guests.come(ledger, slow, "slow", groups, pause=0.002)
    for _ in range(3):
        bursts = [each.ask("burst", groups[0], 300, 10, 300) for each in stage.workers]
        await asyncio.gather(*bursts)

    def overflowed() -> bool:
        notices = ledger.receivers["slow"].notices[groups[0]]
        return any(notice.reason == "overflow" for notice in notices)

    try:
        await stage.until(overflowed, "the mailbox overflows")
        stage.proxy(slow).cut()
        await asyncio.sleep(SOME)
    finally:
        await slow.ask("hurry")


@case()
async def keyed_bursts(stage: Stage) -> None:
    """Links break in the midst of bursts of messages with idempotency keys, each sent twice."""
    for turn in range(6):
        group = stage.random.choice(stage.members.kept)
        bursts = [asyncio.create_task(each.ask("keyed", group, 60)) for each in stage.workers]
        await asyncio.sleep(stage.random.choice([0.0, 0.005, 0.02]))
        if turn % 2:
            await kill_links(stage, subscribing=False)
        else:
            for worker in stage.workers:
                stage.proxy(worker).cut()
        await asyncio.gather(*bursts)
    await stage.back()


@case()
async def answers_lost(stage: Stage) -> None:
    """Redis does what it is asked, but its answers are lost with the connection."""
    for _ in range(2):
        for worker in stage.workers:
            ports = {
                int(client["addr"].rpartition(":")[2])
                for client in await stage.clients(worker)
                if not int(client["sub"])
            }
            stage.proxy(worker).strand(client=True, ports=ports)
            group = stage.random.choice(stage.members.kept)
            burst = asyncio.create_task(worker.ask("burst", group, 50, 10, 50))
            await asyncio.sleep(SOME)
            # What was popped from a plain channel is lost with them.
            stage.ledger.reading_links_broken += len(stage.members.queues)
            stage.proxy(worker).cut(ports)
            await burst
    await stage.back()
