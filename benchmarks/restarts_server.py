"""What `benchmarks.restarts` serves: a room whose pages get numbers, and say where they were.

`benchmarks.slow` sends frames of bytes to a group that all are in.
"""

from __future__ import annotations

import json
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer as Stock  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402

from mpx_channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from mpx_channels.health import ready  # noqa: E402

ROOM, BLOBS = settings.ROOM, "blobs"


class StockPage(Stock):
    groups = [ROOM, BLOBS]

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        await self.send(text_data=json.dumps({"joined": True}))

    async def number(self, event: Any) -> None:
        await self.send(text_data=json.dumps({"n": event["n"]}))

    async def blob(self, event: Any) -> None:
        await self.send(bytes_data=event["data"])


class Page(AsyncWebsocketConsumer):
    """A page says how far it has come, and gets what it missed."""

    groups = [BLOBS]

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        since = json.loads(text_data)["since"]
        recovery = await self.channel_layer.group_add(ROOM, self.channel_name, since=since)
        told = {"joined": True, "p": recovery.position, "recovered": recovery.recovered}
        await self.send(text_data=json.dumps(told))

    async def number(self, event: Any) -> None:
        await self.send(text_data=json.dumps({"n": event["n"], "p": event["mpx_position"]}))

    async def blob(self, event: Any) -> None:
        await self.send(bytes_data=event["data"])


def alive(request: Any) -> HttpResponse:
    return HttpResponse("alive")


ours = settings.STACK == "mpx"
urlpatterns = [path("ready/", ready if ours else alive)]
page = (Page if ours else StockPage).as_asgi()
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        # The other one is for `benchmarks.slow`.
        "websocket": URLRouter([path("ws/", page), path("stock/", StockPage.as_asgi())]),
    }
)
