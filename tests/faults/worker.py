"""A process that uses the layer: it sends and receives numbered messages, and says what happened.

``python -m tests.faults.worker CONFIG``, with ``CONFIG`` a JSON object: ``name``, ``layer`` (the
layer's own CONFIG), ``clock`` (seconds that its wall clock is off), ``uvloop`` (whether to use it).
It is told what to do by lines of JSON on stdin, and answers on stdout: replies, and events in the
order of their happening (see `Ledger.take`). Times are those of the monotonic clock, which all
processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from django.conf import settings

# Seconds between two reports.
REPORT_EVERY = 0.05
# Seconds between two rounds of sending.
TICK = 0.02
# Seconds that a worker has to begin, before anything is broken.
PATIENCE = 60.0
HOOKED = ("mpx.activation",), ("mpx.disconnect",), ("mpx.reconnect",), ("mpx.gap",)


async def patiently(call: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
    """Call again while there is no answer in the layer's time, which is short: it may be busy."""
    from mpx_channels.layer import NotConnected

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await call(*args, **options)
        except NotConnected:
            if time.monotonic() > deadline:
                raise


class Worker:
    """One layer, its receivers, and the traffic that it sends."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        from mpx_channels.layer import Hooks, MpxChannelLayer

        self.name = name
        self.layer = MpxChannelLayer(**config)
        self.hooks = Hooks(*HOOKED)
        self.events: list[list[Any]] = []
        self.readers: set[asyncio.Task[None]] = set()
        self.sending: asyncio.Task[None] | None = None
        self.pending: set[asyncio.Task[None]] = set()
        self.unread: list[Any] = []
        self.guests: dict[str, tuple[Any, asyncio.Task[None]]] = {}
        self.quiet = False
        self.pause = 0.0
        self.run = 0
        self.numbers: Counter[str] = Counter()
        self.padding = ""

    # -- receiving ----------------------------------------------------------------------------

    async def open(
        self, receivers: dict[str, list[str]], queues: list[str], idle: list[str]
    ) -> None:
        """Open a channel for each receiver, in these groups; and read these plain channels.

        The ``idle`` groups are for a channel of their own, which hears nothing.
        """
        for receiver, groups in receivers.items():
            mailbox = await patiently(self.layer.open_channel, hooks=self.hooks)
            for group in groups:
                await patiently(self.layer.group_add, group, mailbox.channel)
            self.read(self.receive(receiver, mailbox.get))
        for queue in queues:
            get = functools.partial(self.layer.receive, queue)
            self.read(self.receive(f"{self.name}/{queue}", get))
        if idle:
            channel = await patiently(self.layer.new_channel)
            adds = [patiently(self.layer.group_add, group, channel) for group in idle]
            await asyncio.gather(*adds)
            get = functools.partial(self.layer.receive, channel)
            self.read(self.receive(f"{self.name}/idle", get))

    def read(self, reader: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(reader)
        self.readers.add(task)
        task.add_done_callback(self.readers.discard)
        return task

    async def receive(self, receiver: str, get: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        """Read for ever, and do nothing else: the promptest of consumers."""
        events = self.events
        while True:
            try:
                event = await get()
            except Exception as error:
                # A consumer would have died of it.
                events.append(["died", receiver, describe(error), time.monotonic()])
                await asyncio.sleep(0.1)
                continue
            kind = event["type"]
            if kind == "faults.numbered":
                events.append(
                    [
                        "got",
                        receiver,
                        event["run"],
                        event["by"],
                        event["to"],
                        event["n"],
                        event.get("mpx_position"),
                        time.monotonic(),
                    ]
                )
            elif kind == "mpx.gap":
                told = event["reason"], event["groups"], event["recovered"]
                events.append(["gap", receiver, *told, time.monotonic()])
            elif kind == "mpx.activation":
                pass
            else:
                events.append([kind.removeprefix("mpx."), receiver, time.monotonic()])

    async def come(
        self, receiver: str, since: dict[str, str | None], pause: float = 0.0
    ) -> dict[str, str | None]:
        """Join groups from these positions on, or from their ends; return from which.

        ``pause``: what the reader waits before each message, until `hurry`.
        """
        mailbox = await self.layer.open_channel(hooks=self.hooks)
        since = dict(since)
        try:
            for group, position in since.items():
                if position is None:
                    position = (await self.layer.group_history(group, limit=1)).position
                    since[group] = position
                recovery = await self.layer.group_add(group, mailbox.channel, since=position)
                if recovery is not None and not recovery.recovered:
                    told = recovery.reason, [group], False
                    self.events.append(["gap", receiver, *told, time.monotonic()])
        except BaseException:
            self.layer.close_channel(mailbox)
            raise
        self.pause = pause

        async def get() -> dict[str, Any]:
            if self.pause:
                await asyncio.sleep(self.pause)
            return await mailbox.get()

        self.guests[receiver] = mailbox, self.read(self.receive(receiver, get))
        return since

    async def hurry(self) -> None:
        """Whoever was slow is as prompt as the others."""
        self.pause = 0.0

    async def go(self, receiver: str) -> None:
        """End what `come` began; what is unread is not read any more."""
        mailbox, reader = self.guests.pop(receiver)
        reader.cancel()
        await asyncio.wait([reader])
        self.layer.close_channel(mailbox)

    async def never_read(self, groups: list[str]) -> None:
        """Open a channel in these groups, and never take a message."""
        mailbox = await self.layer.open_channel()
        for group in groups:
            await self.layer.group_add(group, mailbox.channel)
        self.unread.append(mailbox)

    async def read_no_more(self) -> None:
        """Close what `never_read` has opened."""
        while self.unread:
            self.layer.close_channel(self.unread.pop())

    # -- sending ------------------------------------------------------------------------------

    async def send(self, run: int, groups: list[str], queues: list[str], rate: float) -> None:
        """Send ``rate`` messages a second to each of these, until `stop`."""
        self.run = run
        self.numbers.clear()
        self.quiet = False
        self.sending = asyncio.get_running_loop().create_task(self.go_on(groups, queues, rate))

    async def go_on(self, groups: list[str], queues: list[str], rate: float) -> None:
        sends: list[tuple[Any, str]] = [(self.layer.group_send, name) for name in groups]
        sends += [(self.layer.send, name) for name in queues]
        loop = asyncio.get_running_loop()
        done, owed, due = 0, 0.0, loop.time()
        while True:
            # A process that was stopped makes up for nothing.
            due = max(due + TICK, loop.time() - TICK)
            await asyncio.sleep(due - loop.time())
            if self.quiet:
                continue
            owed += len(sends) * rate * TICK
            while owed >= 1:
                owed -= 1
                self.submit(*sends[done % len(sends)])
                done += 1

    def submit(self, send: Any, name: str, padding: str = "") -> asyncio.Task[None]:
        """Send the next message to a name, and wait for nothing: order is the layer's to keep."""
        self.numbers[name] += 1
        number = self.numbers[name]
        message = {
            "type": "faults.numbered", "run": self.run, "by": self.name, "to": name, "n": number,
            "pad": padding,
        }  # fmt: skip
        task = asyncio.get_running_loop().create_task(self.send_one(send, name, number, message))
        self.pending.add(task)
        task.add_done_callback(self.pending.discard)
        return task

    async def send_one(self, send: Any, name: str, number: int, message: dict[str, Any]) -> None:
        self.events.append(["sent", name, number, time.monotonic()])
        outcome, position = "", None
        try:
            position = await send(name, message)
        except Exception as error:
            outcome = describe(error)
        self.events.append(["done", name, number, outcome, position, time.monotonic()])

    async def burst(self, group: str, count: int, size: int, at_once: int) -> None:
        """Send so many messages to a group, some of them in one turn; return when Redis has all."""
        for start in range(0, count, at_once):
            tasks = [
                self.submit(self.layer.group_send, group, "x" * size)
                for _ in range(min(at_once, count - start))
            ]
            await asyncio.gather(*tasks)

    async def be_quiet(self, quiet: bool) -> None:
        """Send nothing of one's own accord for a while."""
        self.quiet = quiet

    async def keyed(self, group: str, count: int) -> None:
        """Send messages with a key each, at once, and each that went well a second time."""

        async def twice(name: str, message: dict[str, Any]) -> Any:
            key = f"{message['run']}-{message['by']}-{message['n']}"
            position = await self.layer.group_send(name, message, idempotency_key=key)
            again = await self.layer.group_send(name, message, idempotency_key=key)
            if again != position:
                raise RuntimeError(f"at {position}, and at {again}")
            return position

        await asyncio.gather(*[self.submit(twice, group) for _ in range(count)])

    async def stop(self) -> None:
        """Send no more; returns when all that was sent has succeeded or failed."""
        if self.sending is not None:
            self.sending.cancel()
            await asyncio.wait([self.sending])
            self.sending = None
        if self.pending:
            await asyncio.wait(self.pending)

    async def mark(self, groups: list[str], queues: list[str]) -> None:
        """Send each of these a last message, which must arrive."""
        for send, names in ((self.layer.group_send, groups), (self.layer.send, queues)):
            await asyncio.gather(*[self.submit(send, name) for name in names])

    # -- looking ------------------------------------------------------------------------------

    async def rest(self) -> dict[str, Any]:
        """As `status`; tasks that failed unseen have said so by then."""
        gc.collect()
        return await self.status()

    async def status(self) -> dict[str, Any]:
        """What this process holds and has counted."""
        total = self.layer.local_stats().total
        engine = total.multiplexer
        return {
            "connected": engine.connected and all(node.publishing for node in engine.nodes),
            "backlog": sum(node.backlog for node in engine.nodes),
            "wanted": engine.names_wanted + engine.patterns,
            "confirmed": engine.names_confirmed,
            "unread": total.unread,
            "channels": total.channels,
            "gaps": total.gaps,
            "drops": dict(total.drops),
            "engine_drops": dict(engine.drops),
            "callback_errors": engine.callback_errors,
            "process_id": self.layer.process_id,
            **resources(),
        }

    async def block(self, seconds: float) -> None:
        """Do what no coroutine should."""
        time.sleep(seconds)  # noqa: ASYNC251

    async def close(self) -> dict[str, Any]:
        """End all of it, and tell what is left."""
        for reader in tuple(self.readers):
            reader.cancel()
        if self.readers:
            await asyncio.wait(self.readers)
        await self.layer.close()
        return resources()


