"""What prometheus-client asks at each scrape: the figures of every layer, as they are then."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from operator import attrgetter

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mpx_channels.layer import LayerStats, LocalStats, layers
from mpx_channels.multiplexer import NodeStats
from mpx_channels.multiplexer.figures import Figure, figures

__all__ = ["MpxCollector", "register"]


class MpxCollector(Collector):
    """Reads the statistics of every layer of the process when it is asked, from any thread.

    There is one series for each layer, over all event loops of the process. The label ``layer``
    is its alias in CHANNEL_LAYERS; for a layer that was made by hand its prefix, and those with
    the same prefix count together. Nothing is counted for this: a scrape costs one snapshot.
    """

    def collect(self) -> Iterator[Metric]:
        """The metrics with their values."""
        by_label: dict[str, LocalStats] = {}
        for label, layer in layers():
            stats = layer.local_stats()
            by_label[label] = by_label[label] + stats if label in by_label else stats
        totals = [
            # A layer that nobody has used is neither connected nor cut off.
            (label, stats.total, bool(stats.loops))
            for label, stats in sorted(by_label.items())
        ]
        for path, figure in figures(LayerStats):
            metric = _metric(figure)
            for label, total, in_use in totals:
                value = attrgetter(path)(total)
                if figure.by == "node":
                    value = _by_address(value)
                if figure.by is not None:
                    for series, each in value.items():
                        metric.add_metric((label, series), each)
                elif value is not None and (in_use or not isinstance(value, bool)):
                    metric.add_metric((label,), value)
            yield metric

    def describe(self) -> Iterator[Metric]:
        """The metrics without values: registering asks for the names, and takes no snapshot."""
        return (_metric(figure) for _, figure in figures(LayerStats))


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Have a registry of prometheus-client show the layers; again, and nothing changes.

    Raises `ValueError` if the registry has other metrics of these names.
    """
    with _lock:
        try:
            registry.register(MpxCollector())
        except ValueError:
            if registry not in _registries:
                raise
        _registries.add(registry)


def _by_address(nodes: Iterable[NodeStats]) -> dict[str, bool]:
    """Whether the connections to each server stand, in every event loop that has one."""
    connected: dict[str, bool] = {}
    for node in nodes:
        connected[node.address] = connected.get(node.address, True) and node.connected
    return connected


_registries: weakref.WeakSet[CollectorRegistry] = weakref.WeakSet()
_lock = threading.Lock()


def _metric(figure: Figure) -> CounterMetricFamily | GaugeMetricFamily:
    # CounterMetricFamily takes the name with _total or without, and shows it with.
    kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    labels = ("layer",) if figure.by is None else ("layer", figure.by)
    return kind(figure.metric, figure.help, labels=labels)
