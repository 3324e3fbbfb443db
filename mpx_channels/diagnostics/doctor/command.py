"""The subcommand: runs the checks one by one, and shows each as it ends."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

from mpx_channels.diagnostics.output import Output
from mpx_channels.diagnostics.pages import page
from mpx_channels.diagnostics.session import Session
from mpx_channels.diagnostics.subcommand import FINE, FOUND, Subcommand

from . import (
    cluster,
    encryption,
    limits,
    masters,
    neighbours,
    nodes,
    permissions,
    roundtrips,
    sentinels,
    settings,
    versions,
)
from .examination import Check, Examination, Row, ServerCheck
from .findings import Finding, Level, skipped

__all__ = ["CHECKS", "Doctor"]

CHECKS: tuple[Check, ...] = (
    *settings.CHECKS,
    *versions.CHECKS,
    *masters.CHECKS,
    *nodes.CHECKS,
    *sentinels.CHECKS,
    *permissions.CHECKS,
    *limits.CHECKS,
    *cluster.CHECKS,
    *roundtrips.CHECKS,
    *encryption.CHECKS,
    *neighbours.CHECKS,
)

# Stands for all that could not look for one and the same reason.
NOT_LOOKED_AT = Check("not-looked-at", "Not looked at", "")

MARKS = {
    Level.OK: ("✔", "green"),
    Level.INFO: ("i", "cyan"),
    Level.WARNING: ("!", "yellow"),
    Level.PROBLEM: ("✘", "bold red"),
    Level.SKIPPED: ("-", "dim"),
}
# Columns of the titles.
WIDTH = max(len(check.title) for check in CHECKS) + 2


class Doctor(Subcommand):
    """Examines the project, its layer and its servers."""

    name = "doctor"
    help = "Check the settings, the server, its ACL and limits, and what the layer does there."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--strict", action="store_true", help="warnings, too, make it exit 1")

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        exam = Examination(session)
        rows: list[Row] = []
        try:
            with _live(out) as status:
                for check in CHECKS:
                    if status is not None:
                        status.update(f"{check.title} ...")
                    subjects = exam.servers if isinstance(check, ServerCheck) else [None]
                    for server in subjects or [None]:
                        found = await exam.run(check, server)
                        rows += found
                        for row in found:
                            if not (row.finding.because or row.finding.folded):
                                _show(out, row, several=len(exam.servers) > 1)
            for row in _folded(rows):
                _show(out, row, several=len(exam.servers) > 1)
            _fold(out, rows, several=len(exam.servers) > 1)
        finally:
            await exam.close()
        counts = Counter(row.finding.level for row in rows)
        if out.as_json:
            out.json(
                {
                    "layer": session.alias,
                    "checks": [row.as_json() for row in rows],
                    "problems": counts[Level.PROBLEM],
                    "warnings": counts[Level.WARNING],
                    "skipped": counts[Level.SKIPPED],
                }
            )
        else:
            _sum_up(out, counts)
        bad = counts[Level.PROBLEM] or (options["strict"] and counts[Level.WARNING])
        return FOUND if bad else FINE


def _folded(rows: Iterable[Row]) -> Iterator[Row]:
    """A row for each reason that kept checks from looking, with the names of all these."""
    kept: dict[tuple[str | None, Finding], list[str]] = {}
    for row in rows:
        if row.finding.folded:
            kept.setdefault((row.node, row.finding), []).append(row.check.title)
    for (node, finding), titles in kept.items():
        found = f"{', '.join(dict.fromkeys(titles))}: {finding.found}"
        yield Row(NOT_LOOKED_AT, replace(finding, found=found), node)


@contextlib.contextmanager
def _live(out: Output) -> Iterator[Status | None]:
    """A line on the terminal that tells what is looked at now."""
    if not out.terminal:
        yield None
        return
    with out.console.status("", spinner="dots" if _has_unicode(out) else "line") as status:
        yield status


def _has_unicode(out: Output) -> bool:
    """Whether the terminal has marks and spinners, or letters only."""
    return out.console.encoding.lower().startswith("utf")


def _show(out: Output, row: Row, *, several: bool) -> None:
    finding, check = row.finding, row.check
    found = f"{row.node}: {finding.found}" if several and row.node else finding.found
    mark, style = MARKS[finding.level]
    details = []
    if finding.level in (Level.WARNING, Level.PROBLEM):
        details.append(("why", finding.why or check.why))
    elif finding.level is Level.INFO and finding.why:
        details.append(("why", finding.why))
    details += [("do", line) for line in finding.todo.splitlines()]
    if not out.terminal:
        out.say(f"{finding.level:8} {check.title:{WIDTH}}{found}")
        for label, text in details:
            out.say(f"{'':8} {label:>{WIDTH - 2}}: {text}")
        return
    if not _has_unicode(out):
        mark = finding.level[0]
    line = Text.assemble((f"{mark} ", style), (f"{check.title:{WIDTH}}", "bold"))
    _print(out, line, found)
    for label, text in details:
        _print(out, Text(f"  {label:>{WIDTH - 2}}  ", "dim"), text)


def _fold(out: Output, rows: list[Row], *, several: bool) -> None:
    """What was not looked at, in a line for each reason."""
    by_reason: defaultdict[tuple[str, str | None], list[Row]] = defaultdict(list)
    for row in rows:
        if row.finding.because:
            by_reason[row.finding.because, row.node if several else None].append(row)
    for (reason, node), folded in by_reason.items():
        if len(folded) == 1:
            _show(out, folded[0], several=several)
            continue
        titles = ", ".join(row.check.title for row in folded)
        check = Check("", "Not looked at", "")
        _show(out, Row(check, skipped(f"{reason}: {titles}"), node), several=several)


def _print(out: Output, label: Text, text: str) -> None:
    """A label, and beside it a text in as many lines as it takes."""
    grid = Table.grid(padding=0)
    grid.add_column(no_wrap=True, width=WIDTH + 2)
    grid.add_column(overflow="fold")
    grid.add_row(label, Text(text))
    out.console.print(Padding(grid, 0), soft_wrap=False)


def _sum_up(out: Output, counts: Counter[Level]) -> None:
    parts = [
        f"{counts[level]} {word if counts[level] == 1 else plural}"
        for level, word, plural in (
            (Level.PROBLEM, "problem", "problems"),
            (Level.WARNING, "warning", "warnings"),
            (Level.SKIPPED, "not looked at", "not looked at"),
        )
        if counts[level]
    ]
    style = "green"
    if counts[Level.WARNING]:
        style = "yellow"
    if counts[Level.PROBLEM]:
        style = "bold red"
    out.say()
    out.say(", ".join(parts) + "." if parts else "All is well.", style)
    if counts[Level.PROBLEM]:
        out.say(f"More about what may be wrong: {page('troubleshooting')}", "dim")
