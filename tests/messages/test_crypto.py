"""Encryption: nothing readable travels, nothing foreign, moved, old or changed gets in."""

from __future__ import annotations

import asyncio
import builtins
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from mpx_channels.layer import (
    REPLY_TO,
    InvalidConfig,
    MpxChannelLayer,
    UndecryptableMessage,
    UnreadableMessage,
)
from mpx_channels.messages.crypto import CLOCK_ALLOWANCE, NONCE_LENGTH, Cipher
from mpx_channels.messages.wrapping import Wrapping
from tests.conftest import eventually
from tests.inside import hours_of
from tests.layer.conftest import MakeLayer

OLD, NEW = "an old passphrase", b"a new passphrase"


class Clock:
    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cipher(clock: Clock) -> Cipher:
    return Cipher([OLD], 60, clock)


# -- the cipher -----------------------------------------------------------------------------------


def test_there_and_back(cipher: Cipher) -> None:
    for body in (b"", b"x", bytes(range(256)) * 5000):
        for header in (None, {}, {"to": "specific.x!1", "id": 7}):
            data = cipher.seal("asgi:g:room", body, header)
            assert cipher.unseal("asgi:g:room", data) == (header or {}, body)
            assert len(body) < 16 or body not in data


def test_equal_messages_do_not_look_equal(cipher: Cipher) -> None:
    assert len({cipher.seal("n", b"body") for _ in range(1000)}) == 1000


def test_bound_to_its_name(cipher: Cipher) -> None:
    data = cipher.seal("asgi:g:room", b"body")
    for name in ("asgi:g:room2", "asgi:p:room", "", "asgi:g:roo"):
        with pytest.raises(UndecryptableMessage, match="another channel or group"):
            cipher.unseal(name, data)
    # Neither can bytes move between what is authenticated with it and the name.
    assert cipher.unseal("a\udcff", cipher.seal("a\udcff", b"body"))[1] == b"body"


def test_every_changed_byte_is_noticed(cipher: Cipher) -> None:
    data = cipher.seal("name", b"body", {"to": "specific.x!1"})
    for index in range(len(data)):
        for change in (1, 0x80):
            changed = bytearray(data)
            changed[index] ^= change
            with pytest.raises(UnreadableMessage):
                cipher.unseal("name", bytes(changed))


def test_every_truncation_is_noticed(cipher: Cipher) -> None:
    data = cipher.seal("name", b"body", {"to": "specific.x!1"})
    for length in range(len(data)):
        with pytest.raises(UnreadableMessage):
            cipher.unseal("name", data[:length])
    with pytest.raises(UnreadableMessage):
        cipher.unseal("name", data + b"\0")


def test_a_header_cannot_be_swapped(cipher: Cipher) -> None:
    one = cipher.seal("name", b"one", {"to": "specific.x!1"})
    two = cipher.seal("name", b"two", {"to": "specific.x!2"})
    at = one.index(b"x!1")
    with pytest.raises(UndecryptableMessage):
        cipher.unseal("name", one[:at] + b"x!2" + one[at + 3 :])
    assert cipher.unseal("name", two)[0] == {"to": "specific.x!2"}


@pytest.mark.parametrize("expiry", [0.5, 60, 86400])
def test_bound_to_its_time(clock: Clock, expiry: float) -> None:
    cipher = Cipher([OLD], expiry, clock)
    sent = clock.now
    data = cipher.seal("n", b"body")
    for age in (0, 0.5 * expiry, expiry + CLOCK_ALLOWANCE - 0.01, 0.01 - CLOCK_ALLOWANCE):
        clock.now = sent + age
        assert cipher.unseal("n", data)[1] == b"body"
    for age in (expiry + CLOCK_ALLOWANCE + 0.01, -CLOCK_ALLOWANCE - 0.01, 10 * expiry + 1000):
        clock.now = sent + age
        with pytest.raises(UndecryptableMessage, match="replayed, or the machines' clocks differ"):
            cipher.unseal("n", data)


def test_the_hour_turns(clock: Clock, cipher: Cipher) -> None:
    hour = clock.now // 3600 * 3600
    for sent, opened in ((hour - 0.0004, hour), (hour, hour - 5), (hour - 1, hour + 1)):
        clock.now = sent
        data = cipher.seal("n", b"body")
        clock.now = opened
        assert cipher.unseal("n", data)[1] == b"body"
    # Keys of many hours are not kept for ever.
    for _ in range(200):
        clock.now += 3600
        assert cipher.unseal("n", cipher.seal("n", b"body"))[1] == b"body"
    assert len(hours_of(cipher)) <= 48


