import asyncio
import contextlib
import re
import time
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import redis

from mpx_channels.generic.websocket import AsyncJsonWebsocketConsumer

from .rules import ANONYMOUS, MAX_TEXT, ROOM_RULE, clean_name, is_room

# Codes from 4000 to 4999 are an application's own; a page that sees this one does not try again.
NO_SUCH_ROOM = 4404
# Messages that a page shows when it enters.
SHOWN = 50
# What one page may have waiting for Redis.
MAX_WAITING = 100
# Seconds before Redis is tried again.
PAUSE = 0.25


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """
    One person in one room. These frames go over the socket::

        the page sends  {"enter": POSITION}, of the last message that it has; null if it has none
        and gets        {"type": "entered"}, and the messages since then; if nobody knows these,
                        {"type": "history", "messages": [...], "position": ..., "missing": BOOL}
        it sends        {"text": TEXT, "key": KEY}, and the same again if it hears nothing of it
        and gets        {"type": "sent", "key": KEY}
        everyone gets   {"type": "message", "from": NAME, "text": TEXT, "key": KEY,
                         "at": SECONDS, "position": POSITION}
        and             {"type": "redis", "away": BOOL} or {"type": "error", "message": REASON}
    """

    # Begin after so many seconds also without Redis, and hear from `mpx_disconnect` that it is so.
    wait_for_redis = 0.5

    group: str | None = None
    entering: asyncio.Task[None] | None = None
    entered = False
    waiting = 0

    async def connect(self) -> None:
        room = self.scope["url_route"]["kwargs"]["room"]
        query = parse_qs(self.scope["query_string"].decode(errors="replace"))
        self.name = clean_name(query.get("name", [""])[0])
        self.turn = asyncio.Lock()

        await self.accept()
        if is_room(room):
            self.room, self.group = room, f"chat.{room}"
        else:
            # A refused handshake would hide the code and the reason from the page.
            await self.close(code=NO_SUCH_ROOM, reason=ROOM_RULE)

    async def disconnect(self, code: int) -> None:
        # What was typed last is said, if that does not take long.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1), self.turn:
                pass

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        """Answers a frame that is not JSON; Channels' own version would end the connection."""
        try:
            content = await self.decode_json(text_data or "")
        except (ValueError, RecursionError):
            await self.send_error("That was not JSON.")
        else:
            if self.group is not None:
                await self.receive_json(content)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Enters the room, or says there what this person typed."""
        match content:
            case {"enter": since}:
                self.enter(since)
            case {"text": str(text), "key": str(key)} if re.fullmatch("[0-9A-Za-z-]{1,64}", key):
                await self.take(text, key)
            case {"text": str(text)} if "key" not in content:
                await self.take(text)
            case _:
                await self.send_error('Send {"text": "...", "key": "..."}.')

    def enter(self, since: Any) -> None:
        """Has the page get what it missed since a position, and then what comes."""
        if self.entering is not None:
            self.entering.cancel()
        self.entered = False
        self.since = since
        # Beside the handlers, as it waits for Redis: they have to tell the page that it is away.
        self.entering = self.start_task(self.keep_entering())

    async def keep_entering(self) -> None:
        """Tries until Redis is there."""
        while not self.entered:
            try:
                self.entered = await self.join()
            except redis.RedisError:
                self.entered = False
                await self.tell_redis(away=True)
                await asyncio.sleep(PAUSE)
        await self.send_json({"type": "entered"})

    async def join(self) -> bool:
        """Joins the group behind what the page has; False if something came in between."""
        layer, group = self.channel_layer, self.group
        # Whoever is in already must hear nothing newer before what is sent here.
        await layer.group_discard(group, self.channel_name)
        missing = self.since is not None
        if missing:
            missing = not (await layer.group_history(group, self.since, limit=1)).complete
        if self.since is None or missing:
            history = await layer.group_history(group, limit=SHOWN)
            said = [event for event in history.messages if event["type"] == "chat.message"]
            about = {"missing": missing, "position": history.position}
            await self.send_json({"type": "history", "messages": list(map(shown, said)), **about})
            self.since = history.position
        self.entered = True
        recovery = await layer.group_add(group, self.channel_name, since=self.since)
        return bool(recovery.recovered)

    async def take(self, text: str, key: str | None = None) -> None:
        """Has a text said in its turn, if it is one."""
        # JSON can spell half a surrogate pair, which UTF-8 can't carry.
        text = text.encode(errors="replace").decode().strip()
        if len(text) > MAX_TEXT:
            await self.send_error(f"A message has at most {MAX_TEXT:,} characters.", key=key)
        elif text:
            await self.in_turn(self.say, text, key, key=key)

    async def in_turn(self, do: Any, *what: Any, key: str | None = None) -> None:
        """Has something done beside the handlers, which must not wait for Redis."""
        if self.waiting == MAX_WAITING:
            await self.send_error("That was too much at once.", key=key)
        else:
            self.waiting += 1
            self.start_task(self.do_in_turn(do, *what))

    async def do_in_turn(self, do: Any, *what: Any) -> None:
        """Does one thing after the other: what was typed first is said first."""
        try:
            async with self.turn:
                await do(*what)
        except redis.RedisError:
            await self.send_error("Redis is away. Try it again when it is back.")
        finally:
            self.waiting -= 1

    async def say(self, text: str, key: str | None) -> None:
        """Sends a message to the room, once for each key."""
        event = {"type": "chat.message", "from": self.name, "text": text, "at": time.time()}
        event["key"] = key or uuid4().hex
        try:
            await self.channel_layer.group_send(self.group, event, idempotency_key=event["key"])
        except redis.ConnectionError:
            pass  # the page hears nothing of it, and sends it again
        except redis.ResponseError:
            await self.send_error("Redis has refused this message.", key=key)
        else:
            if key is not None:
                await self.send_json({"type": "sent", "key": key})

    async def chat_message(self, event: dict[str, Any]) -> None:
        """Somebody in the room, perhaps on another server, said something: tell the browser."""
        if self.entered:
            await self.send_json(shown(event))

    async def mpx_gap(self, event: dict[str, Any]) -> None:
        """Messages were missed here. Where they are replayed, the page need not know."""
        if self.group in event["groups"] and not event["recovered"]:
            self.enter("")  # since nobody knows when

    async def mpx_disconnect(self, event: dict[str, Any]) -> None:
        await self.tell_redis(away=True)

    async def mpx_reconnect(self, event: dict[str, Any]) -> None:
        if self.entered:  # else the page will hear when it is
            await self.tell_redis(away=False)

    async def tell_redis(self, away: bool) -> None:
        await self.send_json({"type": "redis", "away": away})

    async def send_error(self, message: str, key: str | None = None) -> None:
        await self.send_json({"type": "error", "message": message, "key": key})


def shown(event: dict[str, Any]) -> dict[str, Any]:
    """A message as the page gets it; it may have been sent by other code than ours."""
    position = event["mpx_position"]
    message = {"from": ANONYMOUS, "text": "", "key": position, "at": time.time()}
    message |= {key: event[key] for key in message if key in event}
    return {"type": "message", **message, "position": position}
