"""The consumer's side of the chat's memory: positions, keys, and Redis away."""

from __future__ import annotations

from typing import Any

import pytest
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator

from example_project.chat.consumers import MAX_WAITING
from example_project.chat.rules import MAX_TEXT
from tests.conftest import RestartableServer, eventually
from tests.proxy import Proxy

from .conftest import Join, Open
from .sockets import assert_lives, go_in, heard, in_room, message, use_layer

AWAY, BACK = ({"type": "redis", "away": away} for away in (True, False))


async def speak(communicator: WebsocketCommunicator, text: str, key: str) -> list[dict[str, Any]]:
    """Say something under a key; returns the two frames that come of it."""
    await communicator.send_json_to({"text": text, "key": key})
    frames = [await heard(communicator) for _ in range(2)]
    return sorted(frames, key=lambda frame: frame["type"])


async def test_who_comes_back_gets_what_was_missed(join: Join, open_socket: Open) -> None:
    ann, ben = await join("missed", "Ann"), await join("missed", "Ben")
    (said, sent) = await speak(ann, "one", "key-1")
    assert said == message("Ann", "one", "key-1")
    assert sent == {"type": "sent", "key": "key-1"}
    assert await heard(ben) == said
    await ben.disconnect(timeout=10)
    for number in (2, 3):
        await speak(ann, str(number), f"key-{number}")
    ben = await open_socket(in_room("missed"), "Ben")
    assert await go_in(ben, said["position"]) == []
    for number in (2, 3):
        assert await heard(ben) == message("Ann", str(number), f"key-{number}")
    await assert_lives(ben, "Ben")


async def test_who_enters_again_hears_everything_once(join: Join) -> None:
    ann = await join("twice", "Ann")
    for _ in range(3):
        (history,) = await go_in(ann)
        assert not history["missing"]
        await assert_lives(ann, "Ann")


async def test_what_other_code_sends_is_shown(join: Join) -> None:
    ann, layer = await join("others", "Ann"), get_channel_layer()
    position = await layer.group_send("chat.others", {"type": "chat.message", "text": "Hello"})
    told = message("anonymous", "Hello", position)
    assert await heard(ann) == told
    # Of what is no message, the last messages are none the worse.
    await layer.group_send("chat.others", {"type": "mpx.reconnect"})
    assert await heard(ann) == BACK
    (history,) = await go_in(ann)
    assert history["messages"] == [told]
    await assert_lives(ann, "Ann")


@pytest.mark.parametrize(
    "since",
    [True, False, 0, -1, 1.5, "", "x", f"{'0' * 16}-1", "x" * 100_000, [], [None], {}, {"a": 1}],
    ids=repr,
)
async def test_a_position_that_is_none_gets_the_last_messages(join: Join, since: Any) -> None:
    ann = await join("position", "Ann")
    (history,) = await go_in(ann, since)
    assert history["missing"] is True
    await assert_lives(ann, "Ann")


@pytest.mark.parametrize(
    "key", ["null", "1", '""', f'"{"x" * 65}"', '"a b"', '"é"', r'"\ud800"', r'"a\n"', "[]", "{}"]
)
async def test_a_key_that_is_none_is_refused(join: Join, key: str) -> None:
    ann = await join("keys", "Ann")
    await ann.send_to(text_data=f'{{"text": "Hello", "key": {key}}}')
    assert (await heard(ann))["type"] == "error"
    await assert_lives(ann, "Ann")


async def test_a_text_that_is_too_long_is_refused_under_its_key(join: Join) -> None:
    ann = await join("long", "Ann")
    await ann.send_json_to({"text": "x" * (MAX_TEXT + 1), "key": "key"})
    refused = await heard(ann)
    assert (refused["type"], refused["key"]) == ("error", "key")
    await assert_lives(ann, "Ann")


async def test_the_same_key_is_one_message(join: Join) -> None:
    ann, ben = await join("once", "Ann"), await join("once", "Ben")
    await speak(ann, "Hello", "same")
    # From wherever: Ben's page may be Ann's after a reconnect.
    for again in (ann, ben):
        await again.send_json_to({"text": "Hello", "key": "same"})
    assert await heard(ann) == {"type": "sent", "key": "same"}
    assert await heard(ben) == message("Ann", "Hello", "same")
    assert await heard(ben) == {"type": "sent", "key": "same"}
    await assert_lives(ben, "Ben")


