"""What the user sees: tables on a terminal, plain columns in a pipe, JSON for machines."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any, TextIO

from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.table import Table
from rich.text import Text

from .streams import write
from .values import as_json, encodable, escaped

__all__ = ["Output"]

# Columns: wide enough for any line, so that nothing is wrapped or cut in a pipe.
UNLIMITED = 100_000

_highlight_json = JSONHighlighter()


class Nowhere(io.StringIO):
    """In place of a stdout or stderr that the shell has closed (``>&-``)."""

    def write(self, text: str) -> int:
        return len(text)


class Terminal(Console):
    """Rich's, which would end the process with 1 when nobody reads any more, as of ``| head``."""

    def on_broken_pipe(self) -> None:
        """Leave it to whoever has called, as with any other file."""
        raise BrokenPipeError


class Output:
    """Where a subcommand writes to.

    ``as_json``: the user asked for JSON: what `say` and `table` are given is left out, and the
    subcommand calls `json`. ``terminal``: somebody looks at it now. ``colors``: there are colours,
    on a terminal or because the user wants them in a pipe.
    """

    def __init__(
        self,
        file: TextIO | None = None,
        *,
        errors: TextIO | None = None,
        as_json: bool = False,
        color: bool | None = None,
    ) -> None:
        """``color``: None decides by the terminal.

        ``file`` (stdout) and ``errors`` (stderr): where everything goes, and what `note` has.
        """
        self.as_json = as_json
        self.file = file = file or sys.stdout or Nowhere()
        self.errors = errors or sys.stderr or Nowhere()
        self.terminal = not as_json and _is_terminal(file)
        self.console = Terminal(
            file=file,
            no_color=color is False or None,
            force_terminal=True if color else None,
            highlight=False,
            soft_wrap=True,
        )
        self.colors = self.console.is_terminal and not as_json
        if not self.terminal:
            self.console.width = UNLIMITED
        self._errors = Terminal(
            file=self.errors,
            no_color=color is False or None,
            highlight=False,
            soft_wrap=True,
        )

    def say(self, text: str = "", style: str | None = None) -> None:
        """A line of text, not markup."""
        if not self.as_json:
            self.console.print(Text(self._fit(text), style=style or ""))

    def note(self, text: str, style: str | None = None) -> None:
        """A line on stderr, also with ``--json``: about the output, not part of it."""
        self._errors.print(Text(_fit(text, self._errors.file), style=style or ""))

    async def line(self, *parts: tuple[str, str | None]) -> None:
        """A line of texts with their styles, two spaces between them; "json" highlights JSON.

        It is written at once, and the event loop runs while whoever reads takes their time.
        """
        if self.as_json:
            return
        texts = [self._fit(text) for text, _ in parts]
        if not self.colors:
            await write(self.file, "  ".join(texts) + "\n")
            return
        line = Text("  ").join(
            _highlight_json(Text(text)) if style == "json" else Text(text, style=style or "")
            for text, (_, style) in zip(texts, parts, strict=True)
        )
        with self.console.capture() as capture:
            self.console.print(line)
        await write(self.file, capture.get())

    async def json_line(self, value: Any) -> None:
        """A JSON document in a line of its own, written as `line` does."""
        await write(self.file, self._fit(as_json(value)) + "\n")

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
            text = Text.from_ansi(line)
            text.rstrip()
            self.console.print(text)

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
            header_style="bold" if self.colors else "",
        )
        aligned = set(right)
        for column in columns:
            table.add_column(
                column,
                justify="right" if column in aligned else "left",
                # Digits are never cut, and names are folded rather than.
                no_wrap=column in aligned,
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(self._cell(cell) for cell in row))
        return table

    def pretty(self, value: Any) -> None:
        """A value as indented JSON; coloured on a terminal."""
        if not self.as_json:
            text = Text(self._fit(as_json(value, indent=2)))
            self.console.print(_highlight_json(text) if self.colors else text)

    def json(self, value: Any, *, lines: bool = False) -> None:
        """A JSON document; with ``lines`` in a line of its own, else indented."""
        self.file.write(self._fit(as_json(value, indent=None if lines else 2)) + "\n")
        self.file.flush()

    def _cell(self, cell: str | Text) -> Text:
        return Text(self._fit(cell)) if isinstance(cell, str) else cell

    def _fit(self, text: str) -> str:
        """The text as a terminal can show it, and the file can have it."""
        return _fit(text, self.file)


def _fit(text: str, file: IO[str]) -> str:
    return encodable(escaped(text), getattr(file, "encoding", None) or "utf-8")


def _is_terminal(file: TextIO) -> bool:
    return bool(getattr(file, "isatty", bool)())
