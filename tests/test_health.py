"""The view for load balancers, by Django's clients and by a server, under WSGI and ASGI."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from channels.layers import channel_layers, get_channel_layer
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from mpx_channels.health import ready
from mpx_channels.layer import Health, MpxChannelLayer
from tests.inside import hubs_of, multiplexer_of

from .conftest import RestartableServer, eventually
from .proxy import Proxy, free_port, without

urlpatterns = [path("ready", ready)]

pytestmark = pytest.mark.urls(__name__)

OURS = "mpx_channels.layer.MpxChannelLayer"

Configure = Callable[..., None]


@pytest.fixture
async def configure(settings: Any, redis_url: str) -> AsyncIterator[Configure]:
    """Sets CHANNEL_LAYERS to these aliases, each with what is given for its CONFIG."""
    prefix = f"test-{uuid.uuid4().hex[:8]}"

    def configure(**configs: Any) -> None:
        settings.CHANNEL_LAYERS = {
            alias: config
            if "BACKEND" in config
            else {
                "BACKEND": OURS,
                "CONFIG": {"hosts": [redis_url], "prefix": f"{prefix}-{alias}", **config},
            }
            for alias, config in configs.items()
        }

    yield configure
    for layer in list(channel_layers.backends.values()):
        if isinstance(layer, MpxChannelLayer):
            await layer.close()


def get_by_wsgi() -> HttpResponse:
    return Client().get("/ready")


async def test_a_process_that_hears_itself(configure: Configure) -> None:
    configure(default={}, other={})
    response = await AsyncClient().get("/ready")
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response["Cache-Control"] == "no-store"
    body = response.json()
    assert set(body) == {"ok", "layers"}
    assert body["ok"] is True
    assert set(body["layers"]) == {"default", "other"}
    for each in body["layers"].values():
        assert set(each) == {"ok", "round_trip", "reason"}
        assert (each["ok"], each["reason"]) == (True, None)
        assert 0 < each["round_trip"] < 1


async def test_under_asgi_it_looks_at_the_connections_of_consumers(configure: Configure) -> None:
    configure(default={})
    assert (await AsyncClient().get("/ready")).status_code == 200
    layer = get_channel_layer()
    assert set(hubs_of(layer).by_loop) == {asyncio.get_running_loop()}


async def test_under_wsgi_at_those_of_synchronous_code(configure: Configure) -> None:
    configure(default={})
    for _ in range(3):
        response = await asyncio.to_thread(get_by_wsgi)
        assert response.status_code == 200
    layer = get_channel_layer()
    assert len(hubs_of(layer)) == 1
    assert hubs_of(layer).of_portal is not None


async def test_by_a_server_in_another_thread(configure: Configure) -> None:
    class Quiet(WSGIRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    configure(default={"hosts": [f"redis://127.0.0.1:{free_port()}"]})
    with make_server("localhost", 0, WSGIHandler(), handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://localhost:{server.server_port}/ready"
        try:
            with pytest.raises(urllib.error.HTTPError) as raised:
                await asyncio.to_thread(urllib.request.urlopen, url, timeout=30)
            with raised.value as error:
                assert error.code == 503
                assert json.loads(error.read())["ok"] is False
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join()


async def test_one_layer_that_is_not_well_is_enough(configure: Configure) -> None:
    port = free_port()
    configure(default={}, other={"hosts": [f"redis://user:secret@127.0.0.1:{port}"]})
    response = await AsyncClient().get("/ready")
    assert response.status_code == 503
    assert response["Cache-Control"] == "no-store"
    assert "secret" not in response.content.decode()
    body = response.json()
    assert body["ok"] is False
    assert body["layers"]["default"]["ok"] is True
    other = body["layers"]["other"]
    assert (other["ok"], other["round_trip"]) == (False, None)
    assert other["reason"].startswith(f"no connection to redis://127.0.0.1:{port}: ")


async def test_a_connection_that_delivers_nothing(configure: Configure, proxy: Proxy) -> None:
    configure(default={"hosts": [proxy.url]})
    assert (await AsyncClient().get("/ready")).status_code == 200
    proxy.to_client.rewrite = without(b"message")
    response = await AsyncClient().get("/ready")
    assert response.status_code == 503
    assert "did not deliver" in response.json()["layers"]["default"]["reason"]
    assert multiplexer_of(get_channel_layer()).stats().connected


async def test_a_server_that_goes_and_comes_back(configure: Configure) -> None:
    server = RestartableServer()
    server.start()
    try:
        configure(default={"hosts": [server.url]})
        assert (await AsyncClient().get("/ready")).status_code == 200
        server.kill()
        layer = get_channel_layer()
        await eventually(lambda: not multiplexer_of(layer).stats().connected)
        assert (await AsyncClient().get("/ready")).status_code == 503
        server.start()
        await eventually(lambda: multiplexer_of(layer).stats().connected)
        assert (await AsyncClient().get("/ready")).status_code == 200
    finally:
        server.kill()


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
        {"default": {"BACKEND": "nowhere.Layer"}},
        {"default": {"CONFIG": {}, "BACKEND": None}},
    ],
)
async def test_without_a_layer_of_ours_nobody_is_ready(
    configure: Configure, entries: dict[str, Any]
) -> None:
    configure(**entries)
    response = await AsyncClient().get("/ready")
    assert response.status_code == 503
    assert response.json() == {
        "ok": False,
        "layers": {},
        "reason": "CHANNEL_LAYERS has no layer of mpx_channels",
    }


async def test_without_channel_layers(settings: Any) -> None:
    del settings.CHANNEL_LAYERS
    assert (await AsyncClient().get("/ready")).json()["layers"] == {}


async def test_layers_of_others_are_left_out_and_not_even_made(configure: Configure) -> None:
    configure(default={}, theirs={"BACKEND": "channels.layers.InMemoryChannelLayer"})
    response = await AsyncClient().get("/ready")
    assert response.status_code == 200
    assert set(response.json()["layers"]) == {"default"}
    assert set(channel_layers.backends) == {"default"}


async def test_what_nobody_expected_is_in_the_log_and_not_in_the_body(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(layer: MpxChannelLayer, timeout: float = 1.0) -> Health:
        raise LookupError("the secret of the key store")

    configure(default={}, wrong={"BACKEND": OURS, "CONFIG": {"capactiy": "secret"}})
    monkeypatch.setattr(MpxChannelLayer, "healthy", fail)
    response = await AsyncClient().get("/ready")
    assert response.status_code == 503
    text = response.content.decode()
    assert "secret" not in text
    assert "Traceback" not in text
    reasons = {alias: each["reason"] for alias, each in response.json()["layers"].items()}
    assert reasons == {
        "default": "LookupError, see the log",
        "wrong": "InvalidConfig, see the log",
    }
    ours = [each for each in caplog.records if each.name == "mpx_channels.health"]
    assert len(ours) == 2
    assert all(each.exc_info for each in ours)


async def test_nobody_changes_anything_by_it(configure: Configure) -> None:
    configure(default={})
    client = AsyncClient()
    head = await client.head("/ready")
    assert (head.status_code, head.content) == (200, b"")
    assert head["Cache-Control"] == "no-store"
    for method in (client.post, client.put, client.patch, client.delete, client.options):
        assert (await method("/ready")).status_code == 405


async def test_it_needs_no_database(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """With this setting Django begins a transaction for a view, and refuses those that await."""
    configure(default={})
    for alias in connections:
        monkeypatch.setitem(connections.settings[alias], "ATOMIC_REQUESTS", True)
    assert (await AsyncClient().get("/ready")).status_code == 200
    assert (await asyncio.to_thread(get_by_wsgi)).status_code == 200


def test_it_is_for_who_cannot_log_in() -> None:
    """What LoginRequiredMiddleware looks at."""
    assert ready.login_required is False
