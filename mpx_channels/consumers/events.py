"""What is in a consumer's mailbox beside the layer's messages."""

from __future__ import annotations

import asyncio
from typing import Any

from mpx_channels.layer import Failure

__all__ = ["SocketEvent", "TaskFailure"]

Event = dict[str, Any]
Task = asyncio.Task[Any]


class SocketEvent:
    """An event of the server, or of somebody else's layer, in a consumer's mailbox."""

    __slots__ = ("event", "expires")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.expires = float("inf")

    def take(self) -> Event:
        return self.event


class TaskFailure(Failure):
    """The exception of a task; the task counts among the consumer's until somebody meets it."""

    __slots__ = ("task", "tasks")

    def __init__(self, error: BaseException, task: Task, tasks: set[Task]) -> None:
        super().__init__(error)
        self.task = task
        self.tasks = tasks

    def take(self) -> Event:
        self.tasks.discard(self.task)
        return super().take()
