"""The columns of the table of processes, and which of them a narrow terminal can do without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from mpx_channels.layer import ProcessStats
from mpx_channels.layer.processes.fleet import SUMMED

from .snapshot import Rates, since
from .values import milliseconds

__all__ = [
    "COLUMNS",
    "GAP",
    "Column",
    "Fitted",
    "Line",
    "fit",
    "mark",
    "needed",
    "rate",
    "span",
    "total_line",
]

# Blanks between two columns.
GAP = 2
# No host is shortened to less than this.
SHORTEST_HOST = 12


@dataclass(frozen=True, slots=True)
class Line:
    """A process as the table shows it.

    ``mark``: what is wrong with it, such as "silent"; ``mark_age``: for how many seconds.
    """

    process: ProcessStats
    rates: Rates | None = None
    mark: str = ""
    mark_age: float = 0.0
    # Sums, in place of a process.
    total: bool = False

    @property
    def known(self) -> bool:
        """Whether it has told anything yet."""
        return self.process.at is not None


@dataclass(frozen=True, slots=True)
class Column:
    """One column. ``rank``: the lower, the sooner it is left out; None: never."""

    head: str
    rank: int | None
    cell: Callable[[Line], str | Text]
    # What to sort by.
    key: Callable[[Line], Any]
    # Texts such as hosts begin with a, numbers with the largest.
    descending: bool = True


def _number(head: str, rank: int, name: str, *, bad: bool = False) -> Column:
    def value(line: Line) -> int:
        number: int = getattr(line.process, name)
        return number

    def cell(line: Line) -> str | Text:
        if not line.known or (line.total and name == "groups"):
            return ""  # a group may be in several processes: there is no sum
        text = f"{value(line):,}"
        return Text(text, style="yellow") if bad and value(line) else text

    return Column(head, rank, cell, value)


def _rate(head: str, value: Callable[[Rates], float]) -> Column:
    return Column(
        head,
        None,
        lambda line: rate(value(line.rates)) if line.rates is not None else "",
        lambda line: value(line.rates) if line.rates is not None else 0.0,
    )


def _uptime(line: Line) -> str | Text:
    if line.mark:
        age = f" {span(line.mark_age)}" if line.mark_age >= 1 else ""
        return Text(line.mark + age, style="bold red")
    return "" if line.total else span(since(line.process, line.process.started))


def _connected(line: Line) -> str:
    if line.total or not line.known:
        return ""
    seconds = since(line.process, line.process.connected_since)
    return "no" if seconds is None else span(seconds)


def _round_trip(line: Line) -> str | Text:
    if line.total or not line.known:
        return ""
    seconds = line.process.round_trip
    return Text("none", style="yellow") if seconds is None else milliseconds(seconds)


COLUMNS: tuple[Column, ...] = (
    Column("host", None, lambda line: line.process.host, lambda line: line.process.host, False),
    Column(
        "pid",
        None,
        lambda line: "" if line.total else str(line.process.pid),
        lambda line: line.process.pid,
        False,
    ),
    Column("uptime", None, _uptime, lambda line: since(line.process, line.process.started) or 0),
    Column(
        "connected",
        2,
        _connected,
        lambda line: since(line.process, line.process.connected_since) or 0,
    ),
    _number("consumers", 9, "consumers"),
    _number("groups", 5, "groups"),
    _number("patterns", 0, "patterns"),
    _number("promises", 1, "promises"),
    _number("present", 7, "present"),
    _rate("in/s", lambda rates: rates.messages_in),
    _rate("out/s", lambda rates: rates.messages_out),
    _number("drops", 8, "dropped", bad=True),
    _number("gaps", 6, "gaps", bad=True),
    _number("slow", 3, "closed_slow", bad=True),
    _number("refused", 3, "refused", bad=True),
    _number("drained", 1, "drained"),
    _number("reconnects", 3, "reconnects", bad=True),
    Column("round trip", 4, _round_trip, lambda line: line.process.round_trip or 0.0),
)


def mark(process: ProcessStats) -> str:
    """What is to be said of a process before its figures."""
    return "silent" if process.silent else "draining" if process.draining else ""


def total_line(lines: Iterable[Line]) -> Line:
    """The sums of what can be summed."""
    known = [line for line in lines if line.known]
    rates = [line.rates for line in known if line.rates is not None]
    process = ProcessStats(
        process_id="",
        host="total",
        at=0.0,
        drops={"": sum(line.process.dropped for line in known)},
        **{name: sum(getattr(line.process, name) for line in known) for name in SUMMED},
    )
    summed = Rates(
        sum(rates_.messages_in for rates_ in rates), sum(rates_.messages_out for rates_ in rates)
    )
    return Line(process, summed, total=True)


@dataclass(frozen=True, slots=True)
class Fitted:
    """The columns that fit, and their cells by line; heads of those that are left out.

    ``zero``: of the latter, those that have nothing but zeros.
    """

    columns: list[Column]
    rows: list[list[str | Text]]
    zero: list[str]
    left_out: list[str]


def fit(columns: Sequence[Column], lines: Sequence[Line], width: int) -> Fitted:
    """The columns that fit into the width.

    Columns without anything but zeros go first, then by rank. Then hosts are shortened, which
    still end as they end: that is where pods of one deployment differ.
    """
    cells = {column.head: [column.cell(line) for line in lines] for column in columns}
    widths = {column.head: _width(column, cells[column.head]) for column in columns}
    kept = list(columns)

    def excess() -> int:
        return sum(widths[column.head] + GAP for column in kept) - GAP - width

    def telling(column: Column) -> bool:
        return any(str(cell) not in ("", "0") for cell in cells[column.head])

    def dispensable(column: Column) -> tuple[bool, int]:
        return telling(column), column.rank or 0

    while excess() > 0:
        ranked = [column for column in kept if column.rank is not None]
        if not ranked:
            break
        kept.remove(min(ranked, key=dispensable))
    if excess() > 0 and "host" in cells:
        length = max(SHORTEST_HOST, widths["host"] - excess())
        cells["host"] = [_shortened(str(cell), length) for cell in cells["host"]]
    rows = [list(row) for row in zip(*(cells[column.head] for column in kept), strict=True)]
    left_out = [column for column in columns if column not in kept]
    return Fitted(
        kept,
        rows,
        zero=[column.head for column in left_out if not telling(column)],
        left_out=[column.head for column in left_out if telling(column)],
    )


def needed(columns: Iterable[Column], lines: Sequence[Line]) -> int:
    """The width that all columns take."""
    widths = (_width(column, [column.cell(line) for line in lines]) for column in columns)
    return sum(width + GAP for width in widths) - GAP


def _width(column: Column, cells: Iterable[str | Text]) -> int:
    lengths = (cell.cell_len if isinstance(cell, Text) else cell_len(cell) for cell in cells)
    return max(cell_len(column.head), *lengths, 0)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else "~" + text[1 - length :]


def rate(value: float) -> str:
    """Messages per second, with a decimal where it tells something."""
    return f"{value:.1f}" if 0.05 <= value < 9.95 else f"{value:,.0f}"


def span(seconds: float | None) -> str:
    """A time in its two largest units."""
    if seconds is None:
        return ""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}h"
    if hours:
        return f"{hours}h {minute}m"
    return f"{minutes}m {second}s" if minutes else f"{second}s"
