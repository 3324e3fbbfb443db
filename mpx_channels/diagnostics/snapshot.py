"""What `mpx status` and `mpx top` show: the processes of a prefix, and their rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mpx_channels.layer import FleetStats, MpxChannelLayer, ProcessStats

__all__ = ["Rates", "Snapshot", "look"]


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages per second of one process, between two looks at it."""

    messages_in: float = 0.0
    messages_out: float = 0.0

    @classmethod
    def between(cls, before: ProcessStats, after: ProcessStats) -> Rates | None:
        """None unless the process told both times when it was."""
        if before.at is None or after.at is None or after.at <= before.at:
            return None
        seconds = after.at - before.at
        return cls(
            max(0, after.messages_in - before.messages_in) / seconds,
            max(0, after.messages_out - before.messages_out) / seconds,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The processes but for this one, which only looks.

    ``rates``: by process id, of those that were there before.
    """

    prefix: str
    servers: tuple[str, ...]
    stats: FleetStats
    rates: Mapping[str, Rates] = field(default_factory=dict)

    @property
    def silent(self) -> int:
        """How many processes are silent."""
        return sum(process.silent for process in self.stats.processes)

    def with_queues_of(self, other: Snapshot) -> Snapshot:
        """This one, with the queues that another one has found."""
        incomplete = dict(self.stats.incomplete)
        if "queues" in other.stats.incomplete:
            incomplete["queues"] = other.stats.incomplete["queues"]
        stats = replace(self.stats, queues=other.stats.queues, incomplete=incomplete)
        return replace(self, stats=stats)

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints; docs/schemas/status.json describes it."""
        stats = self.stats
        return {
            "prefix": self.prefix,
            "servers": list(self.servers),
            "at": stats.at,
            "processes": [self._process(process) for process in stats.processes],
            "groups": dict(stats.groups),
            "present": dict(stats.present),
            "queues": dict(stats.queues),
            "incomplete": dict(stats.incomplete),
        }

    def _process(self, process: ProcessStats) -> dict[str, Any]:
        rates = self.rates.get(process.process_id, Rates())
        return {
            **asdict(process),
            "uptime": since(process, process.started),
            "dropped": process.dropped,
            "messages_in_per_second": rates.messages_in,
            "messages_out_per_second": rates.messages_out,
        }


def since(process: ProcessStats, moment: float | None) -> float | None:
    """Seconds from a moment to when the process told of it; other machines' clocks may differ."""
    if moment is None or process.at is None:
        return None
    return max(0.0, process.at - moment)


async def look(
    layer: MpxChannelLayer, before: Snapshot | None = None, *, groups: int, queues: bool = True
) -> Snapshot:
    """Ask all processes; with rates since the snapshot before. Raises as `fleet_stats`."""
    stats = await layer.fleet_stats(groups=groups, queues=queues)
    own = layer.process_id
    processes = tuple(each for each in stats.processes if each.process_id != own)
    rates = {}
    if before is not None:
        known = {process.process_id: process for process in before.stats.processes}
        for process in processes:
            if process.process_id in known:
                rate = Rates.between(known[process.process_id], process)
                if rate is not None:
                    rates[process.process_id] = rate
    return Snapshot(layer.prefix, layer.servers, replace(stats, processes=processes), rates)
