"""Draining a process from another one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mpx_channels.channels.part import Part
from mpx_channels.loops.doors import Draining, doors
from mpx_channels.messages.codec import Message

from ..exceptions import RequestFailed, RequestTimeout
from .control import PATIENCE, Control

__all__ = ["Drainer"]


class Drainer(Part):
    """Has this process drained when another one asks for it, and asks others."""

    def __init__(self, control: Control) -> None:
        self._control = control
        control.handlers |= {
            "drain": self._drain,
            "undrain": self._undrain,
            "draining": self._tell,
        }

    async def ask(self, process_id: str, question: Message) -> Draining | None:
        """How far the drain of a process is after a question; None if there is no such process.

        Raises `RequestTimeout` if it does not say, and `RequestFailed` if it cannot do it.
        """
        poll = await self._control.poll_one(process_id, question, PATIENCE)
        if not poll.asked:
            return None
        if not poll.answers:
            raise RequestTimeout(f"the process {process_id} did not answer in {PATIENCE:g} s")
        answer = poll.answers[0]
        if "error" in answer:
            raise RequestFailed(f"the process {process_id}: {answer['error']}")
        value = answer["value"]
        return Draining(bool(value["draining"]), int(value["total"]), int(value["left"]))

    async def _drain(self, asked: Message) -> dict[str, Any]:
        doors.begin(asked["over"])
        return asdict(doors.state)

    async def _undrain(self, asked: Message) -> dict[str, Any]:
        doors.undrain()
        return asdict(doors.state)

    async def _tell(self, asked: Message) -> dict[str, Any]:
        return asdict(doors.state)
