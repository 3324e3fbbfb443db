"""One connection's life: connect, watch, lose, back off, connect again."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Protocol

from redis.asyncio.connection import AbstractConnection
from redis.backoff import FullJitterBackoff

from .closed_loops import forget_task
from .exceptions import ConnectionLost, describe
from .logs import LimitedLog
from .tls import look_closer, trouble_of
from .topology import Node
from .wire import Wire, WireHandler

__all__ = ["Link", "LinkHandler", "LinkOptions"]

logger = logging.getLogger("mpx_channels.multiplexer")

# A server that stays away is mentioned again this often (seconds), not at every attempt.
REMIND_EVERY = 30.0
# A connection that lived this long (seconds) was a good one: the next backoff starts afresh.
GOOD_LIFE = 1.0
# Beyond this many failures in a row the backoff is at its cap anyway; 2**n must stay a float.
MOST_FAILURES = 64
# So often a server is asked what is wrong with TLS, if it says nothing: it may have no time.
MOST_LOOKS = 3


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How to keep a connection; all in seconds.

    - ``ping_interval``: after this much silence ask for a sign of life; two PINGs without an
      answer and the connection is dead.
    - ``min_backoff``, ``max_backoff``: the waits between attempts grow from one to the other and
      are drawn at random from zero up ("full jitter": https://aws.amazon.com/blogs/architecture/
      exponential-backoff-and-jitter/), so that a thousand processes do not return in step.
    - ``connect_timeout``: for connecting and the handshake together, and for a publisher's server
      to answer anything.
    """

    ping_interval: float = 30.0
    min_backoff: float = 0.008
    max_backoff: float = 0.512
    connect_timeout: float = 5.0

    def __post_init__(self) -> None:
        for name in ("ping_interval", "min_backoff", "max_backoff", "connect_timeout"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
                raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")
        if self.min_backoff > self.max_backoff:
            raise ValueError(
                f"min_backoff ({self.min_backoff}) must not be above "
                f"max_backoff ({self.max_backoff})"
            )


class LinkHandler(WireHandler, Protocol):
    """Whoever works over a link."""

    def link_up(self, wire: Wire, /) -> None:
        """A new connection stands; whatever was sent on earlier ones is forgotten by Redis."""

    def link_down(self, error: Exception, /) -> None:
        """The connection is gone, and everything that came over it was handled."""

    def send_ping(self, wire: Wire, /) -> None:
        """Write a PING, and expect its answer."""


class Link:
    """Keeps one connection to one node, for as long as its task runs."""

    def __init__(self, node: Node, handler: LinkHandler, options: LinkOptions, label: str) -> None:
        self.node = node
        self.label = label
        self.wire: Wire | None = None
        self.connected_at: float | None = None  # Unix time
        self.connections = 0
        self.last_error: Exception | None = None
        # Seconds that others, who lost the server as we did, may still wait before they try again.
        self.spread = 0.0
        self._handler = handler
        self._options = options
        self._backoff = FullJitterBackoff(cap=options.max_backoff, base=options.min_backoff)
        self._task: asyncio.Task[None] | None = None
        # One kind: a link that flaps is mentioned twice, then by its latest turn once in a while.
        self._log = LimitedLog(logger, burst=2)
        self._reminded = 0.0
        self._attempts = 0
        # What the server was last asked about, and what came of that.
        self._looked_at: tuple[str, Exception] | None = None
        self._looks = 0

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return max(0, self.connections - 1)

    def start(self) -> None:
        """Begin to connect, in a task of the running loop; returns at once."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"mpx-{self.label}")

    async def stop(self) -> None:
        """Close the connection and make no other."""
        if self._task is not None:
            self._task.cancel()
            # Not `await`: that would take a cancellation of our caller for the task's own.
            await asyncio.wait([self._task])
            self._task = None
            self._log.flush()

    def abandon(self) -> None:
        """The event loop was closed under us: give the socket back without its help."""
        task, self._task = self._task, None
        if self.wire is not None:
            self.wire.drop()
        if task is not None:
            forget_task(task)

    async def _run(self) -> None:
        failures = 0
        while True:
            wire = await self._connect()
            if wire is not None:
                started = time.monotonic()
                await self._live(wire)
                if time.monotonic() - started >= GOOD_LIFE:
                    failures = 0
            failures = min(failures + 1, MOST_FAILURES)
            await asyncio.sleep(self._backoff.compute(failures))

    async def _connect(self) -> Wire | None:
        connection: AbstractConnection | None = None
        patience = self._options.connect_timeout
        if not self.connections and not self._attempts and str(self.node).startswith("rediss:"):
            # Who speaks no TLS does not answer: that is found out while the first caller waits.
            patience /= 2
        try:
            async with asyncio.timeout(patience):
                connection = self.node.connection()
                wire = await Wire.open(connection, self._handler, check=self.node.check)
        except TimeoutError:
            error: Exception = TimeoutError(f"no answer in {patience:g} s")
        except Exception as caught:
            if self._task is None:
                raise  # abandoned, and redis-py has made an error of that
            # Also what redis-py does not wrap, such as a credential provider that fails: whatever
            # it is, this attempt failed and the next may not.
            error = caught
        else:
            if self.connections:
                self._log.info("link", "Reconnected to %s (%s)", self.node, self.label)
            # With the first attempt, the server was there all the time.
            self.spread = self._longest_backoff(self._attempts) if self._attempts else 0.0
            self._attempts = 0
            return wire
        if connection is not None:
            error = await self._look_at(error, connection)
        self.last_error = error
        self._attempts += 1
        now = time.monotonic()
        if self._attempts == 1:
            self._reminded = now
            self._log.warning(
                "link",
                "Cannot connect to %s (%s), trying again: %s",
                self.node,
                self.label,
                describe(error),
            )
        elif now - self._reminded >= REMIND_EVERY:
            self._reminded = now
            logger.warning(
                "Cannot connect to %s (%s) after %d attempts, trying again: %s",
                self.node,
                self.label,
                self._attempts,
                describe(error),
            )
        return None

    async def _look_at(self, error: Exception, connection: AbstractConnection) -> Exception:
        """The error in words that help, where TLS is what is wrong."""
        if self.connections:
            trouble = trouble_of(error, connection)
            return error if trouble is None else trouble.error()
        # Never reached: what is wrong may be in the settings. The server is asked once for each
        # error, and not at every attempt; a few times if nothing came of that, as it may be slow.
        text = describe(error)
        if self._looked_at is None or self._looked_at[0] != text:
            self._looked_at, self._looks = (text, error), MOST_LOOKS
        if self._looks:
            self._looks -= 1
            trouble = await look_closer(error, connection)
            if trouble is not None:
                found = trouble.error()
                found.__cause__ = error
                self._looked_at, self._looks = (text, found), 0
        return self._looked_at[1]

    def _longest_backoff(self, failures: int) -> float:
        options = self._options
        return min(options.max_backoff, options.min_backoff * 2.0 ** min(failures, MOST_FAILURES))

    async def _live(self, wire: Wire) -> None:
        """See one connection through, from its first use to its end."""
        self.wire = wire
        self.connected_at = time.time()
        self.connections += 1
        self.last_error = None
        error: Exception = ConnectionLost("the connection was closed by us")
        try:
            self._handler.link_up(wire)
            error = await self._watch(wire)
            if (trouble := trouble_of(error, wire.connection, stood=True)) is not None:
                error = trouble.error()
            self._log.warning(
                "link",
                "Lost the connection to %s (%s), reconnecting: %s",
                self.node,
                self.label,
                describe(error),
            )
        finally:
            self.last_error = error
            # An abandoned task gets here, too: there is no loop to close anything, or to tell
            # anybody, and what the wire has carried counts with it.
            if not wire.dropped:
                await wire.close()
                # In one step: what it carried counts with it, or with the connections that ended.
                self.wire = None
                self.connected_at = None
                self._handler.link_down(error)

    async def _watch(self, wire: Wire) -> Exception:
        """Wait for the connection's end; when it falls silent, ask whether it still lives."""
        unanswered = 0
        heard = wire.bytes_in
        while True:
            done, _ = await asyncio.wait([wire.closed], timeout=self._options.ping_interval)
            if done:
                return wire.closed.result()
            if wire.bytes_in != heard or wire.holding:
                heard = wire.bytes_in
                unanswered = 0
            elif unanswered == 2:
                error = ConnectionLost(
                    f"two PINGs went unanswered for {self._options.ping_interval} s each"
                )
                wire.abort(error)
                return error
            else:
                unanswered += 1
                self._handler.send_ping(wire)
