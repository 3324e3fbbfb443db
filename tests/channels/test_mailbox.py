"""The mailbox by itself: what happens between two turns of the loop."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from mpx_channels.channels.layer_stats import LayerCounters
from mpx_channels.channels.mailbox import Delivery, Mailbox
from mpx_channels.channels.marker import Marker
from mpx_channels.messages.codec import decode, encode
from mpx_channels.multiplexer.flow import Flow


def delivery(number: int, expires: float = float("inf")) -> Delivery:
    return Delivery(decode, encode({"n": number}), expires)


@pytest.fixture
async def mailbox() -> Mailbox:
    return Mailbox("specific.x!1", 3, asyncio.get_running_loop(), LayerCounters(), Flow())


async def reader_waits(mailbox: Mailbox) -> asyncio.Task[dict[str, object]]:
    reader = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    return reader


async def test_handed_over_and_cancelled_at_once(mailbox: Mailbox) -> None:
    reader = await reader_waits(mailbox)
    mailbox.put(delivery(1))
    mailbox.put(delivery(2))
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert [(await mailbox.get())["n"] for _ in range(2)] == [1, 2]


async def test_cancelled_and_handed_over_at_once(mailbox: Mailbox) -> None:
    reader = await reader_waits(mailbox)
    reader.cancel()
    mailbox.put(delivery(1))
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert (await mailbox.get())["n"] == 1
    assert not mailbox.waited_for


async def test_the_next_reader_gets_what_a_cancelled_one_was_handed(mailbox: Mailbox) -> None:
    first, second = await reader_waits(mailbox), await reader_waits(mailbox)
    mailbox.put(delivery(1))
    first.cancel()
    assert (await second)["n"] == 1


async def test_capacity_counts_what_nobody_waits_for(mailbox: Mailbox) -> None:
    reader = await reader_waits(mailbox)
    assert [mailbox.put(delivery(n)) for n in range(6)] == [True] * 4 + [False] * 2
    assert (await reader)["n"] == 0
    assert len(mailbox) == 3


async def test_a_larger_mailbox_takes_more(mailbox: Mailbox) -> None:
    mailbox.enlarge(2)
    assert [mailbox.put(delivery(n)) for n in range(6)] == [True] * 5 + [False]
    mailbox.enlarge(-2)
    assert not mailbox.put(delivery(6))
    for _ in range(3):
        await mailbox.get()
    assert mailbox.put(delivery(7))


async def test_a_marker_is_reached_between_messages(mailbox: Mailbox) -> None:
    reached: list[int] = []
    loop = asyncio.get_running_loop()
    mailbox.put(delivery(1))
    mailbox.put_marker(Marker(loop.time(), lambda: reached.append(1)))
    mailbox.put(delivery(2))
    assert (await mailbox.get())["n"] == 1
    assert not reached
    assert (await mailbox.get())["n"] == 2
    assert reached == [1]
    assert mailbox.counters.dropped_expired == 0


async def test_a_marker_is_reached_at_once_by_who_waits(mailbox: Mailbox) -> None:
    reached: list[int] = []
    loop = asyncio.get_running_loop()
    cancelled = await reader_waits(mailbox)
    cancelled.cancel()
    mailbox.put_marker(Marker(loop.time(), lambda: reached.append(1)))
    await asyncio.wait([cancelled])
    assert not reached  # it waits for who comes next
    reader = await reader_waits(mailbox)
    assert reached == [1]
    mailbox.put_marker(Marker(loop.time(), lambda: reached.append(2)))
    assert reached == [1, 2]
    mailbox.put(delivery(1))
    assert (await reader)["n"] == 1


async def test_what_has_expired_is_skipped_and_counted(mailbox: Mailbox) -> None:
    mailbox.put(delivery(1, expires=0))
    mailbox.put(delivery(2))
    mailbox.put(delivery(3, expires=0))
    assert (await mailbox.get())["n"] == 2
    reader = await reader_waits(mailbox)
    assert not reader.done()
    assert mailbox.counters.dropped_expired == 2
    mailbox.put(delivery(4))
    assert (await reader)["n"] == 4


async def test_a_delivery_is_no_message() -> None:
    with pytest.raises(msgspec.DecodeError):
        Delivery(decode, b"\x93", 0)
    with pytest.raises(msgspec.MsgspecError):
        Delivery(decode, b"\x01", 0)
