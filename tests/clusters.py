"""A Redis or Valkey Cluster: a real one, for tests that look at it or harm it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from .cluster_nodes import NODE_TIMEOUT, Node
from .conftest import PATIENCE
from .partitions import CLIENTS, Network
from .resharding import by_migrateslots, by_setslot, move_all
from .users import as_admin

__all__ = ["NODE_TIMEOUT", "SLOTS", "Cluster", "Node", "one_by_one", "slot_of"]


def slot_of(key: str | bytes) -> int:
    """The slot of a key or a channel, of its hash tag if it has one."""
    return key_slot(key.encode() if isinstance(key, str) else key)


async def one_by_one(steps: Iterator[str]) -> AsyncIterator[str]:
    """Those of `Cluster.migrating`, each taken in a thread, while the event loop goes on.

    A step may take a second on a busy machine, in which nobody else could keep any time.
    """
    while (step := await asyncio.to_thread(next, steps, None)) is not None:
        yield step


class Cluster:
    """``masters`` with as many replicas each; killed and restarted, grown and shrunk at will.

    With ``partitionable`` everything that goes from one to another, and from clients to them, goes
    through proxies that `partition` uses. ``password`` is the default user's, and in the URLs.
    ``config`` is for each of its servers. With ``tls`` (such as `Certificates.options`) clients and
    servers speak TLS.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 0,
        *,
        partitionable: bool = False,
        password: str = "",
        config: dict[str, Any] | None = None,
        tls: Mapping[str, Any] | None = None,
    ) -> None:
        self.nodes: list[Node] = []  # those that belong to it, running or not
        self._masters = masters
        self._replicas = replicas
        self._password = password
        self._config = config or {}
        self._tls = tls
        self._folder = Path(tempfile.mkdtemp(prefix="mpx-cluster-"))
        self._network = Network() if partitionable else None
        self._made: list[Node] = []
        self._isolated: set[Node] = set()

    # -- its life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start all of it; return when all agree, about three seconds later."""
        self.nodes = [self._new_node() for _ in range(self._masters * (1 + self._replicas))]
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(Node.start, self.nodes))
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        for number, node in enumerate(masters):
            first = number * SLOTS // len(masters)
            last = (number + 1) * SLOTS // len(masters) - 1
            self._add_slots(node, first, last)
            node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
        self._introduce(self.nodes)
        for number, node in enumerate(replicas):
            node.ask("CLUSTER REPLICATE", masters[number % len(masters)].id)
        self.wait_ok()

    def stop(self) -> None:
        """End all of it."""
        for node in self._made:
            node.kill()
        if self._network is not None:
            self._network.close()
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

    def wait_ok(self) -> None:
        """Return when all that run agree who has which slots, and all replicas follow."""
        self.wait(self._is_ok)

    def wait(self, predicate: Callable[[], Any], what: str = "the cluster is not well") -> None:
        """Return when ``predicate`` is true; what nodes answer meanwhile may be an error."""
        deadline = time.monotonic() + PATIENCE
        while True:
            error: object = ""
            try:
                if predicate():
                    return
            except (redis.RedisError, KeyError, StopIteration) as caught:
                error = caught
            if time.monotonic() > deadline:
                views = [f"{node}:\n{self._view(node)}" for node in self._running()]
                raise TimeoutError("\n".join([f"{what}: {error!r}", *views]))
            time.sleep(0.02)

    # -- what it is like ----------------------------------------------------------------------

    @property
    def urls(self) -> list[str]:
        """A redis-py URL of each node."""
        return [node.url for node in self.nodes]

    @property
    def seeds(self) -> list[str]:
        """What ``hosts`` may be: a URL of each node that runs."""
        return [node.url for node in self._running()]

    @property
    def masters(self) -> list[Node]:
        """Those that are masters and run, by their own account."""
        return [node for node in self._running() if "master" in node.table()[node.id].flags]

    @property
    def replicas(self) -> list[Node]:
        """Those that are replicas and run, by their own account."""
        return [node for node in self._running() if "slave" in node.table()[node.id].flags]

    def master_of(self, what: int | str | bytes) -> Node:
        """The master that says that it has a slot, or the slot of a key or a channel."""
        slot = what if isinstance(what, int) else slot_of(what)
        for node in self._running():
            if slot in node.table()[node.id].slots:
                return node
        raise LookupError(f"nobody has slot {slot}")

    def replica_of(self, master: Node) -> Node:
        """A running replica of a master."""
        for node in self._running():
            if node.table()[node.id].master == master.id:
                return node
        raise LookupError(f"{master} has no replica")

    def slots_of(self, node: Node) -> list[int]:
        """The slots that a master says are its own."""
        return sorted(node.table()[node.id].slots)

    def key_at(self, node: Node, prefix: str = "key") -> str:
        """A key whose slot a master has."""
        slots = node.table()[node.id].slots
        return next(key for i in range(SLOTS) if slot_of(key := f"{prefix}{i}") in slots)

    def client(self, **options: Any) -> redis.RedisCluster:
        """redis-py's client of all of it."""
        return redis.RedisCluster.from_url(as_admin(self.seeds[0]), **options)

    def ask_all(self, *words: Any) -> None:
        """Send a command to each that runs: one that sets up users, say."""
        for node in self._running():
            node.ask(*words)

    def flushall(self) -> None:
        """Delete everything in it."""
        for node in self.masters:
            node.ask("FLUSHALL")

    # -- harm ---------------------------------------------------------------------------------

    def kill(self, node: Node) -> None:
        """End it at once, as a crash would."""
        node.kill()

    def restart(self, node: Node) -> None:
        """Start it, or start it anew, with its place in the cluster and no data."""
        node.kill()
        node.start()

    def freeze(self, node: Node) -> None:
        """Stop its process where it stands."""
        node.freeze()

    def thaw(self, node: Node) -> None:
        """Let it go on."""
        node.thaw()

    def partition(self, one: Node, other: Node) -> None:
        """Let nothing through between two of them; needs ``partitionable``."""
        self._parted().part(one.address, other.address)

    def isolate(self, node: Node, *, clients: bool = False) -> None:
        """Let nothing through between one and all others, with ``clients`` nor from these."""
        self._isolated.add(node)
        for other in self.nodes:
            if other is not node:
                self.partition(node, other)
        if clients:
            self._parted().part(node.address, CLIENTS)

    def heal(self) -> None:
        """Let everything through again."""
        self._isolated.clear()
        self._parted().heal()

    # -- change -------------------------------------------------------------------------------

    def failover(self, replica: Node) -> None:
        """Have a replica become the master, as an operator would; return when all know."""
        asked = 0.0

        def promoted() -> bool:
            nonlocal asked
            if self._is_promoted(replica):
                return True
            # It gives up after five seconds, on a machine that has much to do.
            if time.monotonic() > asked + 6 and "slave" in replica.table()[replica.id].flags:
                asked = time.monotonic()
                replica.ask("CLUSTER FAILOVER")
            return False

        self.wait(promoted, f"{replica} is not promoted")

    def wait_promoted(self, replica: Node) -> None:
        """Return when a replica has become a master, and all that can hear of it have."""
        self.wait(lambda: self._is_promoted(replica), f"{replica} is not promoted")

    def _is_promoted(self, replica: Node) -> bool:
        rows = [node.table()[replica.id] for node in self._running()]
        return all("master" in row.flags and row.slots for row in rows)

    def migrating(self, slot: int, to: Node, *, how: str = "setslot") -> Iterator[str]:
        """Move a slot with what is in it, a step each time that the iterator is asked for one.

        What it gives is said at `by_setslot` and `by_migrateslots` ("setslot", "migrateslots"; the
        latter is Valkey's, from 9 on: `has_migrateslots`).
        """
        source = self.master_of(slot)
        if how == "migrateslots":
            yield from by_migrateslots(source, to, [slot])
        elif how == "setslot":
            yield from by_setslot(self, slot, source, to)
        else:
            raise ValueError(f"there is no way {how!r} to migrate a slot")

    def migrate_slot(
        self,
        slot: int,
        to: Node,
        *,
        how: str = "setslot",
        between: Callable[[str], object] | None = None,
    ) -> None:
        """Move a slot; ``between`` is called after each step of `migrating`. All agree then."""
        for step in self.migrating(slot, to, how=how):
            if between is not None:
                between(step)
        self.wait(lambda: all(slot in node.table()[to.id].slots for node in self._running()))

    @property
    def has_migrateslots(self) -> bool:
        """Whether its servers know CLUSTER MIGRATESLOTS."""
        words = b" ".join(self._running()[0].ask("CLUSTER HELP"))
        return b"MIGRATESLOTS" in words

    @property
    def has_sharded_pubsub(self) -> bool:
        """Whether its servers know SSUBSCRIBE, as those from Redis 7 on do."""
        version = self._running()[0].info("server")["redis_version"]
        return int(version.partition(".")[0]) >= 7

    def add_node(self, master: Node | None = None) -> Node:
        """A new node that all know: a master without slots, or a replica of ``master``."""
        node = self._new_node()
        node.start()
        self.nodes.append(node)
        self._introduce([node])
        if master is not None:
            node.ask("CLUSTER REPLICATE", master.id)
        self.wait_ok()
        return node

    def remove_node(self, node: Node, *, kill: bool = True) -> None:
        """Move its slots to the other masters and have all forget it; then it is killed.

        Without ``kill`` it goes on, as a cluster of its own that has no slots.
        """
        others = [each for each in self.masters if each is not node]
        if node in self.masters:
            for replica in self.replicas:
                if replica.table()[replica.id].master == node.id:
                    replica.ask("CLUSTER REPLICATE", others[0].id)
            move_all(self, node, others)
        self.nodes.remove(node)
        running = self._running()
        # Who lost its last slot has become a replica: nobody forgets its own master.
        self.wait(lambda: all(each.table()[each.id].master != node.id for each in running))
        for each in running:
            each.ask("CLUSTER FORGET", node.id)
        if kill:
            node.kill()
        else:
            node.ask("CLUSTER RESET")
        self.wait_ok()

    # -- inside -------------------------------------------------------------------------------

    def _new_node(self) -> Node:
        number, options = len(self._made), (self._config, self._password, self._tls)
        node = Node(number, self._folder, self._network, *options)
        self._made.append(node)
        return node

    def _running(self) -> list[Node]:
        """Those that answer, and hear of what happens."""
        return [
            node
            for node in self.nodes
            if node.running and not node.frozen and node not in self._isolated
        ]

    def _parted(self) -> Network:
        assert self._network is not None, "a cluster that is not partitionable"
        return self._network

    def _introduce(self, new: list[Node]) -> None:
        # All to all: gossip would do, and take a second or two.
        for node in new:
            for other in self._running():
                if other is not node:
                    address = ("127.0.0.1", other.announced, other.announced_bus_port)
                    node.ask("CLUSTER MEET", *address)
        members = {node.id for node in self._running()}
        self.wait(lambda: all(set(node.table()) >= members for node in self._running()))

    def _add_slots(self, node: Node, first: int, last: int) -> None:
        try:
            node.ask("CLUSTER ADDSLOTSRANGE", first, last)
        except redis.ResponseError:  # before Redis 7
            node.ask("CLUSTER ADDSLOTS", *range(first, last + 1))

    def _is_ok(self) -> bool:
        running = self._running()
        members = {node.id for node in self.nodes}
        tables = [node.table() for node in running]
        owners = {frozenset((row.id, row.slots) for row in table.values()) for table in tables}
        dead = members - {node.id for node in running}
        return (
            len(owners) == 1
            and all(table.keys() == members for table in tables)
            and all(
                (row.linked and not row.flags & {"fail", "fail?"}) or row.id in dead
                for table in tables
                for row in table.values()
            )
            and sum(len(row.slots) for row in tables[0].values()) == SLOTS
            and all(node.info("cluster_info")["cluster_state"] == "ok" for node in running)
            and all(
                node.info("replication").get("master_link_status", "up") == "up" for node in running
            )
        )

    def _view(self, node: Node) -> str:
        try:
            return str(node.ask("CLUSTER NODES").decode())
        except redis.RedisError as error:
            return repr(error)