def test_rotation(clock: Clock) -> None:
    ciphers = [Cipher(keys, 60, clock) for keys in ([OLD], [OLD, NEW], [NEW, OLD], [NEW])]
    can_open = {0: {0, 1, 2}, 1: {0, 1, 2}, 2: {1, 2, 3}, 3: {1, 2, 3}}
    for sender, receivers in can_open.items():
        data = ciphers[sender].seal("n", b"body")
        for number, cipher in enumerate(ciphers):
            if number in receivers:
                assert cipher.unseal("n", data)[1] == b"body"
            else:
                with pytest.raises(UndecryptableMessage, match="not in symmetric_encryption_keys"):
                    cipher.unseal("n", data)


def test_keys(clock: Clock) -> None:
    data = Cipher(["grüße"], 60, clock).seal("n", b"body")
    assert Cipher(["grüße".encode()], 60, clock).unseal("n", data)[1] == b"body"
    assert Cipher(["x" * 5000, "grüße", "grüße"], 60, clock).unseal("n", data)[1] == b"body"
    for keys, says in (([], "one key at least"), (["a", ""], "key 1 is empty")):
        with pytest.raises(ValueError, match=says):
            Cipher(keys, 60)
    with pytest.raises(TypeError, match="key 0 must be a str or bytes, not a int") as caught:
        Cipher([123456], 60)  # type: ignore[list-item]
    assert "123456" not in str(caught.value)


