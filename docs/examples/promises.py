"""Networked promises from a terminal: one process waits for a word that another one sends.

    python docs/examples/promises.py

Then type, in this terminal or in a second one that runs the same:

    +tea           promise tea: wait five seconds for a message to the channel p:tea
    *tea           the same, but when Redis is away, first wait until it is back
    -tea           cancel the promises of tea made here
    !tea is ready  publish "is ready" to p:tea
"""

import asyncio
import contextlib
import os
import sys
from typing import Any

from mpx_channels.multiplexer import (
    InactiveSubscription,
    MpxError,
    Multiplexer,
    Promise,
    PromiseDisconnected,
    PromiseSubscription,
)

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379")
PREFIX = "p:"
TIMEOUT = 5.0  # seconds


class Terminal:
    """What the lines of one terminal do."""

    def __init__(self, multiplexer: Multiplexer) -> None:
        self.multiplexer = multiplexer
        self.subscription: PromiseSubscription = multiplexer.new_promise_subscription(PREFIX)
        self.promises: set[Promise] = set()

    async def obey(self, line: str) -> None:
        command, rest = line[:1], line[1:].strip()
        if command == "+":
            try:
                promise = self.subscription.new_promise(rest, TIMEOUT)
            except InactiveSubscription:
                say(f"{rest}: not connected to Redis, no promise")
            else:
                await self.tell(promise)
        elif command == "*":
            await self.tell(await self.subscription.wait_for_new_promise(rest, TIMEOUT))
        elif command == "-":
            for promise in self.promises:
                if promise.name == rest:
                    promise.cancel()
        elif command == "!":
            name, _, text = rest.partition(" ")
            try:
                receivers = await self.multiplexer.publish(PREFIX + name, text.encode())
            except MpxError as error:
                say(f"{name}: not sent, {error}")
            else:
                say(f"{name}: sent, {receivers} listening")
        else:
            say("Begin a line with + * - or !")

    async def tell(self, promise: Promise) -> None:
        """Say that there is a promise, and later what became of it."""
        say(f"{promise.name}: promised")
        self.promises.add(promise)
        try:
            data = await promise
        except TimeoutError:
            say(f"{promise.name}: nothing came in {TIMEOUT:g} seconds")
        except PromiseDisconnected:
            say(f"{promise.name}: lost the connection, so the message may have been missed")
        except asyncio.CancelledError:
            say(f"{promise.name}: cancelled")
        else:
            say(f"{promise.name}: {data.decode()}")
        finally:
            self.promises.discard(promise)


def say(text: str) -> None:
    print(text, flush=True)


async def lines_typed() -> asyncio.StreamReader:
    """Standard input (a terminal or a pipe) without a thread that waits for it."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def main() -> None:
    tasks: set[asyncio.Task[Any]] = set()
    async with Multiplexer(REDIS_URL) as multiplexer:
        terminal = Terminal(multiplexer)
        await terminal.subscription.wait_for_activation()
        say("Ready. Type +tea, *tea, -tea or !tea is ready; Ctrl-D ends.")
        async for line in await lines_typed():
            # A task each: while a promise waits, the next line is read.
            task = asyncio.create_task(terminal.obey(line.decode().rstrip("\n")))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        terminal.subscription.close()
        await asyncio.gather(*tasks)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
