"""One open connection, against a server that says whatever the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import redis

from mpx_channels.multiplexer import ConnectionLost
from mpx_channels.multiplexer import wire as wire_module
from mpx_channels.multiplexer.packing import pack, pack_publish
from mpx_channels.multiplexer.topology import Node
from mpx_channels.multiplexer.wire import FRAMES_PER_TURN, Frame, Wire
from tests.inside import is_reading

from ..conftest import eventually, missing
from ..proxy import Proxy
from .raw_server import RawServer

pytestmark = pytest.mark.usefixtures("clean_loop")


class Handler:
    """Keeps what the wire hands it."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Frame]] = []
        self.writables = 0

    @property
    def frames(self) -> list[Frame]:
        return [frame for batch in self.batches for frame in batch]

    def frames_received(self, frames: Sequence[Frame]) -> int:
        self.batches.append(frames)
        return len(frames)

    def writable(self) -> None:
        self.writables += 1


@pytest.fixture
async def raw() -> AsyncIterator[RawServer]:
    async with RawServer() as server:
        yield server


async def open_wire(url: str, handler: Handler, **options: Any) -> Wire:
    node = Node(url, connect_timeout=5.0, options=options)
    return await Wire.open(node.connection(), handler)


@pytest.fixture
async def handler() -> Handler:
    return Handler()


@pytest.fixture
async def wire(parser: str, raw: RawServer, handler: Handler) -> AsyncIterator[Wire]:
    opened = await open_wire(raw.url, handler)
    yield opened
    await opened.close()


def message(number: int) -> bytes:
    return b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n:%d\r\n" % number


def test_commands_are_packed_as_redis_has_them() -> None:
    assert pack(b"PING") == b"*1\r\n$4\r\nPING\r\n"
    assert (
        pack(b"SUBSCRIBE", b"", b"a\r\n") == b"*3\r\n$9\r\nSUBSCRIBE\r\n$0\r\n\r\n$3\r\na\r\n\r\n"
    )
    assert pack_publish(b"a", b"%s\xff") == pack(b"PUBLISH", b"a", b"%s\xff")


@pytest.mark.parametrize("protocol", [2, 3])
async def test_commands_and_replies(
    parser: str, redis_url: str, handler: Handler, protocol: int
) -> None:
    wire = await open_wire(redis_url, handler, protocol=protocol)
    wire.write(pack(b"ECHO", b"1") + pack(b"NONSENSE") + pack(b"SUBSCRIBE", b"a"))
    await eventually(lambda: len(handler.frames) == 3)
    echo, error, confirmation = handler.frames
    assert echo == b"1"
    assert isinstance(error, redis.ResponseError)
    assert list(confirmation) == [b"subscribe", b"a", 1]
    assert wire.bytes_in > 0
    assert wire.bytes_out > 0
    await wire.close()


async def test_frames_in_pieces(wire: Wire, raw: RawServer, handler: Handler) -> None:
    for piece in (b"*3\r\n$7\r\nmes", b"sage\r\n$1\r\na\r\n:1", b"\r\n", message(2) + message(3)):
        count = wire.bytes_in
        raw.send(piece)
        await eventually(lambda count=count: wire.bytes_in > count)
    await eventually(lambda: len(handler.frames) == 3)
    assert handler.frames == [[b"message", b"a", number] for number in (1, 2, 3)]


async def test_what_comes_at_once_is_one_batch(raw: RawServer, handler: Handler) -> None:
    if not wire_module.HAS_HIREDIS:
        missing("hiredis is not installed")
    wire = await open_wire(raw.url, handler)
    raw.send(b"".join(map(message, range(100))))
    await eventually(lambda: len(handler.frames) == 100)
    assert len(handler.batches) == 1
    await wire.close()


async def test_a_flood_lets_others_have_their_turn(
    wire: Wire, raw: RawServer, handler: Handler
) -> None:
    count = 5 * FRAMES_PER_TURN
    turns: list[int] = []

    def turn() -> None:
        turns.append(len(handler.frames))
        if len(handler.frames) < count:
            asyncio.get_running_loop().call_soon(turn)

    turn()
    raw.send(b"".join(map(message, range(count))))
    await eventually(lambda: turns[-1] == count)
    assert all(len(batch) <= FRAMES_PER_TURN for batch in handler.batches)
    # Nobody waited for more than two turns' worth.
    assert max(b - a for a, b in pairwise(turns)) <= 2 * FRAMES_PER_TURN
    assert [frame[2] for frame in handler.frames] == list(range(count))


class Holding(Handler):
    """Takes so many frames at a time."""

    most = 3

    def frames_received(self, frames: Sequence[Frame]) -> int:
        return super().frames_received(frames[: self.most])


