"""What whoever started the campaign sees: a table and a progress bar, plain lines, or JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .cases import Case
from .counts import Verdict

__all__ = ["Report"]

# The figures that a line has, and how each is called there.
FIGURES = {
    "sent": "sent",
    "received": "received",
    "unknown": "unknown",
    "refused": "refused",
    "lost_in_gaps": "lost, told",
    "dropped": "dropped",
    "gaps": "gaps",
    "recovery": "back in s",
    "seconds": "took s",
}


class Report:
    """Takes verdicts as they come; ``total`` is how many cases there will be, or seconds."""

    def __init__(
        self, seed: int, *, as_json: bool = False, total: float, file: TextIO | None = None
    ) -> None:
        self.failed: list[tuple[str, int]] = []
        self.verdicts = 0
        self.totals: Counter[str] = Counter()
        self.slowest = ("", 0.0)
        self._seed = seed
        self._json = as_json
        self._console = Console(file=file or sys.stdout, highlight=False, soft_wrap=True)
        self._rows: list[tuple[Case, int, Verdict]] = []
        self._progress: Progress | None = None
        if not as_json and self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
                TimeRemainingColumn(), console=self._console, transient=True,
            )  # fmt: skip
            self._task = self._progress.add_task("", total=total)
            self._progress.start()
        if not as_json:
            self._print(f"Seed {seed}: --seed {seed} plays the same again.")

    def begins(self, case: Case, done: float) -> None:
        """A case is about to be played; ``done``: of the total."""
        if self._progress is not None:
            self._progress.update(self._task, description=case.name, completed=done)

    def ended(self, case: Case, seed: int, verdict: Verdict) -> None:
        """A case was played."""
        self.verdicts += 1
        figures = verdict.figures
        for key in ("sent", "received", "unknown", "refused", "lost_in_gaps", "dropped", "gaps"):
            self.totals[key] += int(figures.get(key, 0))
        self.slowest = max(
            self.slowest, (case.name, figures.get("recovery", 0.0)), key=lambda pair: pair[1]
        )
        if verdict.problems:
            self.failed.append((case.name, seed))
        if self._json:
            self._print_json(
                {
                    "case": case.name,
                    "seed": seed,
                    "passed": not verdict.problems,
                    "problems": [
                        {"what": each.what, "count": each.count, "example": each.example}
                        for each in verdict.problems
                    ],
                    "figures": {key: round(value, 3) for key, value in figures.items()},
                }
            )
            return
        if self._progress is not None:
            self._rows.append((case, seed, verdict))
        else:
            shown = ", ".join(
                f"{name} {_number(figures[key])}" for key, name in FIGURES.items() if key in figures
            )
            self._print(f"{'FAILED' if verdict.problems else 'passed'} {case.name}: {shown}")
        for problem in verdict.problems:
            self._print(f"  {case.name}: {problem}", "red")
        if verdict.problems:
            self._print(f"  again: python -m tests.faults --case {case.name} --seed {seed}")

    def finish(self, left: list[str]) -> int:
        """The end: print the whole; return the exit status."""
        if self._progress is not None:
            self._progress.stop()
            self._table()
        passed = not self.failed and not left
        if self._json:
            self._print_json(
                {
                    "seed": self._seed,
                    "passed": passed,
                    "cases": self.verdicts,
                    "failed": [{"case": name, "seed": seed} for name, seed in self.failed],
                    "left_over": left,
                    "totals": dict(self.totals),
                    "slowest_recovery": {"case": self.slowest[0], "seconds": self.slowest[1]},
                }
            )
        else:
            for text in left:
                self._print(f"  left over after close(): {text}", "red")
            self._print(
                f"{self.verdicts} cases, {len(self.failed)} failed: "
                + ", ".join(f"{self.totals[key]} {FIGURES[key]}" for key in self.totals)
                + f"; slowest recovery {self.slowest[1]:.2f} s ({self.slowest[0]})",
                None if passed else "red",
            )
        return 0 if passed else 1

    def _table(self) -> None:
        table = Table(box=None, pad_edge=False)
        table.add_column("case", no_wrap=True)
        for name in FIGURES.values():
            table.add_column(name, justify="right")
        for case, _, verdict in self._rows:
            table.add_row(
                Text(case.name, style="red" if verdict.problems else "green"),
                *[_number(verdict.figures.get(key, 0)) for key in FIGURES],
            )
        self._console.print(table)

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(Text(text, style=style or ""))
        self._console.file.flush()

    def _print_json(self, what: dict[str, Any]) -> None:
        print(json.dumps(what), file=self._console.file, flush=True)


def _number(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
