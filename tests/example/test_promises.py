"""The views that wait for a promise and resolve it: called by Django, and with curl."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import urllib.error
import urllib.request
from typing import Any

import pytest
import redis
from channels.layers import get_channel_layer
from channels.testing import HttpCommunicator
from django.http import HttpResponse
from django.test import AsyncClient

from example_project.asgi import application
from example_project.chat.promises import LONGEST
from tests.conftest import eventually, free_port, missing

from .conftest import Site
from .pages import in_browser
from .sockets import use_layer

try:
    from playwright.async_api import Browser, expect
except ImportError:
    Browser = expect = None

# curl, and urllib, would ask a proxy for 127.0.0.1 where one is configured.
DIRECT = {**os.environ, "no_proxy": "*", "NO_PROXY": "*"}


@pytest.fixture
def visitor() -> AsyncClient:
    return AsyncClient(enforce_csrf_checks=True)


async def waiting_for(visitor: AsyncClient, path: str) -> asyncio.Task[HttpResponse]:
    """A request that has come as far as to wait for its promise."""
    request = asyncio.ensure_future(visitor.get(path))
    await eventually(promises)
    return request


def promises() -> int:
    """How many promises are in force in this event loop."""
    stats = get_channel_layer().stats()
    if stats is None or stats.multiplexer.names_confirmed < stats.multiplexer.names_wanted:
        return 0
    return stats.promises


async def resolve(visitor: AsyncClient, name: str, body: str | bytes) -> HttpResponse:
    return await visitor.post(f"/resolve/{name}/", body, content_type="application/json")


@pytest.mark.parametrize("value", ["ready", {"tea": [1, 2.5, None]}, None, 0, "ä\n🙂", []])
async def test_who_waits_gets_the_value(visitor: AsyncClient, value: Any) -> None:
    waiting = await waiting_for(visitor, "/wait/tea/?timeout=60")
    answer = await resolve(visitor, "tea", json.dumps(value))
    assert (answer.status_code, answer.json()) == (200, {"waiters": 1})
    answer = await waiting
    assert (answer.status_code, answer.json()) == (200, {"value": value})
    assert (await resolve(visitor, "tea", "1")).json() == {"waiters": 0}


async def test_nobody_resolves_it(visitor: AsyncClient) -> None:
    await get_channel_layer().connect()  # what was not connected in time says that
    answer = await visitor.get("/wait/tea/?timeout=0.01")
    assert answer.status_code == 504
    assert "Nobody resolved 'tea' in 0.01 s" in answer.json()["error"]


async def test_it_is_rejected(visitor: AsyncClient) -> None:
    waiting = await waiting_for(visitor, "/wait/tea/")
    assert await get_channel_layer().reject("tea", "sold out") == 1
    answer = await waiting
    assert (answer.status_code, answer.json()) == (409, {"error": "sold out"})


async def test_the_link_breaks(
    visitor: AsyncClient, settings: Any, redis_url: str, client: redis.Redis
) -> None:
    use_layer(settings, hosts=[redis_url])
    waiting = await waiting_for(visitor, "/wait/tea/")
    assert client.client_kill_filter(_type="pubsub")
    answer = await waiting
    assert answer.status_code == 503
    assert answer.json()["error"]


async def test_who_hangs_up_waits_no_more(visitor: AsyncClient) -> None:
    host = [(b"host", b"localhost")]
    request = HttpCommunicator(application, "GET", "/wait/tea/?timeout=60", headers=host)
    await request.send_input({"type": "http.request", "body": b""})
    await eventually(promises)
    await request.send_input({"type": "http.disconnect"})
    await request.wait(timeout=10)
    assert promises() == 0
    assert (await resolve(visitor, "tea", "1")).json() == {"waiters": 0}


async def test_there_is_no_redis(visitor: AsyncClient, settings: Any) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    use_layer(settings, hosts=[url], connect_timeout=0.1)
    for answer in (
        await visitor.get("/wait/tea/"),
        await visitor.get("/wait/tea/?timeout=0.05"),
        await resolve(visitor, "tea", "1"),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon", "", str(LONGEST + 1)])
async def test_a_bad_timeout(visitor: AsyncClient, timeout: str) -> None:
    answer = await visitor.get("/wait/tea/", {"timeout": timeout})
    assert answer.status_code == 400
    assert "number of seconds" in answer.json()["error"]


@pytest.mark.parametrize("name", ["a%20b", "%C3%A9", "x" * 100, "a:b", "*"])
async def test_a_bad_name(visitor: AsyncClient, name: str) -> None:
    for answer in (await visitor.get(f"/wait/{name}/"), await resolve(visitor, name, "1")):
        assert answer.status_code == 400
        assert "hyphens" in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"ready", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_not_json(visitor: AsyncClient, body: bytes) -> None:
    answer = await resolve(visitor, "tea", body)
    assert answer.status_code == 400
    assert "must be JSON" in answer.json()["error"]


@pytest.mark.parametrize("body", ['"\\ud800"', "1" * 30])
async def test_a_value_that_cannot_be_sent(visitor: AsyncClient, body: str) -> None:
    answer = await resolve(visitor, "tea", body)
    assert answer.status_code == 400
    assert "cannot be sent" in answer.json()["error"]


async def test_methods(visitor: AsyncClient) -> None:
    assert (await visitor.post("/wait/tea/")).status_code == 405
    assert (await visitor.get("/resolve/tea/")).status_code == 405


# -- over HTTP --------------------------------------------------------------------------------


async def sh(command: str) -> Any:
    """The JSON that a command prints."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, env=DIRECT, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    return json.loads(printed)


async def fetch(url: str, body: str | None = None) -> Any:
    """The JSON at a URL: by curl if there is one."""
    if shutil.which("curl"):
        return await sh(f"curl -sS '{url}'" + (f" -d '{body}'" if body is not None else ""))
    return await asyncio.to_thread(fetch_by_urllib, url, body)


def fetch_by_urllib(url: str, body: str | None) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer = opener.open(url, body.encode() if body is not None else None)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return json.load(answer)


async def test_over_http(site: Site) -> None:
    waiting = asyncio.ensure_future(fetch(f"{site.url}/wait/over.http/?timeout=60"))
    resolve_url = f"{site.url}/resolve/over.http/"
    while (answer := await fetch(resolve_url, '{"tea": "ready"}')) == {"waiters": 0}:
        pass
    assert answer == {"waiters": 1}
    assert await waiting == {"value": {"tea": "ready"}}
    assert "Nobody" in (await fetch(f"{site.url}/wait/over.http/?timeout=0.01"))["error"]
    assert "must be JSON" in (await fetch(resolve_url, "{"))["error"]


@in_browser
async def test_the_lobbys_commands_do_what_it_says(browser: Browser, site: Site) -> None:
    page = await browser.new_page()
    await page.goto(site.url)
    commands = page.get_by_role("region", name="Try it from a shell").locator("pre")
    await expect(commands).to_have_count(2)
    await expect(commands.first).to_contain_text(site.url)
    if not shutil.which("curl"):
        missing("curl is not installed")
    wait, resolve = await commands.all_inner_texts()
    waiting = asyncio.ensure_future(sh(wait))
    while (answer := await sh(resolve)) == {"waiters": 0}:
        pass
    assert answer == {"waiters": 1}
    assert await waiting == {"value": {"tea": "ready"}}
