"""A server so small that a test can have ten thousand connections."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from typing import Any

__all__ = ["Event", "Socket"]

Event = dict[str, Any]

# Seconds: long enough for a loaded machine; a test that passes never waits so long.
PATIENCE = 30.0


class Socket:
    """The server's side of one connection: it has events for the application, and takes frames."""

    def __init__(self, consumer: Any, **scope: Any) -> None:
        self.scope = {"type": "websocket", "path": "/", **scope}
        # All that the application has sent; `next` takes from `frames`.
        self.sent: list[Event] = []
        # How often the application asked for an event.
        self.asked = 0
        self._events: deque[Event | BaseException] = deque()
        self._asks: deque[asyncio.Future[Event]] = deque()
        self._frames: asyncio.Queue[Event] = asyncio.Queue()
        self.app = consumer if inspect.iscoroutinefunction(consumer) else consumer.as_asgi()
        self.task: asyncio.Task[None] = asyncio.create_task(
            self.app(self.scope, self.receive, self.send)
        )

    # -- what a client does -------------------------------------------------------------------

    def push(self, *events: Event | BaseException) -> None:
        """Have events for the application; an exception is raised where it asks for one."""
        for event in events:
            while self._asks:
                ask = self._asks.popleft()
                if ask.done():
                    continue
                if isinstance(event, asyncio.CancelledError):
                    ask.cancel()
                elif isinstance(event, BaseException):
                    ask.set_exception(event)
                else:
                    ask.set_result(event)
                break
            else:
                self._events.append(event)

    def say(self, *texts: str) -> None:
        """The client sends text frames."""
        for text in texts:
            self.push({"type": "websocket.receive", "text": text})

    async def connect(self) -> Socket:
        """Open the WebSocket; return once the application has accepted."""
        self.push({"type": "websocket.connect"})
        assert (await self.next())["type"] == "websocket.accept"
        return self

    def hang_up(self, code: int = 1000) -> None:
        """The client goes."""
        self.push({"type": "websocket.disconnect", "code": code})

    async def disconnect(self, code: int = 1000) -> None:
        """The client goes; return once the application has ended, or raise what it raised."""
        self.hang_up(code)
        await self.ended()

    # -- what the test sees -------------------------------------------------------------------

    async def next(self) -> Event:
        """The next thing that the application sends; raises what the application raised."""
        getter = asyncio.ensure_future(self._frames.get())
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.wait([getter, self.task], return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise AssertionError(
                f"nothing more was sent in {PATIENCE} s, after {self.sent[-3:]}"
            ) from None
        finally:
            if not getter.done():
                getter.cancel()
        if getter.done() and not getter.cancelled():
            return getter.result()
        await self.task
        raise AssertionError(f"the application ended after {self.sent[-3:]}")

    async def text(self) -> str:
        """The next text frame."""
        text: str = (await self.next())["text"]
        return text

    async def texts(self, count: int) -> list[str]:
        """The next text frames."""
        return [await self.text() for _ in range(count)]

    async def ended(self) -> None:
        """Return once the application has ended, or raise what it raised."""
        done, _ = await asyncio.wait([self.task], timeout=PATIENCE)
        if not done:
            raise AssertionError(f"the application did not end in {PATIENCE} s")
        self.task.result()

    @property
    def waiting(self) -> bool:
        """Whether the application waits for the client."""
        return any(not ask.done() for ask in self._asks)

    @property
    def unread(self) -> int:
        """Events that the application did not ask for."""
        return len(self._events)

    # -- ASGI ---------------------------------------------------------------------------------

    async def receive(self) -> Event:
        self.asked += 1
        if self._events:
            event = self._events.popleft()
            if isinstance(event, BaseException):
                raise event
            return event
        ask: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._asks.append(ask)
        return await ask

    async def send(self, frame: Event) -> None:
        self.sent.append(frame)
        self._frames.put_nowait(frame)
