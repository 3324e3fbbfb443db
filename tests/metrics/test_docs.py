"""What docs/metrics.md says of the metrics is so."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mpx_channels.channels.layer_stats import LayerCounters
from mpx_channels.layer import LayerStats
from mpx_channels.metrics import MpxCollector
from mpx_channels.multiplexer.counters import EngineCounters
from mpx_channels.multiplexer.figures import causes, figures
from tests.conftest import missing
from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "metrics.md"
ROW = re.compile(r"^\| `(mpx_\w+)` \| (\w+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def load(caption: str) -> Any:
    try:
        import yaml
    except ImportError:
        missing("PyYAML is not installed")
    (block,) = [block for block in blocks(PAGE) if block.caption == caption]
    return yaml.safe_load(block.text)


def test_every_metric_is_in_the_table() -> None:
    rows = [
        (name, kind, re.findall(r"`(\w+)`", labels), unit, meaning)
        for name, kind, labels, unit, meaning in ROW.findall(PAGE.read_text())
    ]
    there = [
        (each.metric, each.kind, ["layer", *filter(None, [each.by])], each.unit, each.help)
        for _, each in figures(LayerStats)
    ]
    assert rows == there


def test_units_are_those_of_the_names() -> None:
    for name, _, _, unit, _ in ROW.findall(PAGE.read_text()):
        for base in ("seconds", "bytes"):
            assert (base in name) == (unit == base)


def test_the_collector_has_the_types_of_the_table() -> None:
    described = {
        metric.name + ("_total" if metric.type == "counter" else ""): metric.type
        for metric in MpxCollector().describe()
    }
    assert described == {name: kind for name, kind, *_ in ROW.findall(PAGE.read_text())}


def expressions() -> list[str]:
    (group,) = load("mpx-channels.rules.yml")["groups"]
    return [rule["expr"] for rule in group["rules"]]


def test_alerts_ask_for_metrics_that_exist() -> None:
    kinds = {figure.metric: figure.kind for _, figure in figures(LayerStats)}
    for expression in expressions():
        names = re.findall(r"\bmpx_\w+", expression)
        assert names
        for name in names:
            assert name in kinds
            # A counter alone says nothing.
            assert (kinds[name] == "counter") == bool(
                re.search(rf"(rate|increase)\({name}(\{{.*?\}})?\[", expression)
            )


def test_alerts_ask_for_causes_that_exist() -> None:
    known = {*causes(LayerCounters), *causes(EngineCounters)}
    found = [
        pattern
        for expression in expressions()
        for pattern in re.findall(r'cause[!=~]+"(.+?)"', expression)
    ]
    assert found
    for pattern in found:
        assert any(re.fullmatch(pattern, cause) for cause in known), pattern


@pytest.mark.parametrize("part", ["rule_files", "scrape_configs"])
def test_the_configuration_is_yaml(part: str) -> None:
    config = load("prometheus.yml")
    assert config[part]
    assert config["rule_files"] == ["mpx-channels.rules.yml"]
