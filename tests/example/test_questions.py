"""Questions to a room: the consumer's frames, on the real layer; and the page, in Chromium."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

from example_project.chat.questions import LONGEST, MAX_OPEN, SHORTEST, TIMEOUT
from example_project.chat.rules import MAX_TEXT

from .conftest import Join, Open, Site
from .pages import enter, in_browser, say
from .sockets import assert_lives, go_in, heard, in_room, socket, use_layer

try:
    from playwright.async_api import Browser, Locator, Page, expect
except ImportError:
    Browser = Locator = Page = expect = None


async def ask(communicator: WebsocketCommunicator, text: str, **more: Any) -> dict[str, Any]:
    """Put a question; returns what comes back."""
    await communicator.send_json_to({"ask": text, **more})
    return await heard(communicator)


async def answer(communicator: WebsocketCommunicator, asked: str, text: str) -> dict[str, Any]:
    """Answer a question; returns what comes back."""
    await communicator.send_json_to({"answer": text, "to": asked})
    return await heard(communicator)


async def test_the_first_answer_counts(join: Join) -> None:
    ann, ben, cyd = await join("tea", "Ann"), await join("tea", "Ben"), await join("tea", "Cyd")
    asked = await ask(ann, " Tea or coffee? ")
    question = asked["id"]
    about = {"id": question, "text": "Tea or coffee?", "timeout": TIMEOUT}
    assert asked == {"type": "asked", **about}
    for other in (ben, cyd):
        assert await heard(other) == {"type": "question", "from": "Ann", **about}

    assert await answer(ben, question, "Tea 🍵") == {
        "type": "answer",
        "to": question,
        "first": True,
    }
    answered = {"type": "answered", "id": question, "from": "Ben", "text": "Tea 🍵"}
    assert await heard(ann) == answered
    assert await answer(cyd, question, "No") == {"type": "answer", "to": question, "first": False}
    await assert_lives(ann, "Ann")


async def test_who_asks_can_go_on_talking(join: Join) -> None:
    ann, ben = await join("tea", "Ann"), await join("tea", "Ben")
    question = (await ask(ann, "Tea?"))["id"]
    await assert_lives(ann, "Ann")
    assert [(await heard(ben))["type"] for _ in range(2)] == ["question", "message"]
    await answer(ben, question, "Yes")
    assert (await heard(ann))["text"] == "Yes"


async def test_a_question_is_no_history(join: Join, open_socket: Open) -> None:
    ann = await join("old", "Ann")
    await assert_lives(ann, "Ann")
    (history,) = await go_in(ann)
    await ask(ann, "Tea?")
    # Who comes back over another socket, Ann or anybody else, is not asked.
    for since, shown in ((history["position"], 0), (None, 1)):
        back = await open_socket(in_room("old"), "Ann")
        frames = await go_in(back, since)
        assert len(frames) == shown
        await assert_lives(back, "Ann")
        await back.disconnect(timeout=10)


async def test_another_room_is_not_asked(join: Join) -> None:
    ann, ben = await join("tea", "Ann"), await join("coffee", "Ben")
    await ask(ann, "Tea?")
    await assert_lives(ben, "Ben")


async def test_nobody_answers(join: Join) -> None:
    ann, ben = await join("tea", "Ann"), await join("tea", "Ben")
    question = (await ask(ann, "Anybody?", timeout=SHORTEST))["id"]
    assert (await heard(ben))["timeout"] == SHORTEST
    unanswered = await heard(ann)
    assert unanswered.pop("message").startswith("Nobody answered")
    assert unanswered == {"type": "unanswered", "id": question}
    assert (await answer(ben, question, "Me"))["first"] is False
    await assert_lives(ann, "Ann")


async def test_who_leaves_does_not_wait(join: Join) -> None:
    ann, ben = await join("tea", "Ann"), await join("tea", "Ben")
    question = (await ask(ann, "Tea?"))["id"]
    await heard(ben)
    await ann.disconnect(timeout=10)
    assert (await answer(ben, question, "Yes"))["first"] is False


async def test_anybody_may_resolve_the_promise(join: Join) -> None:
    ann = await join("tea", "Ann")
    for value, name, text in (
        ({"from": "Django", "text": "hello"}, "Django", "hello"),
        ([1, 2], "somebody", "[1, 2]"),
        ({"from": 1}, "somebody", "{'from': 1}"),
    ):
        question = (await ask(ann, "What is it?"))["id"]
        assert await get_channel_layer().resolve(f"ask-{question}", value) == 1
        told = {"type": "answered", "id": question, "from": name, "text": text}
        assert await heard(ann) == told
    await assert_lives(ann, "Ann")


async def test_a_question_is_rejected(join: Join) -> None:
    ann = await join("tea", "Ann")
    question = (await ask(ann, "What?"))["id"]
    assert await get_channel_layer().reject(f"ask-{question}", "not here") == 1
    told = await heard(ann)
    assert (told["type"], told["id"]) == ("unanswered", question)
    assert "not here" in told["message"]


async def test_the_link_breaks(
    settings: Any, redis_url: str, client: redis.Redis, join: Join
) -> None:
    use_layer(settings, hosts=[redis_url])
    ann = await join("tea", "Ann")
    question = (await ask(ann, "Tea?"))["id"]
    assert client.client_kill_filter(_type="pubsub")
    while (told := await heard(ann))["type"] == "redis":
        pass
    assert (told["type"], told["id"]) == ("unanswered", question)
    assert "connection" in told["message"]


@pytest.mark.parametrize("text", ["", " \n ", None, 1, ["x"], "x" * (MAX_TEXT + 1)])
async def test_what_is_no_text_is_refused(join: Join, text: Any) -> None:
    ann = await join("tea", "Ann")
    for frame in ({"ask": text}, {"answer": text, "to": "0" * 32}):
        await ann.send_json_to(frame)
        told = await heard(ann)
        assert told["type"] == "error"
        assert f"{MAX_TEXT:,}" in told["message"]
    await assert_lives(ann, "Ann")


@pytest.mark.parametrize("timeout", [0, -1, LONGEST + 1, "30", None, float("nan")])
async def test_a_question_waits_neither_too_long_nor_too_short(join: Join, timeout: Any) -> None:
    ann = await join("tea", "Ann")
    told = await ask(ann, "Tea?", timeout=timeout)
    assert told["type"] == "error"
    assert f"{SHORTEST} to {LONGEST} seconds" in told["message"]


@pytest.mark.parametrize("asked", ["", "tea", "0" * 31, "0" * 32 + "\n", "../" * 9, None, 1])
async def test_there_is_no_such_question(join: Join, asked: Any) -> None:
    ann = await join("tea", "Ann")
    assert (await answer(ann, asked, "Yes"))["type"] == "error"
    await assert_lives(ann, "Ann")


async def test_so_many_questions_and_no_more(join: Join) -> None:
    ann, ben = await join("tea", "Ann"), await join("tea", "Ben")
    for _ in range(MAX_OPEN):
        question = (await ask(ann, "Tea?"))["id"]
        await heard(ben)
    assert (await ask(ann, "Tea?"))["type"] == "error"
    await answer(ben, question, "Yes")
    await heard(ann)
    assert (await ask(ann, "Coffee?"))["type"] == "asked"


async def test_where_there_is_no_room_nobody_asks() -> None:
    communicator = socket(in_room("no room"))
    await communicator.connect(timeout=10)
    await communicator.receive_output(timeout=10)
    await communicator.send_json_to({"ask": "Tea?"})
    await communicator.disconnect(timeout=10)
    assert communicator.output_queue.empty()


# -- the page ---------------------------------------------------------------------------------


async def enter_to_ask(
    browser: Browser, site: Site, name: str, room: str, timeout: int = LONGEST
) -> Page:
    """Enter a room, with questions that wait long enough for an answer on a busy machine."""
    page = await enter(browser, site, name, room)
    await page.goto(f"{page.url}&timeout={timeout}")
    await expect(page.get_by_role("status")).to_have_text("connected")
    return page


async def put(page: Page, text: str) -> Locator:
    """Ask the room on somebody's page; returns the question on it."""
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_role("button", name="Ask the room").click()
    question = page.locator("article.question.own").last
    await expect(question.locator(".asked")).to_have_text(text)
    return question


