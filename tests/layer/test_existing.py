"""One layer for each alias of CHANNEL_LAYERS, whoever asks for it first."""

from __future__ import annotations

import gc
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import ChannelLayerManager, channel_layers, get_channel_layer

from mpx_channels.layer import MpxChannelLayer, layers
from mpx_channels.metrics import MpxCollector
from tests.conftest import PATIENCE

BACKEND = "mpx_channels.layer.MpxChannelLayer"
THREADS = 32


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def config(url: str, **more: Any) -> dict[str, Any]:
    """Of a layer whose connections can be told from all others."""
    name = f"existing-{uuid.uuid4().hex}"
    return {"hosts": [{"address": url, "client_name": name}], "prefix": name, **more}


def at_once(work: Callable[[], Any]) -> list[Any]:
    """Results of many threads that begin at the same time."""
    barrier = threading.Barrier(THREADS)
    results: list[Any] = []

    def run() -> None:
        barrier.wait(PATIENCE)
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("how", ["async_to_sync", "sync"])
def test_first_use_from_many_threads(settings: Any, redis_url: str, client: Any, how: str) -> None:
    def first_use() -> MpxChannelLayer:
        layer = get_channel_layer()
        message = {"type": "x"}
        if how == "sync":
            layer.sync.group_send("room", message)
        else:
            async_to_sync(layer.group_send)("room", message)
        return layer

    for _ in range(10):
        here = config(redis_url)
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": here}}
        used = at_once(first_use)
        layer = channel_layers["default"]
        assert set(map(id, used)) == {id(layer)}
        clients = [each["name"] for each in client.client_list()]
        assert clients.count(here["prefix"]) == 2
        assert [label for label, each in layers() if each.prefix == here["prefix"]] == ["default"]
        stats = layer.local_stats()
        assert (len(stats.loops), stats.total.messages_out) == (1, THREADS)
        samples = [
            sample
            for family in MpxCollector().collect()
            for sample in family.samples
            if sample.labels.get("layer") == "default"
        ]
        identities = [(s.name, *sorted(s.labels.items())) for s in samples]
        assert samples
        assert len(identities) == len(set(identities))
        layer.sync.close()


@pytest.mark.parametrize("entry", [{"BACKEND": BACKEND}, {"BACKEND": BACKEND, "CONFIG": {}}])
def test_one_of_each_alias(settings: Any, entry: dict[str, Any]) -> None:
    # The same settings, and yet two: each has its own channels and its own statistics.
    settings.CHANNEL_LAYERS = {"default": entry, "chat": entry}
    for _ in range(10):
        channel_layers.backends.clear()
        gc.collect()
        got = at_once(lambda: (get_channel_layer(), get_channel_layer("chat")))
        assert len(set(map(id, [one for one, _ in got]))) == 1
        assert len(set(map(id, [other for _, other in got]))) == 1
        assert got[0][0] is not got[0][1]
        assert type(got[0][0]) is MpxChannelLayer
        del got


def test_other_settings_are_another_layer(settings: Any, redis_url: str) -> None:
    before = None
    for _ in range(2):
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": {"capacity": 7}}}
        layer = get_channel_layer()
        assert layer is not before
        assert layer is get_channel_layer()
        before = layer
    # A registry of somebody's own.
    assert ChannelLayerManager()["default"] is not layer


def test_by_hand_each_is_a_new_one(settings: Any) -> None:
    config = {"capacity": 7}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
    layer = get_channel_layer()
    others = [
        MpxChannelLayer(**config),
        MpxChannelLayer(**config),
        channel_layers.make_backend("default"),
        channel_layers.make_backend("default"),
    ]
    assert len({id(each) for each in (layer, *others)}) == 5
