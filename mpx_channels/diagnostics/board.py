"""What `mpx top` knows: the processes of the last looks, and their last minute."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .columns import COLUMNS, Column, Line, mark
from .snapshot import Rates, Snapshot
from .sparkline import Trace

__all__ = ["Board", "Traces", "View"]

# Seconds that a process stays in sight after it has disappeared.
GONE_FOR = 5.0


@dataclass(frozen=True, slots=True)
class Traces:
    """The rates of the last minute."""

    messages_in: Trace
    messages_out: Trace

    @classmethod
    def of(cls, length: int) -> Traces:
        return cls(Trace(length), Trace(length))

    def add(self, rates: Rates | None) -> None:
        self.messages_in.add(rates.messages_in if rates is not None else None)
        self.messages_out.add(rates.messages_out if rates is not None else None)


class Board:
    """Takes snapshots, and the failures between them. Times are `time.monotonic`'s."""

    def __init__(self, samples: int) -> None:
        """``samples``: how many looks there are in a minute."""
        self._samples = samples
        self.snapshot: Snapshot | None = None
        self.total = Traces.of(samples)
        self.traces: dict[str, Traces] = {}
        # Why there is no newer snapshot, and since when (Unix time).
        self.error: str | None = None
        self.error_since = 0.0
        self._lines: dict[str, Line] = {}
        # What is wrong with a process, and since when.
        self._marked: dict[str, tuple[str, float]] = {}
        self._looks = 0

    @property
    def lines(self) -> list[Line]:
        """The processes, in no particular order."""
        return list(self._lines.values())

    def update(self, snapshot: Snapshot, now: float) -> None:
        """A look has succeeded."""
        self.snapshot, self.error = snapshot, None
        lines = {}
        for process in snapshot.stats.processes:
            id_ = process.process_id
            line = Line(process, snapshot.rates.get(id_), mark(process))
            lines[id_] = self._troubled(line, "silent", now) if process.silent else line
        for id_, line in self._lines.items():
            if id_ not in lines:
                gone = self._troubled(line, "gone", now)
                if gone.mark_age < GONE_FOR:
                    lines[id_] = gone
        self._marked = {
            id_: self._marked[id_]
            for id_, line in lines.items()
            if line.mark and id_ in self._marked
        }
        self._lines = lines
        rates = self.rates()
        self.total.add(rates)
        traces = {}
        for id_ in lines:
            traces[id_] = self.traces.get(id_) or Traces.of(self._samples)
            traces[id_].add(snapshot.rates.get(id_))
        self.traces = traces
        self._looks += 1

    def failed(self, error: str) -> None:
        """A look has failed: what was known stays."""
        if self.error is None:
            self.error_since = time.time()
        self.error = error
        for traces in (self.total, *self.traces.values()):
            traces.add(None)

    def rates(self) -> Rates | None:
        """Of all processes together; None before the second look."""
        if self.snapshot is None or not self._looks:
            return None
        known = self.snapshot.rates.values()
        return Rates(sum(r.messages_in for r in known), sum(r.messages_out for r in known))

    def _troubled(self, line: Line, mark: str, now: float) -> Line:
        """The line with the last numbers that there were, and since when there are no others."""
        id_ = line.process.process_id
        known = self._lines.get(id_, line)
        was, since = self._marked.get(id_, ("", now))
        if was != mark:
            since = now
        self._marked[id_] = mark, since
        return Line(known.process, None, mark, now - since)


class View:
    """How the processes are looked at: sorted by what, from which row on."""

    def __init__(self, sort: str = "in/s") -> None:
        self._columns = {column.head: column for column in COLUMNS}
        self._sort = self._columns[sort]
        self._reverse = False
        self.offset = 0
        # Rows that there were, and that could be seen, when last drawn.
        self.rows = 0
        self.page = 1

    @property
    def sort(self) -> Column:
        """The column to sort by."""
        return self._sort

    @property
    def order(self) -> str:
        """In words."""
        descending = self._sort.descending is not self._reverse
        if self._sort.head in ("host", "pid"):
            return "z-a" if descending else "a-z"
        return "largest first" if descending else "smallest first"

    def press(self, key: str) -> None:
        """Do what a key is for; most are for nothing."""
        heads = list(self._columns)
        at = heads.index(self._sort.head)
        match key:
            case "<" | "," | "left":
                self._sort, self._reverse = self._columns[heads[at - 1]], False
            case ">" | "." | "right":
                self._sort, self._reverse = self._columns[heads[(at + 1) % len(heads)]], False
            case "r" | "R":
                self._reverse = not self._reverse
            case "j" | "down":
                self.offset += 1
            case "k" | "up":
                self.offset -= 1
            case " " | "f" | "page down":
                self.offset += self.page
            case "b" | "page up":
                self.offset -= self.page
            case "g" | "home":
                self.offset = 0
            case "G" | "end":
                self.offset = self.rows
        self.offset = max(0, min(self.offset, self.rows - self.page))

    def visible(self, lines: list[Line], page: int) -> list[Line]:
        """The lines in order, those in trouble first, as many as a page has."""
        lines = sorted(lines, key=lambda line: (line.process.host, line.process.pid))
        lines.sort(key=self._sort.key, reverse=self._sort.descending is not self._reverse)
        lines.sort(key=lambda line: not line.mark)
        self.rows, self.page = len(lines), max(1, page)
        self.offset = max(0, min(self.offset, self.rows - self.page))
        return lines[self.offset : self.offset + self.page]
