"""ChannelSubscription and PatternSubscription: what a client of the multiplexer holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from .callbacks import Callbacks, MessageStream, OnActivation, OnDisconnect, OnMessage
from .exceptions import InactiveSubscription, LinkLost, SubscriptionClosed, SubscriptionRefused
from .registry import CHANNEL, PATTERN, Entry, Kind
from .subscriber import Subscriber
from .subscribers import Subscribers
from .topology import Node

__all__ = ["BaseSubscription", "ChannelSubscription", "PatternSubscription", "encode_name"]


def encode_name(name: str | bytes) -> bytes:
    """A name as Redis has it; any bytes survive the way to `str` and back."""
    if isinstance(name, str):
        return name.encode("utf-8", "surrogateescape")
    if isinstance(name, bytes):
        return name
    raise TypeError(f"a channel name or pattern is str or bytes, not {name!r}")


def _ignore(name: str, data: bytes) -> None:
    """The callback of a closed subscription."""


class BaseSubscription:
    """What channel and pattern subscriptions share: callbacks, waiting, iterating, closing."""

    def __init__(
        self,
        subscribers: Subscribers,
        on_message: OnMessage | None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
        *,
        max_queue: int,
    ) -> None:
        self._subscribers = subscribers
        self._stream: MessageStream | None = None
        if on_message is None:
            self._stream = MessageStream(subscribers.counters, subscribers.flow, max_queue)
            on_message = self._stream.put
        self._callbacks = Callbacks(
            on_message,
            on_disconnect,
            on_activation,
            counters=subscribers.counters,
            flow=subscribers.flow,
            log=subscribers.log,
            max_queue=max_queue,
        )
        # Looked up and called for every message: an attribute, without a step between.
        self.deliver: OnMessage = self._callbacks.deliver
        self._waiters: dict[bytes, list[asyncio.Future[None]]] = {}
        self._closed = False
        subscribers.subscriptions.add(self)

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
        self._leave(at_once=at_once)
        self._closed = True
        self.deliver = _ignore
        self._callbacks.close()
        if self._stream is not None:
            self._stream.end()
        self._subscribers.subscriptions.discard(self)

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
        for waiter in self._waiters.pop(entry.name, ()):
            if not waiter.done():
                waiter.set_result(None)

    def refused(self, entry: Entry) -> None:
        """Redis refused a name of ours."""
        self._fail_waiters(entry, _refusal(entry))

    def disconnected(self, loss: LinkLost, subscriber: Subscriber) -> None:
        """The link to a server broke."""
        if subscriber.alone or self._misses(loss, subscriber):
            self._callbacks.disconnected(loss)

    def server_added(self, subscriber: Subscriber) -> None:
        """There is one more server."""

    def server_removed(self, subscriber: Subscriber) -> None:
        """There is one server less."""

    # -- for subclasses -----------------------------------------------------------------------

    def _leave(self, *, at_once: bool) -> None:
        """Listen to nothing any more."""
        raise NotImplementedError

    def _misses(self, loss: LinkLost, subscriber: Subscriber) -> bool:
        """Whether any of our names was lost, which one of several servers had."""
        raise NotImplementedError

    def _activation(self, name: bytes) -> asyncio.Future[None]:
        """A future that is done once Redis has confirmed the name."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise SubscriptionClosed(f"this {type(self).__name__} was closed; make a new one")

    async def _wait_for(self, name: bytes) -> None:
        waiter = self._activation(name)
        try:
            await waiter
        except asyncio.CancelledError:
            self._forget(name, waiter)
            raise

    def _forget(self, name: bytes, waiter: asyncio.Future[None]) -> None:
        waiters = self._waiters.get(name)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)

    def _fail_waiters(self, entry: Entry, error: Exception) -> None:
        for waiter in self._waiters.pop(entry.name, ()):
            if not waiter.done():
                waiter.set_exception(error)