async def test_what_the_handler_leaves_comes_again(parser: str, raw: RawServer) -> None:
    handler = Holding()
    wire = await open_wire(raw.url, handler)
    ends: list[int] = []
    wire.closed.add_done_callback(lambda _: ends.append(len(handler.frames)))
    handler.most = 0
    raw.send(b"".join(map(message, range(50))))
    await eventually(lambda: wire.holding)
    for number in range(50, 100):
        raw.send(message(number))
    handler.most = 3
    while len(handler.frames) < 70:
        wire.go_on()
        await asyncio.sleep(0)
    handler.most = 0
    await raw.end()  # and the end comes after what is left
    handler.most = 100
    while not wire.closed.done():
        wire.go_on()
        await asyncio.sleep(0)
    assert [frame[2] for frame in handler.frames] == list(range(100))
    assert not wire.holding
    await eventually(lambda: ends == [100])
    await wire.close()


async def test_nothing_is_read_while_the_handler_takes_nothing(parser: str, raw: RawServer) -> None:
    handler = Holding()
    handler.most = 0
    wire = await open_wire(raw.url, handler)
    count, size = 100, 100_000
    raw.send(b"$%d\r\n%b\r\n" % (size, bytes(size)) * count)
    await eventually(lambda: not is_reading(wire))
    read = wire.bytes_in
    for _ in range(10):
        await asyncio.sleep(0)
    assert wire.bytes_in == read < count * size / 2
    handler.most = count
    wire.go_on()
    await eventually(lambda: len(handler.frames) == count)
    await wire.close()


async def test_an_abort_waits_for_what_is_held_back(raw: RawServer) -> None:
    if not wire_module.HAS_HIREDIS:
        missing("hiredis is not installed")
    handler = Holding()
    handler.most = 0
    wire = await open_wire(raw.url, handler)
    raw.send(message(1) + message(2))
    await eventually(lambda: wire.holding)
    reason = ConnectionLost("enough")
    wire.abort(reason)
    assert wire.paused
    assert not wire.closed.done()
    await eventually(lambda: not raw.connected)
    handler.most = 2
    wire.go_on()
    assert wire.closed.result() is reason
    assert len(handler.frames) == 2
    await wire.close()


async def test_closing_gives_up_what_is_held_back_for_long(parser: str, raw: RawServer) -> None:
    handler = Holding()
    handler.most = 0
    wire = await open_wire(raw.url, handler)
    raw.send(message(1))
    await eventually(lambda: wire.holding)
    await wire.close()
    assert wire.closed.done()
    wire.go_on()
    assert not handler.frames


async def test_the_end_comes_after_all_that_was_received(
    wire: Wire, raw: RawServer, handler: Handler
) -> None:
    count = 5 * FRAMES_PER_TURN
    seen: list[int] = []
    wire.closed.add_done_callback(lambda _: seen.append(len(handler.frames)))
    raw.send(b"".join(map(message, range(count))))
    await raw.end()
    reason = await wire.closed
    assert isinstance(reason, redis.ConnectionError)
    await eventually(lambda: seen == [count])


async def test_a_reset_loses_nothing_that_was_received(
    wire: Wire, raw: RawServer, handler: Handler
) -> None:
    wire.data_received(b"".join(map(message, range(100))))
    wire.connection_lost(ConnectionResetError("by the test"))
    await wire.closed
    assert len(handler.frames) == 100


async def test_closing_handles_what_was_received_and_nothing_after(raw: RawServer) -> None:
    if not wire_module.HAS_HIREDIS:
        missing("hiredis is not installed")
    closing: list[asyncio.Task[None]] = []

    class Closing(Handler):
        """Has the wire closed while more than a turn's worth is there."""

        def frames_received(self, frames: Sequence[Frame]) -> int:
            if not closing:
                closing.append(asyncio.create_task(close()))
            return super().frames_received(frames)

    handler = Closing()
    wire = await open_wire(raw.url, handler)
    handled: list[int] = []

    async def close() -> None:
        handled.append(len(handler.frames))
        await wire.close()
        handled.append(len(handler.frames))

    raw.send(b"".join(map(message, range(3 * FRAMES_PER_TURN))))
    await eventually(lambda: not raw.connected)
    assert handled[0] == FRAMES_PER_TURN
    assert handled[1] > FRAMES_PER_TURN
    assert len(handler.frames) == handled[1]
    await asyncio.gather(*closing)


async def test_nonsense_ends_the_connection_after_what_came_before(
    wire: Wire, raw: RawServer, handler: Handler
) -> None:
    raw.send(message(1) + b"nonsense\r\n" + message(2))
    reason = await wire.closed
    assert handler.frames == [[b"message", b"a", 1]]
    assert isinstance(reason, Exception)
    await wire.close()
    await eventually(lambda: not raw.connected)


