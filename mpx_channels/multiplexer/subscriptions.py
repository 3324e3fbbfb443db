"""ChannelSubscription and PatternSubscription: what a client of the multiplexer holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from .callbacks import Callbacks, MessageStream, OnActivation, OnDisconnect, OnMessage
from .exceptions import InactiveSubscription, SubscriptionClosed, SubscriptionRefused
from .registry import CHANNEL, PATTERN, Entry, Kind
from .subscriber import Subscriber

__all__ = ["BaseSubscription", "ChannelSubscription", "PatternSubscription", "encode_name"]


def encode_name(name: str | bytes) -> bytes:
    """A name as Redis has it; any bytes survive the way to `str` and back."""
    if isinstance(name, str):
        return name.encode("utf-8", "surrogateescape")
    if isinstance(name, bytes):
        return name
    raise TypeError(f"a channel name or pattern is str or bytes, not {name!r}")


def _ignore(name: str, data: bytes) -> None:
    """Stands in for a closed subscription's callback."""


class BaseSubscription:
    """What channel and pattern subscriptions share: callbacks, waiting, iterating, closing."""

    kind: Kind

    def __init__(
        self,
        subscriber: Subscriber,
        on_message: OnMessage | None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
        *,
        max_queue: int,
    ) -> None:
        self._subscriber = subscriber
        self._stream: MessageStream | None = None
        if on_message is None:
            self._stream = MessageStream(subscriber.counters, max_queue)
            on_message = self._stream.put
        self._callbacks = Callbacks(
            on_message,
            on_disconnect,
            on_activation,
            counters=subscriber.counters,
            log=subscriber.log,
            max_queue=max_queue,
        )
        # Looked up and called for every message: an attribute, without a step between.
        self.deliver: OnMessage = self._callbacks.deliver
        self._entries: dict[bytes, Entry] = {}
        self._waiters: dict[Entry, list[asyncio.Future[None]]] = {}
        self._closed = False
        subscriber.subscriptions.add(self)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self, *, at_once: bool = False) -> None:
        """End the subscription: no callback comes after this. Closing twice is harmless.

        With ``at_once`` Redis is told in this turn of the loop, not after ``unsubscribe_delay``.
        """
        if self._closed:
            return
        self._remove(*self._entries, at_once=at_once)
        self._closed = True
        self.deliver = _ignore
        self._callbacks.close()
        if self._stream is not None:
            self._stream.end()
        self._subscriber.subscriptions.discard(self)

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        if self._stream is None:
            raise TypeError(
                "this subscription hands its messages to on_message; "
                "make it without one to iterate over it"
            )
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        if self._stream is None:
            raise StopAsyncIteration
        return await self._stream.take()

    # -- for the subscriber -------------------------------------------------------------------

    def activated(self, entry: Entry) -> None:
        """Redis confirmed a name of ours."""
        self._callbacks.activated(entry.text)
        for waiter in self._waiters.pop(entry, ()):
            if not waiter.done():
                waiter.set_result(None)

    def refused(self, entry: Entry) -> None:
        """Redis refused a name of ours."""
        self._fail_waiters(entry, _refusal(entry))

    def disconnected(self, error: Exception) -> None:
        """The link broke."""
        self._callbacks.disconnected(error)

    # -- for subclasses -----------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise SubscriptionClosed(f"this {type(self).__name__} was closed; make a new one")

    def _add(self, *names: bytes) -> None:
        for name in names:
            if name not in self._entries:
                self._entries[name] = self._subscriber.registry.add(self.kind, name, self)
        self._subscriber.changed()

    def _remove(self, *names: bytes, at_once: bool = False) -> None:
        now = self._subscriber.now()
        for name in names:
            entry = self._entries.pop(name, None)
            if entry is not None:
                self._subscriber.registry.remove(entry, self, now, at_once=at_once)
                self._fail_waiters(entry, SubscriptionClosed(f"{entry.text!r} was removed"))
        self._subscriber.changed()

    def _activation(self, name: bytes) -> asyncio.Future[None]:
        self._check_open()
        entry = self._entries.get(name)
        if entry is None:
            text = name.decode("utf-8", "surrogateescape")
            raise InactiveSubscription(f"{text!r} is not in this subscription: add() it")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if entry.active:
            if entry.listeners[self] is False:
                self._subscriber.tell_late_joiners()
            waiter.set_result(None)
        elif entry.refusal is not None:
            raise _refusal(entry)
        else:
            self._waiters.setdefault(entry, []).append(waiter)
        return waiter

    async def _wait_for(self, name: bytes) -> None:
        waiter = self._activation(name)
        try:
            await waiter
        except asyncio.CancelledError:
            self._forget(name, waiter)
            raise

    def _forget(self, name: bytes, waiter: asyncio.Future[None]) -> None:
        entry = self._entries.get(name)
        waiters = self._waiters.get(entry) if entry is not None else None
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)

    def _fail_waiters(self, entry: Entry, error: Exception) -> None:
        for waiter in self._waiters.pop(entry, ()):
            if not waiter.done():
                waiter.set_exception(error)


