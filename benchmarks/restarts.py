"""Restart servers under traffic, one after the other, with pages that come back.

    python -m benchmarks.restarts [--server uvicorn] [--clients 1000] [--over 20]

Two servers, a thousand pages that reconnect as soon as they are closed, to one that is ready, and a
number to all of them twice a second. Each server is replaced as Kubernetes does it: another one
is started, and in use once it is ready; then comes the old one's preStop (``manage.py mpx drain
--wait``), then SIGTERM. Told are the numbers that were lost or doubled on any page, and the largest
number of reconnects in a second; for stock consumers on channels_redis, which have no drain, too.

The pages, and the load balancer that asks for readiness four times a second, are in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

ROOT = Path(__file__).parent.parent
APPLICATION = "benchmarks.restarts_server:application"
SERVERS = {
    "uvicorn": ["uvicorn", "--workers", "2", "--log-level", "warning", APPLICATION, "--port"],
    "gunicorn": ["gunicorn", "-w", "2", "-k", "uvicorn_worker.UvicornWorker", "--log-level",
                 "warning", APPLICATION, "-b"],
    "daphne": ["daphne", "-v", "0", APPLICATION, "-p"],
}  # fmt: skip
# Seconds: between two numbers, between two looks whether a server is ready, for anything at all.
NUMBER, READY, PATIENCE = 0.5, 0.25, 60.0
# Seconds that pages may be late with what they were sent.
LATE = 30
# Pages that connect at a time, in the beginning.
AT_ONCE = 32


class Pod:
    """A server with its processes."""

    def __init__(self, server: str, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.ready = False
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives with the process
        self._environment = environment
        command = list(SERVERS[server])
        address = f"127.0.0.1:{self.port}" if server == "gunicorn" else str(self.port)
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command, address],
            env=environment,
            stdout=self.log,
            stderr=self.log,
            cwd=ROOT,
        )

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        pids, found = [self.process.pid], [self.process.pid]
        while pids:
            pid = pids.pop()
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            pids += map(int, children)
            found += map(int, children)
        return found

    def look(self) -> None:
        """See whether it is ready."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/ready/", timeout=2) as response:
                self.ready = response.status == 200
        except (URLError, OSError):
            self.ready = False

    async def pre_stop(self, over: float) -> str:
        """What Kubernetes is to do before it ends the container; here it needs the pids.

        In a container, without any, it is all processes of this host.
        """
        known = [str(pid) for pid in await self._known()]
        arguments = ["drain", *known, "--over", str(over), "--wait"]
        return await self._mpx(*arguments)

    async def _known(self) -> list[int]:
        told = json.loads(await self._mpx("status", "--json", codes=(0, 1)))
        return [each["pid"] for each in told["processes"] if each["pid"] in self.pids]

    async def _mpx(self, *arguments: str, codes: Collection[int] = (0,)) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "django", "mpx", *arguments,
            env=self._environment, stdout=asyncio.subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        output, _ = await process.communicate()
        if process.returncode not in codes:
            raise RuntimeError(f"mpx {arguments[0]} ended with {process.returncode}")
        return output.decode()

    async def end(self) -> None:
        """SIGTERM, and SIGKILL to what is left after a while."""
        self.ready = False
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.to_thread(self.process.wait), 30)
        except TimeoutError:
            print(f"  a server did not end within 30 s of SIGTERM: {self.pids}")
            for pid in self.pids:
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
        self.log.seek(0)
        if printed := self.log.read():
            note(f"a server said: {printed[:2000]}")
        self.log.close()


class Pods:
    """Those that there are; a load balancer asks whether they are ready."""

    def __init__(self) -> None:
        self.all: list[Pod] = []

    async def watch(self) -> None:
        while True:
            await asyncio.gather(*(asyncio.to_thread(pod.look) for pod in self.all))
            await asyncio.sleep(READY)

    async def add(self, pod: Pod) -> None:
        self.all.append(pod)
        async with asyncio.timeout(PATIENCE):
            while not pod.ready:
                if pod.process.poll() is not None:
                    pod.log.seek(0)
                    raise RuntimeError(f"a server did not start: {pod.log.read()}")
                await asyncio.sleep(0.05)

    def pick(self) -> Pod | None:
        ready = [pod for pod in self.all if pod.ready]
        return random.choice(ready) if ready else None


class Page:
    """A page in a browser: what it has, and how it came back."""

    def __init__(self, pods: Pods, seen: Seen) -> None:
        self.pods = pods
        self.seen = seen
        self.numbers: list[int] = []
        self.joined = asyncio.Event()
        self._position: str | None = None

    async def live(self) -> None:
        wait = 0.0
        while True:
            await asyncio.sleep(wait)
            wait = random.uniform(0.1, 0.5)
            pod = self.pods.pick()
            if pod is None:
                continue
            began = time.monotonic()
            url = f"ws://127.0.0.1:{pod.port}/ws/"
            try:
                async with connect(url, compression=None, ping_interval=None) as websocket:
                    await self._read(websocket)
            except ConnectionClosed as error:
                self.seen.codes[error.rcvd.code if error.rcvd is not None else 1006] += 1
            except (OSError, WebSocketException, TimeoutError) as error:
                self.seen.codes[type(error).__name__] += 1
                continue
            if time.monotonic() - began > 1:
                wait = 0.0  # a page that was there for a while comes back at once

    async def _read(self, websocket: ClientConnection) -> None:
        await websocket.send(json.dumps({"since": self._position}))
        while True:
            told = json.loads(await websocket.recv())
            if "joined" in told:
                self.seen.joins.append(time.monotonic())
                if self._position is None:
                    self._position = told.get("p")
                elif not told["recovered"]:
                    self.seen.codes["not recovered"] += 1
                self.joined.set()
            else:
                self._position = told.get("p")
                self.numbers.append(told["n"])


