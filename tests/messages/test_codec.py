"""What values become on their way, the same in both formats; and what is refused, where."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import TextChoices
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpx_channels.layer import MpxChannelLayer, UnserializableMessage
from mpx_channels.messages import codec
from tests.layer.conftest import MakeLayer

Formats = pytest.mark.parametrize(
    ("encode", "decode"),
    [(codec.encode, codec.decode), (codec.encode_json, codec.decode_json)],
    ids=["msgpack", "json"],
)
Encode = Callable[[dict[Any, Any]], bytes]
Decode = Callable[[bytes], dict[Any, Any]]

UTC = datetime.UTC
FIVE = datetime.timezone(datetime.timedelta(hours=5))
ID = uuid.UUID("12345678123456781234567812345678")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Size(TextChoices):
    SMALL = "s", "Small"


class Text(str):
    pass


class Number(int):
    pass


class Share(float):
    pass


class Moment(datetime.datetime):
    """As freezegun's and pendulum's."""


class Day(datetime.date):
    pass


Pair = collections.namedtuple("Pair", "a b")


@dataclasses.dataclass(frozen=True)
class Point:
    x: int = 1


@dataclasses.dataclass
class Deep:
    at: datetime.datetime


SAME_IN_BOTH = [
    (None, None),
    (True, True),
    (-(2**63), -(2**63)),
    (2**63 - 1, 2**63 - 1),
    (0.1, 0.1),
    ("grüße 🎉\0", "grüße 🎉\0"),
    ([1, [2]], [1, [2]]),
    ((1, (2,)), [1, [2]]),
    ({"b": 1, "a": {}}, {"b": 1, "a": {}}),
    ({7}, [7]),
    (frozenset({7}), [7]),
    (collections.deque([1, 2]), [1, 2]),
    (collections.OrderedDict(a=1), {"a": 1}),
    (mark_safe("<b>"), "<b>"),
    (lazystr("lazy"), "lazy"),
    (Text("x"), "x"),
    (Number(5), 5),
    (Share(0.5), 0.5),
    (Colour.RED, "red"),
    (Level.HIGH, 3),
    (Size.SMALL, "s"),
    (ID, "12345678-1234-5678-1234-567812345678"),
    (Decimal("1.10"), "1.10"),
    (Decimal("NaN"), "NaN"),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2026-01-02T03:04:05.000006Z"),
    (datetime.datetime(1926, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "1926-01-02T03:04:05.000006Z"),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=FIVE), "2026-01-02T03:04:05+05:00"),
    (datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),  # noqa: DTZ001
    (Moment(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (Day(2026, 1, 2), "2026-01-02"),
    (datetime.time(3, 4), "03:04:00"),
    (datetime.timedelta(days=1, seconds=2), "P1DT2S"),
    (Pair(1, 2), [1, 2]),
    (Point(3), {"x": 3}),
    (Deep(datetime.datetime(2026, 1, 2, tzinfo=UTC)), {"at": "2026-01-02T00:00:00Z"}),
    ({ID: 1}, {str(ID): 1}),
    ({mark_safe("a"): 1, Colour.RED: 2}, {"a": 1, "red": 2}),
    ({datetime.datetime(2026, 1, 2, tzinfo=UTC): 1}, {"2026-01-02T00:00:00Z": 1}),
]


@Formats
@pytest.mark.parametrize(("value", "arrives"), SAME_IN_BOTH, ids=lambda value: repr(value)[:40])
def test_what_a_value_becomes(encode: Encode, decode: Decode, value: Any, arrives: Any) -> None:
    for message, expected in (
        ({"type": "x", "value": value}, {"type": "x", "value": arrives}),
        ({"type": "x", "deep": [{"er": value}]}, {"type": "x", "deep": [{"er": arrives}]}),
    ):
        got = decode(encode(message))
        assert got == expected
        # Equality takes a str's subclass for a str, and True for 1.
        assert repr(got) == repr(expected)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"x"), b"x"),
        (memoryview(b"xyz")[1:], b"yz"),
        (math.inf, math.inf),
        ({1: "a", -1: "b"}, {1: "a", -1: "b"}),
        ({(1, "a"): True}, {(1, "a"): True}),
        ({None: 1, False: 2, 1.5: 3, b"k": 4}, {None: 1, False: 2, 1.5: 3, b"k": 4}),
    ],
    # A memoryview's repr would have its address, and so differ between processes.
    ids=lambda value: "memoryview" if isinstance(value, memoryview) else repr(value),
)
def test_what_json_has_no_words_for(value: Any, arrives: Any) -> None:
    for message, expected in (
        ({"value": value}, {"value": arrives}),
        ({"deep": [value]}, {"deep": [arrives]}),
    ):
        assert repr(codec.decode(codec.encode(message))) == repr(expected)
        with pytest.raises(
            UnserializableMessage, match=r"message\['(value|deep)'\].*(JSON has|Only dicts)"
        ):
            codec.encode_json(message)


def test_nan() -> None:
    assert math.isnan(codec.decode(codec.encode({"n": math.nan}))["n"])
    with pytest.raises(UnserializableMessage, match=r"message\['a'\]\[0\] cannot .* NaN"):
        codec.encode_json({"a": [math.nan]})


@Formats
@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"a": [0, {"b": object()}]}, r"message['a'][1]['b'] cannot be sent: it is an object"),
        ({"a": 2**64}, "message['a'] cannot be sent"),
        ({"a": (1, -(2**63) - 1)}, "message['a'][1] cannot be sent"),
        ({"a": "\ud800"}, "message['a'] cannot be sent"),
        ({"a": {"\ud800": 1}}, "message['a'] has the key"),
        ({"a": {Point(): 1}}, "message['a'] has the key Point(x=1) that cannot be sent"),
        ({"a": {(1, Point()): 1}}, "message['a'] has the key (1, Point(x=1)) that"),
        ({Point(): 1}, "message has the key Point(x=1) that cannot be sent"),
        ({"a": {object}}, "message['a'] (its <class 'object'>) cannot be sent"),
        ({"a": (x for x in ())}, "type generator"),
        ({"a": 1j}, "message['a'] cannot be sent"),
        ({"a": lazystr(object)}, None),
        ({"a": memoryview(b"abcd")[::2]}, "message['a'] cannot be sent"),
    ],
)
def test_what_is_refused_is_named(
    encode: Encode, decode: Decode, message: dict[Any, Any], says: str | None
) -> None:
    if says is None:
        assert decode(encode(message)) == {"a": str(object)}
        return
    with pytest.raises(UnserializableMessage) as caught:
        encode(message)
    assert says in str(caught.value)


@Formats
def test_a_text_that_fails_late(encode: Encode, decode: Decode) -> None:
    from django.utils.functional import lazy

    broken = lazy(lambda: 1 / 0, str)()
    with pytest.raises(UnserializableMessage, match=r"message\['a'\]\['b'\].*division by zero"):
        encode({"a": {"b": broken}})


@Formats
def test_too_deep(encode: Encode, decode: Decode) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = [loop, loop]
    with pytest.raises(UnserializableMessage):
        encode(loop)


@Formats
@pytest.mark.parametrize("message", ["text", None, [("type", "x")], 1])
def test_a_message_is_a_dict(encode: Encode, decode: Decode, message: Any) -> None:
    with pytest.raises(TypeError, match="a message must be a dict"):
        encode(message)


def test_flat() -> None:
    assert codec.is_flat({"a": 1, "b": "x", "c": b"x", "d": None, "e": True, "f": 0.5})
    assert not codec.is_flat({"a": [1]})
    assert not codec.is_flat({"a": {}})
    # What a foreign serializer may make.
    assert not codec.is_flat({"a": set()})
    assert not codec.is_flat({"a": object()})


# Hypothesis takes a machine that is busy for a strategy that is slow.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@unhurried
@given(st.dictionaries(st.text(), values))
def test_what_the_specification_has_comes_back_as_it_was(message: dict[str, Any]) -> None:
    assert codec.decode(codec.encode(message)) == message
    assert codec.decode_json(codec.encode_json(message)) == message


keys: Any = (
    scalars
    | st.binary()
    | st.dates()
    | st.datetimes(timezones=st.just(UTC))
    | st.just(Point())
    | st.floats()
)
anything = st.recursive(
    keys | st.text(st.characters()) | st.decimals() | st.uuids() | st.just(Colour.RED),
    lambda inner: (
        st.lists(inner) | st.dictionaries(keys | st.tuples(keys, keys), inner) | st.tuples(inner)
    ),
    max_leaves=10,
)


def types(value: Any) -> set[type]:
    """Those of a value and of all that is in it."""
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple):
        inner = list(value)
    return {type(value)}.union(*map(types, inner))


ARRIVING = {type(None), bool, int, float, str, bytes, list, dict, tuple}


@unhurried
@given(st.dictionaries(st.text(), anything))
def test_what_can_be_encoded_can_be_decoded(message: dict[str, Any]) -> None:
    formats: list[tuple[Encode, Decode]] = [
        (codec.encode, codec.decode),
        (codec.encode_json, codec.decode_json),
    ]
    for encode, decode in formats:
        try:
            body = encode(message)
        except UnserializableMessage:
            continue
        assert types(decode(body)) <= ARRIVING


async def test_on_the_way(make_layer: MakeLayer) -> None:
    message = {"type": "x", "at": datetime.datetime(2026, 1, 2, tzinfo=UTC), "ids": {ID}}
    expected = {"type": "x", "at": "2026-01-02T00:00:00Z", "ids": [str(ID)]}
    for format in ("msgpack", "json"):
        layer: MpxChannelLayer = make_layer(serializer_format=format, prefix=f"codec-{format}")
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", message)
        assert await layer.receive(channel) == expected
        await layer.send(channel, message)
        assert await layer.receive(channel) == expected
        with pytest.raises(UnserializableMessage, match=r"message\['x'\]"):
            await layer.group_send_many([("room", {"type": "fine"}), ("room", {"x": object()})])
        promise = await layer.new_promise("p", timeout=10)
        assert await layer.resolve("p", message["at"]) == 1
        assert await promise == expected["at"]
        with pytest.raises(UnserializableMessage, match=r"message\['value'\]"):
            await layer.resolve("p", object())
