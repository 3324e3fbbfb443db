"""What all processes of a prefix must have alike: noted in the cluster by the first.

The others note it again where it got lost: who came then could have another value, and nobody would
be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..exceptions import CommandRefused
from ..packing import pack
from ..wire import Frame

__all__ = ["Agreement", "Disagreement"]

_AGREE = b"""
local found = redis.call('GET', KEYS[1])
if found then return found end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
"""


class Disagreement(CommandRefused):
    """Another process has noted another value: nothing is sent, and nothing subscribed to."""


class Agreement:
    """A `value` under a `key`; ``what`` it is, for people, and ``todo``: what to do about it."""

    def __init__(self, key: str, value: str, *, what: str, todo: str) -> None:
        self.key = key.encode()
        self.value = value
        self.what = what
        self.todo = todo
        self.reached = False

    @property
    def _command(self) -> bytes:
        return pack(b"EVAL", _AGREE, b"1", self.key, self.value.encode())

    async def reach(self, submit: Callable[[bytes], Awaitable[Any]]) -> None:
        """Note it, or find out what is noted, by `submit`, which sends a packed command.

        Raises `Disagreement`, and as `submit`.
        """
        self._compare(await submit(self._command))
        self.reached = True

    def keep(
        self,
        submit: Callable[[bytes], asyncio.Future[Frame]],
        differs: Callable[[Disagreement], object],
    ) -> None:
        """Note it again if it is there no more: a server was emptied, or began anew with nothing.

        Nobody waits for that; `differs` gets what others have noted first. May raise as `submit`.
        """

        def answered(answer: asyncio.Future[Frame]) -> None:
            if answer.cancelled() or answer.exception() is not None:
                return  # there is a next time
            try:
                self._compare(answer.result())
            except Disagreement as error:
                differs(error)

        submit(self._command).add_done_callback(answered)

    def _compare(self, answer: bytes) -> None:
        found = answer.decode(errors="replace")
        if found != self.value:
            raise Disagreement(
                f"{self.what} is {self.value} here and {found} in other processes "
                f"(noted in the key {self.key.decode()!r}): {self.todo}"
            )
