"""What `test_nginx` has behind nginx: says what it knows of its clients, and sends on."""

from __future__ import annotations

import json
import os

import django
from channels.routing import ProtocolTypeRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings

BACKEND = "mpx_channels.layer.MpxChannelLayer"
CONFIG = json.loads(os.environ["MPX_CONFIG"])
settings.configure(
    ALLOWED_HOSTS=["localhost"],
    CHANNEL_LAYERS={"default": {"BACKEND": BACKEND, "CONFIG": CONFIG}},
)
django.setup()

from mpx_channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402


class Guest(AsyncJsonWebsocketConsumer):
    groups = ["room"]

    async def connect(self) -> None:
        await self.accept()
        client, _ = self.scope["client"]
        await self.send_json([os.getpid(), client, self.scope["scheme"]])

    async def receive_json(self, content: object) -> None:
        await self.channel_layer.group_send("room", {"type": "say", "text": content})

    async def say(self, event: dict[str, object]) -> None:
        await self.send_json(event["text"])


application = ProtocolTypeRouter(
    {"websocket": AllowedHostsOriginValidator(Guest.as_asgi())}  # type: ignore[no-untyped-call]
)
