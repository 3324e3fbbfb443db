"""What clients cost that stop reading: the server's memory, and how long it keeps them.

    python -m benchmarks.slow [--server uvicorn] [--consumer ours] [--clients 5] [--seconds 100]

So many clients join a group and never read again, one goes on reading. The group gets 10 kB a
hundred times a second. Told are what the server's process grew by, and when the slow ones had left
the group, for consumers of ours and for Channels' own, both on our layer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
APPLICATION = "benchmarks.restarts_server:application"
SERVERS = {
    "uvicorn": ["uvicorn", "--log-level", "error", APPLICATION, "--port"],
    "daphne": ["daphne", "-v", "0", APPLICATION, "-p"],
}
PATHS = {"ours": "/ws/", "stock": "/stock/"}
GROUP = "blobs"
SIZE, PER_SECOND = 10_000, 100
# The kernel's buffer of a client, in bytes: it is not the server's memory.
BUFFER = 65_536


def rss(pid: int) -> int:
    """Bytes of memory that a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no VmRSS of {pid}")


async def joined(port: int, path: str) -> socket.socket:
    """A WebSocket that was accepted, and is not read."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    request = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await loop.sock_sendall(client, request.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await loop.sock_recv(client, 1024)
    if b" 101 " not in answer.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"not accepted: {answer!r}")
    return client


async def read(client: socket.socket, got: list[int]) -> None:
    while data := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
        got[0] += len(data)


async def measure(
    server: str, consumer: str, url: str, clients: int, seconds: float
) -> dict[str, Any]:
    """One server with slow clients."""
    environment = os.environ | {
        "RESTARTS_STACK": "mpx",
        "RESTARTS_REDIS": url,
        "DJANGO_SETTINGS_MODULE": "benchmarks.restarts_settings",
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    os.environ.update(environment)
    from mpx_channels.layer import MpxChannelLayer

    layer = MpxChannelLayer(hosts=[url], prefix="restarts-mpx")
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
        [sys.executable, "-m", *SERVERS[server], str(port)],
        env=environment,
        cwd=ROOT,
        stderr=subprocess.DEVNULL,  # what uvicorn says of a consumer that it has closed
    )
    got = [0]
    reading: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    reader = await joined(port, PATHS[consumer])
                except OSError:
                    await asyncio.sleep(0.1)
                else:
                    break
        reading = asyncio.create_task(read(reader, got))
        slow = [await joined(port, PATHS[consumer]) for _ in range(clients)]
        before, began = rss(process.pid), time.monotonic()
        blob = {"type": "blob", "data": os.urandom(SIZE)}
        grew: dict[int, float] = {}
        gone = None
        looked = 0
        while (at := time.monotonic() - began) < seconds:
            await layer.group_send(GROUP, blob)
            await asyncio.sleep(1 / PER_SECOND)
            if int(at) > looked:
                looked = int(at)
                if looked % 10 == 5:
                    grew[looked] = round((rss(process.pid) - before) / 1e6, 1)
                if gone is None and await layer.group_size(GROUP) <= 1:
                    gone = round(at, 1)
        # What a client sees that reads again at last, and what the server has then.
        for each in slow:
            each.setblocking(False)
        ends = await asyncio.gather(*(last(each) for each in slow))
        await asyncio.sleep(1)  # the server lets go of what was sent
        return {
            "server": server,
            "consumer": consumer,
            "slow clients": clients,
            "MB that the server grew by, by second": grew,
            "MB after all read again": round((rss(process.pid) - before) / 1e6, 1),
            "all gone after seconds": gone,
            "MB that the one that reads got": round(got[0] / 1e6, 1),
            "ends": sorted(set(map(str, ends))),
        }
    finally:
        if reading is not None:
            reading.cancel()
        process.kill()
        process.wait()
        await layer.close()


async def last(client: socket.socket) -> str:
    """Read what there is; returns the code that the connection ended with, if it did."""
    loop, tail = asyncio.get_running_loop(), b""
    try:
        async with asyncio.timeout(5):
            while data := await loop.sock_recv(client, 1 << 20):
                tail = (tail + data)[-200:]
    except TimeoutError:
        return "open still"
    except OSError as error:
        return f"cut: {type(error).__name__}"
    for code in (1013, 4013, 1011, 1000):
        at = tail.rfind(code.to_bytes(2, "big"))
        if at >= 2 and tail[at - 2] == 0x88:
            return f"closed with {code}"
    return "ended without a close"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--server", choices=list(SERVERS), action="append")
    parser.add_argument("--consumer", choices=list(PATHS), action="append")
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=100)
    options = parser.parse_args()
    from mpx_channels import embedded

    with tempfile.TemporaryDirectory() as folder:
        url = embedded.start(f"embedded://{folder}/redis")
        for server in options.server or SERVERS:
            for consumer in options.consumer or PATHS:
                found = asyncio.run(
                    measure(server, consumer, url, options.clients, options.seconds)
                )
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
