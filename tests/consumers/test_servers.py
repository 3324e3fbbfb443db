"""Closes as browsers get them, from real servers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mpx_channels.layer import MpxChannelLayer
from tests.conftest import PATIENCE, RestartableServer, missing
from tests.proxy import free_port

from .conftest import MakeLayer

try:
    from websockets.asyncio import client
    from websockets.exceptions import ConnectionClosed, InvalidStatus
except ImportError:
    client = None  # type: ignore[assignment]

ROOT = Path(__file__).parents[2]
APPLICATION = "tests.consumers.served:application"
COMMANDS = {
    "uvicorn": ["uvicorn", "--log-level", "error", "--port"],
    "daphne": ["daphne", "-v", "0", "-p"],
}


class Server:
    """A server process and its address."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.name = name
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *COMMANDS[name], str(self.port), APPLICATION],
            env=os.environ | {"MPX_CONFIG": json.dumps(config), "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )

    def log(self) -> list[str]:
        """What it has logged by its end."""
        self.process.terminate()
        return self.process.communicate(timeout=PATIENCE)[1].splitlines()

    async def connect(self, **options: Any) -> Any:
        """A WebSocket; waits for the server to be up."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await client.connect(f"ws://127.0.0.1:{self.port}/", **options)
                except OSError:
                    await asyncio.sleep(0.05)

    def expected(self, code: int, reason: str) -> tuple[int, str]:
        """What a browser sees of a close."""
        if self.name != "daphne":
            return code, reason
        return (code if code >= 3000 else 3000 + code), ""


Serve = Callable[..., Server]


@pytest.fixture(params=list(COMMANDS))
async def serve(request: Any, redis_url: str, prefix: str) -> AsyncIterator[Serve]:
    servers: list[Server] = []
    if client is None or find_spec(request.param) is None:
        missing("uvicorn[standard] and Daphne are not installed")

    def start(**config: Any) -> Server:
        servers.append(Server(request.param, {"hosts": [redis_url], "prefix": prefix, **config}))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()
        assert server.process.stderr is not None
        server.process.stderr.close()


async def close_of(websocket: Any) -> tuple[int, str]:
    """What it was closed with; what comes before is left out."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                await websocket.recv()
    except ConnectionClosed as error:
        return error.rcvd.code, error.rcvd.reason


async def test_a_group_is_closed(serve: Serve, layer: MpxChannelLayer) -> None:
    server = serve()
    websockets = [await server.connect() for _ in range(3)]
    await layer.group_send("room", {"type": "say", "text": "before"})
    assert await layer.group_close("room", 4001, "logged out") == 1
    for websocket in websockets:
        assert await websocket.recv() == "before"
        assert await close_of(websocket) == server.expected(4001, "logged out")


async def test_a_process_is_drained(serve: Serve, layer: MpxChannelLayer) -> None:
    server = serve()
    websockets = [await server.connect() for _ in range(3)]
    (process,) = [
        each
        for each in (await layer.fleet_stats()).processes
        if each.process_id != layer.process_id
    ]
    assert process.pid == server.process.pid
    await layer.drain_process(process.process_id, over=0.5)
    restart = server.expected(1012, "service restart")
    for websocket in websockets:
        assert await close_of(websocket) == restart
    for protocols in (None, ["chat"]):
        websocket = await server.connect(subprotocols=protocols)
        assert websocket.subprotocol == (protocols and protocols[0])
        assert await close_of(websocket) == restart
    # The last one has gone a moment after its client has.
    async with asyncio.timeout(PATIENCE):
        while (state := await layer.draining(process.process_id)) is None or state.left:
            pass
    assert (state.draining, state.total, state.left) == (True, 3, 0)


async def test_there_are_too_many(serve: Serve) -> None:
    server = serve(max_consumers=1)
    first = await server.connect()
    assert await close_of(await server.connect()) == server.expected(1013, "try again later")
    await first.close()
    await (await server.connect()).close()


async def test_redis_goes_away(serve: Serve, restartable_server: RestartableServer) -> None:
    """Every browser is told, those that were let in and those that come; the log has a line."""
    restartable_server.start()
    server = serve(hosts=[restartable_server.url], connect_timeout=1, backlog_timeout=1)
    websockets = [await server.connect() for _ in range(3)]
    restartable_server.kill()
    for websocket in websockets:
        await websocket.send("hello")
    for websocket in websockets:
        assert await close_of(websocket) == server.expected(1011, "")
    for _ in range(3):
        with pytest.raises(InvalidStatus) as refused:
            await client.connect(f"ws://127.0.0.1:{server.port}/")
        assert refused.value.response.status_code == (503 if server.name == "uvicorn" else 403)
    lines = [line for line in server.log() if "Redis is away" in line or "ERROR" in line]
    # With the number of the others, where all of this takes a minute; and the link may have broken
    # while one of them was sent, which is another kind.
    assert 1 <= len(lines) <= 3
    assert all("Member ended, as Redis is away" in line for line in lines)


async def test_a_client_stops_reading(serve: Serve, make_layer: MakeLayer) -> None:
    """On uvicorn; Daphne buffers without a limit, and no send ever waits."""
    layer = make_layer()
    server = serve()
    if server.name == "daphne":
        pytest.skip("Daphne has no flow control")
    websocket = await server.connect(compression=None, max_queue=1)
    other = await server.connect(compression=None)
    reading = asyncio.create_task(close_of(other))
    websocket.transport.pause_reading()
    text = "x" * 1_000_000
    async with asyncio.timeout(PATIENCE):
        while await layer.group_size("room") == 2:
            await layer.group_send("room", {"type": "say", "text": text})
            await asyncio.sleep(0.02)  # for the other one, which reads here
    processes = (await layer.fleet_stats()).processes
    assert sum(each.closed_slow for each in processes) == 1
    assert not reading.done()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    for each in (websocket, other):
        each.transport.abort()
        await each.wait_closed()
