"""What befalls our own processes: stopped, killed, blocked, flooded, or many at once."""

from __future__ import annotations

import asyncio
import time

from tests.faults.stage import Setup, Stage

from .registry import case

CROWD = Setup(
    processes=20,
    groups=10,
    idle=1990,
    queues=0,
    rate=1.0,
    # As long as 40,000 names take where there are fewer processors than processes.
    options=(("connect_timeout", 30.0), ("backlog_timeout", 5.0), ("ping_interval", 10.0)),
)
PROMPT = Setup(groups=6, queues=0, channels=1, options=(("capacity", 100),))
# Bytes of a message that fills buffers. Valkey does not count what is much larger as buffered: it
# keeps one copy for all.
FRAME = 14_000
UNREADABLE = ("unreadable", "undecryptable")


@case()
async def process_stopped(stage: Stage) -> None:
    """A process is stopped for longer than all timeouts, and goes on."""
    worker = stage.some()
    worker.freeze()
    await asyncio.sleep(1.5)
    worker.thaw()


@case()
async def loop_blocked(stage: Stage) -> None:
    """An event loop is blocked for 2 seconds; in a long run, for 10."""
    await stage.some().ask("block", 10.0 if stage.long else 2.0)


@case()
async def process_killed(stage: Stage) -> None:
    """A process is killed, and another one comes; Redis forgets the first one by itself."""
    worker = stage.some()
    await stage.kill_worker(worker)
    await stage.add_worker()
    killed = f"faults-{worker.name}"
    clients = await stage.clients(of_all=True)
    assert killed not in {client["name"] for client in clients}


@case()
async def output_buffer(stage: Stage) -> None:
    """Redis disconnects a stopped process that has too much unread; it is told when it goes on."""
    worker = stage.some()
    (sender, *_) = [other for other in stage.workers if other is not worker]
    await stage.admin("CONFIG", "SET", "client-output-buffer-limit", "pubsub 256kb 0 0")
    try:
        (link,) = [each for each in await stage.clients(worker) if int(each["sub"])]
        worker.freeze()
        for _ in range(100):
            await sender.ask("burst", "group-0", 200, FRAME, 200)
            if link["id"] not in {each["id"] for each in await stage.clients()}:
                break
        else:
            raise AssertionError("Redis has not disconnected the process")
    finally:
        worker.thaw()
        await stage.admin("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")
    await stage.gap(worker)


@case()
async def never_reads(stage: Stage) -> None:
    """A consumer that never reads costs its own capacity, and nobody else anything."""
    worker = stage.some()
    await worker.ask("never_read", stage.members.groups)
    await asyncio.sleep(1.0)
    await worker.ask("read_no_more")


@case(PROMPT)
async def burst(stage: Stage) -> None:
    """Bursts of five times a mailbox's capacity to readers that are prompt: none is dropped."""
    before = [(await worker.ask("status"))["drops"]["full"] for worker in stage.workers]
    for _ in range(5):
        await asyncio.gather(
            *[worker.ask("burst", "group-0", 500, 10, 500) for worker in stage.workers]
        )
    after = [(await worker.ask("status"))["drops"]["full"] for worker in stage.workers]
    assert after == before, f"dropped for want of room: {before} before, {after} now"


@case()
async def poison(stage: Stage) -> None:
    """20,000 frames that are no messages: each is counted once, and harms nobody."""
    frames = [b"", b"\xc1", b"\xc1\x02\x00\x00", b"\xc1\x01\xff\xff", b'{"type": "x"}',
              b"\xc1\x01\x00\x00\xc1", b"\x93\x01\x02\x03", bytes(range(256))]  # fmt: skip
    before = [await worker.ask("status") for worker in stage.workers]
    client = stage.servers[0].client()

    def publish() -> int:
        sent = 0
        with client, client.pipeline(transaction=False) as pipe:
            for _ in range(20):
                for number in range(1000):
                    group = stage.random.choice(stage.members.groups)
                    pipe.publish(f"faults:g:{group}", frames[number % len(frames)])
                sent += sum(1 for receivers in pipe.execute() if receivers)
        return sent

    assert await asyncio.to_thread(publish) == 20_000
    deadline = time.monotonic() + 10
    while True:
        counted = [await worker.ask("status") for worker in stage.workers]
        new = [
            sum(now["drops"][cause] - then["drops"][cause] for cause in UNREADABLE)
            for now, then in zip(counted, before, strict=True)
        ]
        if new == [20_000] * len(new):
            return
        assert time.monotonic() < deadline, f"counted {new} of 20,000"
        await asyncio.sleep(0.05)


@case(CROWD, short=False)
async def crowd(stage: Stage) -> None:
    """20 processes with 2,000 groups each come back at once, from a restart."""
    stage.kill_server()
    for worker in stage.workers:
        await stage.gap(worker)
    await stage.start_server()
    stage.heal()
    await stage.back(timeout=60)