class Seen:
    """What the pages went through."""

    def __init__(self) -> None:
        self.joins: list[float] = []
        self.codes: Counter[Any] = Counter()

    def most_in_a_second(self) -> int:
        """The largest number of joins in any second."""
        joins = sorted(self.joins)
        return max((n + 1 - bisect_left(joins, at - 1) for n, at in enumerate(joins)), default=0)


def note(text: str) -> None:
    """What happens, beside the result."""
    print(text.rstrip(), file=sys.stderr, flush=True)


async def measure(server: str, stack: str, url: str, clients: int, over: float) -> dict[str, Any]:
    """Replace both servers once; returns what came of it."""
    environment = os.environ | {
        "RESTARTS_STACK": stack,
        "RESTARTS_REDIS": url,
        "DJANGO_SETTINGS_MODULE": "benchmarks.restarts_settings",
        "PYTHONPATH": str(ROOT),
    }
    os.environ.update(environment)
    from benchmarks import restarts_settings
    from mpx_channels.layer import MpxChannelLayer

    if stack == "mpx":
        layer: Any = MpxChannelLayer(
            **restarts_settings.LAYERS["mpx"]["CONFIG"] | {"hosts": [url], "prefix": "restarts-mpx"}
        )
    else:
        from channels_redis.pubsub import RedisPubSubChannelLayer

        layer = RedisPubSubChannelLayer(hosts=[url], prefix="restarts-stock")
    pods, seen = Pods(), Seen()
    tasks = [asyncio.create_task(pods.watch())]
    try:
        for _ in range(2):
            await pods.add(Pod(server, environment))
        pages = [Page(pods, seen) for _ in range(clients)]
        for start in range(0, clients, AT_ONCE):
            some = pages[start : start + AT_ONCE]
            tasks += [asyncio.create_task(page.live()) for page in some]
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(page.joined.wait() for page in some))
        note(f"{server}, {stack}: {clients} pages are there")
        seen.joins.clear()
        sent = 0

        async def publish() -> None:
            nonlocal sent
            while True:
                await layer.group_send("room", {"type": "number", "n": sent})
                sent += 1
                await asyncio.sleep(NUMBER)

        publishing = asyncio.create_task(publish())
        await asyncio.sleep(1)  # some numbers have come before anything happens
        began = time.monotonic()
        for old in list(pods.all):
            await pods.add(Pod(server, environment))
            note(f"{len(pods.all)} servers are ready, one of them is to go")
            if stack == "mpx":
                note(await old.pre_stop(over))
            else:
                pods.all.remove(old)  # Kubernetes takes it out as it sends SIGTERM
                await asyncio.sleep(2 * READY)  # new pages go elsewhere by then
            await old.end()
            note(f"it has ended; {len(seen.joins)} reconnects")
            if old in pods.all:
                pods.all.remove(old)
            await asyncio.sleep(3)  # between one server and the next, as a rollout does
        took = time.monotonic() - began
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        # Who is late is not lost. Stock pages have nothing to ask for: what they miss is lost.
        for _ in range(LATE if stack == "mpx" else 3):
            if all(page.numbers[-1:] == [sent - 1] for page in pages):
                break
            await asyncio.sleep(1)
        counts = [Counter(page.numbers) for page in pages]
        wanted = range(sent)
        return {
            "server": server,
            "stack": stack,
            "clients": clients,
            "numbers": sent,
            "lost": sum(n not in count for count in counts for n in wanted),
            "doubled": sum(n - 1 for count in counts for n in count.values()),
            "out of order": sum(page.numbers != sorted(page.numbers) for page in pages),
            "reconnects": len(seen.joins),
            "most reconnects in a second": seen.most_in_a_second(),
            "seconds": round(took, 1),
            "codes": {str(code): n for code, n in seen.codes.most_common()},
        }
    finally:
        for pod in pods.all:
            pod.process.terminate()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=10)
        for pod in pods.all:
            await pod.end()
        if stack == "mpx":
            await layer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--server", choices=list(SERVERS), action="append")
    parser.add_argument("--stack", choices=["mpx", "stock"], action="append")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--over", type=float, default=20.0)
    options = parser.parse_args()
    from mpx_channels import embedded

    with tempfile.TemporaryDirectory() as folder:
        url = embedded.start(f"embedded://{folder}/redis")
        for server in options.server or SERVERS:
            for stack in options.stack or ("mpx", "stock"):
                found = asyncio.run(measure(server, stack, url, options.clients, options.over))
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
