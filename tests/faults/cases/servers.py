"""What befalls servers, and what they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import time

import redis

from tests.conftest import RestartableServer
from tests.faults.stage import PASSWORD, USER, Setup, Stage

from .links import LONG_SILENCE, kill_links
from .registry import case

TWO = Setup(servers=2)
FAILOVER = Setup(sentinel=True, queues=0)


@case()
async def restarted_empty(stage: Stage) -> None:
    """The server is killed, and comes back empty a moment later; several times."""
    for _ in range(10 if stage.long else 2):
        before = {worker.name: stage.gaps(worker) for worker in stage.workers}
        stage.kill_server()
        for worker in stage.workers:
            await stage.gap(worker, before[worker.name])
        await stage.start_server()
        await stage.back()


@case()
async def away(stage: Stage) -> None:
    """The server is killed, and away for longer than messages wait."""
    stage.kill_server()
    await asyncio.sleep(1.3)
    await stage.start_server()


@case(TWO)
async def one_of_two_restarted(stage: Stage) -> None:
    """One of two servers is restarted: what is on the other one goes on."""
    number = stage.random.randrange(2)
    stage.kill_server(number)
    await asyncio.sleep(0.3)
    await stage.start_server(number)


@case()
async def server_stopped(stage: Stage) -> None:
    """The server's process is stopped for longer than all timeouts, and goes on."""
    server = stage.servers[0]
    await asyncio.to_thread(server.freeze)
    await asyncio.sleep(LONG_SILENCE)
    server.thaw()