def resources() -> dict[str, Any]:
    """What the process has: tasks by what they run, descriptors, memory in bytes."""
    coroutines: list[Any] = [task.get_coro() for task in asyncio.all_tasks()]
    tasks = Counter(coroutine.__qualname__ for coroutine in coroutines)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "tasks": dict(tasks),
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,  # that of listing them
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


async def main(name: str, config: dict[str, Any]) -> None:
    """Do what stdin says, until it ends."""
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    worker = Worker(name, config)
    loop.set_exception_handler(
        lambda _, context: worker.events.append(
            ["unhandled", f"{context['message']}: {context.get('exception')!r}"]
        )
    )
    doing: set[asyncio.Task[None]] = set()

    def report() -> None:
        if worker.events:
            events, worker.events[:] = worker.events[:], []
            say({"events": events})

    async def obey(command: dict[str, Any]) -> None:
        try:
            value = await getattr(worker, command["do"])(*command["with"])
        except Exception as error:
            answer = {"re": command["id"], "error": describe(error)}
        else:
            answer = {"re": command["id"], "value": value}
        report()  # what led to the answer goes before it
        say(answer)

    async def report_on() -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            report()

    say({"re": 0, "value": resources()})
    reporting = loop.create_task(report_on())
    while line := await commands.readline():
        task = loop.create_task(obey(json.loads(line)))
        doing.add(task)
        task.add_done_callback(doing.discard)
    reporting.cancel()


def say(what: dict[str, Any]) -> None:
    data = json.dumps(what, separators=(",", ":")).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if off := given.get("clock"):
        now = time.time
        time.time = lambda: now() + off
    settings.configure()
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        factory = import_module("uvloop").new_event_loop if given.get("uvloop") else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main(given["name"], given["layer"]))
