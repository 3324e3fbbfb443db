"""Two consumers, and no page."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
http = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402

from mpx_channels.generic import websocket  # noqa: E402

urlpatterns = []


class RoomConsumer(websocket.AsyncWebsocketConsumer):
    """Everybody gets what anybody says."""

    groups = ["room"]

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send("room", {"type": "room.said", "text": text_data})

    async def room_said(self, event):
        await self.send(event["text"])


class SyncRoomConsumer(websocket.WebsocketConsumer):
    """The same, in a thread."""

    groups = ["room"]

    def receive(self, text_data=None, bytes_data=None):
        self.channel_layer.sync.group_send("room", {"type": "room.said", "text": text_data})

    def room_said(self, event):
        self.send(event["text"])


websockets = [path("room", RoomConsumer.as_asgi()), path("sync-room", SyncRoomConsumer.as_asgi())]
application = ProtocolTypeRouter({"http": http, "websocket": URLRouter(websockets)})
