"""What `mpx top` draws."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from .board import Board, Traces, View
from .columns import COLUMNS, GAP, Column, Line, fit, needed, rate, total_line
from .snapshot import Snapshot
from .sparkline import Trace

__all__ = ["draw"]

# Of the lines on top, and of those of each process.
LONGEST_TOTAL, LONGEST, SHORTEST = 60, 20, 6
# Of the bars on top: lines, where there are so many to spare, and columns of each bar.
TALLEST, WIDEST = 8, 2
# Names of columns whose heads say something else.
BARS_IN, BARS_OUT = "<in", ">out"
KEYS = "q leave  < > sort  r reverse  j k scroll"


def draw(board: Board, view: View, width: int, height: int, *, ascii: bool = False) -> Group:
    """The screen: exactly `height` lines, none longer than `width`."""
    head = len(_header(board, width, ascii, 1))
    # The line of heads and a total; a footer.
    needed = len(board.lines) + 2
    bottom = _tables(board, width, height, height - head - needed - 1)
    spare = height - head - needed - len(bottom) - 1
    top = _header(board, width, ascii, max(1, min(TALLEST, 1 + spare // 2)))
    rows = height - len(top) - len(bottom) - 1
    middle = _processes(board, view, width, max(2, rows), ascii)
    lines = [*top, *middle]
    lines += [Text()] * (height - len(lines) - len(bottom) - 1)
    lines = [*[*lines, *bottom][: height - 1], _footer(view, width)]
    return Group(*map(_one_line, lines))


def _one_line(line: RenderableType) -> RenderableType:
    if isinstance(line, Text):
        line.no_wrap, line.overflow, line.end = True, "crop", "\n"
    return line


# -- the top --------------------------------------------------------------------------------------


def _header(board: Board, width: int, ascii: bool, tall: int) -> list[Text]:
    snapshot = board.snapshot
    clock = time.strftime("%H:%M:%S")
    if snapshot is None:
        header = [_apart(Text("looking ...", style="bold"), clock, width)]
    else:
        header = _overview(board, snapshot, clock, width, ascii, tall)
    if board.error is not None:
        since = time.strftime("%H:%M:%S", time.localtime(board.error_since))
        text = f" No answer since {since}: {board.error} "
        header.append(Text(text.ljust(width), style="bold white on red"))
    for part, reason in snapshot.stats.incomplete.items() if snapshot is not None else ():
        header.append(Text(f"Not known ({part}): {reason}", style="yellow"))
    return [*header, Text()]


def _overview(
    board: Board, snapshot: Snapshot, clock: str, width: int, ascii: bool, tall: int
) -> list[Text]:
    where = Text(snapshot.prefix, style="bold").append(
        f" on {', '.join(snapshot.servers)}", style="not bold"
    )
    lines = board.lines
    here = [line for line in lines if line.mark != "gone"]
    silent = sum(line.mark == "silent" for line in lines)
    consumers = sum(line.process.consumers for line in here if line.mark in ("", "draining"))
    counted = Text(f"{_many(len(here), 'process', 'es')}, {_many(consumers, 'consumer')}")
    if silent:
        counted.append(f", {silent} silent", style="bold red")
    if (drops := sum(line.process.dropped for line in here)) > 0:
        counted.append(f", {_many(drops, 'drop')}", style="yellow")
    rates = board.rates()
    messages_in = None if rates is None else rates.messages_in
    messages_out = None if rates is None else rates.messages_out
    return [
        _apart(where, clock, width),
        counted,
        *_total("in", board.total.messages_in, messages_in, width, ascii, tall),
        *_total("out", board.total.messages_out, messages_out, width, ascii, tall),
    ]


def _many(number: int, what: str, plural: str = "s") -> str:
    return f"{number:,} {what}{'' if number == 1 else plural}"


def _apart(left: Text, right: str, width: int) -> Text:
    left.truncate(max(0, width - len(right) - 1))
    return left.append(" " * max(1, width - left.cell_len - len(right))).append(right)


def _total(
    name: str, trace: Trace, value: float | None, width: int, ascii: bool, tall: int
) -> list[Text]:
    """The bars in so many lines, and what they mean in the last."""
    number = "" if value is None else f"{rate(value)}/s"
    label = f"{name:<3} {number:>10} "
    peak = f" peak {rate(trace.peak)}/s"
    room = width - len(label) - len(peak)
    wide = max(1, min(WIDEST, room // LONGEST_TOTAL)) if tall > 1 else 1
    *above, last = (
        Text("".join(bar * wide for bar in bars), style="green")
        for bars in trace.chart(min(LONGEST_TOTAL, room), tall, ascii=ascii)
    )
    blank = " " * len(label)
    lines = [Text(blank).append_text(line) for line in above]
    return [*lines, Text(label).append_text(last).append(peak, style="dim")]


# -- the processes --------------------------------------------------------------------------------


def _processes(board: Board, view: View, width: int, height: int, ascii: bool) -> list[Text]:
    """A line of heads, and those of the processes that fit; with a total if there are several."""
    lines = board.lines
    if not lines:
        empty = "" if board.snapshot is None else "No process uses this prefix now."
        return [Text(empty)]
    total = [total_line(line for line in lines if not line.mark)] if len(lines) > 1 else []
    shown = view.visible(lines, height - 1 - len(total))
    fitted = fit(_columns(board, lines, width, ascii), [*shown, *total], width)
    columns, rows = fitted.columns, fitted.rows
    widths = [
        max([len(_head(column)), *(_text(row[at]).cell_len for row in rows)])
        for at, column in enumerate(columns)
    ]
    heads = Text()
    for column, length in zip(columns, widths, strict=True):
        style = "bold reverse" if column.head == view.sort.head else "bold"
        _add(heads, Text(_head(column), style=style), length, left=column.head == "host")
    drawn = [heads]
    for line, row in zip([*shown, *total], rows, strict=True):
        text = Text()
        for column, cell, length in zip(columns, row, widths, strict=True):
            _add(text, _text(cell), length, left=column.head == "host")
        if line.total:
            text.stylize("bold")
        elif line.mark or board.error is not None:
            text.stylize("dim")
        drawn.append(text)
    return drawn


def _columns(board: Board, lines: Sequence[Line], width: int, ascii: bool) -> list[Column]:
    """With a line of bars behind each rate, as long as there is room for."""
    room = (width - needed(COLUMNS, lines)) // 2 - GAP
    length = max(SHORTEST, min(LONGEST, room))
    columns: list[Column] = []
    for column in COLUMNS:
        columns.append(column)
        if column.head == "in/s":
            columns.append(_bars(board, "messages_in", BARS_IN, length, ascii))
        elif column.head == "out/s":
            columns.append(_bars(board, "messages_out", BARS_OUT, length, ascii))
    return columns


def _bars(board: Board, direction: str, head: str, length: int, ascii: bool) -> Column:
    def trace(traces: Traces) -> Trace:
        found: Trace = getattr(traces, direction)
        return found

    # The same for all, so that they can be compared.
    top = max((trace(traces).peak for traces in board.traces.values()), default=0.0)

    def cell(line: Line) -> Text:
        traces = board.traces.get(line.process.process_id)
        if traces is None:
            return Text()
        return Text(trace(traces).bars(length, top, ascii=ascii), style="green")

    return Column(head, 7, cell, lambda line: 0)


def _head(column: Column) -> str:
    return "1 min" if column.head in (BARS_IN, BARS_OUT) else column.head


def _text(cell: str | Text) -> Text:
    return Text(cell) if isinstance(cell, str) else cell.copy()


def _add(line: Text, cell: Text, length: int, *, left: bool) -> None:
    padding = " " * (length - cell.cell_len)
    if line:
        line.append(" " * GAP)
    if left:
        line.append_text(cell).append(padding)
    else:
        line.append(padding).append_text(cell)


# -- the bottom -----------------------------------------------------------------------------------


def _tables(board: Board, width: int, height: int, spare: int) -> list[Text]:
    """The busiest groups and the queues side by side.

    In a third of the screen, or in what the processes leave of it.
    """
    if board.snapshot is None or height < 16:
        return []
    stats = board.snapshot.stats
    present = stats.present
    groups = [
        (name, f"{size:,}" + (f" ({present.get(name, 0):,})" if present else ""))
        for name, size in stats.groups.items()
    ]
    queues = sorted(stats.queues.items(), key=lambda item: (-item[1], item[0]))
    lengths = [(name, f"{length:,}") for name, length in queues]
    half = (width - GAP) // 2 if groups and lengths else width
    most = max(height // 3, spare) - 2
    head = "consumers (present)" if present else "consumers"
    left = _pairs("busiest groups", head, groups[:most], half)
    right = _pairs("plain channels", "unread", lengths[:most], half)
    if not left or not right:
        lines = left or right
    else:
        lines = []
        for at in range(max(len(left), len(right))):
            line = left[at].copy() if at < len(left) else Text()
            line.append(" " * (half + GAP - line.cell_len))
            lines.append(line.append_text(right[at] if at < len(right) else Text()))
    if board.error is not None:
        for line in lines:
            line.stylize("dim")
    return [Text(), *lines] if lines else []


def _pairs(name: str, number: str, pairs: list[tuple[str, str]], width: int) -> list[Text]:
    if not pairs:
        return []
    right = max(len(number), *(len(value) for _, value in pairs))
    left = min(width - right - GAP, max(len(name), *(len(key) for key, _ in pairs)))
    if left < len(name):
        return []
    lines = []
    for key, value in [(name, number), *pairs]:
        shown = key if len(key) <= left else key[: left - 1] + "~"
        lines.append(Text(f"{shown:<{left}}{' ' * GAP}{value:>{right}}"))
    lines[0].stylize("bold")
    return lines


def _footer(view: View, width: int) -> Text:
    last = min(view.rows, view.offset + view.page)
    seen = f"{view.offset + 1}-{last} of {view.rows}" if view.rows > view.page else ""
    told = "  ".join(each for each in (seen, f"by {view.sort.head}, {view.order}") if each)
    return Text(KEYS).append(" " * max(2, width - len(KEYS) - len(told))).append(told)
