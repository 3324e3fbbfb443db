"""`serializer_format`: ours, people's own, and those that were written for channels_redis."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mpx_channels.layer import (
    InvalidConfig,
    MpxChannelLayer,
    UndecryptableMessage,
    UnreadableMessage,
)
from mpx_channels.layer import UnserializableMessage as Unserializable
from mpx_channels.layer import serializers as ours
from tests.conftest import eventually, missing
from tests.inside import serializers_of
from tests.layer.conftest import MakeLayer


@pytest.fixture
def registry() -> Iterator[ours.SerializersRegistry]:
    """Ours, as it was when the test is over."""
    before = dict(serializers_of(ours.registry))
    yield ours.registry
    serializers_of(ours.registry).clear()
    serializers_of(ours.registry).update(before)


@pytest.fixture
def theirs() -> Iterator[Any]:
    """channels_redis' module, with nothing of the test left in it."""
    try:
        from channels_redis import serializers
    except ImportError:
        missing("channels_redis is not installed")
    before = dict(serializers.registry._registry)  # noqa: SLF001 - of channels_redis
    yield serializers
    serializers.registry._registry = before  # noqa: SLF001


async def goes_and_comes(layer: MpxChannelLayer, message: dict[str, Any]) -> dict[str, Any]:
    expected = layer.deserialize(layer.serialize(message))
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", message)
    assert await layer.receive(channel) == expected
    await layer.send(channel, message)
    assert await layer.receive(channel) == expected
    return expected


class Pickle:
    """As simple as can be: no base class, and no arguments."""

    def serialize(self, message: dict[str, Any]) -> bytes:
        return pickle.dumps(message)

    def deserialize(self, data: bytes) -> dict[str, Any]:
        assert type(data) is bytes
        return pickle.loads(data)


async def test_a_class_of_ones_own(
    make_layer: MakeLayer, registry: ours.SerializersRegistry
) -> None:
    registry.register_serializer("pickle", Pickle)
    message = {"type": "x", "set": {1, 2}, "pair": (1, 2)}
    assert await goes_and_comes(make_layer(serializer_format="pickle"), message) == message


async def test_what_it_makes_is_not_shared(
    make_layer: MakeLayer, registry: ours.SerializersRegistry
) -> None:
    registry.register_serializer("pickle", Pickle)
    layer = make_layer(serializer_format="pickle")
    channels = [await layer.new_channel() for _ in range(2)]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "x", "set": {1}})
    for channel in channels:
        event = await layer.receive(channel)
        assert event["set"] == {1}
        event["set"].add(2)


async def test_as_bytes_and_from_bytes(
    make_layer: MakeLayer, registry: ours.SerializersRegistry
) -> None:
    class Pretty(ours.BaseMessageSerializer):
        def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
            assert self.expiry == 17
            return json.dumps(message, indent=2).encode()

        def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
            return json.loads(message)

    class Bare:
        as_bytes = staticmethod(lambda message: json.dumps(message).encode())
        from_bytes = staticmethod(json.loads)

    registry.register_serializer("pretty", Pretty)
    registry.register_serializer("bare", Bare)
    for name in ("pretty", "bare"):
        layer = make_layer(serializer_format=name, expiry=17, prefix=f"serializers-{name}")
        assert await goes_and_comes(layer, {"type": "x", "n": [1]}) == {"type": "x", "n": [1]}


async def test_one_written_for_channels_redis(
    make_layer: MakeLayer, registry: ours.SerializersRegistry, theirs: Any
) -> None:
    class Theirs(theirs.BaseMessageSerializer):
        as_bytes = staticmethod(lambda message: repr(message).encode())
        from_bytes = staticmethod(lambda data: eval(data))

    registry.register_serializer("repr", Theirs)
    theirs.registry.register_serializer("elsewhere", Theirs)
    for name, keys in (("repr", None), ("elsewhere", None), ("elsewhere", ["secret"])):
        layer = make_layer(
            serializer_format=name,
            symmetric_encryption_keys=keys,
            prefix=f"serializers-{name}-{bool(keys)}",
        )
        assert await goes_and_comes(layer, {"type": "x", "n": (1,)}) == {"type": "x", "n": (1,)}


def test_channels_redis_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "channels_redis.serializers", raising=False)
    with pytest.raises(InvalidConfig):
        MpxChannelLayer(serializer_format="elsewhere")
    assert "channels_redis.serializers" not in sys.modules


async def test_its_errors_are_the_senders(
    make_layer: MakeLayer, registry: ours.SerializersRegistry
) -> None:
    class Stdlib:
        serialize = staticmethod(lambda message: json.dumps(message).encode())
        deserialize = staticmethod(json.loads)

    class Text:
        serialize = staticmethod(json.dumps)
        deserialize = staticmethod(json.loads)

    registry.register_serializer("stdlib", Stdlib)
    registry.register_serializer("text", Text)
    layer = make_layer(serializer_format="stdlib")
    with pytest.raises(Unserializable, match=r"message\['a'\]\[1\] cannot be sent: .*bytes"):
        await layer.group_send("room", {"a": [0, b"x"]})
    with pytest.raises(TypeError, match="must be a dict"):
        await layer.group_send("room", "x")  # type: ignore[arg-type]
    with pytest.raises(Unserializable, match="'text' made a str of it, not bytes"):
        make_layer(serializer_format="text").serialize({"a": 1})


