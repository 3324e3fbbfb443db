"""Groups with a history: positions, idempotency keys, and what is kept."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from mpx_channels.layer import History, MpxChannelLayer, Recovery
from tests.inside import names_of
from tests.layer.conftest import MakeLayer
from tests.over import Outside

HISTORY = {"room-*": {"size": 10, "ttl": 60}}


@pytest.fixture
def layer(make_layer: MakeLayer) -> MpxChannelLayer:
    return make_layer(history=HISTORY)


@pytest.fixture
def other_layer(make_layer: MakeLayer) -> MpxChannelLayer:
    return make_layer(history=HISTORY)


def numbers(history: History) -> list[int]:
    return [message["n"] for message in history.messages]


@pytest.mark.everywhere
async def test_sends_return_positions(layer: MpxChannelLayer, other_layer: MpxChannelLayer) -> None:
    first = await layer.group_send("room-1", {"type": "x", "n": 1})
    assert first is not None
    epoch, _, offset = first.rpartition("-")
    assert offset == "1"
    assert await other_layer.group_send("room-1", {"type": "x", "n": 2}) == f"{epoch}-2"
    assert await layer.group_broadcast("room-1", "hello") == f"{epoch}-3"
    assert await layer.group_send("lobby", {"type": "x"}) is None
    assert await layer.group_broadcast("lobby", "hello") is None
    sent = await layer.group_send_many(
        [("room-1", {"type": "x"}), ("lobby", {"type": "x"}), ("room-1", {"type": "x"})]
    )
    assert sent == [f"{epoch}-4", None, f"{epoch}-5"]
    assert await layer.group_send_many([("lobby", {"type": "x"})]) == [None]
    other = await layer.group_send("room-2", {"type": "x"})
    assert other is not None
    assert other.endswith("-1")


async def test_events_carry_positions(layer: MpxChannelLayer, make_layer: MakeLayer) -> None:
    channel = await layer.new_channel()
    unaware = make_layer()  # of a process without this CONFIG
    unaware_channel = await unaware.new_channel()
    await layer.group_add("room-1", channel)
    await unaware.group_add("room-1", unaware_channel)
    position = await layer.group_send("room-1", {"type": "x", "n": [1]})
    event = {"type": "x", "n": [1]}
    assert await layer.receive(channel) == {**event, "mpx_position": position}
    assert await unaware.receive(unaware_channel) == event
    # And what such a process sends comes, too.
    await unaware.group_send("room-1", {"type": "x", "n": [2]})
    assert (await layer.receive(channel))["n"] == [2]


@pytest.mark.everywhere
async def test_a_burst_keeps_its_order(layer: MpxChannelLayer, outside: Outside) -> None:
    channel = (await layer.open_channel()).channel
    await layer.group_add("room-1", channel)
    for turn in range(3):
        if turn == 2:
            outside.forget_scripts()
        sent = await asyncio.gather(
            *[layer.group_send("room-1", {"type": "x", "n": n}) for n in range(90)]
        )
        got = [await layer.receive(channel) for _ in range(90)]
        assert [event["n"] for event in got] == list(range(90))
        assert [event["mpx_position"] for event in got] == sent


@pytest.mark.everywhere
async def test_history(layer: MpxChannelLayer) -> None:
    empty = await layer.group_history("room-1")
    assert (list(empty.messages), empty.complete) == ([], True)
    sent = [await layer.group_send("room-1", {"type": "x", "n": n}) for n in range(1, 13)]
    history = await layer.group_history("room-1", limit=3)
    assert numbers(history) == [10, 11, 12]
    assert [message["mpx_position"] for message in history.messages] == sent[-3:]
    assert history.position == sent[-1]
    assert not history.complete
    since = await layer.group_history("room-1", since=sent[5], limit=4)
    assert numbers(since) == [7, 8, 9, 10]
    assert since.complete
    assert since.position == sent[9]
    assert numbers(await layer.group_history("room-1", since.position)) == [11, 12]
    # The first two were trimmed.
    assert (await layer.group_history("room-1", since=sent[1])).complete
    trimmed = await layer.group_history("room-1", since=sent[0])
    assert numbers(trimmed) == list(range(3, 13))
    assert not trimmed.complete
    nothing_new = await layer.group_history("room-1", since=sent[-1])
    assert nothing_new == History([], sent[-1] or "", True)
    # From before the first message.
    assert not (await layer.group_history("room-1", since=empty.position)).complete


@pytest.mark.parametrize(
    "wrong", ["", "x", 0, 1.5, True, [], {}, "0" * 16 + "-1", "0" * 5000, "٣" * 16 + "-1", b"x"]
)
async def test_what_is_no_position(layer: MpxChannelLayer, wrong: Any) -> None:
    sent = await layer.group_send("room-1", {"type": "x", "n": 1})
    history = await layer.group_history("room-1", since=wrong)
    assert numbers(history) == [1]
    assert not history.complete
    await wrong_position(layer, wrong, sent)


async def wrong_position(layer: MpxChannelLayer, wrong: Any, sent: str | None) -> None:
    recovery = await layer.group_add("room-1", await layer.new_channel(), since=wrong)
    assert recovery is not None
    assert (recovery.recovered, recovery.replayed, recovery.position) == (False, 0, sent)
    assert recovery.reason in ("invalid", "epoch")


async def test_none_is_no_position(layer: MpxChannelLayer) -> None:
    """It is what a browser's null becomes."""
    sent = await layer.group_send("room-1", {"type": "x"})
    await wrong_position(layer, None, sent)
    recovery = await layer.group_add("lobby", await layer.new_channel(), since=None)
    assert recovery == Recovery(False, 0, None, "no_history")
    assert await layer.group_add("room-1", await layer.new_channel()) is None
    assert (await layer.group_history("room-1", since=None)).complete


