"""Mentions: the consumer, on the real layer; and the page, in Chromium."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from channels.testing import WebsocketCommunicator
from django.test import Client

from example_project.chat.mentions import mention_of

from .conftest import Join, Open, Site
from .pages import enter, in_browser, say
from .sockets import heard, use_layer

try:
    from playwright.async_api import Browser, expect
except ImportError:
    Browser = expect = None

PATH = "/ws/mentions/"


async def watch(open_socket: Open, name: str | None = None) -> WebsocketCommunicator:
    watcher = await open_socket(PATH, name)
    assert await heard(watcher) == {"type": "entered"}
    return watcher


def mention(room: str, name: str, text: str, question: bool = False) -> dict[str, Any]:
    return {"type": "mention", "room": room, "from": name, "text": text, "question": question}


async def test_mentions_come_from_every_room(open_socket: Open, join: Join) -> None:
    watcher = await watch(open_socket, "Ann")
    # These rooms are new to it.
    ben, cyd = await join("tea", "Ben"), await join("a.b", "Cyd")
    await ben.send_json_to({"text": "Not about her"})
    await ben.send_json_to({"text": "Hello @ann!"})
    assert await heard(watcher) == mention("tea", "Ben", "Hello @ann!")
    await cyd.send_json_to({"ask": "@Ann, tea?"})
    assert await heard(watcher) == mention("a.b", "Cyd", "@Ann, tea?", question=True)


async def test_what_is_missed_is_told(
    settings: Any, redis_url: str, client: redis.Redis, open_socket: Open
) -> None:
    use_layer(settings, hosts=[redis_url])
    watcher = await watch(open_socket)
    assert client.client_kill_filter(_type="pubsub")
    told = [await heard(watcher) for _ in range(3)]
    assert {"type": "missing"} in told
    assert [frame["away"] for frame in told if frame["type"] == "redis"] == [True, False]


@pytest.mark.parametrize("name", [None, "", " "])
async def test_without_a_name_everything_comes(
    open_socket: Open, join: Join, name: str | None
) -> None:
    watcher = await watch(open_socket, name)
    ben, cyd = await join("tea", "Ben"), await join("coffee", "Cyd")
    await ben.send_json_to({"text": "one"})
    assert await heard(watcher) == mention("tea", "Ben", "one")
    await cyd.send_json_to({"ask": "two"})
    assert await heard(watcher) == mention("coffee", "Cyd", "two", question=True)


async def test_what_a_watcher_sends_is_ignored(open_socket: Open, join: Join) -> None:
    watcher, ben = await watch(open_socket), await join("tea", "Ben")
    await watcher.send_to(text_data="{")
    await watcher.send_to(bytes_data=b"\x00")
    await ben.send_json_to({"text": "one"})
    assert await heard(watcher) == mention("tea", "Ben", "one")


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("Ann", "@Ann", True),
        ("Ann", "(@ANN)", True),
        ("Ann", "hello\n@ann, you", True),
        ("Ann", "@Anna", False),
        ("Ann", "post@ann", False),
        ("Ann", "Ann", False),
        ("Ann Lee", "dear @Ann Lee!", True),
        ("Ann Lee", "dear @Ann", False),
        ("Änn", "@änn", True),
        ("A.n", "@Ann", False),
        ("C++", "in @C++?", True),
        ("", "anything", True),
        ("", "", True),
    ],
)
def test_what_a_mention_is(name: str, text: str, found: bool) -> None:
    assert bool(mention_of(name).search(text)) is found


def test_the_page_says_whose_mentions_these_are() -> None:
    visitor = Client()
    answer = visitor.get("/mentions/", {"name": " <i>Ann</i> "})
    assert answer.status_code == 200
    assert b'data-name="&lt;i&gt;Ann&lt;/i&gt;"' in answer.content
    assert b"<i>Ann" not in answer.content
    assert b"All rooms" in visitor.get("/mentions/").content


# -- the page ---------------------------------------------------------------------------------


@in_browser
async def test_the_page_shows_mentions_and_nothing_else(browser: Browser, site: Site) -> None:
    ann = await browser.new_page()
    await ann.goto(site.url)
    await ann.get_by_label("Your name").fill("Ann")
    await ann.get_by_role("button", name="Watch your mentions").click()
    await expect(ann.get_by_role("heading")).to_have_text("@Ann")
    await expect(ann.get_by_role("status")).to_have_text("connected")

    ben = await enter(browser, site, "Ben", "watched")
    await say(ben, "Nobody in particular")
    await say(ben, "<b>@Ann</b>: hello, @ann")
    shown = ann.locator("article")
    await expect(shown.locator("p")).to_have_text(["<b>@Ann</b>: hello, @ann"])
    await expect(shown.locator("mark")).to_have_text(["@Ann", "@ann"])
    await expect(shown.locator("header")).to_contain_text("Ben in #watched")

    await ben.get_by_label("Message", exact=True).fill("@Ann, are you there?")
    await ben.get_by_role("button", name="Ask the room").click()
    await expect(shown.locator("p")).to_have_text(
        ["<b>@Ann</b>: hello, @ann", "@Ann, are you there?"]
    )
    await expect(shown.last.locator("header")).to_contain_text("Ben asks in #watched")

    await shown.first.get_by_role("link", name="#watched").click()
    await expect(ann.get_by_text("You are Ann")).to_be_visible()
    await expect(ann.get_by_role("status")).to_have_text("connected")
    await say(ann, "Here I am")
    await expect(ben.locator("article.message").last).to_contain_text("Here I am")


@in_browser
async def test_the_page_without_a_name_shows_everything(browser: Browser, site: Site) -> None:
    watcher = await browser.new_page()
    await watcher.goto(f"{site.url}/mentions/?name=Ann")
    await watcher.get_by_label("Name").fill("")
    await watcher.get_by_role("button", name="Watch").click()
    await expect(watcher.get_by_role("heading")).to_have_text("All rooms")
    await expect(watcher.get_by_role("status")).to_have_text("connected")
    for name, room in (("Ben", "here"), ("Cyd", "there")):
        await say(await enter(browser, site, name, room), f"Hello from {room}")
    await expect(watcher.locator("article p")).to_have_text(["Hello from here", "Hello from there"])
    await expect(watcher.locator("article a")).to_have_text(["#here", "#there"])