async def test_two_formats_do_not_understand_each_other(make_layer: MakeLayer) -> None:
    json_layer, layer = make_layer(serializer_format="json"), make_layer()
    channels = {}
    for each in (json_layer, layer):
        channels[each] = await each.new_channel()
        await each.group_add("room", channels[each])
    await json_layer.group_send("room", {"type": "x"})
    await layer.group_send("room", {"type": "y"})
    assert await json_layer.receive(channels[json_layer]) == {"type": "x"}
    assert await layer.receive(channels[layer]) == {"type": "y"}
    for each in (json_layer, layer):
        await eventually(lambda each=each: each.stats().drops["unreadable"] == 1)


async def test_what_decodes_to_no_message(
    make_layer: MakeLayer, registry: ours.SerializersRegistry
) -> None:
    class Broken:
        serialize = staticmethod(lambda message: json.dumps(message).encode())
        deserialize = staticmethod(lambda data: [1] if b"list" in data else 1 / 0)

    registry.register_serializer("broken", Broken)
    layer = make_layer(serializer_format="broken")
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "list"})
    await layer.send(channel, {"type": "other"})
    await eventually(lambda: layer.stats().drops["unreadable"] == 2)
    with pytest.raises(UnreadableMessage, match="division by zero"):
        layer.deserialize(layer.serialize({"type": "x"}))


def test_json_is_json(make_layer: MakeLayer) -> None:
    data = make_layer(serializer_format="json").wrapping.encode({"type": "ä", "n": [1.5, None]})
    assert json.loads(data) == {"type": "ä", "n": [1.5, None]}


def test_unknown_formats_are_named() -> None:
    with pytest.raises(InvalidConfig, match="'msgpak' is not registered; did you mean 'msgpack'"):
        MpxChannelLayer(serializer_format="msgpak")
    with pytest.raises(InvalidConfig, match="must be the name of a format"):
        MpxChannelLayer(serializer_format=None)  # type: ignore[arg-type]


def test_a_class_that_cannot_be_made(registry: ours.SerializersRegistry) -> None:
    class Refuses(Pickle):
        def __init__(self) -> None:
            raise RuntimeError("no such codec")

    registry.register_serializer("refuses", Refuses)
    with pytest.raises(InvalidConfig, match="no such codec"):
        MpxChannelLayer(serializer_format="refuses")


@pytest.mark.parametrize("wrong", [object, Pickle(), None, type("Half", (), {"serialize": 1})])
def test_what_is_no_serializer(registry: ours.SerializersRegistry, wrong: Any) -> None:
    with pytest.raises(TypeError, match="a serializer is a class with"):
        registry.register_serializer("wrong", wrong)


def test_the_registry_is_like_channels_redis() -> None:
    # The documentation, which is run in this process, registers another.
    assert {"json", "msgpack"} <= set(ours.registry.formats)
    serializer = ours.registry.get_serializer("json", expiry=60)
    assert serializer.deserialize(serializer.serialize({"a": 1})) == {"a": 1}
    assert serializer.from_bytes(serializer.as_bytes({"a": 1})) == {"a": 1}
    with pytest.raises(KeyError):
        ours.registry.get_serializer("yaml")
    with pytest.raises(ours.SerializerDoesNotExist):
        ours.registry.get_serializer("yaml")


@pytest.mark.parametrize("serializer", [ours.MsgPackSerializer, ours.JSONSerializer])
def test_a_serializer_by_itself(serializer: type[ours.BaseMessageSerializer]) -> None:
    message = {"type": "x", "secret": "swordfish"}
    bare = serializer().serialize(message)
    prefixed = serializer(random_prefix_length=4)
    assert prefixed.serialize(message)[4:] == bare
    assert prefixed.serialize(message) != prefixed.serialize(message)
    assert prefixed.deserialize(prefixed.serialize(message)) == message

    old, new = (
        serializer(symmetric_encryption_keys=keys, random_prefix_length=2, expiry=60)
        for keys in (["old"], ["new", "old"])
    )
    data = old.serialize(message)
    assert b"swordfish" not in data
    assert new.deserialize(data) == message
    with pytest.raises(UndecryptableMessage):
        old.deserialize(new.serialize(message))
    with pytest.raises(ValueError, match="a list of keys"):
        serializer(symmetric_encryption_keys="one")


def test_what_the_layer_serializes_is_in_its_format(make_layer: MakeLayer) -> None:
    message = {"a": True, "b": None, "c": {"d": []}}
    for format, serializer in (("msgpack", ours.MsgPackSerializer), ("json", ours.JSONSerializer)):
        layer = make_layer(serializer_format=format)
        assert layer.serialize(message) == serializer().serialize(message)
        assert layer.deserialize(serializer().serialize(message)) == message
        with pytest.raises(UnreadableMessage):
            layer.deserialize(b"\x00nothing of the kind")
