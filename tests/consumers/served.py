"""What `test_servers` has real servers serve; its CONFIG is in MPX_CONFIG."""

from __future__ import annotations

import json
import os
from typing import Any

import django
from channels.routing import ProtocolTypeRouter
from django.conf import settings

BACKEND = "mpx_channels.layer.MpxChannelLayer"
CONFIG = json.loads(os.environ["MPX_CONFIG"])
settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": BACKEND, "CONFIG": CONFIG}})
django.setup()

from mpx_channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402


class Member(AsyncWebsocketConsumer):
    groups = ["room"]
    send_timeout = 2.0

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("room", {"type": "say", "text": text_data})

    async def say(self, event: Any) -> None:
        await self.send(text_data=event["text"])


application = ProtocolTypeRouter({"websocket": Member.as_asgi()})
