"""Multiplexer: what a process holds, two connections with everything on them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Self

from .callbacks import OnActivation, OnDisconnect, OnMessage
from .exceptions import MultiplexerStopped, NotConnected
from .link import LinkOptions, describe
from .promises import PromiseSubscription
from .publisher import Publisher
from .registry import CHANNEL, PATTERN
from .stats import Counters, MultiplexerStats
from .subscriber import Subscriber
from .subscriptions import ChannelSubscription, PatternSubscription, encode_name
from .topology import Node
from .wire import forget_task, pack, pack_publish

__all__ = ["Multiplexer"]

# Seconds; more silence than this after a blocking command, and the connection counts as dead.
LONGEST_BLOCK = 10.0


class Multiplexer:
    """Carries any number of subscriptions over one connection to Redis; publishes over another.

    It belongs to the event loop it was started on; call it from that loop's thread only.
    Subscriptions can be made, and names added and removed, before `start` and while the server
    is away: they count, and are sent when a connection stands.

    - ``url``: where Redis is: ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py has it.
    - ``ping_interval`` (seconds, 30): after so much silence the server is asked for a sign of
      life; two unanswered PINGs end the connection. Shorter finds dead peers sooner and costs
      a packet per interval.
    - ``min_backoff``, ``max_backoff`` (seconds, 0.008 and 0.512, as in go-mpx): exponential
      backoff with full jitter between attempts to connect.
    - ``connect_timeout`` (seconds, 5): for connecting with its handshake, and for the server's
      first reply to a command.
    - ``unsubscribe_delay`` (seconds, 1): how long a name stays subscribed after its last
      listener went, so that a page that reloads costs Redis nothing.
    - ``max_queue`` (1000): messages that wait for one subscription's async callbacks, or for its
      iteration; over it the newest is dropped and counted.
    - ``max_backlog`` (10,000), ``backlog_timeout`` (seconds, 5): how many commands wait for a
      connection, and for how long, before their senders get `NotConnected`.
    - ``redis_options``: further keywords of redis-py's connections: ``username``, ``password``,
      ``credential_provider``, ``db``, ``ssl_ca_certs``, ``client_name``, ``protocol``, ...

    Raises `ValueError` or `TypeError`, naming the value, for a bad URL or option.
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379",
        *,
        ping_interval: float = 30.0,
        min_backoff: float = 0.008,
        max_backoff: float = 0.512,
        connect_timeout: float = 5.0,
        unsubscribe_delay: float = 1.0,
        max_queue: int = 1000,
        max_backlog: int = 10_000,
        backlog_timeout: float = 5.0,
        **redis_options: Any,
    ) -> None:
        options = LinkOptions(ping_interval, min_backoff, max_backoff, connect_timeout)
        for name, seconds in (
            ("unsubscribe_delay", unsubscribe_delay),
            ("backlog_timeout", backlog_timeout),
        ):
            if not seconds >= 0:
                raise ValueError(f"{name} must be 0 or more seconds, not {seconds!r}")
        for name, value in (("max_queue", max_queue), ("max_backlog", max_backlog)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value!r}")
        self.node = Node(url, connect_timeout=connect_timeout, options=redis_options)
        self._max_queue = max_queue
        self._connect_timeout = connect_timeout
        self._counters = Counters()
        self._subscriber = Subscriber(self.node, options, self._counters, linger=unsubscribe_delay)
        self._publisher = Publisher(
            self.node,
            options,
            self._counters,
            max_backlog=max_backlog,
            backlog_timeout=backlog_timeout,
        )
        # Started by the first blocking command only.
        self._blocker = Publisher(
            self.node,
            # While a command blocks, a PING behind it is not answered.
            replace(options, ping_interval=max(ping_interval, LONGEST_BLOCK)),
            self._counters,
            max_backlog=max_backlog,
            backlog_timeout=backlog_timeout,
            label="blocking",
            longest_command=LONGEST_BLOCK,
        )

    # -- life ---------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._subscriber.link.running

    @property
    def last_error(self) -> Exception | None:
        """Why there is no connection; None while there is one, and before the first attempt."""
        return self._subscriber.link.last_error

    async def start(self) -> None:
        """Begin to connect and return at once, also when the server is down."""
        if self.running:
            return
        self._subscriber.start()
        self._publisher.start()

    async def stop(self) -> None:
        """Let publishes out, close both connections. Subscriptions stay, for the next `start`.

        Subscriptions hear ``on_disconnect``, outstanding promises fail with
        `PromiseDisconnected`. Returns within a second.
        """
        await self._publisher.stop()
        await self._subscriber.stop()
        # Last: while we are running, whoever lost a blocking command may open it again.
        await self._blocker.stop()

    def abandon(self) -> None:
        """The event loop was closed without `stop`: close the sockets without its help."""
        for link in (self._subscriber.link, self._publisher.link, self._blocker.link):
            link.abandon()

    def forget_task(self, task: asyncio.Task[Any]) -> None:
        """Have asyncio not complain of a task that was left behind by a loop that was closed."""
        forget_task(task)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Return once the subscribing connection stands.

        ``timeout`` is in seconds, None waits for ever; raises `NotConnected` when it is over,
        with the reason of the last attempt.
        """
        if not self.running:
            raise MultiplexerStopped("the multiplexer is not running: await start() first")
        try:
            async with asyncio.timeout(timeout):
                await self._subscriber.up.wait()
            if not self.running:
                raise MultiplexerStopped("the multiplexer was stopped meanwhile")
        except TimeoutError:
            error = self._subscriber.link.last_error
            cause = f": {describe(error)}" if error is not None else ""
            raise NotConnected(f"no connection to {self.node} in {timeout} s{cause}") from error

    # -- talk ---------------------------------------------------------------------------------

    async def publish(self, name: str | bytes, data: bytes) -> int:
        """Publish `data` to the channel `name`; return how many clients received it, on that node.

        Raises `CommandRefused` (such as a missing ACL permission), `NotConnected` when no
        connection came up in time, `BacklogFull`, and `ConnectionLost` when the link broke before
        the answer came (the message may have gone out).
        """
        return await self.publish_soon(name, data)

    def publish_soon(self, name: str | bytes, data: bytes) -> asyncio.Future[int]:
        """As `publish`, as a future: it leaves with this turn of the loop, awaited or not."""
        if type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data must be bytes, not {type(data).__name__}: encode it first")
            data = bytes(data)
        return self._publisher.submit(pack_publish(encode_name(name), data))

    def command(self, *words: bytes) -> asyncio.Future[Any]:
        """Send any command that does not block, in order with what is published.

        The future gets Redis' reply, and fails as `publish` does.
        """
        return self._publisher.submit(pack(*words))

    def blocking_command(self, *words: bytes) -> asyncio.Future[Any]:
        """Send a command that may block for up to `LONGEST_BLOCK` seconds, such as BLPOP.

        Over a third connection, which the first such command opens. One command at a time: the
        next waits behind it. Else as `command`.
        """
        if self.running and not self._blocker.link.running:
            self._blocker.start()
        return self._blocker.submit(pack(*words))

    def new_channel_subscription(
        self,
        on_message: OnMessage | None = None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
    ) -> ChannelSubscription:
        """A subscription to channels, none at first; without `on_message`, iterate over it."""
        return ChannelSubscription(
            self._subscriber, on_message, on_disconnect, on_activation, max_queue=self._max_queue
        )

    def new_pattern_subscription(
        self,
        pattern: str | bytes,
        on_message: OnMessage | None = None,
        on_disconnect: OnDisconnect | None = None,
        on_activation: OnActivation | None = None,
    ) -> PatternSubscription:
        """A subscription to one pattern; without `on_message`, iterate over it."""
        return PatternSubscription(
            self._subscriber,
            pattern,
            on_message,
            on_disconnect,
            on_activation,
            max_queue=self._max_queue,
        )

    def new_promise_subscription(self, prefix: str | bytes) -> PromiseSubscription:
        """Promises on the channels that begin with `prefix`."""
        return PromiseSubscription(self._subscriber, prefix, max_queue=self._max_queue)

    # -- look ---------------------------------------------------------------------------------

    def stats(self) -> MultiplexerStats:
        """A snapshot; it walks over the names, so take it by the second, not by the message."""
        registry = self._subscriber.registry
        links = (self._subscriber.link, self._publisher.link, self._blocker.link)
        wires = [link.wire for link in links if link.wire is not None]
        counters = self._counters
        return MultiplexerStats(
            connected=links[0].wire is not None,
            connected_since=links[0].connected_at,
            names_wanted=registry.wanted(CHANNEL),
            names_confirmed=registry.confirmed(CHANNEL),
            patterns=registry.wanted(PATTERN),
            listeners=registry.listeners(),
            messages_in=counters.messages_in,
            deliveries=counters.deliveries,
            bytes_in=counters.bytes_in + sum(wire.bytes_in for wire in wires),
            bytes_out=counters.bytes_out + sum(wire.bytes_out for wire in wires),
            commands_out=counters.commands_out,
            reconnects=max(0, links[0].connections - 1),
            callback_errors=counters.callback_errors,
            drops=counters.drops(),
        )
