"""What the user sees: tables on a terminal, plain columns in a pipe, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

__all__ = ["Output"]

# Columns: wide enough for any line, so that nothing is wrapped or cut in a pipe.
UNLIMITED = 100_000


class Output:
    """Where a subcommand writes to.

    ``as_json``: the user asked for JSON: what `say` and `table` are given is left out, and the
    subcommand calls `json`. ``terminal``: somebody looks at it now.
    """

    def __init__(self, file: TextIO, *, as_json: bool = False, color: bool | None = None) -> None:
        """``color``: None decides by the terminal."""
        self.as_json = as_json
        self.console = Console(
            file=file,
            no_color=color is False or None,
            force_terminal=True if color else None,
            highlight=False,
            soft_wrap=True,
        )
        self.terminal = self.console.is_terminal and not as_json
        if not self.console.is_terminal:
            self.console.width = UNLIMITED

    def say(self, text: str = "", style: str | None = None) -> None:
        """A line of text, not markup."""
        if not self.as_json:
            self.console.print(Text(text, style=style or ""))

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str | Text]],
        *,
        title: str | None = None,
        right: Iterable[str] = (),
    ) -> None:
        """A table; ``right`` names the columns that are aligned to the right, as numbers are."""
        if self.as_json:
            return
        table = self.make_table(columns, rows, title=title, right=right)
        if self.terminal:
            self.console.print(table)
            return
        with self.console.capture() as capture:
            self.console.print(table)
        for line in capture.get().splitlines():
            self.console.print(Text(line.rstrip()))

    def make_table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str | Text]],
        *,
        title: str | None = None,
        right: Iterable[str] = (),
    ) -> Table:
        """As `table`, for whoever shows it otherwise."""
        table = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
            header_style="bold" if self.terminal else "",
        )
        aligned = set(right)
        for column in columns:
            table.add_column(column, justify="right" if column in aligned else "left")
        for row in rows:
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
        return table

    def pretty(self, value: Any) -> None:
        """A value as indented JSON; coloured on a terminal."""
        text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
        if not self.as_json:
            self.console.print(JSONHighlighter()(Text(text)) if self.terminal else Text(text))

    def json(self, value: Any, *, lines: bool = False) -> None:
        """A JSON document; with ``lines`` in a line of its own, else indented."""
        text = json.dumps(value, ensure_ascii=False, indent=None if lines else 2, default=str)
        self.console.file.write(text + "\n")
        self.console.file.flush()