@case()
async def clients_killed(stage: Stage) -> None:
    """CLIENT KILL of everything, in the middle of it."""
    for _ in range(5):
        for kind in ("pubsub", "normal"):
            await stage.admin("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await stage.back()


@case()
async def clients_paused(stage: Stage) -> None:
    """CLIENT PAUSE, for all commands and for writes, shorter and longer than all timeouts."""
    for kind, milliseconds in (("ALL", 300), ("WRITE", 1500)):
        await stage.admin("CLIENT", "PAUSE", milliseconds, kind)
        await asyncio.sleep(milliseconds / 1000)
    await stage.back()


@case()
async def no_room_for_clients(stage: Stage) -> None:
    """maxclients: those who come back are refused, until there is room."""
    worker = stage.some()
    # Of those that are there, three will go.
    there = len(await stage.admin("CLIENT LIST"))
    await stage.admin("CONFIG", "SET", "maxclients", there - 3)
    stage.proxy(worker).cut()
    await stage.gap(worker)
    await asyncio.sleep(0.5)
    await stage.admin("CONFIG", "SET", "maxclients", 10_000)


@case()
async def no_memory(stage: Stage) -> None:
    """-OOM: plain channels refuse, which their senders are told; groups go on."""
    await stage.admin("CONFIG", "SET", "maxmemory", 1)
    await asyncio.sleep(0.7)
    await stage.admin("CONFIG", "SET", "maxmemory", 0)


@case()
async def loading(stage: Stage) -> None:
    """-LOADING: the server becomes a replica and loads what its master has; readers stay."""
    source = RestartableServer()
    await asyncio.to_thread(source.start)
    try:
        with source.client() as client:
            client.config_set("repl-diskless-sync-delay", 0)
            client.eval("for i = 1, 2500 do redis.call('SET', 'k' .. i, i) end", 0)
        await stage.admin("CONFIG", "SET", "key-load-delay", 200)
        await stage.admin("CONFIG", "SET", "loading-process-events-interval-bytes", 1024)
        # What it had is gone.
        stage.ledger.data_lost = True
        await stage.admin("REPLICAOF", "127.0.0.1", source.port)
        await until_loading(stage, True)
        await until_loading(stage, False)
        await stage.admin("REPLICAOF", "NO", "ONE")
        await stage.admin("CONFIG", "SET", "key-load-delay", 0)
        await stage.admin("FLUSHALL")
    finally:
        source.kill()


async def until_loading(stage: Stage, loading: bool) -> None:
    """Wait until the server answers -LOADING, or does so no more."""
    deadline = time.monotonic() + 10
    while True:
        try:
            await stage.admin("GET", "any")
            now = False
        except redis.BusyLoadingError:
            now = True
        if now is loading:
            return
        assert time.monotonic() < deadline, f"loading: {now}, and it stays so"
        await asyncio.sleep(0.01)


@case()
async def read_only(stage: Stage) -> None:
    """-READONLY: the server is a replica for a while; readers of plain channels stay."""
    await stage.admin("REPLICAOF", "127.0.0.1", 1)
    await asyncio.sleep(0.7)
    await stage.admin("REPLICAOF", "NO", "ONE")
    # It counts as another server from the first new connection on.
    stage.ledger.failed_over = True
    await asyncio.sleep(0.1)
    for worker in stage.workers:
        stage.proxy(worker).cut()
        await stage.gap(worker)


@case()
async def busy(stage: Stage) -> None:
    """-BUSY: a script runs for too long, and is killed."""
    await stage.admin("CONFIG", "SET", "lua-time-limit", 50)
    running = asyncio.create_task(stage.admin("EVAL", "while true do end", 0))
    await asyncio.sleep(0.5)
    with stage.servers[0].client() as client:
        await asyncio.to_thread(client.script_kill)
    with contextlib.suppress(redis.ResponseError):
        await running
    await stage.admin("CONFIG", "SET", "lua-time-limit", 5000)


@case()
async def password_rotated(stage: Stage) -> None:
    """The password changes under connections that stand, and they break before ours does."""
    await stage.admin("ACL", "SETUSER", USER, ">new", f"<{PASSWORD}")
    await asyncio.sleep(0.2)
    worker = stage.some()
    stage.proxy(worker).cut()
    await stage.gap(worker)
    await asyncio.sleep(0.5)
    await stage.admin("ACL", "SETUSER", USER, f">{PASSWORD}", "<new")


@case()
async def user_gone(stage: Stage) -> None:
    """The user is deleted, which ends its connections, and made again."""
    await stage.admin("ACL", "DELUSER", USER)
    for worker in stage.workers:
        await stage.gap(worker)
    await asyncio.sleep(0.3)
    await stage.admin("ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all")


@case()
async def channels_forbidden(stage: Stage) -> None:
    """An ACL takes some groups away while we are connected, and gives them back."""
    rules = ["resetchannels", "&faults:p:*", "&faults:c:*", "&faults:g:group-1*"]
    await stage.admin("ACL", "SETUSER", USER, *rules)
    for worker in stage.workers:
        await stage.gap(worker)
    await asyncio.sleep(0.5)
    await stage.admin("ACL", "SETUSER", USER, "allchannels")


@case()
async def publishing_forbidden(stage: Stage) -> None:
    """An ACL takes PUBLISH and the queues' commands away, and gives them back."""
    await stage.admin("ACL", "SETUSER", USER, "-publish", "-evalsha", "-eval")
    await asyncio.sleep(0.4)
    await stage.admin("ACL", "SETUSER", USER, "+@all")


@case()
async def flushed(stage: Stage) -> None:
    """FLUSHALL and SCRIPT FLUSH, again and again: groups lose nothing."""
    stage.ledger.data_lost = True
    for _ in range(10):
        await stage.admin("FLUSHALL")
        await stage.admin("SCRIPT", "FLUSH")
        await asyncio.sleep(0.05)


@case()
async def scripts_flushed(stage: Stage) -> None:
    """SCRIPT FLUSH: plain channels lose nothing and keep their order."""
    for _ in range(20):
        await stage.admin("SCRIPT", "FLUSH")
        await asyncio.sleep(0.05)


@case(FAILOVER)
async def failover(stage: Stage) -> None:
    """Sentinel makes the replica the master, as an operator asks it to."""
    assert stage.sentinels is not None
    stage.ledger.failed_over = True
    await asyncio.to_thread(stage.sentinels.failover)
    for worker in stage.workers:
        await stage.gap(worker)


@case(short=False)
async def everything_at_once(stage: Stage) -> None:
    """Restarts, kills and cuts by chance, one upon the other."""
    for _ in range(30 if stage.long else 8):
        match stage.random.randrange(5):
            case 0:
                stage.kill_server()
                await asyncio.sleep(stage.random.choice([0.0, 0.2, 1.2]))
                await stage.start_server()
            case 1:
                await kill_links(stage, subscribing=stage.random.random() < 0.5)
            case 2:
                await stage.admin("SCRIPT", "FLUSH")
            case 3:
                stage.proxy(stage.some()).cut()
            case 4:
                worker = stage.some()
                worker.freeze()
                await asyncio.sleep(stage.random.choice([0.1, 1.5]))
                worker.thaw()
        await asyncio.sleep(stage.random.choice([0.0, 0.1, 0.5]))
