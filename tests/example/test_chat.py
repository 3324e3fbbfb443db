"""The example's pages and its consumer, on the real layer and through the whole application."""

from __future__ import annotations

import pytest
from django.test import Client

from example_project.chat.consumers import NO_SUCH_ROOM
from example_project.chat.rules import MAX_NAME, MAX_ROOM, MAX_TEXT

from .conftest import Join
from .sockets import assert_lives, heard, in_room, message, socket


async def test_everyone_in_the_room_hears_a_message(join: Join) -> None:
    ann, ben = await join("tea", "Ann"), await join("tea", "Ben")
    await ann.send_json_to({"text": "Hello <b>Ben</b> 🙂"})
    assert await heard(ann) == message("Ann", "Hello <b>Ben</b> 🙂")
    assert await heard(ben) == message("Ann", "Hello <b>Ben</b> 🙂")


async def test_another_room_hears_nothing(join: Join) -> None:
    ann, ben = await join("tea", "Ann"), await join("coffee", "Ben")
    await ann.send_json_to({"text": "Only for tea"})
    await heard(ann)
    await assert_lives(ben, "Ben")


async def test_who_leaves_hears_no_more_and_the_others_do(join: Join) -> None:
    ann, ben = await join("tea", "Ann"), await join("tea", "Ben")
    await ben.disconnect(timeout=10)
    await assert_lives(ann, "Ann")


@pytest.mark.parametrize(
    "frame",
    ["", "{", "[" * 100_000, '"text"', "[]", "null", "{}", '{"text": 1}', '{"text": null}'],
    ids=["empty", "broken", "deep", "string", "list", "null", "no-text", "number", "no-string"],
)
async def test_a_frame_that_makes_no_sense_is_answered(join: Join, frame: str) -> None:
    ann = await join("tea", "Ann")
    await ann.send_input({"type": "websocket.receive", "text": frame})
    answer = await heard(ann)
    assert answer.keys() == {"type", "message", "key"}
    assert answer["type"] == "error"
    await assert_lives(ann, "Ann")


async def test_a_binary_frame_is_answered(join: Join) -> None:
    ann = await join("tea", "Ann")
    await ann.send_to(bytes_data=b"\x00")
    assert (await heard(ann))["type"] == "error"
    await assert_lives(ann, "Ann")


async def test_a_text_may_be_so_long_and_no_longer(join: Join) -> None:
    ann = await join("tea", "Ann")
    await ann.send_json_to({"text": "x" * (MAX_TEXT + 1)})
    assert (await heard(ann))["type"] == "error"
    await ann.send_json_to({"text": "x" * MAX_TEXT})
    assert await heard(ann) == message("Ann", "x" * MAX_TEXT)


async def test_an_empty_text_is_ignored(join: Join) -> None:
    ann = await join("tea", "Ann")
    await ann.send_json_to({"text": " \n "})
    await assert_lives(ann, "Ann")


async def test_half_a_surrogate_pair_does_no_harm(join: Join) -> None:
    ann = await join("tea", "Ann")
    await ann.send_to(text_data=r'{"text": "\ud800"}')
    assert await heard(ann) == message("Ann", "?")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, "anonymous"),
        ("  ", "anonymous"),
        ("  Ann\t Lee\n", "Ann Lee"),
        ("é" * (MAX_NAME + 1), "é" * MAX_NAME),
    ],
)
async def test_names_are_tidied(join: Join, given: str | None, shown: str) -> None:
    await assert_lives(await join("tea", given), shown)


@pytest.mark.parametrize("room", ["x" * (MAX_ROOM + 1), "a b", "a/b", "", "é"])
async def test_a_room_no_group_can_carry_is_closed_with_a_reason(room: str) -> None:
    communicator = socket(in_room(room))
    connected, _ = await communicator.connect(timeout=10)
    assert connected, "a refused handshake hides the code from a browser"
    closed = await communicator.receive_output(timeout=10)
    assert closed["type"] == "websocket.close"
    assert closed["code"] == NO_SUCH_ROOM
    assert "letters" in closed["reason"]
    await communicator.disconnect(timeout=10)


@pytest.mark.parametrize("origin", ["http://example.com", "http://localhost.example.com", "null"])
async def test_another_sites_page_is_refused(origin: str) -> None:
    communicator = socket(in_room("tea"), origin=origin)
    connected, _ = await communicator.connect(timeout=10)
    assert not connected


def test_the_lobby_leads_to_the_room(visitor: Client) -> None:
    assert visitor.get("/").status_code == 200
    answer = visitor.get("/", {"name": " Ann & Ben ", "room": " tea "})
    assert answer.status_code == 302
    assert answer["Location"] == "/room/tea/?name=Ann+%26+Ben"


def test_a_room_button_wins_over_the_field(visitor: Client) -> None:
    answer = visitor.get("/?name=Ann&room=typed&room=redis")
    assert answer["Location"] == "/room/redis/?name=Ann"


@pytest.mark.parametrize("page", ["/?room=", "/?room=a+b", "/room/a%20b/", "/room/%C3%A9/"])
def test_the_lobby_explains_a_bad_room(visitor: Client, page: str) -> None:
    answer = visitor.get(page)
    assert answer.status_code == 400
    assert b"letters, digits" in answer.content


def test_a_name_is_never_html(visitor: Client) -> None:
    script = "<script>alert(1)</script>\"'"
    for page in ("/", "/room/tea/"):
        content = visitor.get(page, {"name": script}).content
        assert b"alert(1)</script>" not in content
        assert b"&lt;/script&gt;&quot;" in content


@pytest.fixture
def visitor() -> Client:
    return Client()
