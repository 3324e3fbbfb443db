from typing import Any
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from .rules import MAX_TEXT, ROOM_RULE, clean_name, is_room

# Codes from 4000 to 4999 are an application's own; a page that sees this one does not try again.
NO_SUCH_ROOM = 4404


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """
    One person in one room. The browser sends ``{"text": ...}``; everyone in the room, the
    sender too, gets ``{"type": "message", "from": ..., "text": ...}``.
    """

    group: str | None = None

    async def connect(self) -> None:
        room = self.scope["url_route"]["kwargs"]["room"]
        query = parse_qs(self.scope["query_string"].decode(errors="replace"))
        self.name = clean_name(query.get("name", [""])[0])

        if not is_room(room):
            # A refused handshake would hide the code and the reason from the page: accept first.
            await self.accept()
            await self.close(code=NO_SUCH_ROOM, reason=ROOM_RULE)
            return

        # In the group before the page hears that it is connected, so it misses nothing after that.
        self.group = f"chat.{room}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        if self.group is not None:
            await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        """Answers a frame that is not JSON; Channels' own version would end the connection."""
        try:
            content = await self.decode_json(text_data or "")
        except (ValueError, RecursionError):
            await self.send_error("That was not JSON.")
        else:
            await self.receive_json(content)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Says to the room what this person typed."""
        text = content.get("text") if isinstance(content, dict) else None
        if self.group is None:
            return
        if not isinstance(text, str):
            await self.send_error('Send {"text": "..."}.')
            return
        # JSON can spell half a surrogate pair, which UTF-8 can't carry.
        text = text.encode(errors="replace").decode().strip()
        if len(text) > MAX_TEXT:
            await self.send_error(f"A message has at most {MAX_TEXT:,} characters.")
        elif text:
            await self.channel_layer.group_send(
                self.group, {"type": "chat.message", "from": self.name, "text": text}
            )

    async def chat_message(self, event: dict[str, Any]) -> None:
        """Somebody in the room, perhaps on another server, said something: tell the browser."""
        await self.send_json({"type": "message", "from": event["from"], "text": event["text"]})

    async def send_error(self, message: str) -> None:
        await self.send_json({"type": "error", "message": message})
