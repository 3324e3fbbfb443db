"""`MpxChannelLayer.sync`: the layer for synchronous code, without event loops."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, TypeVar, overload

from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction

from mpx_channels.channels.mailbox import give_back
from mpx_channels.channels.names import channel_names
from mpx_channels.history.positions import NO_REPLAY, History, Recovery
from mpx_channels.loops.doors import doors
from mpx_channels.loops.portal import portal
from mpx_channels.loops.threads import blocks_event_loop
from mpx_channels.messages.broadcasts import broadcast
from mpx_channels.messages.codec import Message
from mpx_channels.multiplexer import Health
from mpx_channels.presence.values import Presence, PresenceCount

from .extended import ExtendedLayer
from .processes.fleet import FleetStats

__all__ = ["SyncLayer"]

T = TypeVar("T")


class SyncLayer:
    """A layer for synchronous code, with methods that block; use it from any thread.

    All threads of a process share the connections and channels. The methods are those of the layer,
    and each does the same as calling the layer's method through `async_to_sync`. Methods that send
    take ``on_commit=True``: the message is then sent only after the surrounding transaction has
    been committed, and not at all if it is rolled back. Outside a transaction it is sent at once.
    Names and messages are checked at the call either way. ``using`` names the database.
    """

    def __init__(self, layer: ExtendedLayer) -> None:
        self._layer = layer

    def send(
        self, channel: str, message: Message, *, on_commit: bool = False, using: str | None = None
    ) -> None:
        """`MpxChannelLayer.send`."""
        self._layer.require_valid_channel_name(channel)
        frozen = self._checked(message) if on_commit else message
        self._send(lambda: self._layer.send(channel, frozen), on_commit, using)

    def group_send(
        self,
        group: str,
        message: Message,
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
        on_commit: bool = False,
        using: str | None = None,
    ) -> str | None:
        """`MpxChannelLayer.group_send`; with ``on_commit`` None, also where there is a history."""
        self._layer.require_valid_group_name(group)
        if idempotency_key is not None:
            self._layer.require_idempotency(group, idempotency_key)
        frozen = self._checked(message) if on_commit else message
        left_out = channel_names(exclude) if on_commit else exclude
        return self._send(
            lambda: self._layer.group_send(
                group, frozen, exclude=left_out, idempotency_key=idempotency_key
            ),
            on_commit,
            using,
        )

    def group_send_many(
        self,
        messages: Iterable[tuple[str, Message]],
        *,
        on_commit: bool = False,
        using: str | None = None,
    ) -> list[str | None] | None:
        """`MpxChannelLayer.group_send_many`; with ``on_commit`` None."""
        frozen = list(messages)
        if on_commit:
            for group, _ in frozen:
                self._layer.require_valid_group_name(group)
            frozen = [(group, self._checked(message)) for group, message in frozen]
        return self._send(lambda: self._layer.group_send_many(frozen), on_commit, using)

    def group_broadcast(
        self,
        group: str,
        content: Any,
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
        on_commit: bool = False,
        using: str | None = None,
    ) -> str | None:
        """`MpxChannelLayer.group_broadcast`; with ``on_commit`` as `group_send`."""
        return self.group_send(
            group,
            broadcast(content),
            exclude=exclude,
            idempotency_key=idempotency_key,
            on_commit=on_commit,
            using=using,
        )

    def group_close(
        self,
        group: str,
        code: int = 4000,
        reason: str = "",
        *,
        on_commit: bool = False,
        using: str | None = None,
    ) -> int | None:
        """`MpxChannelLayer.group_close`; with ``on_commit`` None."""
        self._layer.require_closing(group, code, reason)
        return self._send(lambda: self._layer.group_close(group, code, reason), on_commit, using)

    def group_history(self, group: str, since: object = None, limit: int = 50) -> History:
        """`MpxChannelLayer.group_history`."""
        return self._run(self._layer.group_history(group, since, limit))

    def new_channel(self, prefix: str = "specific.") -> str:
        """`MpxChannelLayer.new_channel`: a channel for all threads of the process.

        It ends with the process, or when nobody has read it for ``group_expiry`` seconds (a day).
        """
        return self._run(self._layer.new_channel(prefix))

    def receive(self, channel: str, timeout: float | None = None) -> Message:
        """`MpxChannelLayer.receive`; raises `TimeoutError` after `timeout` seconds.

        An interrupted call, by Ctrl-C for instance, loses no message either.
        """
        return self._run(self._layer.take(channel, timeout), give_back)[0]

    @overload
    def group_add(self, group: str, channel: str) -> None: ...
    @overload
    def group_add(self, group: str, channel: str, since: object) -> Recovery: ...
    def group_add(self, group: str, channel: str, since: object = NO_REPLAY) -> Recovery | None:
        """`MpxChannelLayer.group_add`."""
        return self._run(self._layer.group_add(group, channel, since))

    def group_discard(self, group: str, channel: str) -> None:
        """`MpxChannelLayer.group_discard`."""
        self._run(self._layer.group_discard(group, channel))

    def presence_join(
        self, group: str, channel: str, id: str, info: Mapping[str, Any] | None = None
    ) -> None:
        """`MpxChannelLayer.presence_join`."""
        self._run(self._layer.presence_join(group, channel, id, info))

    def presence_leave(self, group: str, channel: str, id: str) -> None:
        """`MpxChannelLayer.presence_leave`."""
        self._run(self._layer.presence_leave(group, channel, id))

    def presence(self, group: str, *, limit: int = 1000, after: str | None = None) -> Presence:
        """`MpxChannelLayer.presence`."""
        return self._run(self._layer.presence(group, limit=limit, after=after))

    def presence_count(self, group: str) -> PresenceCount:
        """`MpxChannelLayer.presence_count`."""
        return self._run(self._layer.presence_count(group))

    def resolve(
        self, name: str, value: Any = None, *, on_commit: bool = False, using: str | None = None
    ) -> int | None:
        """`MpxChannelLayer.resolve`; with ``on_commit`` None, since nobody knows yet who waits."""
        if not on_commit:
            return self._run(self._layer.resolve(name, value))
        self._layer.require_valid_promise_name(name)
        frozen = self._checked({"value": value})["value"]
        self._send(lambda: self._layer.resolve(name, frozen), on_commit, using)
        return None

    def reject(
        self, name: str, reason: str, *, on_commit: bool = False, using: str | None = None
    ) -> int | None:
        """`MpxChannelLayer.reject`; with ``on_commit`` as `resolve`."""
        if not on_commit:
            return self._run(self._layer.reject(name, reason))
        self._layer.require_valid_promise_name(name)
        self._send(lambda: self._layer.reject(name, reason), on_commit, using)
        return None

    def promise(self, name: str, timeout: float | None = None) -> Any:
        """`MpxChannelLayer.promise`."""
        return self._run(self._layer.promise(name, timeout))

    def request(self, channel: str, message: Message, timeout: float | None = 10.0) -> Any:
        """`MpxChannelLayer.request`."""
        return self._run(self._layer.request(channel, message, timeout))

    def reply(self, event: Message, value: Any = None) -> bool:
        """`MpxChannelLayer.reply`."""
        return self._run(self._layer.reply(event, value))

    def reply_error(self, event: Message, reason: str) -> bool:
        """`MpxChannelLayer.reply_error`."""
        return self._run(self._layer.reply_error(event, reason))

    def healthy(self, timeout: float = 1.0) -> Health:
        """`MpxChannelLayer.healthy`, over the connections of synchronous code."""
        return self._run(self._layer.healthy(timeout))

    def fleet_stats(self, *, groups: int = 20) -> FleetStats:
        """`MpxChannelLayer.fleet_stats`."""
        return self._run(self._layer.fleet_stats(groups=groups))

    def cluster_stats(self, *, groups: int = 20) -> FleetStats:
        """The older name of `fleet_stats`."""
        return self.fleet_stats(groups=groups)

    def group_size(self, group: str) -> int:
        """`MpxChannelLayer.group_size`."""
        return self._run(self._layer.group_size(group))

    def flush(self) -> None:
        """`MpxChannelLayer.flush`."""
        self._run(self._layer.flush())

    def drain(self, over: float = 30.0) -> None:
        """`MpxChannelLayer.drain`; not in the thread of an event loop that has consumers.

        Raises `RuntimeError` in a handler of a sync consumer, which would wait for its own end.
        """
        doors.require_no_handler()
        self._run(self._layer.drain(over))

    def undrain(self) -> None:
        """`MpxChannelLayer.undrain`."""
        self._layer.undrain()

    def close(self) -> None:
        """`MpxChannelLayer.close`, but only for the connections of synchronous code.

        There is no need to call it when the process ends.
        """
        self._run(self._layer.close())

    def _send(
        self, make: Callable[[], Coroutine[Any, Any, T]], on_commit: bool, using: str | None
    ) -> T | None:
        if not on_commit:
            return self._run(make())
        transaction.on_commit(lambda: self._run(make()), using=using)
        return None

    def _run(
        self, coroutine: Coroutine[Any, Any, T], undo: Callable[[T], object] | None = None
    ) -> T:
        if blocks_event_loop():
            coroutine.close()
            raise SynchronousOnlyOperation(
                "layer.sync blocks, and there is an event loop in this thread: await the layer's "
                "own methods instead"
            )
        return portal.submit(coroutine, undo).result()

    def _checked(self, message: Message) -> Message:
        """The message as its receivers will see it: no later change to the original counts."""
        wrapping = self._layer.wrapping
        return wrapping.decode(wrapping.encode(message))