class ChannelSubscription(BaseSubscription):
    """Any number of Redis Pub/Sub channels, added and removed at will.

    Made by `Multiplexer.new_channel_subscription`. None of `add`, `remove`, `clear` and `close`
    waits for anything; they count while the server is away, too.
    """

    kind = CHANNEL

    def add(self, *names: str | bytes) -> None:
        """Listen to these channels; those that are in already stay as they are.

        Raises `SubscriptionClosed` after `close`, `TypeError` for what is neither str nor bytes.
        """
        self._check_open()
        self._add(*map(encode_name, names))

    def remove(self, *names: str | bytes, at_once: bool = False) -> None:
        """Listen to these channels no more; those that are not in are passed over.

        With ``at_once`` Redis is told in this turn of the loop, not after ``unsubscribe_delay``:
        for names that do not come back.
        """
        self._check_open()
        self._remove(*map(encode_name, names), at_once=at_once)

    def clear(self) -> None:
        """Remove every channel; the subscription can be added to again."""
        self._check_open()
        self._remove(*self._entries)

    @property
    def channels(self) -> frozenset[str]:
        """The names that were added, confirmed or not."""
        return frozenset(entry.text for entry in self._entries.values())

    def is_active(self, name: str | bytes) -> bool:
        """Whether Redis has confirmed `name` on the connection that stands now."""
        entry = self._entries.get(encode_name(name))
        return entry is not None and entry.active

    async def wait_for_activation(self, name: str | bytes) -> None:
        """Return once Redis has confirmed `name`: what is published from then on arrives.

        Waits as long as it takes; bound it with `asyncio.timeout`. Raises `InactiveSubscription`
        if the name was not added, `SubscriptionRefused` if Redis will not have it, and
        `SubscriptionClosed` if it is removed, or the subscription closed, meanwhile.
        """
        await self._wait_for(encode_name(name))

    def activation(self, name: str | bytes) -> asyncio.Future[None]:
        """As `wait_for_activation`, as a future: for many waits at once, without a task each.

        Whoever stops waiting for it hands it to `forget`.
        """
        return self._activation(encode_name(name))

    def forget(self, name: str | bytes, activation: asyncio.Future[None]) -> None:
        """Nobody waits for this future of `activation` any more."""
        self._forget(encode_name(name), activation)


class PatternSubscription(BaseSubscription):
    """One Redis pattern (https://redis.io/docs/latest/commands/psubscribe/ has the syntax).

    Made by `Multiplexer.new_pattern_subscription`.
    """

    kind = PATTERN

    def __init__(
        self,
        subscriber: Subscriber,
        pattern: str | bytes,
        on_message: OnMessage | None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
        *,
        max_queue: int,
    ) -> None:
        self._name = encode_name(pattern)
        super().__init__(subscriber, on_message, on_disconnect, on_activation, max_queue=max_queue)
        self._add(self._name)

    @property
    def pattern(self) -> str:
        """The pattern."""
        return self._name.decode("utf-8", "surrogateescape")

    @property
    def active(self) -> bool:
        """Whether Redis has confirmed the pattern on the connection that stands now."""
        return not self._closed and self._entries[self._name].active

    async def wait_for_activation(self) -> None:
        """Return once Redis has confirmed the pattern; else as with channels."""
        await self._wait_for(self._name)

    def activation(self) -> asyncio.Future[None]:
        """As `wait_for_activation`, as a future; `forget` it when nobody waits any more."""
        return self._activation(self._name)

    def forget(self, activation: asyncio.Future[None]) -> None:
        """Nobody waits for this future of `activation` any more."""
        self._forget(self._name, activation)


def _refusal(entry: Entry) -> SubscriptionRefused:
    return SubscriptionRefused(f"Redis refused to subscribe to {entry.text!r}: {entry.refusal}")
