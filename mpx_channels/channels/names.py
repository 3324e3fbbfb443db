"""The layer's names in Redis. All begin with the prefix; a letter tells what follows.

    <prefix>:g:<group>        messages to a group
    <prefix>:p:<process id>   the inbox of a process (and event loop): messages to its channels
    <prefix>:r:<promise>      answers to a promise
    <prefix>:q:<channel>      a list: the messages of a plain channel
    <prefix>:w:<process id>   a list: wakes the process that reads plain channels
    <prefix>:h:<group>        a stream: the history of a group
    <prefix>:m:<group>        a hash: its epoch, its last offset, and the server that gave it out
    <prefix>:i:<group>        a hash: offsets by idempotency keys
    <prefix>:u:<group>        a hash: who is in a group, by id
    <prefix>:z:<group>        a sorted set: these ids, in the order in which they are listed
    <prefix>:l:<group>        a sorted set: those without a connection, by when they leave
    <prefix>:v:<group>        a hash: how many there are, and which processes hold some
    <prefix>:o:<process id>.<group>    a hash: what a process holds of them
    <prefix>:k:<process id>   a set: the groups in which a process holds some
    <prefix>:e:               a sorted set: processes that hold some, by until when they live
    <prefix>:d:               a sorted set: groups, by when the next leaves that has no connection
    <prefix>:s:               the replication id of the server, as our scripts know it
    <prefix>:c:               the control channel: questions to all processes
    <prefix>:c:<number>       the same, with several hosts: one on each of them
    <prefix>:c:<process id>:<pid>:<host>    on every host: that a process is subscribed to it tells
                                            the others that it lives, and where; it carries the
                                            probes that the process sends itself

Neither group nor promise names have a colon in them, so two prefixes never meet in one name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection

from mpx_channels.multiplexer import Multiplexer, Node, escape_glob

__all__ = [
    "PROCESS_ID_LENGTH",
    "Names",
    "channel_names",
    "require_group_pattern",
    "require_redis_name",
]

# Of a UUID's 32 hexadecimal digits: 64 bits are enough for processes of one prefix.
PROCESS_ID_LENGTH = 16
# What tells such a name from those of a layer whose prefix is ours with ":c" behind it.
ALIVE = re.compile(rf"[0-9a-f]{{{PROCESS_ID_LENGTH}}}:[0-9]{{1,19}}", re.ASCII)

# What a group's name may be made of, and what Redis' patterns are made of.
_GROUP_PATTERN = re.compile(r"[a-zA-Z\d\-_.*?\[\]^\\]+")


class Names:
    """Names of one prefix, from users' words to Redis' and back; checks nothing."""

    def __init__(self, prefix: str) -> None:
        self._group = f"{prefix}:g:"
        self._group_pattern = f"{escape_glob(prefix)}:g:"
        self._inbox = f"{prefix}:p:"
        self._promise = f"{prefix}:r:"
        self._queue = f"{prefix}:q:"
        self._wake = f"{prefix}:w:"
        self.control = f"{prefix}:c:"
        # What matches the names that processes are alive by, and nothing else.
        self.all_alive = f"{escape_glob(prefix)}:c:?*"
        self._history = tuple(f"{prefix}:{kind}:" for kind in "hmi")
        self.server = f"{prefix}:s:"
        self._presence = tuple(f"{prefix}:{kind}:" for kind in "uzlv")
        self._leases, self._due = f"{prefix}:e:", f"{prefix}:d:"
        self._held, self._groups = f"{prefix}:o:", f"{prefix}:k:"
        # What matches every key of this prefix, and nothing else.
        self.keys = (f"{escape_glob(prefix)}:[qwhmisuzlvoked]:*",)
        self.queues = f"{escape_glob(prefix)}:q:*"
        # What matches the names of groups, of inboxes and of promises.
        self.traffic = tuple(f"{escape_glob(prefix)}:{kind}:*" for kind in "gpr")

    def group(self, group: str) -> str:
        return self._group + group

    def group_of(self, name: str) -> str:
        return name[len(self._group) :]

    def history(self, group: str) -> tuple[str, str, str, str]:
        """The keys of a group's history, as its scripts take them."""
        stream, meta, keys = self._history
        return stream + group, meta + group, keys + group, self.server

    def presence(self, group: str) -> tuple[str, str, str, str]:
        """The keys of who is in a group, as the scripts take them."""
        members, order, lingering, sums = self._presence
        return members + group, order + group, lingering + group, sums + group

    def presence_leases(self, group: str) -> tuple[str, str]:
        """What this group shares with others: the leases of processes, and the groups due."""
        return self._leases, self._due

    def presence_of(self, group: str, process_id: str) -> tuple[str, str]:
        """What a process holds of who is in a group, and the set of all such groups of it."""
        return f"{self._held}{process_id}.{group}", self._groups + process_id

    def group_pattern(self, pattern: str) -> str:
        return self._group_pattern + pattern

    def group_pattern_of(self, name: str) -> str:
        return name[len(self._group_pattern) :]

    def traffic_of(self, name: str) -> str:
        """The group, the process id or the promise in a name that matches `traffic`."""
        return name[len(self._group) :]

    def inbox(self, process_id: str) -> str:
        return self._inbox + process_id

    def promise(self, promise: str) -> str:
        return self._promise + promise

    def queue(self, channel: str) -> str:
        return self._queue + channel

    def queue_of(self, name: str) -> str:
        return name[len(self._queue) :]

    def wake(self, process_id: str) -> str:
        return self._wake + process_id

    def controls(self, multiplexer: Multiplexer) -> dict[Node, str]:
        """A control channel on each node: a question must not need one that is away."""
        if len(multiplexer.nodes) == 1:
            return {multiplexer.node: self.control}
        found: dict[Node, str] = {}
        for number in itertools.count():
            name = f"{self.control}{number}"
            found.setdefault(multiplexer.node_of(name), name)
            if len(found) == len(multiplexer.nodes):
                break
        return found

    def alive(self, process_id: str, pid: int, host: str) -> str:
        """The name that a process is alive by, for as long as it is subscribed to it."""
        return f"{self.control}{process_id}:{pid}:{host}"

    def alive_of(self, name: str) -> tuple[str, int, str] | None:
        """The process id, pid and host; None for any other name."""
        match name[len(self.control) :].split(":", 2):
            case [process_id, pid, host] if ALIVE.fullmatch(f"{process_id}:{pid}"):
                return process_id, int(pid), host
        return None


def channel_names(exclude: Collection[str]) -> list[str]:
    """The channels that are not to get a message, as a list; raises `TypeError` for a str."""
    if isinstance(exclude, str):
        raise TypeError(f"exclude must be a list of channel names, not the str {exclude!r}")
    return list(exclude)


def require_redis_name(name: str) -> str:
    """A name of Redis' own, or a pattern; raises `TypeError` for what is none."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"a Redis channel or pattern is a non-empty str, not {name!r}")
    return name


def require_group_pattern(pattern: str, max_length: int) -> None:
    """Raise `TypeError` for what is no pattern over names of groups."""
    if (
        not isinstance(pattern, str)
        or len(pattern) >= max_length
        or not _GROUP_PATTERN.fullmatch(pattern)
    ):
        raise TypeError(
            f"a group pattern must be a str of less than {max_length} ASCII "
            f"alphanumerics, hyphens, underscores, periods and *?[]^\\, not {pattern!r}"
        )
