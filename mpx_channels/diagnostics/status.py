"""`mpx status`: all processes of a prefix in one table, the busiest groups, the queues."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections import defaultdict
from typing import Any

from mpx_channels.layer import ProcessStats

from .columns import COLUMNS, Line, fit, mark, total_line
from .output import Output
from .session import Session
from .snapshot import Snapshot, look
from .subcommand import FINE, FOUND, WRONG_USAGE, Refusal, Subcommand

__all__ = ["Status", "add_groups_argument", "number_of_groups"]

# Seconds between the two looks that rates are made of.
INTERVAL = 1.0
# Processes that are named for each cause of drops.
NAMED = 3


def add_groups_argument(parser: ArgumentParser) -> None:
    """``--groups``, of `mpx status` and `mpx top`."""
    parser.add_argument(
        "--groups", type=int, default=10, metavar="N", help="how many of the busiest (10)"
    )


def number_of_groups(options: dict[str, Any]) -> int:
    """The value of ``--groups``, or a refusal."""
    groups: int = options["groups"]
    if groups < 0:
        raise Refusal(f"--groups must be 0 or more, not {groups}", WRONG_USAGE)
    return groups


class Status(Subcommand):
    """Asks all processes, twice: for the rates."""

    name = "status"
    help = "Show all live processes of the layer's prefix, the busiest groups and the queues."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_groups_argument(parser)

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        groups = number_of_groups(options)
        layer = await session.connect()
        before = await look(layer, groups=0, queues=False)
        await asyncio.sleep(INTERVAL)
        snapshot = await look(layer, before, groups=groups)
        if out.as_json:
            out.json(snapshot.as_json())
        else:
            _show(out, snapshot)
        unknown = not snapshot.stats.incomplete.keys().isdisjoint(("servers", "silent"))
        return FOUND if snapshot.silent or unknown or not session.complete else FINE


def _show(out: Output, snapshot: Snapshot) -> None:
    stats = snapshot.stats
    where = f"{snapshot.prefix} on {', '.join(snapshot.servers)}"
    if stats.processes:
        silent = f", {snapshot.silent} silent" if snapshot.silent else ""
        _processes(out, snapshot, f"Processes of {where}: {len(stats.processes)}{silent}")
    else:
        out.say(f"No process uses the prefix {where} now.")
    causes = _drops_by_cause(stats.processes)
    if causes:
        out.say()
        out.table(("drops", "messages", "where"), causes, right={"messages"})
    moved = [each for each in stats.processes if each.slots_moved or each.redirections]
    if moved:
        out.say()
        changes = [
            (f"{each.host} {each.pid}", f"{each.slots_moved:,}", f"{each.redirections:,}")
            for each in moved
        ]
        numbers = ("slots moved", "redirections")
        out.table(("process", *numbers), changes, right=numbers, title="The cluster has changed")
    refused = [each for each in stats.processes if each.names_refused]
    if refused:
        out.say()
        rows = [
            (f"{each.host} {each.pid}", f"{each.names_refused:,}", each.refusal) for each in refused
        ]
        out.table(("process", "names refused", "why"), rows, right={"names refused"})
    if stats.groups:
        out.say()
        heads = ("group", "consumers", "present") if stats.present else ("group", "consumers")
        sizes = [
            (group, f"{size:,}", f"{stats.present.get(group, 0):,}")[: len(heads)]
            for group, size in stats.groups.items()
        ]
        out.table(heads, sizes, right=set(heads[1:]), title="Busiest groups")
    if stats.queues:
        out.say()
        lengths = [(queue, f"{length:,}") for queue, length in sorted(stats.queues.items())]
        out.table(("plain channel", "unread"), lengths, right={"unread"}, title="Queues")
    for part, reason in stats.incomplete.items():
        out.say()
        out.say(f"Not known ({part}): {reason}", "yellow")


def _processes(out: Output, snapshot: Snapshot, title: str) -> None:
    lines = [
        Line(each, snapshot.rates.get(each.process_id), mark(each))
        for each in snapshot.stats.processes
    ]
    if len(lines) > 1:
        lines.append(total_line(lines))
    fitted = fit(COLUMNS, lines, out.console.width)
    heads = [column.head for column in fitted.columns]
    out.table(heads, fitted.rows, right=heads[1:], title=title)
    if fitted.zero:
        out.say(f"All 0: {', '.join(fitted.zero)}.", "dim")
    if fitted.left_out:
        out.say(f"Only on a wider terminal: {', '.join(fitted.left_out)}.", "dim")


def _drops_by_cause(processes: tuple[ProcessStats, ...]) -> list[tuple[str, str, str]]:
    """The causes, the most frequent first, each with the processes that have most of it."""
    by_cause: defaultdict[str, list[tuple[int, ProcessStats]]] = defaultdict(list)
    for process in processes:
        for cause, count in process.drops.items():
            if count:
                by_cause[cause].append((count, process))
    rows = []
    for cause, found in sorted(by_cause.items(), key=lambda item: -sum(n for n, _ in item[1])):
        found.sort(key=lambda each: -each[0])
        named = [f"{process.host} {process.pid}: {n:,}" for n, process in found[:NAMED]]
        if len(found) > NAMED:
            named.append(f"{len(found) - NAMED} more")
        rows.append((cause, f"{sum(n for n, _ in found):,}", ", ".join(named)))
    return rows
