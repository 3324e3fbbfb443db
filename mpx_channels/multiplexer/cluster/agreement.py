"""What all processes of a prefix must have alike: noted in the cluster by the first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ..exceptions import CommandRefused
from ..packing import pack

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

    async def reach(self, submit: Callable[[bytes], Awaitable[Any]]) -> None:
        """Note it, or find out what is noted, by `submit`, which sends a packed command.

        Raises `Disagreement`, and as `submit`.
        """
        command = pack(b"EVAL", _AGREE, b"1", self.key, self.value.encode())
        found = (await submit(command)).decode(errors="replace")
        if found != self.value:
            raise Disagreement(
                f"{self.what} is {self.value} here and {found} in other processes "
                f"(noted in the key {self.key.decode()!r}): {self.todo}"
            )
        self.reached = True
