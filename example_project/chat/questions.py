"""
Questions to a room: whoever asks waits, and the first answer counts. A question is a promise,
``ask-<id>``, so it can be answered from any process, by those who know its id: who saw it.
Questions have groups of their own without a history: who was away has nothing to answer any more.

The frames when Ann asks and Ben answers, beside those of `ChatConsumer`; times are in seconds::

    Ann's page sends  {"ask": TEXT}, and if 30 s are not right, "timeout": 1 to 300
    and gets          {"type": "asked", "id": ID, "text": TEXT, "timeout": TIME}
    the others get    {"type": "question", "id": ID, "from": "Ann", "text": TEXT, "timeout": TIME}
    Ben's page sends  {"answer": TEXT, "to": ID}
    and gets          {"type": "answer", "to": ID, "first": true}; false if he was too late
    Ann's page gets   {"type": "answered", "id": ID, "from": "Ben", "text": TEXT}
    or, in the end,   {"type": "unanswered", "id": ID, "message": REASON}
"""

import re
from typing import Any
from uuid import uuid4

import redis

from mpx_channels.consumers import PromiseMixin
from mpx_channels.layer import LayerPromise, PromiseRejected

from .consumers import ChatConsumer
from .rules import MAX_TEXT

TIMEOUT = 30
SHORTEST, LONGEST = 1, 300
# Of one person at a time: each is a task and a subscription.
MAX_OPEN = 5


class QuestionConsumer(PromiseMixin, ChatConsumer):
    """One person in a room where people also ask and answer."""

    open_questions = 0

    async def join(self) -> bool:
        joined = await super().join()
        await self.channel_layer.group_add(f"ask.{self.room}", self.channel_name)
        return joined

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        """Takes questions and answers; the rest is chat."""
        match content:
            case {"ask": question}:
                await self.in_turn(self.ask, question, content.get("timeout", TIMEOUT))
            case {"answer": answer, "to": asked}:
                await self.in_turn(self.answer, asked, answer)
            case _:
                await super().receive_json(content, **kwargs)

    async def ask(self, question: Any, timeout: Any) -> None:
        """Puts a question to the room, and has the answer waited for."""
        text = await self.checked("question", question)
        if text is None:
            return
        if not (isinstance(timeout, int | float) and SHORTEST <= timeout <= LONGEST):
            await self.send_error(f"A question waits {SHORTEST} to {LONGEST} seconds.")
            return
        if self.open_questions >= MAX_OPEN:
            await self.send_error(f"{MAX_OPEN} of your questions wait already.")
            return

        asked = uuid4().hex
        # In force before anybody sees the question, so that no answer comes too early.
        promise = await self.new_promise(f"ask-{asked}", timeout)
        self.open_questions += 1
        # Beside the handlers: one that waited would hold up the chat.
        self.start_task(self.wait_for_answer(asked, promise, timeout))

        about = {"id": asked, "text": text, "timeout": timeout}
        await self.send_json({"type": "asked", **about})
        await self.channel_layer.group_send(
            f"ask.{self.room}",
            {"type": "chat.question", "from": self.name, **about},
            exclude=[self.channel_name],
        )

    async def wait_for_answer(self, asked: str, promise: LayerPromise, timeout: float) -> None:
        """Tells who asked how it ended."""
        try:
            match await promise:
                case {"from": str(name), "text": str(text)}:
                    answer = {"type": "answered", "from": name, "text": text}
                case value:  # from elsewhere: anybody may resolve a promise, with anything
                    answer = {"type": "answered", "from": "somebody", "text": str(value)}
        except TimeoutError:
            answer = {"type": "unanswered", "message": f"Nobody answered in {timeout:g} s."}
        except PromiseRejected as rejection:
            answer = {"type": "unanswered", "message": f"The question was rejected: {rejection}"}
        except redis.ConnectionError:  # broken, or never there
            message = "The server lost its connection, and may have missed the answer. Ask again."
            answer = {"type": "unanswered", "message": message}
        finally:
            self.open_questions -= 1
        await self.send_json({**answer, "id": asked})

    async def chat_question(self, event: dict[str, Any]) -> None:
        """Somebody else in the room asks: show it to the browser."""
        keys = ("id", "from", "text", "timeout")
        await self.send_json({"type": "question"} | {key: event[key] for key in keys})

    async def answer(self, asked: Any, answer: Any) -> None:
        """Resolves a question, and says whether this was the first to do so."""
        text = await self.checked("answer", answer)
        if text is None:
            return
        if not isinstance(asked, str) or not re.fullmatch("[0-9a-f]{32}", asked):
            await self.send_error("There is no such question.")
            return
        waiters = await self.resolve(f"ask-{asked}", {"from": self.name, "text": text})
        await self.send_json({"type": "answer", "to": asked, "first": waiters > 0})

    async def checked(self, what: str, text: Any) -> str | None:
        """The text, tidied; or None, and the browser is told what is wrong with it."""
        if isinstance(text, str):
            # As in the chat: half a surrogate pair fits into JSON, but not into UTF-8.
            text = text.encode(errors="replace").decode().strip()
            if 0 < len(text) <= MAX_TEXT:
                return text
        await self.send_error(f"The {what} must be a text of 1 to {MAX_TEXT:,} characters.")
        return None
