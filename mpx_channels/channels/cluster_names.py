"""The layer's names in a cluster: each has the tag of its partition behind the letter.

    <prefix>:g:{<tag>}<group>, and so on; see `Names`, `partitions`
    <prefix>:s:{<tag>}        the server whose data a partition has, as our scripts know it
    <prefix>:n:               the number of partitions, which all processes need alike

The control channel, and the names that processes are alive by, have none: they are for everybody.
"""

from __future__ import annotations

from mpx_channels.multiplexer import Multiplexer, Node

from .names import Names
from .partitions import partition_of, tags

__all__ = ["ClusterNames"]


class ClusterNames(Names):
    """`Names` with tags; the prefix must have no braces."""

    def __init__(self, prefix: str, partitions: int) -> None:
        super().__init__(prefix)
        self._partitions = partitions
        self._tags = [f"{{{tag}}}" for tag in tags(partitions)]
        self._group_pattern = f"{self._group_pattern}{{*}}"
        self.partitions = f"{prefix}:n:"

    def _tag(self, name: str) -> str:
        return self._tags[partition_of(name, self._partitions)]

    def _tagged(self, begin: str, name: str) -> str:
        return f"{begin}{self._tag(name)}{name}"

    def group(self, group: str) -> str:
        return self._tagged(self._group, group)

    def group_of(self, name: str) -> str:
        return _bare(name)

    def history(self, group: str) -> tuple[str, str, str, str]:
        stream, meta, keys = (f"{kind}{self._tag(group)}{group}" for kind in self._history)
        return stream, meta, keys, f"{self.server}{self._tag(group)}"

    def presence(self, group: str) -> tuple[str, str, str, str]:
        tag = self._tag(group)
        members, order, lingering, sums = (f"{kind}{tag}{group}" for kind in self._presence)
        return members, order, lingering, sums

    def presence_leases(self, group: str) -> tuple[str, str]:
        tag = self._tag(group)
        return f"{self._leases}{tag}", f"{self._due}{tag}"

    def presence_of(self, group: str, process_id: str) -> tuple[str, str]:
        tag = self._tag(group)
        return f"{self._held}{tag}{process_id}.{group}", f"{self._groups}{tag}{process_id}"

    def group_pattern_of(self, name: str) -> str:
        return _bare(name)

    def traffic_of(self, name: str) -> str:
        return _bare(name)

    def inbox(self, process_id: str) -> str:
        return self._tagged(self._inbox, process_id)

    def promise(self, promise: str) -> str:
        return self._tagged(self._promise, promise)

    def queue(self, channel: str) -> str:
        return self._tagged(self._queue, channel)

    def queue_of(self, name: str) -> str:
        return _bare(name)

    def controls(self, multiplexer: Multiplexer) -> dict[Node, str]:
        """One for all nodes: what is published on any of them comes to all."""
        return {}


def _bare(name: str) -> str:
    """What stands behind the tag."""
    return name[name.find("}") + 1 :]
