"""What processes of a prefix do for each other: questions over a control channel, and answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from mpx_channels.channels.inbox import Inbox
from mpx_channels.channels.part import Context, Part
from mpx_channels.messages.codec import Message
from mpx_channels.messages.exceptions import UnreadableMessage
from mpx_channels.multiplexer import Node
from mpx_channels.multiplexer.closed_loops import forget_task

from ..answers.requests import Answer, Poll, Requests
from ..exceptions import ForeignChannel
from .fleet import host_name

__all__ = ["Control"]

# Seconds that processes have to answer; one that needs longer is in trouble.
PATIENCE = 1.0


class Control(Part):
    """Asks all processes of the prefix, or the one that owns a channel; and serves what they ask.

    A question says under ``do`` what it wants; parts put here what they do. Besides, each process
    is subscribed to a name that says that it lives, and where; its probes go over that.
    """

    def __init__(self, context: Context, inbox: Inbox, requests: Requests) -> None:
        self._context = context
        self._requests = requests
        self._tasks: set[asyncio.Task[None]] = set()
        # By what they do; each gets the question, and returns the value to answer with.
        self.handlers: dict[str, Callable[[Message], Awaitable[Any]]] = {}
        inbox.on_question = self._serve
        self._names = context.names.controls(context.multiplexer)
        self._subscription = context.multiplexer.new_channel_subscription(
            self._received, classic=True
        )

    def started(self) -> None:
        alive = self._context.names.alive(self._context.process_id, os.getpid(), host_name())
        self._subscription.add(*(self._names.values() or [self._context.names.control]))
        self._context.multiplexer.probe_over(alive)

    # -- asking -------------------------------------------------------------------------------

    async def ask_everyone(self, question: Message, *, enough: int | None = None) -> Poll:
        """Ask all processes, this one among them; raises when our link breaks meanwhile."""
        names = [self._names[node] for node in self.reachable() if node in self._names]
        control = names[0] if names else self._context.names.control
        poll = await self._requests.ask(
            control, self._encode(question), PATIENCE, enough=enough, classic=True
        )
        if poll.broken is not None:
            raise poll.broken
        return poll

    async def ask_one(self, process_id: str, question: Message, timeout: float) -> list[Answer]:
        """Ask one process: its answer, or none if it does not say, or is not there."""
        return (await self.poll_one(process_id, question, timeout)).answers

    async def poll_one(self, process_id: str, question: Message, timeout: float) -> Poll:
        """As `ask_one`, and say whether it is there."""
        inbox = self._context.names.inbox(process_id)
        return await self._requests.ask(inbox, self._encode(question), timeout, enough=1)

    async def ask_owner(self, do: str, group: str, channel: str, inbox: str, **more: Any) -> Any:
        """Have the process that owns a channel do something with it; returns what comes of it.

        Raises `ForeignChannel` when it cannot, or does not say in ``connect_timeout`` seconds.
        """
        body = self._context.wrapping.encode({"do": do, "group": group, "channel": channel, **more})
        poll = await self._requests.ask(
            inbox, body, self._context.connect_timeout, enough=1, one=True
        )
        if not poll.asked:
            raise ForeignChannel(f"no process has the channel {channel!r} any more")
        if not poll.answers:
            if poll.broken is not None:
                raise poll.broken
            raise ForeignChannel(f"the process of {channel!r} does not answer")
        if "error" in poll.answers[0]:
            raise ForeignChannel(f"{do} of {channel!r} by its process: {poll.answers[0]['error']}")
        return poll.answers[0].get("value")

    def reachable(self) -> tuple[Node, ...]:
        """The nodes to ask: of several, those with a connection."""
        multiplexer = self._context.multiplexer
        there = tuple(node for node in multiplexer.nodes if multiplexer.is_up(node))
        return there or multiplexer.nodes

    def _encode(self, question: Message) -> bytes:
        return self._context.wrapping.encode(question, limit=False)

    # -- serving ------------------------------------------------------------------------------

    def _received(self, name: str, data: bytes) -> None:
        """A question to all processes; it is no traffic of the project's, so it is not counted."""
        wrapping = self._context.wrapping
        try:
            header, body = wrapping.unwrap(name, data)
            asked = wrapping.decode(body)
        except UnreadableMessage as error:
            self._context.unreadable(name, error)
            return
        if "by" in header and "id" in header:
            self._serve(header["by"], header["id"], asked)

    def _serve(self, process_id: str, number: object, asked: Message) -> None:
        async def serve() -> None:
            answer: Answer
            try:
                handler = self.handlers.get(asked.get("do", ""))
                if handler is None:
                    raise ValueError(f"nobody knows here how to do {asked.get('do')!r}")
                answer = {"value": await handler(asked)}
            except Exception as error:
                answer = {"error": str(error.args[0] if error.args else error)}
            self._requests.answer(process_id, number, answer)

        task = self._context.loop.create_task(serve(), name="mpx-serve")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- Part ---------------------------------------------------------------------------------

    def abandon(self) -> None:
        for task in tuple(self._tasks):
            forget_task(task)
