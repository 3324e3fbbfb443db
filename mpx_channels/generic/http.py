"""`channels.generic.http`, with our dispatch."""

from channels.generic import http as stock

from mpx_channels.consumers import MpxConsumerMixin

__all__ = ["AsyncHttpConsumer"]


class AsyncHttpConsumer(MpxConsumerMixin, stock.AsyncHttpConsumer):
    """`channels.generic.http.AsyncHttpConsumer`, with `MpxConsumerMixin`."""
