"""How consumers end, those with coroutines and those with threads, on any layer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import eventually

from .conftest import AnyLayer, Generic
from .echo import echo_of, sync_echo_of

Connected = Callable[..., Any]


@pytest.fixture(params=[echo_of, sync_echo_of], ids=["async", "sync"])
def echo(request: pytest.FixtureRequest, generic: Generic) -> Any:
    return request.param(generic)


async def test_stop_consumer_ends_it(echo: Any, any_layer: AnyLayer, connected: Connected) -> None:
    socket = await connected(echo)
    await any_layer.send(await socket.text(), {"type": "stop"})
    await socket.ended()


async def test_an_exception_in_a_handler_reaches_the_server(
    echo: Any, any_layer: AnyLayer, connected: Connected
) -> None:
    socket = await connected(echo)
    await any_layer.send(await socket.text(), {"type": "fail", "reason": "nothing there"})
    with pytest.raises(LookupError, match="nothing there"):
        await socket.ended()


async def test_no_handler_is_said(echo: Any, any_layer: AnyLayer, connected: Connected) -> None:
    socket = await connected(echo)
    await any_layer.send(await socket.text(), {"type": "un.known"})
    with pytest.raises(ValueError, match=r"No handler for message type un\.known"):
        await socket.ended()


async def test_the_server_may_cancel(echo: Any, any_layer: AnyLayer, connected: Connected) -> None:
    socket = await connected(echo)
    await eventually(lambda: socket.waiting)
    socket.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await socket.ended()
    # Nobody asks the server for events any more.
    assert not socket.waiting