async def test_long_histories_come_in_pages(make_layer: MakeLayer) -> None:
    layer = make_layer(history={"*": {"size": 3000, "ttl": 60}})
    text = "x" * 5000
    await layer.group_send_many([("big", {"type": "x", "n": n, "t": text}) for n in range(2500)])
    assert numbers(await layer.group_history("big", limit=5000)) == list(range(2500))
    assert numbers(await layer.group_history("big", limit=1500)) == list(range(1000, 2500))


async def test_what_is_wrong_raises(layer: MpxChannelLayer) -> None:
    with pytest.raises(ValueError, match='"history" in CONFIG'):
        await layer.group_history("lobby")
    for limit in (0, True, "1"):
        with pytest.raises(ValueError, match="limit"):
            await layer.group_history("room-1", limit=limit)  # type: ignore[arg-type]
    for send in (layer.group_send, layer.group_broadcast, layer.sync.group_send):
        with pytest.raises(ValueError, match='"history" in CONFIG'):
            await send("lobby", {"type": "x"}, idempotency_key="k")  # type: ignore[operator]
    for key in ("", 1):
        with pytest.raises(TypeError, match="idempotency_key"):
            await layer.group_send("room-1", {"type": "x"}, idempotency_key=key)  # type: ignore[arg-type]


@pytest.mark.everywhere
async def test_idempotency(
    layer: MpxChannelLayer, other_layer: MpxChannelLayer, outside: Outside
) -> None:
    _, _, keys, _ = names_of(layer).history("room-1")
    channel = await layer.new_channel()
    await layer.group_add("room-1", channel)
    first = await layer.group_send("room-1", {"type": "x", "n": 1}, idempotency_key="a")
    again = await other_layer.group_send("room-1", {"type": "x", "n": 2}, idempotency_key="a")
    assert again == first
    assert await layer.group_broadcast("room-1", "x", idempotency_key="a") == first
    assert await layer.group_send("room-2", {"type": "x", "n": 1}, idempotency_key="a") != first
    strange = await layer.group_send("room-2", {"type": "x"}, idempotency_key="\ud800\0")
    assert await layer.group_send("room-2", {"type": "x"}, idempotency_key="\ud800\0") == strange
    second = await layer.group_send("room-1", {"type": "x", "n": 3}, idempotency_key="b")
    assert (await layer.receive(channel))["n"] == 1
    assert (await layer.receive(channel))["mpx_position"] == second
    # Trimmed, it is forgotten.
    for n in range(9):
        await layer.group_send("room-1", {"type": "x", "n": n})
    assert set(outside.at(keys).hkeys(keys)) == {b"b", b""}  # type: ignore[arg-type]
    third = await layer.group_send("room-1", {"type": "x", "n": 4}, idempotency_key="a")
    assert third not in (first, second)
    assert set(outside.at(keys).hkeys(keys)) == {b"a", b""}  # type: ignore[arg-type]


async def test_keys_live_as_long_as_they_should(
    make_layer: MakeLayer, outside: Outside, prefix: str
) -> None:
    layer = make_layer(history={"*": {"size": 5, "ttl": 100}})
    await layer.group_send("room", {"type": "x"}, idempotency_key="a")
    stream, meta, keys, _ = names_of(layer).history("room")
    at = outside.at(stream)
    at.pexpire(stream, 20_000)
    at.pexpire(keys, 20_000)
    await layer.group_send("room", {"type": "x"})
    for key in (stream, keys):
        assert 90 < at.ttl(key) <= 100  # type: ignore[operator]
    assert at.ttl(meta) > 29 * 86400  # type: ignore[operator]
    for _ in range(10):
        await layer.group_send("room", {"type": "x"})
    assert at.xlen(stream) == 5
    await layer.flush()
    assert outside.keys(f"{prefix}:*") <= {f"{prefix}:n:"}  # in a cluster it stays


