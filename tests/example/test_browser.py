"""The example as a person sees it: the real server, two pages in Chromium."""

from __future__ import annotations

from .conftest import Site
from .pages import IN_BROWSER, enter, say

try:
    from playwright.async_api import Browser, expect
except ImportError:
    Browser = expect = None

pytestmark = IN_BROWSER


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


async def test_the_lobby_s_cards_line_up(browser: Browser, site: Site) -> None:
    page = await browser.new_page()
    for width in (1280, 390, 320):
        await page.set_viewport_size({"width": width, "height": 900})
        await page.goto(site.url)
        edges = [
            (box["x"], box["x"] + box["width"])
            for text in (page.get_by_label("Your name"), page.locator("pre").first)
            if (box := await text.bounding_box())
        ]
        assert edges[0] == edges[1]
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
    await expect(page.get_by_text("Or join one of these")).to_be_visible()
    rooms = page.get_by_role("group", name="Or join one of these").get_by_role("button")
    await expect(rooms).to_have_count(3)


async def test_the_button_that_asks_says_so_on_a_phone(browser: Browser, site: Site) -> None:
    page = await enter(browser, site, "Ann", "phone")
    ask = page.get_by_role("button", name="Ask the room")
    for width, whole in ((390, False), (320, False), (1280, True)):
        await page.set_viewport_size({"width": width, "height": 800})
        box = await ask.bounding_box()
        assert box
        # Wider than its picture: there is a word, on one line.
        assert 70 < box["width"] < (200 if whole else 110)
        assert box["height"] == 44
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_everything_the_pages_ask_for_is_there(browser: Browser, site: Site) -> None:
    page = await browser.new_page()
    wrong: list[str] = []
    page.on("response", lambda answer: wrong.append(answer.url) if answer.status >= 400 else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda entry: wrong.append(entry.text) if entry.type == "error" else None)
    page.on("request", lambda asked: None if site.url in asked.url else wrong.append(asked.url))
    await page.goto(site.url, wait_until="networkidle")
    for path in ("/room/tea/", "/mentions/"):
        await page.goto(site.url + path, wait_until="networkidle")
        await expect(page.get_by_role("status")).to_have_text("connected")
    assert wrong == []


async def test_the_page_comes_back_after_the_server(browser: Browser, site: Site) -> None:
    ann = await enter(browser, site, "Ann", "restart")
    ben = await enter(browser, site, "Ben", "restart")

    site.stop()
    for page in (ann, ben):
        await expect(page.get_by_role("status")).to_have_text("reconnecting…")
    await say(ann, "Are you back?")
    await expect(ann.locator("article")).to_contain_text("Sending…")

    site.start()
    for page in (ann, ben):
        await expect(page.get_by_role("status")).to_have_text("connected")
        await expect(page.locator("article p")).to_have_text("Are you back?")
    await expect(ann.locator("article")).not_to_contain_text("Sending…")
