"""How a slot of a cluster moves from one master to another, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import redis

from .conftest import PATIENCE
from .users import ADMIN, PASSWORD, is_least

if TYPE_CHECKING:
    from .cluster_nodes import Node
    from .clusters import Cluster

__all__ = ["by_migrateslots", "by_setslot", "move_all"]

KEYS_AT_ONCE = 10


def by_setslot(cluster: Cluster, slot: int, source: Node, target: Node) -> Iterator[str]:
    """As ``redis-cli --cluster reshard`` does; says what has just been done.

    "importing", "migrating", "keys" after each ten keys that moved, "target" when the target says
    that it has the slot, "source" when the source says so, "done" when all masters were told.
    """
    with source.client() as old, target.client() as new:
        _setslot(new, slot, "IMPORTING", source.id)
        yield "importing"
        _setslot(old, slot, "MIGRATING", target.id)
        yield "migrating"
        while keys := old.execute_command("CLUSTER GETKEYSINSLOT", slot, KEYS_AT_ONCE):
            password = ["AUTH", target.password] if target.password else []
            if is_least():
                password = ["AUTH2", ADMIN, PASSWORD]
            where = ("127.0.0.1", target.peer_port, "", 0, 5000, "REPLACE")
            old.execute_command("MIGRATE", *where, *password, "KEYS", *keys)
            yield "keys"
        _setslot(new, slot, "NODE", target.id)
        yield "target"
        _setslot(old, slot, "NODE", target.id)
        yield "source"
    for node in cluster.masters:
        if node not in (source, target):
            with node.client() as other:
                _setslot(other, slot, "NODE", target.id)
    yield "done"


def by_migrateslots(source: Node, target: Node, slots: Sequence[int]) -> Iterator[str]:
    """As Valkey 9 does by itself: "begun", "done" when it says that it has succeeded.

    A move that fails, as it may on a machine that has much to do, is begun again.
    """
    with source.client() as client:
        spans = [str(bound) for span in _spans(slots) for bound in span]
        begin = ("CLUSTER MIGRATESLOTS", "SLOTSRANGE", *spans, "NODE", target.id)
        client.execute_command(*begin)
        yield "begun"
        deadline = time.monotonic() + PATIENCE
        while True:
            newest: Any = client.execute_command("CLUSTER GETSLOTMIGRATIONS")[0]
            if not isinstance(newest, dict):  # RESP2
                newest = dict(zip(newest[::2], newest[1::2], strict=True))
            state = newest[b"state"]
            if state == b"success":
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"{source} does not move slots: {newest}")
            if state in (b"failed", b"canceled"):
                client.execute_command(*begin)
            time.sleep(0.002)
    yield "done"


def move_all(cluster: Cluster, source: Node, targets: list[Node]) -> None:
    """Have all slots of a master at others, with as many for each."""
    slots = cluster.slots_of(source)
    size = -(-len(slots) // len(targets))
    for index, target in enumerate(targets):
        share = slots[index * size : (index + 1) * size]
        if share and cluster.has_migrateslots:
            for _ in by_migrateslots(source, target, share):
                pass
        elif share:
            _move_by_setslot(cluster, source, target, share)


def _move_by_setslot(cluster: Cluster, source: Node, target: Node, slots: list[int]) -> None:
    with source.client() as old, target.client() as new:
        for slot, count in zip(
            slots, _pipelined(old, [("COUNTKEYSINSLOT", slot) for slot in slots]), strict=True
        ):
            if count:
                for _ in by_setslot(cluster, slot, source, target):
                    pass
                slots = [each for each in slots if each != slot]
        _pipelined(new, [("SETSLOT", slot, "IMPORTING", source.id) for slot in slots])
        _pipelined(old, [("SETSLOT", slot, "MIGRATING", target.id) for slot in slots])
        _pipelined(new, [("SETSLOT", slot, "NODE", target.id) for slot in slots])
        try:
            _pipelined(old, [("SETSLOT", slot, "NODE", target.id) for slot in slots])
        except redis.ResponseError as error:
            # Who has heard that its last slot is gone is the replica of who has it.
            if "only with masters" not in str(error):
                raise


def _spans(slots: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of slots, which are sorted."""
    for _, run in groupby(enumerate(slots), lambda pair: pair[1] - pair[0]):
        members = [slot for _, slot in run]
        yield members[0], members[-1]


def _setslot(client: Any, slot: int, what: str, node_id: str) -> None:
    client.execute_command("CLUSTER SETSLOT", slot, what, node_id)


def _pipelined(client: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
    answers: list[Any] = []
    for start in range(0, len(commands), 1000):
        pipeline = client.pipeline(transaction=False)
        for word, *rest in commands[start : start + 1000]:
            pipeline.execute_command(f"CLUSTER {word}", *rest)
        answers += pipeline.execute()
    return answers
