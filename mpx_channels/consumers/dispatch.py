"""Our dispatch: one mailbox per consumer instead of tasks and thread hops per message."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from time import monotonic
from typing import Any, TypeVar

from asgiref.sync import async_to_sync, markcoroutinefunction, sync_to_async
from channels.consumer import get_handler_name
from channels.db import aclose_old_connections
from channels.exceptions import InvalidChannelLayerError, StopConsumer
from channels.layers import get_channel_layer
from django.db import close_old_connections

from mpx_channels.layer import REPLY_TO, Failure, Hooks, Mailbox, MpxChannelLayer
from mpx_channels.layer.exceptions import OUTAGES
from mpx_channels.loops.doors import doors
from mpx_channels.multiplexer.logs import LimitedLog, origin

from . import outages
from .closes import is_closed_to, turn_away
from .connections import LastCheck, last_check
from .door import Door
from .events import SocketEvent, TaskFailure
from .turns import ALONE, Turns

__all__ = ["Dispatch"]

logger = logging.getLogger("mpx_channels.consumers")
# One for all consumers of the process: they fail by the thousand.
log = LimitedLog(logger, burst=5)

T = TypeVar("T")
Event = dict[str, Any]
Handler = Callable[[Event], Awaitable[None] | None]
Task = asyncio.Task[Any]


@functools.lru_cache(1024)
def _name_for_type(type_: str) -> str:
    """Channels' `get_handler_name`; the rule is applied once per type."""
    name: str = get_handler_name({"type": type_})
    return name