class ChannelSubscription(BaseSubscription):
    """Any number of Redis Pub/Sub channels, added and removed at will.

    Made by `Multiplexer.new_channel_subscription`. None of `add`, `remove`, `clear` and `close`
    waits for anything; they count while the server is away, too.
    """

    _entries: dict[bytes, Entry]

    def __init__(
        self,
        subscribers: Subscribers,
        on_message: OnMessage | None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
        *,
        max_queue: int,
        kind: Kind = CHANNEL,
    ) -> None:
        self._entries = {}
        self._kind = kind
        super().__init__(subscribers, on_message, on_disconnect, on_activation, max_queue=max_queue)

    def add(self, *names: str | bytes) -> bool:
        """Listen to these channels; those that are in already stay as they are.

        Returns whether Redis delivers all of them already. Raises `SubscriptionClosed` after
        `close`, `TypeError` for what is neither str nor bytes.
        """
        self._check_open()
        subscribers, entries = self._subscribers, self._entries
        active = True
        for name, text in [(encode_name(each), each) for each in names]:  # all or nothing
            entry = entries.get(name)
            if entry is None:
                subscriber = subscribers.only or subscribers.of(name, self._kind)
                # What is ASCII is the same when it comes back.
                known = text if type(text) is str and text.isascii() else None
                entry = entries[name] = subscriber.add(self._kind, name, self, known)
            active = active and entry.active
        return active

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
        `SubscriptionClosed` if it is removed, or the subscription closed, meanwhile. A name that
        was refused stays wanted: Redis is asked again now and then, and whenever somebody waits.
        """
        await self._wait_for(encode_name(name))

    def pending(self, name: str | bytes) -> tuple[Node, ...]:
        """The server that has not confirmed `name` yet; empty when it has."""
        key = encode_name(name)
        entry = self._entries.get(key)
        if entry is None:
            return (self._subscribers.of(key, self._kind).node,)
        return () if entry.active else (entry.keeper.node,)

    def refusal(self, name: str | bytes) -> Exception | None:
        """Why Redis refused `name` when it was last asked; None if it did not."""
        entry = self._entries.get(encode_name(name))
        return entry.refusal if entry is not None else None

    def activation(self, name: str | bytes) -> asyncio.Future[None]:
        """As `wait_for_activation`, as a future: for many waits at once, without a task each.

        Whoever stops waiting for it hands it to `forget`.
        """
        return self._activation(encode_name(name))

    def forget(self, name: str | bytes, activation: asyncio.Future[None]) -> None:
        """Nobody waits for this future of `activation` any more."""
        self._forget(encode_name(name), activation)

    def _remove(self, *names: bytes, at_once: bool = False) -> None:
        for name in names:
            entry = self._entries.pop(name, None)
            if entry is not None:
                entry.keeper.remove(entry, self, at_once=at_once)
                self._fail_waiters(entry, SubscriptionClosed(f"{entry.text!r} was removed"))

    def _leave(self, *, at_once: bool) -> None:
        self._remove(*self._entries, at_once=at_once)

    def _misses(self, loss: LinkLost, subscriber: Subscriber) -> bool:
        entries = self._entries.values()
        return any(each.keeper is subscriber and loss.includes(each.text) for each in entries)

    def _activation(self, name: bytes) -> asyncio.Future[None]:
        self._check_open()
        entry = self._entries.get(name)
        if entry is None:
            text = name.decode("utf-8", "surrogateescape")
            raise InactiveSubscription(f"{text!r} is not in this subscription: add() it")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if entry.active:
            if not entry.was_notified(self):
                entry.keeper.notify_late_joiners()
            waiter.set_result(None)
        else:
            if entry.refusal is not None:
                entry.keeper.ask_again(entry)
            self._waiters.setdefault(name, []).append(waiter)
        return waiter


class PatternSubscription(BaseSubscription):
    """One Redis pattern (https://redis.io/docs/latest/commands/psubscribe/ has the syntax).

    Made by `Multiplexer.new_pattern_subscription`. With several hosts, names that match may be on
    any of them: so it is active once every server has confirmed it, and no longer when the link to
    one of them breaks.
    """

    def __init__(
        self,
        subscribers: Subscribers,
        pattern: str | bytes,
        on_message: OnMessage | None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
        *,
        max_queue: int,
    ) -> None:
        self._name = encode_name(pattern)
        super().__init__(subscribers, on_message, on_disconnect, on_activation, max_queue=max_queue)
        # One for each server that is to deliver it.
        self._entries: list[Entry] = []
        for subscriber in subscribers.for_patterns:
            self.server_added(subscriber)

    @property
    def pattern(self) -> str:
        """The pattern."""
        return self._name.decode("utf-8", "surrogateescape")

    @property
    def active(self) -> bool:
        """Whether Redis has confirmed the pattern on the connections that stand now."""
        return not self._closed and all(entry.active for entry in self._entries)

    async def wait_for_activation(self) -> None:
        """Return once Redis has confirmed the pattern; else as with channels."""
        await self._wait_for(self._name)

    def pending(self) -> tuple[Node, ...]:
        """The servers that have not confirmed the pattern yet."""
        return tuple(entry.keeper.node for entry in self._entries if not entry.active)

    def refusal(self) -> Exception | None:
        """Why a server refused the pattern when it was last asked; None if none did."""
        refusals = (entry.refusal for entry in self._entries)
        return next((refusal for refusal in refusals if refusal is not None), None)

    def activation(self) -> asyncio.Future[None]:
        """As `wait_for_activation`, as a future; `forget` it when nobody waits any more."""
        return self._activation(self._name)

    def forget(self, activation: asyncio.Future[None]) -> None:
        """Nobody waits for this future of `activation` any more."""
        self._forget(self._name, activation)

    def activated(self, entry: Entry) -> None:
        """A server confirmed the pattern; the last one makes it active."""
        if all(each.active and each.was_notified(self) for each in self._entries):
            super().activated(entry)

    def server_added(self, subscriber: Subscriber) -> None:
        """It is to confirm the pattern, too, and until then the subscription is not active."""
        if subscriber in self._subscribers.for_patterns:
            self._entries.append(subscriber.add(PATTERN, self._name, self))

    def server_removed(self, subscriber: Subscriber) -> None:
        """It need not confirm any more; if it was the last that had not, we are active now."""
        for entry in [each for each in self._entries if each.keeper is subscriber]:
            self._entries.remove(entry)
            missing = not entry.active
            entry.keeper.remove(entry, self)
            if missing and self._entries:
                self.activated(self._entries[0])

    def _leave(self, *, at_once: bool) -> None:
        for entry in self._entries:
            entry.keeper.remove(entry, self, at_once=at_once)
            self._fail_waiters(entry, SubscriptionClosed(f"{entry.text!r} was removed"))

    def _misses(self, loss: LinkLost, subscriber: Subscriber) -> bool:
        return loss.patterns and any(each.keeper is subscriber for each in self._entries)

    def _activation(self, name: bytes) -> asyncio.Future[None]:
        self._check_open()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.active:
            for entry in self._entries:
                entry.keeper.notify_late_joiners()
            waiter.set_result(None)
        else:
            for entry in self._entries:
                if entry.refusal is not None:
                    entry.keeper.ask_again(entry)
            self._waiters.setdefault(name, []).append(waiter)
        return waiter


def _refusal(entry: Entry) -> SubscriptionRefused:
    return SubscriptionRefused(f"Redis refused to subscribe to {entry.text!r}: {entry.refusal}")
