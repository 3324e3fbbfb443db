"""The store on a server that says exactly what it is to say; `tests/layer/groups` has real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from redis.exceptions import BusyLoadingError

from mpx_channels.history import scripts
from mpx_channels.history.settings import HistorySetting
from mpx_channels.history.store import Store
from mpx_channels.multiplexer import (
    CommandRefused,
    ConnectionLost,
    Multiplexer,
    MultiplexerStopped,
    Node,
)
from mpx_channels.multiplexer.callbacks import Again

EPOCH = "0123456789abcdef"
SETTING = HistorySetting(10, 60)
LOST = ConnectionLost("before it was answered")


class Scripted:
    """A multiplexer whose connections break: ``errors`` are what LEARN is answered with.

    The answer to each publish is lost if that is ``in_doubt``.
    """

    cluster = sharded = False

    def __init__(self, *errors: Exception, in_doubt: bool = False) -> None:
        self.node = Node()
        self.nodes = (self.node,)
        self.errors = [*errors]
        self.in_doubt = in_doubt
        self.published = 0
        self.settled = 0

    def node_of(self, name: str) -> Node:
        return self.node

    place_of = node_of

    def begin_with(
        self, *words: bytes, node: Node, heard: Callable[..., object] = lambda done: None
    ) -> None:
        if words[1] == scripts.LEARN.encode():
            self.heard = heard
        self.command(*words).add_done_callback(heard)

    def command(
        self, *words: bytes, node: Node | None = None, again: Again | None = None
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if words[1] == scripts.LEARN.encode() and self.errors:
            future.set_exception(self.errors.pop(0))
        elif words[0] == b"EVALSHA":
            self.published += 1
            if self.in_doubt:
                assert again is not None
                again()
                refusal = CommandRefused("not now")
                refusal.__cause__ = BusyLoadingError()
                future.set_exception(refusal)
            else:
                future.set_result([EPOCH.encode(), 1, 0])
        elif words[1] == scripts.SETTLE.encode():
            self.settled += 1
            future.set_result([EPOCH.encode(), 1, -1])
        else:
            future.set_result(None)
        return future


def store_on(server: Scripted) -> Store:
    return Store(
        cast(Multiplexer, server),
        "process",
        keys_of=lambda name: ("stream", "meta", "keys", "server"),
    )


async def publish(server: Scripted) -> tuple[tuple[str, int], int]:
    store = store_on(server)
    await store.publish("room", SETTING, b"", None)
    await asyncio.sleep(0)  # the connection did not say which server it is
    return await store.publish("room", SETTING, b"", None)


async def test_a_message_that_was_not_sent_is_not_in_doubt() -> None:
    """Only the question which server it is was lost, again and again."""
    server = Scripted(LOST, *[ConnectionLost("once more") for _ in range(3)])
    assert await publish(server) == ((EPOCH, 1), 0)
    assert server.published == 2
    assert not server.errors


async def test_stopped_before_a_message_was_sent() -> None:
    server = Scripted(LOST, MultiplexerStopped("stopped"))
    with pytest.raises(MultiplexerStopped):
        await publish(server)
    assert server.published == 1


async def test_what_is_known_is_not_asked_again() -> None:
    """A later message of the same group had it settled, and others may have come since."""
    server = Scripted(in_doubt=True)
    store = store_on(server)
    first = asyncio.create_task(store.publish("room", SETTING, b"", None))
    await asyncio.sleep(0)
    server.in_doubt = False
    await store.publish("room", SETTING, b"", None)
    assert server.settled == 1
    assert await first == ((EPOCH, 1), 0)
    assert server.settled == 1


async def test_who_comes_while_another_finds_out_comes_behind() -> None:
    """Also if it is known by then: the order of messages holds."""
    server = Scripted(LOST)
    store = store_on(server)
    await store.publish("room", SETTING, b"0", None)
    await asyncio.sleep(0)
    asked, answer = server.command, asyncio.get_running_loop().create_future()
    sent: list[bytes] = []

    def command(*words: bytes, **more: Any) -> asyncio.Future[Any]:
        if words[1] == scripts.LEARN.encode():
            return answer
        sent.append(words[-2])
        return asked(*words, **more)

    server.command = command  # type: ignore[method-assign]
    sending = []
    for number in (b"1", b"2", b"3"):
        sending.append(asyncio.create_task(store.publish("room", SETTING, number, None)))
        await asyncio.sleep(0)
        if number == b"1":  # a new connection has said it meanwhile
            known: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            known.set_result(None)
            server.heard(known)
    answer.set_result(None)
    await asyncio.gather(*sending)
    assert sent == [b"1", b"2", b"3"]