class Dispatch:
    """The base of `MpxConsumerMixin`, which stands in for Channels' `AsyncConsumer`."""

    # Seconds between looks for stale database connections, per thread; 0 looks before each
    # message, as Channels does.
    close_old_connections_interval: float = 1.0
    # Seconds after which a consumer begins also if Redis is away. It hears of it by
    # `mpx_disconnect`, and by `mpx_reconnect` once Redis is there. None: it ends then, after
    # ``connect_timeout``.
    wait_for_redis: float | None = None

    # Seconds that the server may take to send something to the client; one that takes nothing for
    # longer is closed with 1013. None waits for ever.
    send_timeout: float | None = 60.0

    # Of the consumer.
    _sync: bool
    channel_layer_alias: str
    channel_layer: Any
    channel_name: str
    base_send: Any

    _mpx_mailbox: Mailbox | None = None
    _mpx_door: Door | None = None
    # What the server's send returned last.
    _mpx_sending: Any = None
    # Of the event loop's thread. This one is for who calls `dispatch` without a connection.
    _mpx_last_check = LastCheck()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection: the ASGI application."""
        self.scope = scope
        self._mpx_last_check = last_check()
        self.channel_layer = layer = get_channel_layer(self.channel_layer_alias)
        is_guest = scope.get("type") in ("websocket", "http")
        if is_guest and is_closed_to(scope, layer):
            await turn_away(scope, receive, send, layer)
            return
        self._mpx_door = door = Door(self, scope, send, sync=self._sync)
        self.base_send = async_to_sync(self._mpx_sender(send)) if self._sync else send
        self._mpx_tasks: set[Task] = set()
        guests = doors.of(asyncio.get_running_loop()) if is_guest else None
        if guests is not None:
            guests.enter(door)
        theirs: Callable[[], Awaitable[Event]] | None = None
        mailbox: Mailbox | None = None
        handshake = True
        try:
            if isinstance(layer, MpxChannelLayer):
                mailbox = await layer.open_channel(
                    hooks=self._mpx_hooks(), patience=self.wait_for_redis
                )
                self.channel_name = mailbox.channel
            else:
                mailbox = Mailbox.unbounded()
                if layer is not None:
                    self.channel_name = await layer.new_channel()
                    theirs = functools.partial(layer.receive, self.channel_name)
            self._mpx_mailbox = mailbox
            door.opens(mailbox)
            try:
                # What is subscribed to may have messages at once. They wait until the first event
                # is handled: a frame before the handshake's end is an error.
                handling: dict[int, asyncio.Future[None]] = {}
                if theirs is not None:
                    # At once, as Channels does: who waits for a channel is what some layers know
                    # it by.
                    self._mpx_pump(theirs, mailbox, handling)
                event = await receive()
                await self._mpx_subscribe()
                handshake = False
                await self.dispatch(event)
                self._mpx_pump(receive, mailbox, handling)
                await self._mpx_serve(mailbox, handling)
            except (StopConsumer, asyncio.CancelledError) as error:
                if not door.ended_us(error):
                    raise
                await door.farewell()
        except StopConsumer:
            pass
        except OUTAGES as error:
            name = type(self).__name__
            await outages.end(name, scope, receive, send, error, handshake=handshake)
        finally:
            self._mpx_mailbox = None
            try:
                await self._mpx_end_tasks()
            finally:
                if mailbox is not None and isinstance(layer, MpxChannelLayer):
                    layer.close_channel(mailbox)
                if guests is not None:
                    guests.leave(door)

    async def dispatch(self, message: Event) -> None:
        """Run the handler for a message: the method that its type names."""
        try:
            type_ = message.get("type")
            name = _name_for_type(type_) if isinstance(type_, str) else get_handler_name(message)
            handler: Handler | None = getattr(self, name, None)
            if handler is None:
                if "mpx_group" in message:
                    # By a wildcard group, whose senders need not know of this consumer.
                    class_name = type(self).__name__
                    log.info((class_name, type_), "%s has no handler for %s", class_name, type_)
                    return
                raise ValueError(f"No handler for message type {type_}")
            if self._sync:
                await sync_to_async(self._mpx_handle_in_thread)(handler, message)
                return
            # As `is_due`, but without a call: this is what every message pays for.
            last = self._mpx_last_check
            if monotonic() - last.at >= self.close_old_connections_interval:
                last.at = monotonic()
                await aclose_old_connections()
            result = handler(message)
            if result is not None:
                await result
        except StopConsumer:
            raise
        except Exception as error:
            self._mpx_last_check.again_soon()
            if REPLY_TO in message:
                await self._mpx_tell_asker(message, error)
            raise

    def start_task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine beside the handlers; it is cancelled when the consumer ends.

        An exception in it is treated like one in a handler: it ends the consumer and reaches the
        server's log; `StopConsumer` ends the consumer quietly. A sync consumer's thread has no
        event loop: call it through `async_to_sync` there.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            coroutine.close()
            raise RuntimeError("start_task(): no running event loop in this thread") from None
        if self._mpx_mailbox is None:
            coroutine.close()
            raise RuntimeError("start_task() works while the consumer is connected only")
        task = loop.create_task(coroutine)
        self._mpx_tasks.add(task)
        task.add_done_callback(self._mpx_task_done)
        return task

    async def reply(self, event: Event, value: Any = None) -> bool:
        """Answer an event sent with ``layer.request``; False if the asking process is gone."""
        return await self._mpx_layer.reply(event, value)

    async def reply_error(self, event: Event, reason: str) -> bool:
        """Answer a request with a failure: the caller gets `RequestFailed` with the reason.

        A handler that raises does this by itself, with the exception's class and text.
        """
        return await self._mpx_layer.reply_error(event, reason)

    async def group_pattern_add(self, pattern: str) -> None:
        """Get every message to every group that matches, as an ordinary event.

        The group's name comes with it under ``"mpx_group"``: see
        `MpxChannelLayer.group_pattern_add`.
        """
        await self._mpx_layer.group_pattern_add(pattern, self.channel_name)

    async def group_pattern_discard(self, pattern: str) -> None:
        """End `group_pattern_add`; does nothing if there was none."""
        await self._mpx_layer.group_pattern_discard(pattern, self.channel_name)

    async def presence_join(
        self, group: str, id: str, info: Mapping[str, Any] | None = None
    ) -> None:
        """Be present in a group as `id` until the consumer ends, however it ends.

        Others see `info` with it. To hear of others, call `group_add` and have a handler
        ``mpx_presence``. See `MpxChannelLayer.presence_join`.
        """
        await self._mpx_layer.presence_join(group, self.channel_name, id, info)

    async def presence_leave(self, group: str, id: str) -> None:
        """End `presence_join` at once, without lingering; does nothing if there was none."""
        await self._mpx_layer.presence_leave(group, self.channel_name, id)

    @markcoroutinefunction
    def send(self, message: Event) -> Any:
        """Hand something to the server, as Channels' own, and without a coroutine of our own."""
        if message["type"] != "websocket.send" and self._mpx_door is not None:
            self._mpx_door.saw(message)
        self._mpx_sending = sending = self.base_send(message)
        return sending

    def mpx_broadcast(self, event: Event) -> Any:
        """Pass on a frame of ``layer.group_broadcast``, which was encoded where it was sent."""
        frame = {"type": "websocket.send"}
        if "text" in event:
            frame["text"] = event["text"]
        else:
            frame["bytes"] = event["bytes"]
        self._mpx_sending = sending = self.base_send(frame)
        return sending

    def mpx_closing(self, event: Event) -> Any:
        """Close the socket for ``layer.group_close``, unless ``mpx_close`` refuses."""
        return self._mpx_door.asked(event, "close") if self._mpx_door is not None else None

    def mpx_draining(self, event: Event) -> Any:
        """Close the socket because of a drain, or let ``mpx_drain`` say goodbye."""
        return self._mpx_door.asked(event, "drain") if self._mpx_door is not None else None

    # -- inside -------------------------------------------------------------------------------

    @property
    def _mpx_layer(self) -> MpxChannelLayer:
        """The layer, for what only ours can do."""
        layer = self.channel_layer
        if not isinstance(layer, MpxChannelLayer):
            is_ = "not configured" if layer is None else f"of {type(layer).__name__}"
            raise InvalidChannelLayerError(
                "this needs a channel layer of mpx_channels.layer.MpxChannelLayer, and "
                f"{self.channel_layer_alias!r} is {is_}"
            )
        return layer

    def _mpx_sender(self, send: Any) -> Callable[[Event], Awaitable[None]]:
        """The server's send, for a thread that waits for it: it can be ended, the thread cannot."""

        async def sender(message: Event) -> None:
            self._mpx_sending = sending = asyncio.ensure_future(send(message))
            try:
                await sending
            except asyncio.CancelledError:
                if self._mpx_door is not None and self._mpx_door.ended:
                    raise StopConsumer from None
                raise

        return sender

    async def _mpx_subscribe(self) -> None:
        """Subscribe to what the class names, before the first event; mixins add theirs."""

    def _mpx_hooks(self) -> Hooks | None:
        """The events of ours that this consumer has handlers for."""
        types = {
            hook: (f"mpx.{hook}",) if hasattr(self, f"mpx_{hook}") else ()
            for hook in ("activation", "disconnect", "reconnect", "gap", "presence")
        }
        return Hooks(**types) if any(types.values()) else None

    def _mpx_pump(
        self,
        source: Callable[[], Awaitable[Event]],
        mailbox: Mailbox,
        handling: dict[int, asyncio.Future[None]],
    ) -> None:
        """Put the events of a source into the mailbox, each after the one before was handled.

        `handling` has those that wait for their handler's end, by identity.
        """
        loop = asyncio.get_running_loop()

        async def pump() -> None:
            try:
                while True:
                    event = await source()
                    handling[id(event)] = handled = loop.create_future()
                    mailbox.put_always(SocketEvent(event))
                    await handled
            except (Exception, asyncio.CancelledError) as error:
                if self._mpx_mailbox is not None:  # else it is the consumer's end that cancels us
                    mailbox.put_always(Failure(error))

        self._mpx_tasks.add(loop.create_task(pump()))

    async def _mpx_serve(self, mailbox: Mailbox, handling: dict[int, asyncio.Future[None]]) -> None:
        """Handle events until one of them ends the consumer."""
        # Bound methods are not kept: of a thousand consumers, none has its own in the CPU's cache.
        loop = asyncio.get_running_loop()
        turns = Turns.of(loop)
        turn_ends = 0.0
        while True:
            message = mailbox.get_nowait()
            if message is None:
                # Whoever waits for the loop has it meanwhile.
                message = await mailbox.get()
                turn_ends = monotonic() + ALONE
            elif (now := monotonic()) > turn_ends or now > turns.end:
                turns.used(loop)
                await asyncio.sleep(0)
                turn_ends = monotonic() + ALONE
            await self.dispatch(message)
            if handling:
                handled = handling.pop(id(message), None)
                if handled is not None:
                    handled.set_result(None)

    def _mpx_handle_in_thread(self, handler: Handler, message: Event) -> None:
        if last_check().is_due(self.close_old_connections_interval):
            close_old_connections()
        here = doors.here
        before, here.handling = here.handling, True
        try:
            handler(message)
        except BaseException:
            # The consumer ends, and it may be long until somebody looks in this thread again.
            close_old_connections()
            raise
        finally:
            here.handling = before

    async def _mpx_tell_asker(self, request: Event, error: Exception) -> None:
        try:
            await self.channel_layer.reply_error(request, f"{type(error).__name__}: {error}")
        except Exception as failure:
            # What matters is the handler's own exception, which is on its way to the server.
            log.warning(
                origin(failure),
                "Could not answer a request with its failure (%s): %s",
                type(self).__name__,
                repr(failure),
                exc_info=outages.traceback_of(failure),
            )

    def _mpx_task_done(self, task: Task) -> None:
        error = task.exception() if not task.cancelled() else None
        if error is None or self._mpx_mailbox is None:
            self._mpx_tasks.discard(task)
        else:
            failure = TaskFailure(error, task, self._mpx_tasks)
            self._mpx_mailbox.put_always(failure, first=True)

    async def _mpx_end_tasks(self) -> None:
        tasks = list(self._mpx_tasks)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, StopConsumer):
                log.error(
                    origin(result),
                    "A consumer's task failed at the consumer's end (%s): %s",
                    type(self).__name__,
                    repr(result),
                    exc_info=outages.traceback_of(result),
                )
