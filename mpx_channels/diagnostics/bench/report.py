"""The result of a contest: a table, or JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.text import Text

from mpx_channels import __version__
from mpx_channels.diagnostics.output import Output

from .contenders import Contender
from .contest import Ratio, Result
from .measures import FIGURES

__all__ = ["Report", "Settings"]

BAR_WIDTH = 24
PACKAGES = ("channels", "redis", "hiredis", "channels_redis")


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for, and what follows; ``seconds`` of measuring for each layer."""

    clients: int
    groups: int
    seconds: float
    burst: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known of a run; ours is the first of the contenders."""

    alias: str
    server: str
    prefix: str
    at: float
    other_processes: int | None
    settings: Settings
    contenders: Sequence[Contender]
    result: Result

    @property
    def rival(self) -> Contender | None:
        """Whom ours is measured against."""
        return self.contenders[1] if len(self.contenders) > 1 else None

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints; docs/schemas/bench.json is its schema."""
        ratios = None
        if self.rival is not None:
            ratios = {
                figure.key: asdict(ratio) if (ratio := self._ratio(figure)) is not None else None
                for figure in FIGURES
            }
        return {
            "layer": self.alias,
            "server": self.server,
            "prefix": self.prefix,
            "at": self.at,
            "other_processes": self.other_processes,
            "settings": asdict(self.settings),
            "versions": _versions(),
            "results": [self._result_as_json(contender) for contender in self.contenders],
            "times_better": ratios,
        }

    def show(self, out: Output) -> None:
        """The table, and what one has to know to read it."""
        columns = ["", *(f"{each.name} {each.version}" for each in self.contenders), "unit"]
        right = set(columns[1:-1])
        if self.rival is not None:
            columns += ["times better", "least to most"]
            right |= {"times better"}
            if out.terminal:
                columns.append("ours and theirs")
        out.table(columns, [self._row(figure, out) for figure in FIGURES], right=right)
        out.say()
        for line in self._notes():
            out.say(line)
        # Those of the layers are in the heading.
        shown = {name: _versions()[name] for name in ("python", "channels", "redis", "hiredis")}
        out.say(", ".join(f"{name} {each}" for name, each in shown.items() if each), "dim")

    def _notes(self) -> list[str]:
        settings = self.settings
        notes = [
            "One process is both ends: it sends, and reads what it sent. Rates are medians of "
            f"{settings.rounds} rounds, percentiles are of all round trips."
        ]
        rival = self.rival
        if rival is not None:
            notes.append(
                "Times better is the median of the ratios round by round. A join of "
                f"{rival.name} ends before Redis has confirmed it, ours after."
                if rival.name == "channels_redis"
                else "Times better is the median of the ratios round by round. To publish to a "
                f"group that nobody is in, {rival.name} only has to look it up."
            )
        for contender in self.contenders:
            if lost := self.result.lost(contender.name):
                came = self.result.total(contender.name, "fan-out")
                drops = contender.drops()
                counted = ", ".join(f"{cause}: {n:,}" for cause, n in (drops or {}).items())
                causes = f" ({counted})" if counted else ""
                notes.append(
                    f"{contender.name} lost {lost:,} of {came + lost:,} deliveries{causes}."
                )
        return notes

    def _ratio(self, figure: Any) -> Ratio | None:
        assert self.rival is not None
        return self.result.ratio(figure, self.contenders[0].name, self.rival.name)

    def _row(self, figure: Any, out: Output) -> list[str | Text]:
        row: list[str | Text] = [figure.title]
        for contender in self.contenders:
            row.append(f"{self.result.figure(contender.name, figure) * figure.factor:,.0f}")
        row.append(figure.unit)
        if self.rival is not None:
            ratio = self._ratio(figure)
            if ratio is None:
                return [*row, "-", "-"]
            row += [f"{ratio.median:.2f}", f"{ratio.least:.2f} to {ratio.most:.2f}"]
            if out.terminal:
                row.append(_bar(ratio.median))
        return row

    def _result_as_json(self, contender: Contender) -> dict[str, Any]:
        name, result = contender.name, self.result
        return {
            "name": name,
            "class": contender.path,
            "version": contender.version,
            **{figure.key: result.figure(name, figure) for figure in FIGURES},
            "messages_published": result.total(name, "publish"),
            "deliveries": result.total(name, "fan-out"),
            "round_trips": result.total(name, "round trip"),
            "joins": result.total(name, "joins"),
            "lost": result.lost(name),
            "drops": contender.drops(),
        }


def _bar(ratio: float) -> Text:
    """Two speeds in one line, each with its share of the width."""
    ours = min(BAR_WIDTH - 1, max(1, round(BAR_WIDTH * ratio / (1 + ratio))))
    return Text.assemble(("━" * ours, "green"), ("━" * (BAR_WIDTH - ours), "red"))


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "mpx_channels": __version__,
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