def test_the_format_stays_readable_by_later_versions(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that this version wrote once; processes of two versions run side by side."""
    monkeypatch.setattr("os.urandom", lambda count: bytes(range(count)))
    data = Cipher(["secret"], 60, clock).seal("asgi:g:room", b"\x81\xa4type\xa1x", {"id": 1})
    assert data[:9] == b"\xc1\x02\x00\x05\x81\xa2id\x01"
    assert data[25 : 25 + NONCE_LENGTH] == bytes(range(NONCE_LENGTH))
    assert data.hex() == FRAME


FRAME = (
    "c102000581a2696401e661626267468444000001a3185c5000000102030405060708090a0b5d31c4"
    "ef32f375e6c29f43016ebc405dbbb340f7257cf8f9"
)


@pytest.mark.parametrize(
    "header",
    [
        b"\x81\xa2to\x05",
        b"\x81\xa3not\x05",
        b"\x81\xa3not\x91\x90",
        b"\x81\xa2re\x90",
        b"\x90",
        b"\x81\xa2to\xa2\xff\xff",
    ],
)
@pytest.mark.parametrize("keys", [None, [OLD]])
def test_a_header_of_other_types_is_unreadable(header: bytes, keys: Any) -> None:
    """Whoever has a key, or needs none, may still have another version, or a mistake."""
    wrapping = Wrapping(keys=keys)
    data = wrapping.seal("n", b"\x80")
    data = data[:2] + len(header).to_bytes(2, "big") + header + data[4:]
    with pytest.raises(UnreadableMessage, match="broken header"):
        wrapping.unwrap("n", data)


# -- the layer ------------------------------------------------------------------------------------


SECRET = "a text that must not be seen"


@pytest.fixture
def encrypting(make_layer: MakeLayer) -> MpxChannelLayer:
    return make_layer(symmetric_encryption_keys=[OLD])


async def test_everything_that_travels_is_encrypted(
    make_layer: MakeLayer, prefix: str, client: Any
) -> None:
    """Two processes do all they can; somebody listens in on Redis."""
    one = make_layer(symmetric_encryption_keys=[OLD])
    two = make_layer(symmetric_encryption_keys=[OLD])
    listening = client.pubsub()
    listening.psubscribe(f"{prefix}*")
    assert listening.get_message(timeout=10)["type"] == "psubscribe"
    event = {"type": "x", "text": SECRET}

    channel = await one.new_channel()
    await one.group_add("room", channel)
    for send in (
        two.send(channel, event),
        two.group_send("room", event),
        two.group_send("room", event, exclude=["specific.x!1"]),
        two.group_send_many([("room", event)]),
    ):
        await send
        assert await one.receive(channel) == event

    async with one.subscribe(group_patterns=["r*"]) as events:
        await two.group_send("room", event)
        assert await anext(events) == {**event, "mpx_group": "room"}
        assert await one.receive(channel) == event

    promise = await one.new_promise("p", timeout=10)
    assert await two.resolve("p", SECRET) == 1
    assert await promise == SECRET

    asking = asyncio.create_task(two.request(channel, event))
    asked = await one.receive(channel)
    assert asked["text"] == SECRET
    await one.reply(asked, SECRET + "!")
    assert await asking == SECRET + "!"

    before = client.keys(f"{prefix}*")
    await two.send("plain", event)
    (key,) = set(client.keys(f"{prefix}*")) - set(before)
    seen = client.lrange(key, 0, -1)
    assert await one.receive("plain") == event

    for layer in (one, two):
        assert layer.stats().drops["undecryptable"] == 0
        assert layer.stats().drops["unreadable"] == 0
    while message := listening.get_message(timeout=0.2):
        seen.append(message["data"])
    listening.close()
    # Two of channels and groups at least, promise and its receipt, question and answer.
    assert len(seen) >= 10
    for data in seen:
        assert b"\xc1\x02" in data
        for secret in (SECRET.encode(), b"text", b"type", b"value"):
            assert secret not in data


async def poisoned(
    layer: MpxChannelLayer, publish: Callable[[str, bytes], object], prefix: str, poison: bytes
) -> None:
    """The same bytes on a group, in the inbox and in a plain channel; then all goes on."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    before = layer.stats().drops["undecryptable"]
    publish(f"{prefix}:g:room", poison)
    publish(f"{prefix}:p:{channel[9:25]}", poison)
    await eventually(lambda: layer.stats().drops["undecryptable"] == before + 2)
    await layer.group_send("room", {"type": "fine"})
    assert await layer.receive(channel) == {"type": "fine"}
    await layer.send(channel, {"type": "fine, too"})
    assert await layer.receive(channel) == {"type": "fine, too"}


async def test_other_keys_are_counted_and_kill_nobody(
    make_layer: MakeLayer,
    encrypting: MpxChannelLayer,
    client: Any,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = MpxChannelLayer(symmetric_encryption_keys=["another"])
    poison = other.wrapping.wrap(f"{prefix}:g:room", {"type": "x"})
    await poisoned(encrypting, client.publish, prefix, poison)
    plain = MpxChannelLayer().wrapping.wrap("any", {"type": "x"})
    await poisoned(encrypting, client.publish, prefix, plain)
    assert encrypting.stats().drops["unreadable"] == 0
    records = [record for record in caplog.records if "undecryptable" in record.getMessage()]
    assert len(records) == 1
    assert "not in symmetric_encryption_keys" in records[0].getMessage()


async def test_encrypted_where_there_are_no_keys(
    layer: MpxChannelLayer, client: Any, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = MpxChannelLayer(symmetric_encryption_keys=["another"])
    poison = other.wrapping.wrap(f"{prefix}:g:room", {"type": "x"})
    await poisoned(layer, client.publish, prefix, poison)
    assert "this layer has no symmetric_encryption_keys" in caplog.text


async def test_a_plain_channel_skips_what_it_cannot_open(
    make_layer: MakeLayer, encrypting: MpxChannelLayer
) -> None:
    others = make_layer(symmetric_encryption_keys=["another"]), make_layer()
    for other in others:
        await other.send("plain", {"type": "x"})
    await encrypting.send("plain", {"type": "fine"})
    assert await encrypting.receive("plain") == {"type": "fine"}
    assert encrypting.stats().drops["undecryptable"] == 2


async def test_what_was_sent_elsewhere_is_refused(
    encrypting: MpxChannelLayer, client: Any, prefix: str
) -> None:
    channel = await encrypting.new_channel()
    await encrypting.group_add("room", channel)
    await encrypting.group_add("other", channel)
    listening = client.pubsub()
    listening.subscribe(f"{prefix}:g:room")
    assert listening.get_message(timeout=10)["type"] == "subscribe"
    await encrypting.group_send("room", {"type": "x"})
    assert await encrypting.receive(channel) == {"type": "x"}
    seen = listening.get_message(timeout=10)["data"]
    listening.close()
    client.publish(f"{prefix}:g:other", seen)
    await eventually(lambda: encrypting.stats().drops["undecryptable"] == 1)
    assert encrypting.stats().unread == 0


async def test_what_was_sent_long_ago_is_refused(
    encrypting: MpxChannelLayer, client: Any, prefix: str
) -> None:
    channel = await encrypting.new_channel()
    await encrypting.group_add("room", channel)
    name = f"{prefix}:g:room"
    clock = Clock()
    # By today's clock this was sent at the time that `clock` tells.
    seen = Cipher([OLD], 60, clock).seal(name, b"\x80")
    client.publish(name, seen)
    await eventually(lambda: encrypting.stats().drops["undecryptable"] == 1)
    assert encrypting.stats().unread == 0


async def test_a_promise_and_a_request_over_other_keys(
    make_layer: MakeLayer, encrypting: MpxChannelLayer
) -> None:
    other = make_layer(symmetric_encryption_keys=["another"], connect_timeout=0.3)
    promise = await encrypting.new_promise("p", timeout=10)
    assert await other.resolve("p", 1) == 0
    assert await encrypting.resolve("p", 2) == 1
    assert await promise == 2
    channel = await encrypting.new_channel()
    with pytest.raises(TimeoutError):
        await other.request(channel, {"type": "x"}, timeout=0.2)
    await encrypting.send(channel, {"type": "fine"})
    event = await encrypting.receive(channel)
    assert event == {"type": "fine"}
    assert REPLY_TO not in event


async def test_keys_change_without_downtime(make_layer: MakeLayer) -> None:
    stages = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
    for before, after in itertools.pairwise(stages):
        one, two = (make_layer(symmetric_encryption_keys=keys) for keys in (before, after))
        channels = {layer: await layer.new_channel() for layer in (one, two)}
        for layer, channel in channels.items():
            await layer.group_add("room", channel)
        for sender in (one, two):
            await sender.group_send("room", {"type": "x"})
            for layer, channel in channels.items():
                assert await layer.receive(channel) == {"type": "x"}


def test_serialize_encrypts(encrypting: MpxChannelLayer, layer: MpxChannelLayer) -> None:
    data = encrypting.serialize({"type": "x", "text": SECRET})
    assert SECRET.encode() not in data
    assert encrypting.deserialize(data) == {"type": "x", "text": SECRET}
    for wrong in (layer, MpxChannelLayer(symmetric_encryption_keys=["another"])):
        with pytest.raises(UndecryptableMessage):
            wrong.deserialize(data)
    with pytest.raises(UndecryptableMessage):
        encrypting.wrapping.unwrap("asgi:g:room", data)


# -- CONFIG ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("secret-word", "must be a list of keys, even if there is only one, not a str"),
        (b"secret-word", "must be a list of keys, even if there is only one, not a bytes"),
        ({"secret-word": 1}, "must be a list of keys"),
        (1234567, "must be a list of keys"),
        (["secret-word", 1234567], r"symmetric_encryption_keys\[1\] must be a str or bytes, not a"),
        (["secret-word", ""], r"symmetric_encryption_keys\[1\] is empty"),
        ([b""], r"symmetric_encryption_keys\[0\] is empty"),
    ],
)
def test_wrong_keys_are_named_and_not_shown(keys: Any, says: str) -> None:
    with pytest.raises(InvalidConfig, match=says) as caught:
        MpxChannelLayer(symmetric_encryption_keys=keys)
    assert isinstance(caught.value, ValueError)
    assert "secret-word" not in str(caught.value)
    assert "1234567" not in str(caught.value)


@pytest.mark.parametrize("keys", [None, [], (), ""])
def test_no_keys_no_encryption(keys: Any) -> None:
    assert not MpxChannelLayer(symmetric_encryption_keys=keys).wrapping.encrypts


@pytest.mark.parametrize("keys", [["a"], ("a", b"b"), {"a"}, iter(["a"])])
def test_kinds_of_lists(keys: Any) -> None:
    layer = MpxChannelLayer(symmetric_encryption_keys=keys)
    assert layer.wrapping.encrypts
    assert "'a'" not in repr(layer.config)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.partition(".")[0] == "cryptography":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.delitem(__import__("sys").modules, "mpx_channels.messages.crypto")
    monkeypatch.setattr(builtins, "__import__", without)
    MpxChannelLayer()
    with pytest.raises(InvalidConfig, match=r"pip install 'mpx-channels\[encryption\]'"):
        MpxChannelLayer(symmetric_encryption_keys=["a"])
