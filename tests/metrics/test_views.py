"""The view, by Django's clients and by a server, under WSGI and ASGI."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Iterator
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.test import AsyncClient, Client
from django.urls import path
from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from mpx_channels.layer import MpxChannelLayer
from mpx_channels.metrics import metrics_view, register

from .test_collector import chat

urlpatterns = [path("metrics", metrics_view)]

pytestmark = pytest.mark.urls(__name__)


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Iterator[None]:
    """The view registers with the process' registry."""
    before = list(REGISTRY._collector_to_names)  # noqa: SLF001 - of prometheus_client
    yield
    for collector in list(REGISTRY._collector_to_names):  # noqa: SLF001
        if collector not in before:
            REGISTRY.unregister(collector)


def sent(text: str) -> float:
    """Messages sent by the layer "default", and by nobody twice."""
    (value,) = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "mpx_channels_messages_sent_total"
        and sample.labels == {"layer": "default"}
    ]
    return value


async def test_by_asgi(layer: MpxChannelLayer) -> None:
    await chat(layer, 3)
    client = AsyncClient()
    for _ in range(2):
        response = await client.get("/metrics")
        assert response.status_code == 200
        assert response["Content-Type"].startswith("text/plain; version=")
        assert sent(response.content.decode()) == 3
    # The whole registry, as a site that has other metrics expects.
    assert "python_info" in response.content.decode()


async def test_by_wsgi(layer: MpxChannelLayer) -> None:
    await chat(layer, 3)
    client = Client()
    response = await asyncio.to_thread(client.get, "/metrics")
    assert response.status_code == 200
    assert sent(response.content.decode()) == 3


async def test_on_the_thread_of_the_loop(layer: MpxChannelLayer) -> None:
    """Who blocks the loop with a scrape does not wait for it."""
    await chat(layer, 3)
    response = Client().get("/metrics")
    assert sent(response.content.decode()) == 3


async def test_by_a_server_in_another_thread(layer: MpxChannelLayer) -> None:
    class Quiet(WSGIRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    await chat(layer, 3)
    with make_server("localhost", 0, WSGIHandler(), handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://localhost:{server.server_port}/metrics"

            def get() -> str:
                with urllib.request.urlopen(url, timeout=10) as response:
                    return response.read().decode()

            for number in range(5):
                scrape = asyncio.create_task(asyncio.to_thread(get))
                await chat(layer, 2)
                assert 3 + 2 * number <= sent(await scrape) <= 5 + 2 * number
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()


async def test_by_a_port_of_its_own(layer: MpxChannelLayer) -> None:
    """As in a worker, which has no views: the server of prometheus-client, in a thread."""
    registry = CollectorRegistry()
    register(registry)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        await chat(layer, 3)
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with await asyncio.to_thread(urllib.request.urlopen, url, timeout=10) as response:
            assert sent(response.read().decode()) == 3
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("accept", "content_type", "last_line"),
    [
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text", "# EOF"),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain", ""),
        ("text/html", "text/plain", ""),
    ],
)
async def test_the_format_is_negotiated(
    layer: MpxChannelLayer, accept: str, content_type: str, last_line: str
) -> None:
    response = await AsyncClient().get("/metrics", headers={"accept": accept})
    assert response["Content-Type"].split(";")[0] == content_type
    text = response.content.decode()
    assert text.rstrip("\n").endswith(last_line)
    assert ("# EOF" in text) == bool(last_line)
    assert "mpx_channels_messages_sent_total{" in text


async def test_nobody_keeps_it_and_nobody_changes_it(layer: MpxChannelLayer) -> None:
    client = AsyncClient()
    assert "no-store" in (await client.get("/metrics"))["Cache-Control"]
    assert (await client.head("/metrics")).status_code == 200
    assert (await client.post("/metrics")).status_code == 405