async def reply(page: Page, name: str, text: str) -> None:
    """Answer somebody's question on somebody else's page."""
    await page.get_by_label(f"Answer to {name}").fill(text)
    await page.get_by_role("button", name="Answer").click()


@in_browser
async def test_the_page_of_who_asks_shows_the_first_answer(browser: Browser, site: Site) -> None:
    ann, ben, cyd = [
        await enter_to_ask(browser, site, name, "ask") for name in ("Ann", "Ben", "Cyd")
    ]
    asked = await put(ann, "Tea <b>or</b> coffee?")
    await expect(asked.locator(".outcome")).to_contain_text("Waiting")
    await expect(asked.get_by_role("timer")).to_contain_text(" s")
    await expect(ann.get_by_label("Message", exact=True)).to_have_value("")
    for page in (ben, cyd):
        await expect(page.locator(".question header")).to_contain_text("Ann asks")
        await expect(page.locator(".question .asked")).to_have_text("Tea <b>or</b> coffee?")

    # While it waits, the chat goes on.
    await say(ann, "I am waiting")
    await expect(ben.locator("article.message p")).to_have_text("I am waiting")

    await reply(ben, "Ann", "<i>Tea</i>")
    await expect(asked.locator(".answer")).to_have_text("<i>Tea</i>")
    await expect(asked.locator(".outcome")).to_contain_text("Ben answered")
    await expect(asked.get_by_role("timer")).to_have_count(0)
    await expect(ben.locator(".outcome")).to_have_text("Your answer was the first.")

    await reply(cyd, "Ann", "Coffee")
    await expect(cyd.locator(".outcome")).to_contain_text("already answered")
    await expect(cyd.locator(".answer")).to_have_text("Coffee")
    await expect(asked.locator(".answer")).to_have_count(1)
    assert await ann.locator(".question b b, .question i").count() == 0


