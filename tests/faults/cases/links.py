"""What befalls connections: the proxies do it, or the server's CLIENT KILL."""

from __future__ import annotations

import asyncio

from tests.faults.stage import Stage

from .registry import case

# Beyond all timeouts of `stage.OPTIONS`: every link that is frozen so long is given up.
LONG_SILENCE = 1.8
SHORT_SILENCE = 0.3


async def kill_links(stage: Stage, *, subscribing: bool) -> None:
    """CLIENT KILL for one of the two kinds of links, of every worker."""
    for client in await stage.clients():
        if (int(client["sub"]) > 0) == subscribing:
            stage.ledger.reading_links_broken += client["cmd"] in ("blpop", "time")
            await stage.admin("CLIENT", "KILL", "ID", client["id"])


@case()
async def subscriber_links_killed(stage: Stage) -> None:
    """The subscribing connections are killed, ten times."""
    for number in range(10):
        await kill_links(stage, subscribing=True)
        for worker in stage.workers:
            await stage.gap(worker, number)
        await stage.back()


@case()
async def publisher_links_killed(stage: Stage) -> None:
    """All connections but the subscribing ones are killed, twenty times."""
    for _ in range(20):
        await kill_links(stage, subscribing=False)
        await stage.back()


@case()
async def cut(stage: Stage) -> None:
    """All connections of a process are cut, then those of all."""
    for worker in [stage.some(), stage.some(), *stage.workers]:
        before = stage.gaps(worker)
        stage.proxy(worker).cut()
        await stage.gap(worker, before)
        await stage.back([worker])


@case()
async def half_closed(stage: Stage) -> None:
    """One side of the connections is told that nothing more comes."""
    for client in (True, False):
        worker = stage.some()
        before = stage.gaps(worker)
        stage.proxy(worker).half_close(client=client)
        await stage.gap(worker, before)
        await stage.back()


@case()
async def frozen(stage: Stage) -> None:
    """Nothing goes in either direction, for longer than all timeouts; new connections hang, too."""
    worker = stage.some()
    proxy = stage.proxy(worker)
    proxy.freeze()
    await asyncio.sleep(LONG_SILENCE)
    proxy.thaw()


@case()
async def frozen_to_the_process(stage: Stage) -> None:
    """Nothing comes from Redis any more, while everything gets there."""
    proxy = stage.proxy(stage.some())
    proxy.to_client.freeze()
    await asyncio.sleep(LONG_SILENCE)
    proxy.to_client.thaw()


@case()
async def frozen_to_redis(stage: Stage) -> None:
    """Nothing gets to Redis any more, while everything comes from there."""
    proxy = stage.proxy(stage.some())
    proxy.to_server.freeze()
    await asyncio.sleep(LONG_SILENCE)
    proxy.to_server.thaw()


@case()
async def frozen_shortly(stage: Stage) -> None:
    """Silence that no timeout notices: nothing is lost, and nothing is told."""
    for worker in stage.workers:
        proxy = stage.proxy(worker)
        direction = stage.random.choice([proxy.to_client, proxy.to_server])
        direction.freeze()
        await asyncio.sleep(SHORT_SILENCE)
        direction.thaw()


@case()
async def stranded(stage: Stage) -> None:
    """What stands goes silent in one direction for good; new connections are as ever."""
    for client in (True, False):
        worker = stage.some()
        proxy = stage.proxy(worker)
        before = stage.gaps(worker)
        proxy.strand(client=client)
        try:
            if client:  # else it hears all there is, and has nothing to say that needs an answer
                await stage.gap(worker, before)
            # The other links have the same to notice.
            await asyncio.sleep(LONG_SILENCE)
        finally:
            proxy.cut()
        await stage.back()


@case()
async def byte_by_byte(stage: Stage) -> None:
    """Bytes come one by one, and late; new connections, too."""
    proxy = stage.proxy(stage.some())
    for direction in (proxy.to_client, proxy.to_server):
        direction.piece = 1
    proxy.cut()
    await asyncio.sleep(1.0)
    for direction in (proxy.to_client, proxy.to_server):
        direction.piece, direction.delay = 65536, 0.02
    await asyncio.sleep(0.5)
    for direction in (proxy.to_client, proxy.to_server):
        direction.delay = 0.0


@case()
async def refused(stage: Stage) -> None:
    """Connections are cut, and no new ones are taken for longer than messages wait."""
    worker = stage.some()
    proxy = stage.proxy(worker)
    proxy.refuse()
    proxy.cut()
    await stage.gap(worker)
    await asyncio.sleep(1.3)
    await proxy.accept()


@case()
async def bad_handshakes(stage: Stage) -> None:
    """108 handshakes that fail: reset somewhere in the middle, or answered with garbage."""
    greetings = [b"", b"\x00\xff" * 40, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR go away\r\n",
                 b"$999999999\r\n", b"*-7\r\n"]  # fmt: skip
    proxies = [stage.proxy(worker) for worker in stage.workers]
    for number in range(12):
        for proxy in proxies:
            proxy.cut()
        wanted = sum(proxy.accepted for proxy in proxies) + 9
        for proxy in proxies:
            if number % 2:
                proxy.greeting = stage.random.choice(greetings)
            else:
                proxy.reset_after = stage.random.choice([0, 1, 5, 40, 150])

        def tried(wanted: int = wanted) -> bool:
            return sum(proxy.accepted for proxy in proxies) >= wanted

        await stage.until(tried, "nine more handshakes")
        for proxy in proxies:
            proxy.greeting = proxy.reset_after = None
        if number % 4 == 3:
            await stage.back()


@case()
async def garbage(stage: Stage) -> None:
    """Bytes that are no protocol come over connections that stand."""
    for data in (b"\x00\xff\r\n", b"$-9\r\n", b"*2\r\n$3\r\nfoo\r\n:x\r\n"):
        stage.proxy(stage.some()).inject(data, client=True)
        await asyncio.sleep(0.1)
    await stage.back()


@case(short=False)
async def chance(stage: Stage) -> None:
    """A sequence of faults by chance, one upon the other, of any process."""
    for _ in range(40 if stage.long else 12):
        proxy = stage.proxy(stage.some())
        match stage.random.randrange(9):
            case 0 | 1:
                proxy.cut()
            case 2:
                proxy.half_close(client=stage.random.random() < 0.5)
            case 3:
                await kill_links(stage, subscribing=stage.random.random() < 0.5)
            case 4:
                proxy.freeze()
            case 5:
                stage.random.choice([proxy.to_client, proxy.to_server]).freeze()
            case 6:
                proxy.to_client.delay = stage.random.choice([0.0, 0.005, 0.05])
            case 7:
                proxy.greeting = stage.random.choice([b"", b"-ERR no\r\n", None])
            case 8:
                for worker in stage.workers:
                    calm(stage, worker.name)
        await asyncio.sleep(stage.random.choice([0.0, 0.02, 0.2, 1.0]))
    for worker in stage.workers:
        calm(stage, worker.name)


def calm(stage: Stage, worker: str) -> None:
    """Have a worker's proxies do no harm any more."""
    for proxy in stage.proxies[worker]:
        proxy.thaw()
        proxy.greeting = proxy.reset_after = None
        proxy.to_client.delay = proxy.to_server.delay = 0.0
