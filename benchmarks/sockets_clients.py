"""A room full of WebSocket clients that do as little as possible: they count frames.

Nothing is decoded. A server sends its messages in order, so the n-th frame of a client is the
n-th message, and who published it knows when. A frame that is missing is waited for in vain, and a
frame too many is an error at once.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from typing import cast

# Shorter frames are the protocols' own (Socket.IO's ping), not messages.
SHORTEST_MESSAGE = 64
# How many clients are between SYN and welcome at a time: fewer than the backlog of Daphne's
# listening socket, which is 50.
CONNECTING_AT_ONCE = 32
# Seconds to wait for anything at all.
PATIENCE = 30.0

TEXT, CLOSE, PING = 0x81, 0x88, 0x89


class BenchmarkFailed(Exception):
    """Something was lost, came twice, or did not come in time."""


class Room:
    """The clients of one server, and what has come to all of them together."""

    def __init__(self, port: int, path: str, *, socketio: bool = False) -> None:
        self.port = port
        self.path = path
        self.socketio = socketio
        self.clients: list[Client] = []
        # When each message was published, and how many frames have come to all clients together.
        self.published: list[float] = []
        self.deliveries = 0
        self.awaited = 0
        self.reached = asyncio.Event()
        self.latencies: array[float] | None = None
        self.error: BenchmarkFailed | None = None

    # -- clients ------------------------------------------------------------------------------

    async def fill(self, count: int) -> float:
        """Connect this many clients; returns the seconds from the first SYN to the last welcome."""
        loop = asyncio.get_running_loop()
        left = count

        async def connect_some() -> None:
            nonlocal left
            while left:
                left -= 1
                address = ("127.0.0.1", self.port)
                _, client = await loop.create_connection(lambda: Client(self), *address)
                await client.welcome
                self.clients.append(client)

        started = time.perf_counter()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*[connect_some() for _ in range(min(count, CONNECTING_AT_ONCE))])
        return time.perf_counter() - started

    async def empty(self) -> None:
        """Have all clients say goodbye."""
        clients, self.clients = self.clients, []
        for client in clients:
            client.leave()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*[client.gone for client in clients])

    # -- messages -----------------------------------------------------------------------------

    def next_message(self) -> int:
        """Note that a message is published now; returns its number."""
        self.published.append(time.perf_counter())
        return len(self.published) - 1

    async def caught_up(self, behind: int = 0) -> None:
        """Return once the clients are at most so many messages behind, on average."""
        self.awaited = (len(self.published) - behind) * len(self.clients)
        async with asyncio.timeout(PATIENCE):
            while self.deliveries < self.awaited or self.error is not None:
                if self.error is not None:
                    raise self.error
                self.reached.clear()
                await self.reached.wait()

    def check(self, text: str) -> None:
        """All clients have all messages, and this was in the last; or raise."""
        sent = len(self.published)
        for client in self.clients:
            if client.count != sent or text.encode() not in client.last:
                raise BenchmarkFailed(
                    f"a client got {client.count} of {sent} messages, the last {client.last!r}"
                )

    def missing(self) -> str:
        """What did not come, for an error message."""
        if not self.published:
            return f"only {len(self.clients)} clients are connected"
        least = min(client.count for client in self.clients)
        return f"of {len(self.published)} messages, some client got only {least}"

    def fail(self, reason: str) -> None:
        self.error = BenchmarkFailed(reason)
        self.reached.set()


class Client(asyncio.Protocol):
    """One WebSocket, counting."""

    __slots__ = (
        "_open",
        "_rest",
        "_room",
        "_transport",
        "_welcomed",
        "count",
        "gone",
        "last",
        "welcome",
    )

    def __init__(self, room: Room) -> None:
        loop = asyncio.get_running_loop()
        self.welcome: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.count = 0
        self.last = b""
        self._room = room
        self._open = False
        self._welcomed = False
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(
            f"GET {self._room.path} HTTP/1.1\r\n"
            f"Host: localhost:{self._room.port}\r\n"
            "Upgrade: websocket\r\n"
            "Connection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = 0 if self._open else self._shake_hands(data)
        now = time.perf_counter()
        room = self._room
        published, latencies, count = room.published, room.latencies, self.count
        end = len(data)
        while end - at >= 2:
            length = data[at + 1]
            start = at + 2
            if length == 126:
                if end - at < 4:
                    break
                length = data[at + 2] << 8 | data[at + 3]
                start = at + 4
            after = start + length
            if after > end:
                break
            if data[at] == TEXT and length >= SHORTEST_MESSAGE and self._welcomed:
                if count == len(published):
                    room.fail(f"a client got more than the {count} messages that were sent")
                    break
                if latencies is not None:
                    latencies.append(now - published[count])
                count += 1
                if after == end:
                    self.last = data[start:]
            else:
                self._other(data[at], data[start:after])
            at = after
        room.deliveries += count - self.count
        self.count = count
        if room.deliveries >= room.awaited:
            room.reached.set()
        if at < end:
            self._rest = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        reason = f"the server hung up: {exc or 'no reason given'}"
        if not self.welcome.done():
            self.welcome.set_exception(BenchmarkFailed(reason))
        elif self in self._room.clients:
            self._room.fail(reason)

    def leave(self) -> None:
        """Close with code 1000."""
        self._send(CLOSE, b"\x03\xe8")

    def _shake_hands(self, data: bytes) -> int:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._rest = data
            return len(data)
        if not data.startswith(b"HTTP/1.1 101"):
            self._transport.close()
            self.welcome.set_exception(BenchmarkFailed(f"no welcome: {data!r}"))
            return len(data)
        self._open = True
        if not self._room.socketio:
            self._be_welcome()
        return end + 4

    def _be_welcome(self) -> None:
        self._welcomed = True
        self.welcome.set_result(None)

    def _other(self, opcode: int, payload: bytes) -> None:
        """Answer what the protocols want answered."""
        if opcode == PING:
            self._send(0x8A, payload)
        elif opcode == CLOSE:
            self._transport.close()
        elif self._room.socketio and payload.startswith(b"0{"):
            self._send(TEXT, b"40")
        elif self._room.socketio and payload.startswith(b"40"):
            self._be_welcome()  # to the namespace: its connect handler has run
        elif self._room.socketio and payload == b"2":
            self._send(TEXT, b"3")
        else:
            self._room.fail(f"an unexpected frame: {opcode:#x} {payload!r}")

    def _send(self, opcode: int, payload: bytes) -> None:
        # A mask of zeros is a mask, and changes nothing.
        self._transport.write(bytes((opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
