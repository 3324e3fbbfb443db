"""Formats that messages travel in: ``serializer_format``, and how to add one.

    from mpx_channels.layer.serializers import BaseMessageSerializer, registry

    class YamlSerializer(BaseMessageSerializer):
        def as_bytes(self, message): ...
        def from_bytes(self, data): ...

    registry.register_serializer("yaml", YamlSerializer)

The interface is that of ``channels_redis.serializers``: a class that was written for it works here
unchanged, and what is registered there is found from here. Register before the layer is first
used, in an ``AppConfig.ready`` for instance.
"""

from mpx_channels.messages.exceptions import InvalidSerializer, SerializerDoesNotExist
from mpx_channels.messages.serializers import (
    BaseMessageSerializer,
    Format,
    JSONSerializer,
    MsgPackSerializer,
    SerializersRegistry,
    make_format,
    registry,
)

__all__ = [
    "BaseMessageSerializer",
    "Format",
    "InvalidSerializer",
    "JSONSerializer",
    "MsgPackSerializer",
    "SerializerDoesNotExist",
    "SerializersRegistry",
    "make_format",
    "registry",
]
