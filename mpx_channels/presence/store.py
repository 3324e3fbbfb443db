"""Presence in Redis: what a process writes of it, what is read, and who looks after it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mpx_channels.multiplexer import Multiplexer, Node
from mpx_channels.multiplexer.scripts import FrequentScript

from . import scripts

__all__ = ["LEASE_KEPT", "MOST", "Kept", "Page", "Place", "Renewed", "Store", "Swept", "Written"]

# Members of one page, and of one write: a few milliseconds of the server's time.
MOST = 1000
# How much of a lease Redis counts. The rest is for whoever notices that it has expired.
LEASE_KEPT = 0.75
# Seconds that the keys live after they were last touched, whoever is in them.
LIFE = 86_400
# How far (ms) a group is overdue when others than the process that has to see to it do so.
OVERDUE = 1000
# Groups of which a key's name is remembered.
KNOWN = 8192


class Keys(Protocol):
    """The names of presence' keys in Redis, by the group as users know it."""

    def group_of(self, name: str, /) -> str: ...

    def presence(self, group: str, /) -> tuple[str, str, str, str]:
        """Of a group: its members, their order, those that linger, the sums."""

    def presence_leases(self, group: str, /) -> tuple[str, str]:
        """Of all groups beside this one: the leases of processes, and the groups that are due."""

    def presence_of(self, group: str, process_id: str, /) -> tuple[str, str]:
        """Of a process: what it holds of a group, and in which groups it holds something."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where groups share leases. ``group`` is any of these groups.

    ``at``: what tells it from places with the same names: the server, but in a cluster nothing, as
    a place goes along with its slot, and has names of its own.
    """

    at: Node | None
    leases: str
    node: Node = field(compare=False)
    due: str = field(compare=False)
    group: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a process holds of an id: what its names in Redis are, and how many connections.

    ``at`` is when it joined, by the server's clock in microseconds, and 0 if that is now;
    ``leaves``: without a connection it leaves at once, and does not linger.
    """

    names: Sequence[bytes]
    connections: int
    leaves: bool
    at: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """What has come of a write.

    ``place``, ``epoch`` and ``mark``, which the write before left there, tell whether something was
    lost. ``at``: the server's time (microseconds); ``holds``: how many ids the process holds in the
    group; ``owed``: in how many ms it is to be told how many there are, 0 if it was told; ``due``:
    in how many ms somebody leaves who lingers, -1 for nobody; ``had``: whether the process had a
    lease.
    """

    place: int
    epoch: bytes
    mark: bytes
    at: int
    holds: int
    owed: int
    due: int
    had: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """What has come of sweeping: whether there is more to do; else as `Written`."""

    more: bool
    owed: int
    due: int


@dataclass(frozen=True, slots=True)
class Page:
    """Members of a group, by their names in Redis, and how many there are in all.

    ``overdue``: somebody has lingered for long enough; ``dead``: processes whose lease has expired.
    """

    members: int
    connections: int
    overdue: bool
    dead: Sequence[str]
    ids: Sequence[bytes]
    records: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Renewed:
    """A place, when this process' lease was renewed. ``had``: 0 no lease, 1 one, 2 an expired one.

    ``dead``: processes whose members are to be taken out; ``overdue``: groups that nobody sees to.
    """

    place: int
    had: int
    dead: Sequence[str]
    overdue: Sequence[str]


class Store:
    """Presence of a layer's groups, by their names in Redis; raises as `Multiplexer.command`.

    ``lease`` and ``linger`` are in seconds, ``events`` is how large a group may be to have its
    members named in events.
    """

    def __init__(
        self,
        multiplexer: Multiplexer,
        process_id: str,
        keys: Keys,
        *,
        lease: float,
        linger: float,
        events: int,
    ) -> None:
        self._multiplexer = multiplexer
        self._keys = keys
        self._id = process_id
        self._process = process_id.encode()
        self._lease = b"%d" % max(1, round(lease * LEASE_KEPT * 1000))
        self._linger = b"%d" % max(0, round(linger * 1000))
        self._events = b"%d" % events
        self._life = b"%d" % round(max(LIFE, 4 * lease, 4 * linger) * 1000)
        self._sharded = multiplexer.sharded
        self._scripts: dict[Node, _Scripts] = {}
        # What the records of a group are bound to, if they are encrypted.
        self.members_key = functools.lru_cache(KNOWN)(self._make_members_key)

    def place_of(self, name: str) -> Place:
        """Where a group is."""
        group = self._keys.group_of(name)
        leases, due = self._keys.presence_leases(group)
        node = self._multiplexer.node_of(name)
        return Place(None if self._multiplexer.cluster else node, leases, node, due, group)

    async def write(
        self, name: str, number: int, kept: Sequence[Kept], *, quiet: bool = False
    ) -> Written:
        """Say what this process holds of some ids; ``quiet``: nobody is told who joins."""
        words = [self._process, b"%d" % number, self._lease, self._linger, b"01"[quiet : quiet + 1]]
        words.append(b"%d" % len(kept[0].names))
        for each in kept:
            words += each.names
            words.append(b"%d" % each.connections)
            words.append(b"1" if each.leaves else b"0")
            words.append(b"%d" % each.at)
            words.append(each.record)
        answer = await self._call("write", name, self._id, *words)
        place, epoch, mark, at, holds, owed, due, had = answer
        return Written(int(float(place)), epoch, mark, int(at), holds, owed, due, bool(had))

    async def sweep(self, name: str, dead: str | None = None, *, tell: int = False) -> Swept:
        """Take out who has lingered for long enough, and what a dead process held, a part of it.

        With ``tell``, members are told how many there are, if that is not what they were told last;
        if it is a `Written.place`, only where that is not the place's any more. It has the group's
        keys live on.
        """
        process, is_dead = dead or self._id, b"1" if dead else b"0"
        words = process.encode(), is_dead, self._lease, b"%d" % tell
        more, owed, due = await self._call("sweep", name, process, *words)
        return Swept(bool(more), owed, due)

    async def read(self, name: str, after: bytes | None, count: int) -> Page:
        """Members of a group, those behind an id, a bit over `MOST`; and how many there are."""
        group = self._keys.group_of(name)
        members, *others = self._keys.presence(group)
        leases, _ = self._keys.presence_leases(group)
        keys = [key.encode() for key in (*others, leases)]
        begin = b"-" if after is None else b"(" + after
        script = self._scripts_of(self._multiplexer.node_of(name)).read
        answer = await script(members, *keys, begin, b"%d" % count, keys=len(keys))
        total, connections, overdue, dead, ids, records = answer
        return Page(
            total,
            connections,
            bool(overdue),
            [process.decode() for process in dead],
            ids,
            [record[12:] for record in records if record is not None],
        )

    async def mark(self, name: str) -> tuple[bytes | None, bytes | None]:
        """The epoch of a group, and the epoch and number of this process' last write to it."""
        group = self._keys.group_of(name)
        sums, held = self._keys.presence(group)[3], self._keys.presence_of(group, self._id)[0]
        node, command = self._multiplexer.node_of(name), self._multiplexer.command
        epoch = command(b"HGET", sums.encode(), b"g", node=node)
        mark = command(b"HGET", held.encode(), b"", node=node)
        found = await asyncio.gather(epoch, mark)
        return found[0], found[1]

    async def held(self, name: str) -> list[bytes]:
        """The names of the ids that this process holds in a group, as Redis has them."""
        held = self._keys.presence_of(self._keys.group_of(name), self._id)[0]
        node = self._multiplexer.node_of(name)
        found = await self._multiplexer.command(b"HKEYS", held.encode(), node=node)
        return [each for each in found if each]

    async def renew(self, place: Place, *, judges: bool) -> Renewed:
        """Renew this process' lease; if it ``judges``, it is told whose have expired."""
        script = self._scripts_of(place.node).renew
        words = self._process, self._lease, b"1" if judges else b"0", self._life, b"%d" % OVERDUE
        answer = await script(place.leases, place.due.encode(), *words, keys=1)
        epoch, had, dead, overdue = answer
        return Renewed(
            int(float(epoch)),
            had,
            [process.decode() for process in dead if process != self._process],
            [group.decode() for group in overdue],
        )

    async def groups_of(self, place: Place, process_id: str) -> list[str]:
        """The groups at a place in which a process holds members."""
        groups = self._keys.presence_of(place.group, process_id)[1]
        found = await self._multiplexer.command(b"SMEMBERS", groups.encode(), node=place.node)
        return sorted(group.decode() for group in found)

    async def end(self, place: Place, dead: str | None = None) -> None:
        """Forget the lease of a process that is dead, or of this one, if it holds nothing."""
        process = dead or self._id
        groups = self._keys.presence_of(place.group, process)[1].encode()
        script = self._scripts_of(place.node).end
        await script(place.leases, groups, process.encode(), b"1" if dead else b"0", keys=1)

    def _make_members_key(self, name: str) -> str:
        return self._keys.presence(self._keys.group_of(name))[0]

    async def _call(self, script: str, name: str, process: str, *words: bytes) -> Any:
        """Call a script that changes a group."""
        group = self._keys.group_of(name)
        members, *others = self._keys.presence(group)
        others += (*self._keys.presence_leases(group), *self._keys.presence_of(group, process))
        keys = [key.encode() for key in others]
        called: FrequentScript = getattr(self._scripts_of(self._multiplexer.node_of(name)), script)
        always = name.encode(), group.encode(), self._events, self._life
        return await called(members, *keys, *always, *words, keys=len(keys))

    def _scripts_of(self, node: Node) -> _Scripts:
        found = self._scripts.get(node)
        if found is None:
            found = self._scripts[node] = _Scripts(self._multiplexer, node, self._sharded)
        return found


class _Scripts:
    """The scripts on one node."""

    __slots__ = ("end", "read", "renew", "sweep", "write")

    def __init__(self, multiplexer: Multiplexer, node: Node, sharded: bool) -> None:
        def script(source: str) -> FrequentScript:
            if sharded:
                source = source.replace("'PUBLISH'", "'SPUBLISH'")
            return FrequentScript(source, multiplexer, node)

        self.write = script(scripts.WRITE)
        self.sweep = script(scripts.SWEEP)
        self.read = script(scripts.READ)
        self.renew = script(scripts.RENEW)
        self.end = script(scripts.END)
