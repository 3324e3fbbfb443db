"""The example with sockets into it, or served and looked at with a browser."""

from __future__ import annotations

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

import pytest
import pytest_asyncio
from channels.testing import WebsocketCommunicator

from tests.conftest import free_port, missing

from .pages import PATIENCE
from .sockets import in_room, socket

try:
    from playwright.async_api import Browser, async_playwright, expect
except ImportError:
    Browser = async_playwright = expect = None

Open = Callable[..., Awaitable[WebsocketCommunicator]]
Join = Callable[..., Awaitable[WebsocketCommunicator]]

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
async def open_socket() -> AsyncIterator[Open]:
    """Opens sockets by their paths, and closes them after the test."""
    opened = []

    async def open_socket(path: str, name: str | None = None) -> WebsocketCommunicator:
        communicator = socket(path, name)
        connected, _ = await communicator.connect(timeout=10)
        assert connected
        opened.append(communicator)
        return communicator

    yield open_socket
    for communicator in opened:
        await communicator.disconnect(timeout=10)


@pytest.fixture
def join(open_socket: Open) -> Join:
    """Opens sockets of people in rooms."""
    return lambda room, name=None: open_socket(in_room(room), name)


class Site:
    """``manage.py runserver`` on a port of its own, with an embedded Valkey of its own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "runserver.log"
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
            "DJANGO_DEBUG": "1",
            "MPX_EMBEDDED_DIR": str(folder / "embedded"),
            "REDIS_URL": "",
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
