"""A server of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import redis

from .conftest import RestartableServer
from .partitions import CLIENTS, Network
from .proxy import free_port
from .servers import OtherServer, major_version, tls_program
from .users import as_admin_options

__all__ = ["NODE_TIMEOUT", "Node"]

# Milliseconds until the others take a node for dead; a replica is promoted a second later.
NODE_TIMEOUT = 1500


class Row(NamedTuple):
    """A line of CLUSTER NODES; ``linked``: whether it can be told something over the bus."""

    id: str
    flags: frozenset[str]
    master: str
    linked: bool
    slots: frozenset[int]


# How far above its port a node listens to others, before Redis 7 let one say where.
OLD_BUS = 10_000


class Node(RestartableServer):
    """A server of a cluster; it keeps its place there while it is dead, and nothing else."""

    in_cluster = True

    def __init__(
        self,
        number: int,
        folder: Path,
        network: Network | None,
        config: dict[str, Any],
        password: str = "",
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        old = major_version() < 7
        if old:
            self.port = free_port(bus=OLD_BUS)
        self._tls = tls is not None
        # What clients connect to, which may be a proxy; the server itself listens on `port`.
        self.announced = self.port if network is None and tls is None else free_port()
        # Where other servers reach it.
        self.peer_port = self.port if tls is None else self.announced
        self.password = password
        credentials = f":{quote(password, safe='')}@" if password else ""
        self.url = f"redis://{credentials}127.0.0.1:{self.announced}"
        if tls is not None:
            self.url = f"rediss://{credentials}localhost:{self.announced}"
        self.number = number
        self.bus_port = self.announced_bus_port = self.port + OLD_BUS if old else free_port()
        # Where its connections come from.
        self.address = CLIENTS if network is None else f"127.0.0.{10 + number}"
        settings = {
            "cluster-enabled": "yes",
            "cluster-config-file": folder / f"{number}.conf",
            "cluster-node-timeout": NODE_TIMEOUT,
            **({} if old else {"cluster-port": self.bus_port}),
            "repl-diskless-sync-delay": 0,
            # Not what a killed one had written: the folder is new at each start.
            "appendonly": "no",
            **config,
        }
        if network is not None:
            self.announced_bus_port = free_port()
            settings |= {
                "bind-source-addr": self.address,
                "cluster-announce-ip": "127.0.0.1",
                "cluster-announce-port": self.announced,
                "cluster-announce-bus-port": self.announced_bus_port,
            }
            network.listen(self.announced, self.address, self.port)
            network.listen(self.announced_bus_port, self.address, self.bus_port)
        if tls is not None:
            # The tests themselves go on to use the port that speaks none.
            both = {"tls-cluster": "yes", "tls-replication": "yes"}
            settings |= {"tls-port": self.announced, **both, **tls}
        self.config = {"config": settings}
        self.frozen = False
        self._id = ""

    @property
    def id(self) -> str:
        """Its name in the cluster."""
        if not self._id:
            self._id = self.ask("CLUSTER MYID").decode()
        return self._id

    def start(self) -> None:
        """Start it; return when it answers, and to the password alone if there is one."""
        super().start()
        if self.password:
            # Not from the beginning: that it runs is seen from its answer to a PING.
            with self.client(password=None) as client:
                client.config_set("masterauth", self.password)
                client.config_set("requirepass", self.password)

    def _new_server(self) -> Any:
        return (
            OtherServer(tls_program(), port=self.port, **self.config)
            if self._tls
            else (super()._new_server())
        )

    def client(self, **options: Any) -> redis.Redis:
        """A plain redis-py client of it alone, past any proxy."""
        known = as_admin_options() or {"password": self.password or None}
        return redis.Redis(port=self.port, **{**known, **options})

    def ask(self, *words: Any) -> Any:
        """What it answers to one command."""
        with self.client() as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def freeze(self) -> None:
        """Stop the process where it stands."""
        super().freeze()
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        super().thaw()
        self.frozen = False

    def kill(self) -> None:
        """End it at once, frozen or not."""
        super().kill()
        self.frozen = False

    def info(self, section: str) -> dict[str, Any]:
        """A section of INFO, or what CLUSTER INFO says for "cluster_info"."""
        with self.client() as client:
            known: dict[str, Any] = (
                client.execute_command("CLUSTER INFO")
                if section == "cluster_info"
                else client.info(section)
            )
            return known

    def table(self) -> dict[str, Row]:
        """The cluster as it sees it, by id; without those that it has only heard of."""
        rows = {}
        for line in self.ask("CLUSTER NODES").decode().splitlines():
            name, _, flags, master, _, _, _, link, *ranges = line.split()
            slots: set[int] = set()
            for span in ranges:
                if not span.startswith("["):
                    first, _, last = span.partition("-")
                    slots.update(range(int(first), int(last or first) + 1))
            known = frozenset(flags.split(",")) - {"myself"}
            row = Row(name, known, master, link == "connected", frozenset(slots))
            if not row.flags & {"handshake", "noaddr"}:
                rows[name] = row
        return rows

    def __repr__(self) -> str:
        return f"<Node {self.number} :{self.announced}>"