async def test_what_is_typed_last_is_said(join: Join) -> None:
    ben, ann = await join("last", "Ben"), await join("last", "Ann")
    for number in range(10):
        await ann.send_json_to({"text": f"Bye {number}"})
    await ann.disconnect(timeout=10)
    for number in range(10):
        assert await heard(ben) == message("Ann", f"Bye {number}")


async def test_much_at_once_is_said_in_its_order(settings: Any, join: Join, proxy: Proxy) -> None:
    use_layer(settings, hosts=[proxy.url])
    ann = await join("much", "Ann")
    proxy.freeze()
    for number in range(MAX_WAITING + 1):
        await ann.send_json_to({"text": str(number)})
    assert (await heard(ann))["type"] == "error"
    proxy.thaw()
    for number in range(MAX_WAITING):
        assert await heard(ann) == message("Ann", str(number))
    await assert_lives(ann, "Ann")


async def test_the_order_holds_when_the_link_breaks(
    settings: Any, join: Join, proxy: Proxy
) -> None:
    use_layer(settings, hosts=[proxy.url])
    ann = await join("order", "Ann")
    lost: list[bytes] = []

    def freeze_at(piece: bytes) -> bool:
        if b"first" in piece:
            lost.append(piece)
        return bool(lost)

    # Whether the first has arrived is yet to be found out when there is a link for the second.
    proxy.to_server.freeze_at = freeze_at
    await ann.send_json_to({"text": "first"})
    await eventually(lambda: lost)
    proxy.refuse()
    proxy.cut()
    proxy.thaw()
    assert await heard(ann) == AWAY
    await ann.send_json_to({"text": "second"})
    await proxy.accept()
    said = []
    while len(said) < 2:
        frame = await heard(ann)
        if frame["type"] == "message":
            said.append(frame["text"])
    assert said == ["first", "second"]


async def test_the_page_is_told_of_redis(settings: Any, join: Join, proxy: Proxy) -> None:
    use_layer(settings, hosts=[proxy.url], backlog_timeout=0.1)
    ann = await join("told", "Ann")
    layer = get_channel_layer()
    # Something is on its way when the link breaks, and does not hold up the news.
    proxy.to_client.freeze()
    await ann.send_json_to({"text": "Hello", "key": "key"})
    await eventually(lambda: b"Hello" in proxy.to_server.data)
    proxy.refuse()
    proxy.cut()
    await eventually(lambda: not layer.stats().multiplexer.connected)
    # Within a second, however long it is away.
    assert await ann.receive_json_from(timeout=1) == AWAY
    proxy.to_client.thaw()
    await proxy.accept()
    frames = [await heard(ann) for _ in range(3)]
    assert BACK in frames
    assert message("Ann", "Hello", "key") in frames
    assert {"type": "sent", "key": "key"} in frames
    await assert_lives(ann, "Ann")


async def test_what_redis_refuses_is_told(
    settings: Any, join: Join, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    use_layer(settings, hosts=[restartable_server.url])
    ann = await join("full", "Ann")
    with restartable_server.client() as admin:
        admin.config_set("maxmemory", 1)
        await ann.send_json_to({"text": "Hello", "key": "key"})
        refused = await heard(ann)
        assert (refused["type"], refused["key"]) == ("error", "key")
        admin.config_set("maxmemory", 0)
    await assert_lives(ann, "Ann")


async def test_a_question_while_redis_is_away(
    settings: Any, join: Join, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    use_layer(settings, hosts=[restartable_server.url], connect_timeout=0.1, backlog_timeout=0.1)
    ann = await join("asked", "Ann")
    restartable_server.kill()
    assert await heard(ann) == AWAY
    for frame in ({"ask": "Tea?"}, {"answer": "Tea", "to": "0" * 32}):
        await ann.send_json_to(frame)
        assert (await heard(ann))["message"].startswith("Redis is away")
    restartable_server.start()
    # Another server, which has no history.
    frames = [await heard(ann)]
    while frames[-1] != {"type": "entered"}:
        frames.append(await heard(ann))
    assert any(frame.get("missing") for frame in frames)
    await assert_lives(ann, "Ann")
