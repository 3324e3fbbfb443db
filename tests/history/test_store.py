"""The store on a server that says exactly what it is to say; `tests/layer/groups` has real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from mpx_channels.history import scripts
from mpx_channels.history.settings import HistorySetting
from mpx_channels.history.store import Store
from mpx_channels.multiplexer import ConnectionLost, Multiplexer, MultiplexerStopped, Node

EPOCH = "0123456789abcdef"


class Scripted:
    """A multiplexer whose connections break: ``errors`` are what LEARN is answered with."""

    def __init__(self, *errors: Exception) -> None:
        self.node = Node()
        self.errors = [ConnectionLost("before it was answered"), *errors]
        self.published = 0

    def node_of(self, name: str) -> Node:
        return self.node

    def begin_with(
        self, *words: bytes, node: Node, heard: Callable[..., object] = lambda done: None
    ) -> None:
        self.command(*words).add_done_callback(heard)

    def command(self, *words: bytes, **more: object) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if words[1] == scripts.LEARN.encode() and self.errors:
            future.set_exception(self.errors.pop(0))
        elif words[0] == b"EVALSHA":
            self.published += 1
            future.set_result([EPOCH.encode(), 1, 0])
        else:
            future.set_result(None)
        return future


async def publish(server: Scripted) -> tuple[tuple[str, int], int]:
    store = Store(
        cast(Multiplexer, server),
        "process",
        server="server",
        keys_of=lambda name: ("stream", "meta", "keys", "server"),
    )
    setting = HistorySetting(10, 60)
    await store.publish("room", setting, b"", None)
    await asyncio.sleep(0)  # the connection did not say which server it is
    return await store.publish("room", setting, b"", None)


async def test_a_message_that_was_not_sent_is_not_in_doubt() -> None:
    """Only the question which server it is was lost, again and again."""
    server = Scripted(*[ConnectionLost("once more") for _ in range(3)])
    assert await publish(server) == ((EPOCH, 1), 0)
    assert server.published == 2
    assert not server.errors


async def test_stopped_before_a_message_was_sent() -> None:
    server = Scripted(MultiplexerStopped("stopped"))
    with pytest.raises(MultiplexerStopped):
        await publish(server)
    assert server.published == 1