@in_browser
async def test_the_page_shows_that_the_time_is_up(browser: Browser, site: Site) -> None:
    ben = await enter(browser, site, "Ben", "hurry")
    ann = await enter_to_ask(browser, site, "Ann", "hurry", SHORTEST)
    asked = await put(ann, "Anybody?")
    await expect(asked.locator(".outcome")).to_have_text(f"Nobody answered in {SHORTEST} s.")
    await expect(ben.locator(".outcome")).to_have_text("The time is up.")
    await expect(ben.get_by_label("Answer to Ann")).to_have_count(0)


@in_browser
async def test_a_refused_question_is_not_lost(browser: Browser, site: Site) -> None:
    ann = await enter_to_ask(browser, site, "Ann", "many")
    for number in range(MAX_OPEN):
        await put(ann, f"Question {number}")
    draft = ann.get_by_label("Message", exact=True)
    await draft.fill("One more")
    await ann.get_by_role("button", name="Ask the room").click()
    await expect(ann.get_by_role("alert")).to_contain_text("wait already")
    await expect(draft).to_have_value("One more")


@in_browser
async def test_a_question_ends_with_the_connection(browser: Browser, site: Site) -> None:
    ann = await enter_to_ask(browser, site, "Ann", "break")
    ben = await enter(browser, site, "Ben", "break")
    asked = await put(ann, "Still there?")
    await ben.get_by_label("Answer to Ann").fill("Yes")
    site.stop()
    await expect(asked.locator(".outcome")).to_contain_text("connection was lost")
    await expect(ben.get_by_role("button", name="Answer")).to_be_disabled()
    site.start()
    await expect(ben.get_by_role("status")).to_have_text("connected")
    await ben.get_by_role("button", name="Answer").click()
    await expect(ben.locator(".outcome")).to_contain_text("Too late")
