"""
Who is here: whoever has a room open, in as many tabs and on as many devices as they like, is in it
once. There are no accounts here, so people are their names; where there are, take the user's key.

The frames, beside those of `QuestionConsumer`::

    the page sends  {"here": true}, when it has entered and each time it wants to know anew
    and gets        {"type": "here", "names": [NAME, ...], "members": NUMBER}; names are 200 at most
    it gets         {"type": "presence", "joined": [NAME, ...], "left": [NAME, ...],
                     "members": NUMBER}; of a large room the number alone
"""

import asyncio
from typing import Any

import redis

from .consumers import PAUSE
from .questions import QuestionConsumer

# Names that a page lists.
LISTED = 200


class HereConsumer(QuestionConsumer):
    """One person in a room where people see who else is there."""

    looking: asyncio.Task[None] | None = None

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Says who is here; the rest is chat and questions."""
        match content:
            case {"here": True}:
                if self.looking is not None:
                    self.looking.cancel()
                # Beside the handlers, as it waits for Redis.
                self.looking = self.start_task(self.look())
            case _:
                await super().receive_json(content, **kwargs)

    async def look(self) -> None:
        """Is here itself, and tells the page who else is, as soon as Redis is there."""
        while True:
            try:
                await self.presence_join(self.group, self.name)
                listed = await self.channel_layer.presence(self.group, limit=LISTED)
                count = await self.channel_layer.presence_count(self.group)
                break
            except redis.RedisError:
                await asyncio.sleep(PAUSE)
        about = {"names": list(listed.members), "members": count.members}
        await self.send_json({"type": "here", **about})

    async def mpx_presence(self, event: dict[str, Any]) -> None:
        """Somebody came to the room, or left it."""
        if self.looking is not None and event["group"] == self.group:
            about = {"joined": list(event["joined"]), "left": list(event["left"])}
            await self.send_json({"type": "presence", **about, "members": event["members"]})