async def test_unreadable_numbers_end_the_connection(wire: Wire, raw: RawServer) -> None:
    raw.send(b"$twelve\r\n")
    assert isinstance(await wire.closed, Exception)


async def test_an_abort_is_at_once(wire: Wire, raw: RawServer) -> None:
    reason = ConnectionLost("enough")
    wire.abort(reason)
    assert wire.closed.result() is reason
    wire.abort(ConnectionLost("again"))
    assert wire.closed.result() is reason
    await eventually(lambda: not raw.connected)


async def test_what_is_given_up_does_not_arrive_later(parser: str, handler: Handler) -> None:
    async with RawServer() as raw:
        for aborted in (False, True):
            wire = await open_wire(raw.url, handler)
            await eventually(lambda: raw.connected)
            raw.received.clear()
            raw.reading.clear()
            wire.write(bytes(50_000_000))
            await eventually(lambda wire=wire: wire.paused)
            if aborted:
                wire.abort(ConnectionLost("enough"))
            await wire.close()
            assert wire.untaken > 0
            taken = wire.bytes_out - wire.untaken
            raw.reading.set()
            await eventually(lambda: not raw.connected)
            # The kernel goes on sending what it has, unless it was told not to.
            assert (len(raw.received) < taken) is aborted


async def test_closing_twice_is_harmless(wire: Wire, raw: RawServer) -> None:
    await wire.close()
    await wire.close()
    await eventually(lambda: not raw.connected)


async def test_a_peer_that_does_not_read_pauses_us(
    wire: Wire, raw: RawServer, handler: Handler
) -> None:
    raw.reading.clear()
    written = 0
    while not wire.paused:
        wire.write(bytes(1_000_000))
        written += 1_000_000
        assert written < 1_000_000_000
        await asyncio.sleep(0)
    assert handler.writables == 0
    raw.reading.set()
    await eventually(lambda: handler.writables)
    assert not wire.paused
    await eventually(lambda: len(raw.received) == written)


async def test_a_peer_that_does_not_read_cannot_keep_us(wire: Wire, raw: RawServer) -> None:
    raw.reading.clear()
    wire.write(bytes(50_000_000))
    await wire.close()
    raw.reading.set()
    await eventually(lambda: not raw.connected)
    assert len(raw.received) < 50_000_000


async def test_a_lost_wire_stays_paused(wire: Wire, raw: RawServer, handler: Handler) -> None:
    wire.pause_writing()
    wire.abort(ConnectionLost("enough"))
    wire.resume_writing()
    assert wire.paused
    assert handler.writables == 0


async def test_an_end_that_comes_with_the_handshake_is_noticed(
    parser: str, handler: Handler
) -> None:
    async with RawServer(leave=True) as server:
        try:
            wire = await open_wire(server.url, handler)
        except redis.ConnectionError:
            return
        assert isinstance(await wire.closed, redis.ConnectionError)
        await wire.close()


async def test_taking_over_what_has_ended_already_fails(parser: str, handler: Handler) -> None:
    async with RawServer(leave=True) as server:
        connection = Node(server.url, connect_timeout=5.0).connection()
        await connection.connect()
        stream: Any = connection._reader  # noqa: SLF001 - of redis-py
        await eventually(stream.at_eof)
        # It is connected as far as redis-py knows, so this takes over and connects nothing.
        with pytest.raises(ConnectionLost, match="closed the connection"):
            await Wire.open(connection, handler)
        await eventually(lambda: not server.connected)


async def test_a_failing_handshake_leaves_no_socket(
    parser: str, proxy: Proxy, handler: Handler
) -> None:
    with pytest.raises(redis.ResponseError):
        await open_wire(proxy.url, handler, db=1_000_000)
    await eventually(lambda: proxy.accepted == 1 and proxy.open == 0)


async def test_a_handshake_that_hangs_can_be_cancelled(
    parser: str, proxy: Proxy, handler: Handler
) -> None:
    proxy.freeze()
    task = asyncio.create_task(open_wire(proxy.url, handler))
    await eventually(lambda: proxy.open)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    proxy.thaw()
    await eventually(lambda: proxy.open == 0)


async def test_a_handler_that_raises_breaks_the_connection_and_no_more(
    parser: str, raw: RawServer
) -> None:
    """It must not; if it does, the link has to hear of it and start afresh."""

    class Bad(Handler):
        def frames_received(self, frames: Sequence[Frame]) -> int:
            raise RuntimeError("on purpose")

    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    wire = await open_wire(raw.url, Bad())
    raw.send(message(1))
    assert isinstance(await wire.closed, RuntimeError)
    await wire.close()
