"""What is counted or held is declared once: no one who shows it, and no page, misses a figure."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from mpx_channels.channels.layer_stats import LayerCounters
from mpx_channels.diagnostics.snapshot import look
from mpx_channels.layer import LayerStats, MpxChannelLayer, ProcessStats
from mpx_channels.layer.processes.fleet import SUMMED
from mpx_channels.layer.processes.ledger import NOTHING, add, counts_of
from mpx_channels.multiplexer import MultiplexerStats
from mpx_channels.multiplexer.counters import EngineCounters
from mpx_channels.multiplexer.figures import Counters, causes, figures, gauges, parts
from tests.docs.pages import DOCS

from .conftest import MakeLayer

STATISTICS = (LayerStats, MultiplexerStats)


def own_figures(class_: type) -> set[str]:
    return {path for path, _ in figures(class_) if "." not in path}


def words(class_: type) -> str:
    return " ".join((class_.__doc__ or "").split())


@pytest.mark.parametrize("class_", STATISTICS)
def test_every_field_is_declared_and_explained(class_: type) -> None:
    names = {each.name for each in fields(class_)}
    assert names == own_figures(class_) | set(parts(class_))
    assert all(is_dataclass(each) for each in parts(class_).values())
    assert [name for name in names if f"``{name}``" not in words(class_)] == []


@pytest.mark.parametrize(
    ("counters", "class_"), [(LayerCounters, LayerStats), (EngineCounters, MultiplexerStats)]
)
def test_every_count_is_a_figure(counters: type[Counters], class_: type) -> None:
    kinds = {name: figure.kind for name, figure in figures(class_)}
    assert {kinds[name] for name in counters().counts()} == {"counter"}
    explained = words(class_)
    for cause, meaning in causes(counters).items():
        assert f"``{cause}``: {meaning}" in explained


@pytest.mark.parametrize("class_", [LayerCounters, EngineCounters])
def test_counts_and_drops_are_all_fields(class_: type[Counters]) -> None:
    counters = class_()
    values = {each.name: number for number, each in enumerate(fields(class_), 1)}
    for name, value in values.items():
        setattr(counters, name, value)
    dropped = {f"dropped_{cause}": count for cause, count in counters.drops().items()}
    assert counters.counts() | dropped == values


def test_a_layer_has_every_figure_or_none() -> None:
    engine = NOTHING.multiplexer
    held = dict.fromkeys(gauges(LayerStats), 1)
    stats = LayerStats.of([held, {"patterns": 2}], LayerCounters(messages_out=4), engine)
    assert (stats.channels, stats.patterns, stats.messages_out) == (1, 3, 4)
    assert stats.drops == dict.fromkeys(causes(LayerCounters), 0)
    with pytest.raises(TypeError, match="unknown"):
        LayerStats.of([held, {"unknown": 1}], LayerCounters(), engine)
    del held["unread"]
    with pytest.raises(TypeError, match="unread"):
        LayerStats.of([held], LayerCounters(), engine)


def full(stats: Any) -> Any:
    """Statistics in which every number is one."""
    filled: dict[str, Any] = {name: full(getattr(stats, name)) for name in parts(type(stats))}
    for name in own_figures(type(stats)):
        value = getattr(stats, name)
        if isinstance(value, dict):
            filled[name] = dict.fromkeys(value, 1)
        elif not isinstance(value, tuple):
            filled[name] = 1
    return replace(stats, **filled)


def test_what_ended_has_its_counters_only() -> None:
    def check(ended: Any, nothing: Any) -> None:
        for name, figure in figures(type(ended)):
            if "." not in name and figure.kind == "gauge":
                assert getattr(ended, name) == getattr(nothing, name), name
            elif "." not in name:
                value = getattr(ended, name)
                assert (set(value.values()) if figure.by else {value}) == {1}, name
        for name in parts(type(ended)):
            check(getattr(ended, name), getattr(nothing, name))

    ended = counts_of(full(NOTHING))
    check(ended, NOTHING)
    assert counts_of(NOTHING) == NOTHING
    assert add(NOTHING, ended) == ended


def test_what_processes_tell_are_figures() -> None:
    there = dict(figures(LayerStats))
    paths = [path for each in fields(ProcessStats) for path in each.metadata.get("of", ())]
    assert [path for path in paths if path not in there] == []
    process = ProcessStats.of("0" * 16, full(NOTHING), None)
    assert {name: getattr(process, name) for name in SUMMED} == {
        **dict.fromkeys(SUMMED, 1),
        "patterns": 2,  # with the Redis channels
    }
    assert process.connected_since == 1
    assert ProcessStats.from_answer(process.to_answer()) == process


def test_processes_explain_what_they_tell() -> None:
    for each in fields(ProcessStats):
        assert f"``{each.name}``" in words(ProcessStats)


async def test_status_shows_all_that_processes_tell(
    make_layer: MakeLayer, layer: MpxChannelLayer
) -> None:
    await layer.new_channel()
    snapshot = await look(make_layer(), groups=1)
    (process,) = snapshot.as_json()["processes"]
    schema = json.loads((DOCS / "schemas" / "status.json").read_text())["$defs"]["process"]
    assert process.keys() >= {each.name for each in fields(ProcessStats)}
    assert process.keys() == schema["properties"].keys() == set(schema["required"])
