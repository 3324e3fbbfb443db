"""
What is said about somebody, in whatever room; or, for nobody in particular, all that is said.

The socket sends ``{"type": "mention", "room": ..., "from": ..., "text": ..., "question": BOOL}``,
beside what it says of itself, and listens to nothing.
"""

import re
from typing import Any
from urllib.parse import parse_qs

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from mpx_channels.generic.websocket import AsyncJsonWebsocketConsumer

from .rules import MAX_NAME, clean_name

# The groups of ChatConsumer and QuestionConsumer are called "chat.<room>" and "ask.<room>".
PATTERNS = ("chat.*", "ask.*")


class MentionsConsumer(AsyncJsonWebsocketConsumer):
    """One browser that reads along in every room at once, and says nothing."""

    async def connect(self) -> None:
        query = parse_qs(self.scope["query_string"].decode(errors="replace"))
        self.wanted = mention_of(watched(query.get("name", [""])[0]))
        # However many rooms there are, and for those that are yet to come.
        for pattern in PATTERNS:
            await self.group_pattern_add(pattern)
        await self.accept()
        await self.send_json({"type": "entered"})

    async def receive(self, **kwargs: Any) -> None:
        """Nothing is expected from the browser."""

    async def chat_message(self, event: dict[str, Any]) -> None:
        """Somebody said something in some room."""
        await self.tell(event)

    async def chat_question(self, event: dict[str, Any]) -> None:
        """Somebody asked something in some room."""
        await self.tell(event, question=True)

    async def tell(self, event: dict[str, Any], question: bool = False) -> None:
        """Shows it to the browser if it is about the right person."""
        if self.wanted.search(event["text"]):
            await self.send_json(
                {
                    "type": "mention",
                    "room": event["mpx_group"].partition(".")[2],
                    "from": event["from"],
                    "text": event["text"],
                    "question": question,
                }
            )

    async def mpx_disconnect(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "redis", "away": True})

    async def mpx_reconnect(self, event: dict[str, Any]) -> None:
        await self.send_json({"type": "redis", "away": False})

    async def mpx_gap(self, event: dict[str, Any]) -> None:
        """Nothing is replayed to who listens by a pattern."""
        await self.send_json({"type": "missing"})


def mentions(request: HttpRequest) -> HttpResponse:
    """The page. What it shows comes over the WebSocket that its script opens."""
    name = watched(request.GET.get("name", ""))
    return render(request, "chat/mentions.html", {"name": name, "max_name": MAX_NAME})


def watched(name: str) -> str:
    """The name to look out for; empty for everybody's."""
    return clean_name(name) if name.strip() else ""


def mention_of(name: str) -> re.Pattern[str]:
    """Finds ``@name``: in any case, and not in the middle of a word, which may be an address."""
    return re.compile(rf"(?<!\w)@{re.escape(name)}(?!\w)" if name else "", re.IGNORECASE)
