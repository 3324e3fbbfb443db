"""The example as a person sees it: the real server, two pages in Chromium."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port, missing

try:
    from playwright.async_api import Browser, Page, async_playwright, expect
except ImportError:
    Browser = Page = async_playwright = expect = None

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60_000  # milliseconds, Playwright's unit; the machine may be busy


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


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser's path."""
    if async_playwright is None:
        missing("Playwright is not installed (pip install playwright)")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        missing("no Chromium on PATH (on Debian: apt install chromium)")
    return path


@pytest.fixture(scope="module")
def site(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        site.start()
        yield site
    finally:
        site.stop()
    wait = [sys.executable, "-m", "mpx_channels.embedded", "wait"]
    subprocess.run(wait, cwd=ROOT, env=site.environment, check=True)


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
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


async def enter(browser: Browser, site: Site, name: str, room: str) -> Page:
    """A page of somebody who went through the lobby into a room and is connected."""
    page = await browser.new_page()
    page.set_default_timeout(PATIENCE)
    await page.goto(site.url)
    await page.get_by_label("Your name").fill(name)
    await page.get_by_label("Room", exact=True).fill(room)
    await page.get_by_role("button", name="Join the room").click()
    await expect(page.get_by_role("heading")).to_have_text(f"#{room}")
    await expect(page.get_by_text(f"You are {name}")).to_be_visible()
    await expect(page.get_by_role("status")).to_have_text("connected")
    return page


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()


async def test_two_people_talk(browser: Browser, site: Site) -> None:
    ann = await enter(browser, site, "Ann", "tea")
    ben = await enter(browser, site, "Ben", "tea")

    await say(ann, "Hello Ben")
    heard = ben.locator("article")
    await expect(heard).to_have_count(1)
    await expect(heard.locator("b")).to_have_text("Ann")
    await expect(heard.locator("p")).to_have_text("Hello Ben")
    await expect(ann.locator("article.own p")).to_have_text("Hello Ben")
    await expect(ann.locator("article.own b")).to_have_text("You")

    # The other way, with the keyboard.
    await ben.get_by_label("Message", exact=True).press_sequentially("Hello")
    await ben.keyboard.press("Shift+Enter")
    await ben.keyboard.type("Ann")
    await ben.keyboard.press("Enter")
    await expect(ann.locator("article p").nth(1)).to_have_text("Hello\nAnn")
    await expect(ben.get_by_label("Message", exact=True)).to_have_value("")


async def test_what_people_type_is_text(browser: Browser, site: Site) -> None:
    page = await enter(browser, site, "<i>Ann</i>", "html")
    attack = (
        "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
    )
    await say(page, attack)
    await expect(page.locator("article p")).to_have_text(attack)
    await say(page, "after it")
    await expect(page.locator("article p").nth(1)).to_have_text("after it")
    assert await page.locator("article script, article img, i").count() == 0
    await expect(page).to_have_title("#html · mpx chat")


async def test_the_lobby_says_what_a_room_may_be_called(browser: Browser, site: Site) -> None:
    page = await browser.new_page()
    await page.goto(f"{site.url}/room/no%20such%20room/?name=Ann")
    await expect(page.get_by_role("alert")).to_contain_text("letters, digits")
    await page.get_by_role("button", name="redis").click()
    await expect(page).to_have_url(f"{site.url}/room/redis/?name=Ann")


async def test_everything_the_pages_ask_for_is_there(browser: Browser, site: Site) -> None:
    page = await browser.new_page()
    wrong: list[str] = []
    page.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda entry: wrong.append(entry.text) if entry.type == "error" else None)
    page.on("request", lambda asked: None if site.url in asked.url else wrong.append(asked.url))
    await page.goto(site.url, wait_until="networkidle")
    await page.goto(f"{site.url}/room/tea/", wait_until="networkidle")
    await expect(page.get_by_role("status")).to_have_text("connected")
    assert wrong == []


async def test_the_page_comes_back_after_the_server(browser: Browser, site: Site) -> None:
    ann = await enter(browser, site, "Ann", "restart")
    ben = await enter(browser, site, "Ben", "restart")

    site.stop()
    for page in (ann, ben):
        await expect(page.get_by_role("status")).to_have_text("reconnecting…")
    draft = ann.get_by_label("Message", exact=True)
    await draft.fill("Are you back?")
    await expect(ann.get_by_role("button", name="Send")).to_be_disabled()
    await draft.press("Enter")
    await expect(draft).to_have_value("Are you back?")

    site.start()
    for page in (ann, ben):
        await expect(page.get_by_role("status")).to_have_text("connected")
        await expect(page.get_by_text("Reconnected.")).to_be_visible()
    await ann.get_by_role("button", name="Send").click()
    await expect(ben.locator("article p")).to_have_text("Are you back?")
