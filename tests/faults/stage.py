"""What a case plays on: servers, a proxy before each for every process, processes with traffic."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from importlib.util import find_spec
from typing import Any

import redis

from tests.clusters import Cluster
from tests.conftest import RestartableServer
from tests.proxy import Proxy
from tests.sentinels import Sentinels

from .counts import Ledger, Verdict
from .guests import Guests
from .setup import OPTIONS, PASSWORD, RULES, USER, Setup
from .traffic import Members, Process, WorkerFailed

__all__ = ["PASSWORD", "USER", "Setup", "Stage", "run"]

# Seconds that coming back may take, and that leftovers have to go. Generous: the promise is that
# it happens at all; how long it took is in the figures.
RECOVERY = 10.0
REST = 5.0
# What a process may have grown by since it began (bytes): a leak gets there in a long run.
GROWTH = 64 * 1024 * 1024


class Stage:
    """Everything that runs for a setup. A case starts faults on it; `begin` and `finish` count."""

    def __init__(self, setup: Setup, *, long: bool = False) -> None:
        self.setup = setup
        # Whether there is time for faults that last.
        self.long = long
        self.random = random.Random()
        self.workers: list[Process] = []
        self.servers: list[RestartableServer] = []
        self.sentinels: Sentinels | None = None
        self.cluster: Cluster | None = None
        # Those of a worker, by its name, in the order of the servers.
        self.proxies: dict[str, list[Proxy]] = {}
        self.members = Members(setup.groups, setup.kept, setup.queues, setup.channels, setup.idle)
        self.ledger: Ledger = self.members.ledger(0, [])
        self.guests = Guests()
        self._run = 0
        self._made = 0
        self._admins: dict[int, redis.Redis] = {}
        self._rest: dict[str, dict[str, Any]] = {}
        self._drops: dict[str, int] = {}
        self._healed = False

    # -- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start all of it; return when messages go everywhere."""
        if self.setup.sentinel:
            self.sentinels = Sentinels()
            await asyncio.to_thread(self.sentinels.start)
            self.servers = self.sentinels.servers
        elif self.setup.cluster:
            replicas = self.setup.replicas
            self.cluster = Cluster(replicas=replicas, partitionable=not replicas)
            await asyncio.to_thread(self.cluster.start)
            self.servers = list(self.cluster.nodes)
        else:
            self.servers = [RestartableServer() for _ in range(self.setup.servers)]
            for number in range(len(self.servers)):
                await self.start_server(number)
        for number in range(self.setup.processes):
            last = number == self.setup.processes - 1
            # One on the other event loop.
            uvloop = number == 1 and find_spec("uvloop") is not None
            await self._start_worker(clock=self.setup.clock if last else 0.0, uvloop=uvloop)
        await asyncio.gather(*[self._join(worker) for worker in self.workers])
        self.ledger = self.members.ledger(0, [worker.name for worker in self.workers])
        await self._mark()
        for worker in self.workers:
            self._rest[worker.name] = await self._status(worker)

    async def close(self) -> list[str]:
        """End all of it; return what was left over in the processes."""
        left = []
        for worker in self.workers:
            try:
                after = await worker.ask("close")
            except WorkerFailed as error:
                left.append(str(error))
                continue
            extra = {
                task: count
                for task, count in after["tasks"].items()
                if count > worker.bare["tasks"].get(task, 0) and task != "main.<locals>.obey"
            }
            extra.pop("main.<locals>.report_on", None)
            if extra:
                left.append(f"{worker.name} has tasks after close(): {extra}")
        # Redis may be about to notice.
        if clients := await self._soon_none(self._all_clients):
            left.append(f"{len(clients)} connections after close(), such as {clients[0]}")
        await self.abandon()
        return left

    async def _all_clients(self) -> list[dict[str, str]]:
        return [
            client
            for number, server in enumerate(self.servers)
            if server.running
            for client in await self.clients(server=number)
        ]

    async def abandon(self) -> None:
        """End all of it, whatever state it is in."""
        for worker in self.workers:
            await worker.kill()
        for proxies in self.proxies.values():
            for proxy in proxies:
                await proxy.__aexit__()
        for admin in self._admins.values():
            admin.close()
        if self.sentinels is not None:
            self.sentinels.stop()
        if self.cluster is not None:
            await asyncio.to_thread(self.cluster.stop)
        for server in self.servers:
            server.kill()

    async def start_server(self, number: int = 0) -> None:
        """Start a server (again), with nothing in it but the user."""
        await asyncio.to_thread(self.servers[number].start_with_user, *RULES)

    def kill_server(self, number: int = 0) -> None:
        """End a server with SIGKILL. What it held is lost."""
        self.ledger.data_lost = True
        admin = self._admins.pop(number, None)
        if admin is not None:
            admin.close()
        self.servers[number].kill()

    async def _start_worker(self, *, clock: float = 0.0, uvloop: bool = False) -> Process:
        self._made += 1
        name = f"w{self._made}"
        hosts: list[Any] = []
        if self.sentinels is not None:
            hosts.append({**self.sentinels.host, "client_name": f"faults-{name}"})
        elif self.cluster is not None:
            hosts += [
                {"address": seed, "client_name": f"faults-{name}"} for seed in self.cluster.seeds
            ]
        else:
            self.proxies[name] = []
            for server in self.servers:
                proxy = Proxy("127.0.0.1", server.port)
                proxy.to_client.keep = proxy.to_server.keep = False
                await proxy.accept()
                self.proxies[name].append(proxy)
                url = proxy.url.replace("://", f"://{USER}:{PASSWORD}@")
                hosts.append({"address": url, "client_name": f"faults-{name}"})
        layer = {**OPTIONS, **dict(self.setup.options), "hosts": hosts, "prefix": "faults"}
        if self.cluster is not None:
            layer["cluster"] = True
        worker = Process(name, layer, self._report)
        self.workers.append(worker)
        await worker.start(clock=clock, uvloop=uvloop)
        return worker

    async def _join(self, worker: Process) -> None:
        members = self.members
        await worker.ask(
            "open", members.receivers(worker.name), members.queues, members.idle, timeout=120
        )

    def _report(self, worker: str, events: list[list[Any]]) -> None:
        self.ledger.take(worker, events)

    # -- for cases ----------------------------------------------------------------------------

    def some(self) -> Process:
        """A worker, by chance."""
        return self.random.choice(self.workers)

    def proxy(self, worker: Process, server: int = 0) -> Proxy:
        return self.proxies[worker.name][server]

    async def admin(self, *words: Any, server: int = 0) -> Any:
        """A command to a server, past the proxies."""
        return await asyncio.to_thread(self._admin(server).execute_command, *words)

    async def clients(
        self, worker: Process | None = None, *, server: int = 0, of_all: bool = False
    ) -> list[dict[str, str]]:
        """Connections as CLIENT LIST has them: the workers', or one's, or also dead ones'."""
        found = await asyncio.to_thread(self._admin(server).client_list)
        names = [f"faults-{each.name}" for each in ([worker] if worker else self.workers)]
        return [
            client
            for client in found
            if (client["name"].startswith("faults-") if of_all else client["name"] in names)
        ]

    def _admin(self, server: int) -> redis.Redis:
        client = self._admins.get(server)
        if client is None:
            # Not for ever: a case that failed may have left the server stopped.
            client = self.servers[server].client(client_name="admin", socket_timeout=20)
            self._admins[server] = client
        return client

    async def until(self, true: Callable[[], Any], what: str, timeout: float = RECOVERY) -> None:
        """Wait until something is true; raise `TimeoutError` that says what is not."""
        deadline = time.monotonic() + timeout
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not in {timeout:.0f} s")
            await asyncio.sleep(0.01)

    async def back(
        self, workers: Iterable[Process] | None = None, *, timeout: float = RECOVERY
    ) -> None:
        """Wait until these workers, or all, are connected and subscribed to what they want."""
        deadline = time.monotonic() + timeout
        for worker in list(workers or self.workers):
            while True:
                status = await worker.ask("status")
                if status["connected"] and status["confirmed"] == status["wanted"]:
                    break
                if time.monotonic() > deadline:
                    brief = {key: status[key] for key in ("connected", "wanted", "confirmed")}
                    raise TimeoutError(f"{worker.name} is not back in {timeout:.0f} s: {brief}")
                await asyncio.sleep(0.02)

    def gaps(self, worker: Process) -> int:
        """How many gaps a worker's first channel was told of."""
        return len(self.ledger.receivers[f"{worker.name}/0"].gaps)

    async def gap(self, worker: Process, more_than: int = 0) -> None:
        """Wait until a worker is told of a gap."""
        await self.until(lambda: self.gaps(worker) > more_than, f"{worker.name} is told of a gap")

    def heal(self) -> None:
        """The fault is over; else it is when the case is."""
        self._healed = True
        self.ledger.heal(time.monotonic())

    async def kill_worker(self, worker: Process) -> None:
        """End a worker with SIGKILL, for good."""
        self.ledger.leave(worker.name, time.monotonic())
        self.workers.remove(worker)
        await worker.kill()
        for proxy in self.proxies.pop(worker.name, ()):
            await proxy.__aexit__()

    async def add_worker(self) -> Process:
        """Start a worker in the middle of it; return when it is in its groups, and sends."""
        known = len(self.workers)
        try:
            worker = await self._start_worker()
            await self._join(worker)
        except WorkerFailed:
            for failed in self.workers[known:]:
                await self.kill_worker(failed)
            raise
        for receiver, groups in self.members.receivers(worker.name).items():
            self.ledger.join(receiver, groups, time.monotonic())
        for queue, readers in self.ledger.queues.items():
            readers.add(f"{worker.name}/{queue}")
        # What it holds at rest is known once it is: the first one holds the same.
        self._rest[worker.name] = next(iter(self._rest.values()))
        await self._send(worker)
        return worker

    # -- counting -----------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start the traffic, and the counting."""
        self._run += 1
        self._healed = False
        self.ledger = self.members.ledger(self._run, [worker.name for worker in self.workers])
        self._drops = {worker.name: await self._dropped(worker) for worker in self.workers}
        for worker in self.workers:
            await self._send(worker)
        await self.until(lambda: all(self.ledger.sent.values()), "traffic starts")

    async def finish(self) -> Verdict:
        """See everything come back, end the traffic, and judge."""
        failed: list[str] = []
        if not self._healed:
            self.heal()
        try:
            await self.back()
            await self.until(lambda: self.ledger.all_flow, "every group is heard again")
        except TimeoutError as error:
            failed.append(str(error))
        for worker in self.workers:
            await worker.ask("stop")
        failed += await self._mark()
        await self.guests.all_go()
        drops = {
            worker.name: await self._dropped(worker) - self._drops.get(worker.name, 0)
            for worker in self.workers
        }
        verdict = self.ledger.judge(drops)
        verdict.add("did not come back", failed)
        verdict.add("left over", await self._soon_none(self._left))
        return verdict

    async def _send(self, worker: Process) -> None:
        await worker.ask(
            "send", self._run, self.members.groups, self.members.queues, self.setup.rate
        )

    async def _mark(self) -> list[str]:
        """A last message on every stream; return those that do not arrive."""
        for worker in self.workers:
            await worker.ask("mark", self.members.groups, self.members.queues)

        async def missing() -> list[str]:
            return self.ledger.missing()

        return [f"the last message of {stream}" for stream in await self._soon_none(missing)]

    async def _dropped(self, worker: Process) -> int:
        drops = (await worker.ask("status"))["drops"]
        return int(drops["full"] + drops["expired"])

    async def _left(self) -> list[str]:
        """What is there that was not there at rest, or is not there any more."""
        return [found for worker in self.workers for found in await self._left_of(worker)]

    async def _soon_none(self, look: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        """Look until there is nothing; return what is still there after a while."""
        deadline = time.monotonic() + REST
        while True:
            found = await look()
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.02)

    async def _status(self, worker: Process) -> dict[str, Any]:
        """What a worker says it has, and what the servers say."""
        numbers = [number for number, server in enumerate(self.servers) if server.running]
        if self.sentinels is not None:
            port = await asyncio.to_thread(self.sentinels.known_master, self.sentinels.ports[0])
            numbers = [number for number in numbers if self.servers[number].port == port]
        clients = [
            client for number in numbers for client in await self.clients(worker, server=number)
        ]
        return {
            **await worker.ask("rest"),
            "connections": len(clients),
            "subscriptions": sum(
                int(client[kind]) for client in clients for kind in ("sub", "psub", "ssub")
            ),
        }

    async def _left_of(self, worker: Process) -> list[str]:
        now, rest = await self._status(worker), self._rest[worker.name]
        exact = ("connected", "backlog", "wanted", "confirmed", "unread", "channels", "tasks",
                 "descriptors", "connections", "subscriptions")  # fmt: skip
        left = [
            f"{worker.name}: {key} {now[key]}, at rest {rest[key]}"
            for key in exact
            if now[key] != rest[key]
        ]
        if now["subscriptions"] != now["wanted"]:
            left.append(f"{worker.name}: Redis has {now['subscriptions']} names, not all it wants")
        if now["memory"] > rest["memory"] + GROWTH:
            left.append(f"{worker.name}: memory {now['memory']}, at rest {rest['memory']}")
        if now["callback_errors"]:
            left.append(f"{worker.name}: {now['callback_errors']} callbacks raised")
        return left


async def run(stage: Stage, play: Callable[[Stage], Awaitable[None]], seed: int) -> Verdict:
    """Play a case on a stage, and judge it."""
    stage.random.seed(seed)
    started = time.monotonic()
    await stage.begin()
    failure: list[str] = []
    try:
        await play(stage)
    except (TimeoutError, WorkerFailed, AssertionError) as error:
        failure.append(f"{type(error).__name__}: {error}")
    verdict = await stage.finish()
    verdict.add("the case failed", failure)
    verdict.figures["seconds"] = time.monotonic() - started
    return verdict
