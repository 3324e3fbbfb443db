"""What people do with the example's pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import eventually

try:
    from playwright.async_api import Browser, Page, WebSocket, expect
except ImportError:
    Browser = Page = WebSocket = expect = None

if TYPE_CHECKING:
    from .conftest import Site

# A test in the browser, in the loop that has it: Playwright's objects belong to one.
IN_BROWSER = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PATIENCE = 60_000  # milliseconds, Playwright's unit; the machine may be busy


def in_browser(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test as one."""
    for mark in IN_BROWSER:
        test = mark(test)
    return test


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


# What the page shows of messages that came back, and of those that have not yet.
SAID = "article.message:not([data-state]) p"
OWN = "article.own:not([data-state]) p"
PENDING = 'article[data-state="pending"] p'
FAILED = 'article[data-state="failed"]'


class Visit:
    """A page of somebody in a room, and the frames that it exchanges."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sockets = 0
        self.sent: list[Any] = []
        self.received: list[Any] = []
        self.status = page.get_by_role("status")
        self.field = page.get_by_label("Message", exact=True)
        self.notes = page.locator(".note")
        page.on("websocket", self._watch)
        page.set_default_timeout(PATIENCE)

    def _watch(self, socket: WebSocket) -> None:
        self.sockets += 1
        socket.on("framesent", lambda data: self.sent.append(json.loads(data)))
        socket.on("framereceived", lambda data: self.received.append(json.loads(data)))

    async def says(self, text: str) -> None:
        await self.field.fill(text)
        await self.field.press("Enter")

    async def sees(self, *texts: str, own: Sequence[str] = (), pending: Sequence[str] = ()) -> None:
        """The page shows these messages, and no other; some are one's own."""
        await expect(self.page.locator(SAID)).to_have_text(texts)
        await expect(self.page.locator(OWN)).to_have_text(own)
        await expect(self.page.locator(PENDING)).to_have_text(pending)

    async def hears(self, parts: dict[str, Any]) -> None:
        """A frame with these parts has come, or comes."""
        await eventually(lambda: any(parts.items() <= frame.items() for frame in self.received))

    @property
    def sent_keys(self) -> set[str]:
        """Under which the page has sent messages."""
        return {frame["key"] for frame in self.sent if "text" in frame}


async def visit(
    browser: Browser, url: str, room: str, name: str = "Ann", script: str = "", clock: bool = False
) -> Visit:
    """A page of somebody who has opened the address of a room."""
    page = await browser.new_page()
    if script:
        await page.add_init_script(script)
    if clock:
        await page.clock.install()
    visit = Visit(page)
    await page.goto(f"{url}/room/{room}/?name={name}")
    return visit


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()
