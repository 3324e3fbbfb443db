"""`mpx status`: all processes of a prefix in one table, the busiest groups, the queues."""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser
from dataclasses import asdict, dataclass
from typing import Any

from rich.text import Text

from mpx_channels.layer import ClusterStats, MpxChannelLayer, ProcessStats

from .output import Output
from .session import Session
from .subcommand import FINE, FOUND, Subcommand

__all__ = ["PROCESS_COLUMNS", "RIGHT", "Rates", "Status", "process_row", "snapshot_as_json"]

# Seconds between the two looks that rates are made of.
INTERVAL = 1.0

PROCESS_COLUMNS = (
    "host", "pid", "uptime", "connected", "consumers", "groups", "patterns", "promises",
    "in/s", "out/s", "drops", "gaps", "reconnects", "round trip",
)  # fmt: skip
RIGHT = frozenset(PROCESS_COLUMNS[1:])


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages per second of one process, between two looks at it."""

    messages_in: float
    messages_out: float

    @classmethod
    def between(cls, before: ProcessStats | None, after: ProcessStats, seconds: float) -> Rates:
        """Zero for a process that was not there before."""
        if before is None or before.silent or after.silent or seconds <= 0:
            return cls(0.0, 0.0)
        return cls(
            max(0, after.messages_in - before.messages_in) / seconds,
            max(0, after.messages_out - before.messages_out) / seconds,
        )


class Status(Subcommand):
    """Asks all processes, twice: for the rates."""

    name = "status"
    help = "Show all live processes of the layer's prefix, the busiest groups and the queues."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--groups", type=int, default=10, metavar="N", help="how many of the busiest (10)"
        )

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        layer = await session.connect()
        before = await others(layer, options["groups"])
        await asyncio.sleep(INTERVAL)
        after = await others(layer, options["groups"])
        rates = rates_between(before, after)
        if out.as_json:
            out.json(snapshot_as_json(layer, after, rates))
        else:
            self._show(layer, out, after, rates)
        return FOUND if any(process.silent for process in after.processes) else FINE

    def _show(
        self, layer: MpxChannelLayer, out: Output, stats: ClusterStats, rates: dict[str, Rates]
    ) -> None:
        if stats.processes:
            rows = [process_row(p, rates[p.process_id], stats.at) for p in stats.processes]
            out.table(PROCESS_COLUMNS, rows, right=RIGHT, title=f"Processes of {layer.prefix}")
        else:
            out.say(f"No process uses the prefix {layer.prefix} now.")
        if stats.groups:
            out.say()
            sizes = [(group, f"{size:,}") for group, size in stats.groups.items()]
            out.table(("group", "consumers"), sizes, right={"consumers"}, title="Busiest groups")
        if stats.queues:
            out.say()
            lengths = [(queue, f"{length:,}") for queue, length in sorted(stats.queues.items())]
            out.table(("plain channel", "unread"), lengths, right={"unread"}, title="Queues")


async def others(layer: MpxChannelLayer, groups: int) -> ClusterStats:
    """The processes but for this one, which only came to look."""
    stats = await layer.cluster_stats(groups=groups)
    own = layer.process_id
    processes = tuple(each for each in stats.processes if each.process_id != own)
    return ClusterStats(processes, stats.groups, stats.queues, stats.at)


def rates_between(before: ClusterStats, after: ClusterStats) -> dict[str, Rates]:
    """By process id."""
    known = {process.process_id: process for process in before.processes}
    seconds = after.at - before.at
    return {
        process.process_id: Rates.between(known.get(process.process_id), process, seconds)
        for process in after.processes
    }


def process_row(process: ProcessStats, rates: Rates, now: float) -> list[str | Text]:
    """The cells of a process, for `PROCESS_COLUMNS`."""
    if process.silent:
        where: list[str | Text] = [process.host, str(process.pid)]
        return [*where, Text("silent", style="bold red"), *[""] * (len(PROCESS_COLUMNS) - 3)]
    round_trip = "none" if process.round_trip is None else f"{process.round_trip * 1000:.1f} ms"
    return [
        process.host,
        str(process.pid),
        span(process.started, now),
        span(process.connected_since, now),
        f"{process.consumers:,}",
        f"{process.groups:,}",
        f"{process.patterns:,}",
        f"{process.promises:,}",
        f"{rates.messages_in:,.0f}",
        f"{rates.messages_out:,.0f}",
        _bad(process.dropped),
        _bad(process.gaps),
        _bad(process.reconnects),
        round_trip,
    ]


def snapshot_as_json(
    layer: MpxChannelLayer, stats: ClusterStats, rates: dict[str, Rates]
) -> dict[str, Any]:
    """What ``--json`` prints."""
    processes = []
    for process in stats.processes:
        rate = rates[process.process_id]
        uptime = None if process.started is None else max(0.0, stats.at - process.started)
        processes.append(
            {
                **asdict(process),
                "uptime": uptime,
                "dropped": process.dropped,
                "messages_in_per_second": rate.messages_in,
                "messages_out_per_second": rate.messages_out,
            }
        )
    return {
        "prefix": layer.prefix,
        "at": stats.at,
        "processes": processes,
        "groups": dict(stats.groups),
        "queues": dict(stats.queues),
    }


def span(since: float | None, now: float | None = None) -> str:
    """How long ago, in its two largest units."""
    if since is None:
        return "no"
    seconds = max(0, int((now if now is not None else time.time()) - since))
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}h"
    if hours:
        return f"{hours}h {minute}m"
    return f"{minutes}m {second}s" if minutes else f"{second}s"


def _bad(count: int) -> Text:
    return Text(f"{count:,}", style="yellow" if count else "")
