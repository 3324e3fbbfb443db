"""What people do with the example's pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

try:
    from playwright.async_api import Browser, Page, expect
except ImportError:
    Browser = Page = expect = None

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


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Send").click()
