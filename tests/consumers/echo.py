"""Consumers that say what they hear, from the socket and from the layer."""

from __future__ import annotations

from typing import Any

from channels.exceptions import StopConsumer

from .conftest import Generic

__all__ = ["echo_of", "sync_echo_of"]


def echo_of(generic: Generic) -> Any:
    """With handlers that are coroutines."""

    class Echo(generic.AsyncWebsocketConsumer):  # type: ignore[misc,name-defined]
        async def connect(self) -> None:
            await self.accept()
            await self.send(text_data=self.channel_name)

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            await self.send(text_data=f"heard {text_data or bytes_data}")

        async def say(self, event: Any) -> None:
            await self.send(text_data=f"told {event['text']}")

        async def stop(self, event: Any) -> None:
            raise StopConsumer

        async def fail(self, event: Any) -> None:
            raise LookupError(event["reason"])

    return Echo


def sync_echo_of(generic: Generic) -> Any:
    """The same, with synchronous handlers, and in a group."""

    class Echo(generic.WebsocketConsumer):  # type: ignore[misc,name-defined]
        groups = ["room"]

        def connect(self) -> None:
            self.accept()
            self.send(text_data=self.channel_name)

        def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            self.send(text_data=f"heard {text_data}")

        def say(self, event: Any) -> None:
            self.send(text_data=f"told {event['text']}")

        def stop(self, event: Any) -> None:
            raise StopConsumer

        def fail(self, event: Any) -> None:
            raise LookupError(event["reason"])

    return Echo
