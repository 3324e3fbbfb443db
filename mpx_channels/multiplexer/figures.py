"""Figures: what is counted or held is declared once, and whoever shows it reads the declaration.

A figure is a field of a class of statistics, declared by `counter` or `gauge`. What is counted is
also a field, of the same name, of a class of `Counters`, to which the hot paths add.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, get_type_hints

__all__ = [
    "Counters",
    "Figure",
    "causes",
    "counter",
    "drop",
    "figures",
    "gauge",
    "gauges",
    "parts",
]

# Where a field keeps its declaration; and a drop, what its cause means.
FIGURE, CAUSE = "figure", "cause"
# How the names of drops begin; the rest is the cause.
DROPPED = "dropped_"


@dataclass(frozen=True, slots=True)
class Figure:
    """What a figure is.

    - ``kind``: a counter only grows, a gauge is what there is at the moment.
    - ``metric``, ``help``: its name and its meaning in Prometheus; ``unit``: what is counted.
    - ``by``: if it has several series, the label that tells them apart: ``"cause"`` for a mapping
      of numbers, ``"node"`` for a tuple of `NodeStats`.
    """

    kind: Literal["counter", "gauge"]
    metric: str
    help: str
    unit: str
    by: Literal["cause", "node"] | None = None


def counter(metric: str, help: str, unit: str, *, by: Literal["cause"] | None = None) -> Any:
    """A field that only grows."""
    return field(metadata={FIGURE: Figure("counter", metric, help, unit, by)})


def gauge(
    metric: str,
    help: str,
    unit: str,
    *,
    by: Literal["node"] | None = None,
    default: Any = MISSING,
) -> Any:
    """A field that goes up and down."""
    return field(default=default, metadata={FIGURE: Figure("gauge", metric, help, unit, by)})


def drop(meaning: str) -> Any:
    """A field of `Counters` that is named ``dropped_<cause>``: what was dropped, for what cause."""
    return field(default=0, metadata={CAUSE: meaning})


def figures(class_: type) -> Iterator[tuple[str, Figure]]:
    """Each figure of a class of statistics, and where it is: with dots for those of its parts."""
    yield from _declared(class_).items()
    for part, its_class in parts(class_).items():
        for path, figure in figures(its_class):
            yield f"{part}.{path}", figure


def gauges(class_: type) -> list[str]:
    """The fields of a class of statistics that are gauges."""
    return [name for name, figure in _declared(class_).items() if figure.kind == "gauge"]


def parts(class_: type) -> dict[str, type]:
    """The fields that are statistics themselves, which is what is not declared as a figure."""
    types, own = get_type_hints(class_), _declared(class_)
    return {each.name: types[each.name] for each in fields(class_) if each.name not in own}


def _declared(class_: type) -> dict[str, Figure]:
    return {each.name: each.metadata[FIGURE] for each in fields(class_) if FIGURE in each.metadata}


@dataclass(slots=True)
class Counters:
    """Running totals; the hot paths add to the fields, nothing else."""

    def counts(self) -> dict[str, int]:
        """What was counted, by the names of the fields; without the drops."""
        return {each.name: getattr(self, each.name) for each in fields(self) if not each.metadata}

    def drops(self) -> dict[str, int]:
        """The drops by their cause; every cause is there, also at zero."""
        return {cause: getattr(self, DROPPED + cause) for cause in causes(type(self))}


def causes(class_: type[Counters]) -> dict[str, str]:
    """The causes that something is dropped for, and what each means."""
    return {
        each.name.removeprefix(DROPPED): each.metadata[CAUSE]
        for each in fields(class_)
        if CAUSE in each.metadata
    }