async def test_one_of_two_keys_is_evicted(layer: MpxChannelLayer, outside: Outside) -> None:
    stream, meta, _, _ = names_of(layer).history("room-1")
    at = outside.at(stream)
    sent = [await layer.group_send("room-1", {"type": "x", "n": n}) for n in range(3)]
    at.delete(meta)
    anew = await layer.group_send("room-1", {"type": "x", "n": 3})
    assert anew is not None
    assert anew.endswith("-1")
    assert anew[:16] != (sent[0] or "")[:16]
    assert numbers(await layer.group_history("room-1")) == [3]
    at.delete(stream)
    assert await layer.group_send("room-1", {"type": "x", "n": 4}) == f"{anew[:16]}-2"
    history = await layer.group_history("room-1", since=f"{anew[:16]}-0")
    assert (numbers(history), history.complete) == ([4], False)


async def test_idempotency_keys_are_evicted(layer: MpxChannelLayer, outside: Outside) -> None:
    """They are in the history, too."""
    names = dict(zip("hmi", names_of(layer).history("room-1"), strict=False))
    at = outside.at(names["i"])
    first = await layer.group_send("room-1", {"type": "x", "n": 0}, idempotency_key="a")
    for n in range(1, 4):
        await layer.group_send("room-1", {"type": "x", "n": n})
    at.unlink(names["i"])
    assert await layer.group_send("room-1", {"type": "x", "n": 4}, idempotency_key="b")
    for keys in ("i", "hi", "mi", "hmi"):
        assert await layer.group_send("room-1", {"type": "x"}, idempotency_key="a") == first
        at.unlink(*[names[kind] for kind in keys])
        if keys != "i":
            second = await layer.group_send("room-1", {"type": "x"}, idempotency_key="a")
            assert second != first
            first = second
    assert at.ttl(names["i"]) > 50  # type: ignore[operator]


async def test_a_quiet_group_keeps_its_count(make_layer: MakeLayer, outside: Outside) -> None:
    """Of which each message comes when the one before has expired."""
    layer = make_layer(history={"*": {"size": 5, "ttl": 100}})
    await layer.group_send("room", {"type": "x"})
    stream, meta, _, server = names_of(layer).history("room")
    at = outside.at(stream)
    at.delete(stream)
    at.expire(meta, 10)
    await layer.group_send("room", {"type": "x"})
    assert at.ttl(meta) > 29 * 86400  # type: ignore[operator]
    for key in (stream, meta, server):
        assert at.ttl(key) > 0  # type: ignore[operator]


ON_COMMIT = """
import json, sys
from django.conf import settings
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.configure(DATABASES={"default": SQLITE})
import django
django.setup()
from django.db import transaction
from mpx_channels.layer import MpxChannelLayer

layer = MpxChannelLayer(
    **json.loads(sys.argv[1]), prefix=sys.argv[2], history={"room": {"size": 9, "ttl": 60}}
)
send = layer.sync.group_send
for n in range(2):
    with transaction.atomic():
        message = {"type": "x", "n": n}
        assert send("room", message, idempotency_key="a", on_commit=True) is None
        assert layer.sync.group_history("room").messages == [{"type": "x", "n": 0}][:n] or n
        try:
            send("lobby", {"type": "x"}, idempotency_key="a", on_commit=True)
        except ValueError:
            pass
        else:
            raise SystemExit("not refused")
print([message["n"] for message in layer.sync.group_history("room").messages])
"""


def test_on_commit(layer_json: str, prefix: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ON_COMMIT, layer_json, prefix],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "[0]\n", done.stderr


def test_sync(layer: MpxChannelLayer) -> None:
    first = layer.sync.group_send("room-1", {"type": "x", "n": 1}, idempotency_key="a")
    assert first is not None
    assert layer.sync.group_send("room-1", {"type": "x", "n": 2}, idempotency_key="a") == first
    assert layer.sync.group_broadcast("room-1", "x", idempotency_key="a") == first
    assert layer.sync.group_send_many([("room-1", {"type": "x", "n": 3}), ("l", {"type": "x"})])
    assert numbers(layer.sync.group_history("room-1")) == [1, 3]
    channel = layer.sync.new_channel()
    recovery = layer.sync.group_add("room-1", channel, since=first)
    assert recovery is not None
    assert (recovery.recovered, recovery.replayed) == (True, 1)
    assert layer.sync.receive(channel, 10)["n"] == 3
