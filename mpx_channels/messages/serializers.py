"""Serializers and their registry; `mpx_channels.layer.serializers` is how projects reach them."""

from __future__ import annotations

import abc
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import codec
from .codec import Message
from .exceptions import InvalidSerializer, SerializerDoesNotExist

if TYPE_CHECKING:
    from .crypto import Cipher

__all__ = [
    "BaseMessageSerializer",
    "Format",
    "JSONSerializer",
    "MsgPackSerializer",
    "SerializersRegistry",
    "make_format",
    "registry",
]


class BaseMessageSerializer(abc.ABC):
    """Base of serializers that define `as_bytes` and `from_bytes`.

    The arguments are those of channels_redis, for whoever uses a serializer by itself: keys to
    encrypt with, how many random bytes come first, and after how many seconds `deserialize`
    refuses what is encrypted. A layer gives ``expiry`` alone: it encrypts by itself, bound to the
    group or channel, and has no use for random bytes.
    """

    random_prefix_length = 0
    expiry: float | None = None
    _cipher: Cipher | None = None

    def __init__(
        self,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        random_prefix_length: int = 0,
        expiry: float | None = None,
    ) -> None:
        self.random_prefix_length = max(0, random_prefix_length)
        self.expiry = expiry
        if symmetric_encryption_keys:
            if isinstance(symmetric_encryption_keys, str | bytes):
                raise ValueError("symmetric_encryption_keys must be a list of keys, not one key")
            from .crypto import Cipher

            self._cipher = Cipher(symmetric_encryption_keys, math.inf if expiry is None else expiry)

    @abc.abstractmethod
    def as_bytes(self, message: Message, *args: Any, **kwargs: Any) -> bytes:
        """The message as bytes; raises whatever it likes for what it cannot do."""

    @abc.abstractmethod
    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Message:
        """The message in these bytes; raises whatever it likes."""

    def serialize(self, message: Message) -> bytes:
        """What `deserialize` reads."""
        data = self.as_bytes(message)
        if self._cipher is not None:
            data = self._cipher.seal("", data)
        if self.random_prefix_length:
            data = os.urandom(self.random_prefix_length) + data
        return data

    def deserialize(self, message: bytes) -> Message:
        """The message that `serialize` was given; raises whatever `from_bytes` does."""
        data = message[self.random_prefix_length :]
        if self._cipher is not None:
            _, data = self._cipher.unseal("", data)
        return self.from_bytes(data)


class MsgPackSerializer(BaseMessageSerializer):
    """``"msgpack"``, the default: small, fast, with bytes; see `codec`."""

    def as_bytes(self, message: Message, *args: Any, **kwargs: Any) -> bytes:
        return codec.encode(message)

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Message:
        return codec.decode(message)


class JSONSerializer(BaseMessageSerializer):
    """``"json"``: what other programs and people can read, without bytes, NaN and int keys."""

    def as_bytes(self, message: Message, *args: Any, **kwargs: Any) -> bytes:
        return codec.encode_json(message)

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Message:
        return codec.decode_json(message)


class SerializersRegistry:
    """Serializer classes by the name of their format."""

    def __init__(self) -> None:
        self._classes: dict[str, type] = {}

    @property
    def formats(self) -> list[str]:
        """The names of the formats that are registered here."""
        return sorted(self._classes)

    def register_serializer(self, format: str, serializer_class: type) -> None:
        """Add a format, or replace one.

        The class has ``serialize(message)`` and ``deserialize(bytes)``, or ``as_bytes`` and
        ``from_bytes``; anything else raises `InvalidSerializer`, a `TypeError`.
        """
        pairs = (("serialize", "deserialize"), ("as_bytes", "from_bytes"))
        if not isinstance(serializer_class, type) or not any(
            all(callable(getattr(serializer_class, name, None)) for name in pair) for pair in pairs
        ):
            raise InvalidSerializer(
                "a serializer is a class with serialize() and deserialize(), or as_bytes() and "
                f"from_bytes(), not {serializer_class!r}"
            )
        self._classes[format] = serializer_class

    def get_serializer(self, format: str, *args: Any, **kwargs: Any) -> Any:
        """An instance of the format's class, made with these arguments.

        Raises `SerializerDoesNotExist`.
        """
        if format not in self._classes:
            raise SerializerDoesNotExist(format)
        return self._classes[format](*args, **self._accepted(self._classes[format], kwargs))

    def _accepted(self, serializer_class: type, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Those of the arguments that the class takes: a simple one may take none."""
        try:
            parameters = inspect.signature(serializer_class).parameters.values()
        except ValueError:
            return kwargs
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return kwargs
        names = {parameter.name for parameter in parameters}
        return {name: value for name, value in kwargs.items() if name in names}


registry = SerializersRegistry()
registry.register_serializer("json", JSONSerializer)
registry.register_serializer("msgpack", MsgPackSerializer)


@dataclass(frozen=True, slots=True)
class Format:
    """A format as the layer uses it: `encode` raises `UnserializableMessage` or `TypeError`."""

    encode: Callable[[Message], bytes]
    decode: Callable[[bytes | memoryview], Message]


def make_format(name: str, *, expiry: float) -> Format:
    """The format of that name, here or in channels_redis; raises `SerializerDoesNotExist`."""
    arguments: dict[str, Any] = {
        "symmetric_encryption_keys": None,
        "random_prefix_length": 0,
        "expiry": expiry,
    }
    try:
        serializer = registry.get_serializer(name, **arguments)
    except SerializerDoesNotExist:
        serializer = _from_channels_redis(name, arguments)
    # Without a detour: these two are on everybody's way.
    if type(serializer) is MsgPackSerializer:
        return Format(codec.encode, codec.decode)
    if type(serializer) is JSONSerializer:
        return Format(codec.encode_json, codec.decode_json)
    return _foreign(name, serializer)


def _from_channels_redis(name: str, arguments: dict[str, Any]) -> Any:
    """What a project registered there; if it did, the module is imported already."""
    theirs = sys.modules.get("channels_redis.serializers")
    if theirs is None:
        raise SerializerDoesNotExist(name)
    try:
        return theirs.registry.get_serializer(name, **arguments)
    except theirs.SerializerDoesNotExist:
        raise SerializerDoesNotExist(name) from None


def _foreign(name: str, serializer: Any) -> Format:
    """A format by somebody else's serializer, with its errors in our words."""
    if hasattr(serializer, "serialize") and hasattr(serializer, "deserialize"):
        to_bytes, from_bytes = serializer.serialize, serializer.deserialize
    else:
        to_bytes, from_bytes = serializer.as_bytes, serializer.from_bytes

    def serialize(message: Message) -> bytes:
        body = to_bytes(message)
        if not isinstance(body, bytes):
            raise TypeError(
                f"the serializer {name!r} made a {type(body).__name__} of it, not bytes"
            )
        return body

    def encode(message: Message) -> bytes:
        codec.require_dict(message)
        try:
            return serialize(message)
        except Exception as error:
            raise codec.refusal(message, serialize, error) from error

    def decode(data: bytes | memoryview) -> Message:
        message = from_bytes(bytes(data))
        codec.require_dict(message)
        return message  # type: ignore[no-any-return]

    return Format(encode, decode)
