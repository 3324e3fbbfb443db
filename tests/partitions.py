"""The network between servers on one machine, which can be parted between any two of them.

Each server has an address of its own on the loopback that its connections come from (Redis'
``bind-source-addr``), and is reached through a proxy here, which so knows both ends. What is parted
is silent, as a network is: connections stand, new ones hang, and what was sent comes when it heals.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any

__all__ = ["CLIENTS", "Network"]

# Where connections of clients come from.
CLIENTS = "127.0.0.1"


class Network:
    """Proxies for many servers, in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._parted: set[frozenset[str]] = set()
        self._healed = asyncio.Event()
        self._listeners: list[asyncio.Server] = []
        self._serving: set[asyncio.Task[None]] = set()

    def listen(self, port: int, address: str, target: int) -> None:
        """Take connections on ``port`` for the server at ``address``, which listens on another."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            source = writer.get_extra_info("peername")
            if source is not None:  # it may have gone already
                await self._serve(reader, writer, frozenset((source[0], address)), target)

        async def start() -> None:
            self._listeners.append(await asyncio.start_server(serve, "127.0.0.1", port))

        self._run(start())

    def part(self, one: str, other: str) -> None:
        """Let nothing through between two addresses."""

        async def part() -> None:
            self._healed.clear()
            self._parted.add(frozenset((one, other)))

        self._run(part())

    def heal(self) -> None:
        """Let everything through again, and what was held back first."""

        async def heal() -> None:
            self._parted.clear()
            self._healed.set()

        self._run(heal())

    def close(self) -> None:
        """Break everything off."""

        async def close() -> None:
            for listener in self._listeners:
                listener.close()
            while self._serving:
                for task in self._serving:
                    task.cancel()
                await asyncio.wait(self._serving)

        self._run(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ends: frozenset[str],
        target: int,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        writers = [writer]
        # Cancelled by `close`: asyncio would log that, and there is nothing more to do.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._open(ends)
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target)
            writers.append(up_writer)
            pumps = [
                asyncio.create_task(self._pump(reader, up_writer, ends)),
                asyncio.create_task(self._pump(up_reader, writer, ends)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        for each in writers:
            each.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: frozenset[str]
    ) -> None:
        while data := await reader.read(65536):
            await self._open(ends)
            writer.write(data)
            await writer.drain()
        await self._open(ends)  # nor does the end of a connection come through

    async def _open(self, ends: frozenset[str]) -> None:
        while ends in self._parted:
            await self._healed.wait()
