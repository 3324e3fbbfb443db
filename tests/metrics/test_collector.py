"""The collector: every figure of every layer, from any thread."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from mpx_channels.layer import LayerStats, MpxChannelLayer
from mpx_channels.metrics import MpxCollector, register
from mpx_channels.metrics.collector import _by_address
from mpx_channels.multiplexer import NodeStats
from mpx_channels.multiplexer.figures import figures
from tests.conftest import eventually
from tests.inside import hub_of

from .conftest import Configure


def samples(metrics: Any, label: str = "default") -> dict[str, float]:
    """The samples of one layer, as ``name``, ``name:cause`` or ``name:node``."""
    found: dict[str, float] = {}
    for metric in metrics:
        for sample in metric.samples:
            if sample.labels["layer"] == label:
                cause = sample.labels.get("cause") or sample.labels.get("node")
                key = f"{sample.name}:{cause}" if cause else sample.name
                assert key not in found, "two series are the same"
                found[key] = sample.value
    return found


def scrape(label: str = "default") -> dict[str, float]:
    """As a registry gives it out, and Prometheus reads it."""
    registry = CollectorRegistry()
    register(registry)
    return samples(text_string_to_metric_families(generate_latest(registry).decode()), label)


async def chat(layer: MpxChannelLayer, count: int = 1) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for _ in range(count):
        await layer.group_send("room", {"type": "x"})
        await layer.receive(channel)


def test_every_figure_is_a_metric() -> None:
    described = [(each.name, each.type, each.documentation) for each in MpxCollector().describe()]
    assert described == [
        (figure.metric.removesuffix("_total"), figure.kind, figure.help)
        for _, figure in figures(LayerStats)
    ]


def test_a_node_is_connected_if_it_is_in_every_loop() -> None:
    def node(address: str, connected: bool) -> NodeStats:
        return NodeStats(address, 0, connected, None, 0, connected, 0, None)

    nodes = [node("a", True), node("b", True), node("a", True), node("b", False)]
    assert _by_address(nodes) == {"a": True, "b": False}
    assert _by_address(nodes[::-1]) == {"a": True, "b": False}


def test_names_follow_the_conventions() -> None:
    declared = [figure for _, figure in figures(LayerStats)]
    assert len({figure.metric for figure in declared}) == len(declared)
    for figure in declared:
        assert re.fullmatch(r"mpx_channels(_[a-z]+)+", figure.metric)
        assert figure.metric.endswith("_total") == (figure.kind == "counter")
        assert figure.help.endswith(".")


async def test_the_figures(layer: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    for _ in range(3):
        await layer.group_send("room", {"type": "x"})
    await eventually(lambda: layer.stats().unread == 3)
    await layer.send(channel[:-1] + "nobody", {"type": "x"})
    await eventually(lambda: layer.stats().drops["unroutable"] == 1)
    found = scrape()
    stats = layer.stats()
    engine = stats.multiplexer
    assert found == {
        "mpx_channels_channels": 1,
        "mpx_channels_groups": 1,
        "mpx_channels_memberships": 1,
        "mpx_channels_raw_channels": 0,
        "mpx_channels_patterns": 0,
        "mpx_channels_promises": 0,
        "mpx_channels_presence_members": 0,
        "mpx_channels_presence_connections": 0,
        "mpx_channels_unread_messages": 3,
        "mpx_channels_messages_sent_total": 4,
        "mpx_channels_messages_received_total": 4,
        "mpx_channels_deliveries_total": 3,
        "mpx_channels_gaps_total": 0,
        "mpx_channels_replayed_messages_total": 0,
        "mpx_channels_recoveries_total": 0,
        "mpx_channels_failed_recoveries_total": 0,
        "mpx_channels_slow_consumers_total": 0,
        "mpx_channels_refused_consumers_total": 0,
        "mpx_channels_drained_consumers_total": 0,
        **{
            f"mpx_channels_dropped_messages_total:{cause}": int(cause == "unroutable")
            for cause in stats.drops
        },
        "mpx_channels_connected": 1,
        f"mpx_channels_node_connected:{engine.nodes[0].address}": 1,
        "mpx_channels_connected_timestamp_seconds": engine.connected_since,
        "mpx_channels_reconnects_total": 0,
        "mpx_channels_cluster_slots_moved_total": 0,
        "mpx_channels_cluster_redirections_total": 0,
        "mpx_channels_probe_reconnects_total": 0,
        "mpx_channels_redis_names_wanted": engine.names_wanted,
        "mpx_channels_redis_names_confirmed": engine.names_confirmed,
        "mpx_channels_redis_names_refused": 0,
        "mpx_channels_redis_patterns": engine.patterns,
        "mpx_channels_redis_listeners": engine.listeners,
        "mpx_channels_redis_messages_received_total": engine.messages_in,
        "mpx_channels_redis_deliveries_total": engine.deliveries,
        "mpx_channels_redis_received_bytes_total": engine.bytes_in,
        "mpx_channels_redis_sent_bytes_total": engine.bytes_out,
        "mpx_channels_redis_commands_total": engine.commands_out,
        "mpx_channels_callback_errors_total": 0,
        **{f"mpx_channels_redis_dropped_total:{cause}": 0 for cause in engine.drops},
    }
    assert engine.names_wanted >= 2
    assert engine.bytes_in > 100


async def test_a_layer_that_is_not_used_counts_nothing(layer: MpxChannelLayer) -> None:
    found = scrape()
    assert found["mpx_channels_messages_sent_total"] == 0
    assert found["mpx_channels_dropped_messages_total:full"] == 0
    # It is not cut off, either: there would be an alarm for each process that has no consumers.
    assert "mpx_channels_connected" not in found


async def test_a_lost_connection_shows(configure: Configure, restartable_server: Any) -> None:
    restartable_server.start()
    (layer,) = configure("default", hosts=[restartable_server.url])
    await chat(layer)
    assert scrape()["mpx_channels_connected"] == 1
    restartable_server.kill()
    await eventually(lambda: not layer.stats().multiplexer.connected)
    found = scrape()
    assert found["mpx_channels_connected"] == 0
    assert "mpx_channels_connected_timestamp_seconds" not in found
    restartable_server.start()
    await eventually(lambda: layer.stats().multiplexer.connected)
    found = scrape()
    assert found["mpx_channels_connected"] == 1
    assert found["mpx_channels_reconnects_total"] == 1
    assert found["mpx_channels_gaps_total"] == 1


async def test_several_layers_and_loops(configure: Configure, redis_url: str) -> None:
    default, other = configure("default", "other")
    # Made by hand, with the same prefix: together they are one series.
    by_hand = [MpxChannelLayer(hosts=[redis_url], prefix="by-hand") for _ in range(2)]
    await chat(default, 3)
    await asyncio.to_thread(asyncio.run, chat(default, 4))
    await asyncio.to_thread(default.sync.group_send, "empty", {"type": "x"})
    await chat(other, 1)
    for layer in by_hand:
        await layer.group_send("empty", {"type": "x"})
    assert scrape()["mpx_channels_messages_sent_total"] == 8
    assert scrape()["mpx_channels_connected"] == 1
    assert scrape("other")["mpx_channels_messages_sent_total"] == 1
    assert scrape("by-hand")["mpx_channels_messages_sent_total"] == 2
    # The loops have ended, or end now: what they counted stays.
    for layer in (default, other, *by_hand):
        await layer.close()
    await eventually(lambda: "mpx_channels_connected" not in scrape())
    assert scrape()["mpx_channels_messages_sent_total"] == 8
    assert scrape()["mpx_channels_channels"] == 0


async def test_scrapes_from_other_threads_under_load(layer: MpxChannelLayer) -> None:
    over = threading.Event()

    def scrapes() -> list[dict[str, float]]:
        seen = []
        while not over.is_set():
            seen.append(scrape())
        return seen

    watchers = [asyncio.create_task(asyncio.to_thread(scrapes)) for _ in range(2)]
    try:
        for _ in range(5):
            for _ in range(10):
                await chat(layer, 10)
            for mailbox in [*hub_of(layer).mailboxes.values()]:
                layer.close_channel(mailbox)
    finally:
        over.set()
        looks = await asyncio.gather(*watchers)
    for seen in looks:
        assert len(seen) > 5
        for name in [name for name in seen[-1] if "_total" in name]:
            column = [each[name] for each in seen]
            assert column == sorted(column), name
    assert scrape()["mpx_channels_messages_sent_total"] == 500


def test_registering_again_changes_nothing(layer: MpxChannelLayer) -> None:
    registry = CollectorRegistry(auto_describe=True)
    register(registry)
    once = generate_latest(registry)
    register(registry)
    assert generate_latest(registry) == once
    register(CollectorRegistry())


def test_a_registry_that_has_such_names_refuses() -> None:
    registry = CollectorRegistry()
    Counter("mpx_channels_reconnects", "Somebody else's.", registry=registry)
    for _ in range(2):
        with pytest.raises(ValueError, match="mpx_channels_reconnects"):
            register(registry)


def test_what_is_described_is_what_is_collected(layer: MpxChannelLayer) -> None:
    def heads(metrics: Any) -> list[tuple[str, str, str]]:
        return [(each.name, each.type, each.documentation) for each in metrics]

    collector = MpxCollector()
    described: list[Metric] = list(collector.describe())
    assert not any(metric.samples for metric in described)
    assert heads(described) == heads(collector.collect())


def test_without_prometheus_client() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from django.conf import settings; settings.configure()\n"
        "import mpx_channels.layer\n"
        "import mpx_channels.metrics\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ImportError: mpx_channels.metrics needs the prometheus-client package: "
        "pip install 'mpx-channels[prometheus]'"
    )
