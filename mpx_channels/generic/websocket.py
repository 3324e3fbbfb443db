"""`channels.generic.websocket`, with our dispatch."""

from channels.generic import websocket as stock

from mpx_channels.consumers import MpxConsumerMixin

__all__ = [
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "JsonWebsocketConsumer",
    "WebsocketConsumer",
]


class WebsocketConsumer(MpxConsumerMixin, stock.WebsocketConsumer):
    """`channels.generic.websocket.WebsocketConsumer`, with `MpxConsumerMixin`."""


class JsonWebsocketConsumer(MpxConsumerMixin, stock.JsonWebsocketConsumer):
    """`channels.generic.websocket.JsonWebsocketConsumer`, with `MpxConsumerMixin`."""


class AsyncWebsocketConsumer(MpxConsumerMixin, stock.AsyncWebsocketConsumer):
    """`channels.generic.websocket.AsyncWebsocketConsumer`, with `MpxConsumerMixin`."""


class AsyncJsonWebsocketConsumer(MpxConsumerMixin, stock.AsyncJsonWebsocketConsumer):
    """`channels.generic.websocket.AsyncJsonWebsocketConsumer`, with `MpxConsumerMixin`."""
