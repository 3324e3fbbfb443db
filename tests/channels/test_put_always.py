"""What a mailbox may not drop: events of the socket, hooks, failures."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mpx_channels.channels.layer_stats import LayerCounters
from mpx_channels.layer import Event, Failure, Mailbox
from mpx_channels.multiplexer.flow import Flow


def event(number: Any, expires: float = float("inf")) -> Event:
    return Event({"n": number}, expires)


@pytest.fixture
async def mailbox() -> Mailbox:
    return Mailbox("specific.x!1", 2, asyncio.get_running_loop(), LayerCounters(), Flow())


async def read(mailbox: Mailbox, count: int) -> list[Any]:
    return [(await mailbox.get())["n"] for _ in range(count)]


async def test_past_the_capacity(mailbox: Mailbox) -> None:
    assert [mailbox.put(event(n)) for n in range(3)] == [True, True, False]
    mailbox.put_always(event("last"))
    mailbox.put_always(event("first"), first=True)
    assert mailbox.put(event("dropped")) is False
    assert await read(mailbox, 4) == ["first", 0, 1, "last"]


async def test_into_an_empty_mailbox(mailbox: Mailbox) -> None:
    mailbox.put_always(event(1), first=True)
    assert await read(mailbox, 1) == [1]


async def test_to_who_waits(mailbox: Mailbox) -> None:
    readers = [asyncio.create_task(mailbox.get()) for _ in range(2)]
    await asyncio.sleep(0)
    mailbox.put_always(event(1))
    mailbox.put_always(event(2), first=True)
    assert [(await reader)["n"] for reader in readers] == [1, 2]


async def test_past_the_capacity_while_a_reader_is_being_cancelled(mailbox: Mailbox) -> None:
    reader = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    reader.cancel()
    assert [mailbox.put(event(n)) for n in range(3)] == [True, True, False]
    mailbox.put_always(event("last"))
    mailbox.put_always(event("first"), first=True)
    await asyncio.wait([reader])
    assert await read(mailbox, 4) == ["first", 0, 1, "last"]


async def test_a_failure_is_raised_in_its_turn(mailbox: Mailbox) -> None:
    mailbox.put(event(1))
    mailbox.put_always(Failure(LookupError("here")))
    mailbox.put_always(event(2))
    assert await read(mailbox, 1) == [1]
    with pytest.raises(LookupError, match="here"):
        await mailbox.get()
    assert await read(mailbox, 1) == [2]


async def test_clearing_keeps_what_never_expires(mailbox: Mailbox) -> None:
    soon = asyncio.get_running_loop().time() + 60
    mailbox.put(event(1, soon))
    mailbox.put_always(event(2))
    mailbox.put_always(event(3, soon))
    mailbox.put_always(event(4))
    mailbox.clear()
    assert len(mailbox) == 2
    assert await read(mailbox, 2) == [2, 4]
    mailbox.put(event(5, soon))
    mailbox.clear()
    assert len(mailbox) == 0
