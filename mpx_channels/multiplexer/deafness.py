"""A link that is connected and delivers nothing: found by a probe, and made anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis.backoff import EqualJitterBackoff

from .exceptions import ConnectionLost, MpxError
from .publisher import Publisher
from .subscriber import Subscriber

__all__ = ["DeafnessWatch"]

# So many probes that stay out, one after the other, and the link is given up.
MOST_MISSED = 2
# Of links that are deaf from the start, each is listened to for longer than the one before, up to
# so many times the interval. Whatever is broken then, a new link does not mend it, and each costs
# consumers a gap.
LONGEST_PAUSE = 16


class DeafnessWatch:
    """Watches over the link to one server, from the moment when the probe's name is confirmed.

    After ``interval`` seconds (0: never) in which no message came, a probe is published. From the
    answer to that it has ``patience`` seconds to come back; any other message will do. A publish
    that fails says nothing about this link. What counts as heard is what the subscriber counts
    anyway, so messages cost nothing more.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        publisher: Publisher,
        probe: bytes,
        *,
        interval: float,
        patience: float,
    ) -> None:
        self._subscriber = subscriber
        self._publisher = publisher
        # The command that publishes it.
        self._probe = probe
        self._interval = interval
        self._patience = patience
        self._backoff = EqualJitterBackoff(cap=LONGEST_PAUSE * interval, base=interval)
        self._timer: asyncio.TimerHandle | None = None
        self._answer: asyncio.Future[object] | None = None
        # At the last look: the messages that had come, and the bytes.
        self._messages = 0
        self._bytes = 0
        self._missed = 0
        # Links given up since the last message.
        self._deaf = 0

    def start(self) -> None:
        """Redis has confirmed the probe's name, on this link or on a new one."""
        self.stop()
        if self._interval:
            self._hears()
            self._missed = 0
            deaf = self._deaf
            self._call_in(self._backoff.compute(deaf) if deaf else self._interval, self._look)

    def stop(self) -> None:
        """The link is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._answer is not None:
            answer, self._answer = self._answer, None
            # Of a loop that was closed, perhaps, which calls nothing any more.
            answer.remove_done_callback(self._published)
            answer.cancel()

    def came_back(self) -> None:
        """The probe; there is no need to wait for the end of its time."""
        if self._timer is not None or self._answer is not None:
            self.stop()
            # It is counted with the others that came with it, after this.
            self._call_in(0, self._look)

    def _hears(self) -> bool:
        """Whether messages have come since the last look, or wait to be handled."""
        messages, wire = self._subscriber.messages_in, self._subscriber.link.wire
        behind = wire is not None and wire.behind(self._bytes)
        self._bytes = wire.bytes_in if wire is not None else 0
        if messages != self._messages:
            self._messages = messages
            self._missed = self._deaf = 0
            return True
        return behind

    def _look(self) -> None:
        if self._hears():
            self._call_in(self._interval, self._look)
        else:
            self._publish()

    def _publish(self) -> None:
        try:
            if self._publisher.link.wire is None:
                raise MpxError  # it would wait, and count as dropped
            self._answer = self._publisher.submit(self._probe)
        except MpxError:
            self._call_in(self._interval, self._look)
        else:
            self._answer.add_done_callback(self._published)

    def _published(self, answer: asyncio.Future[object]) -> None:
        if answer is not self._answer:
            return  # stopped
        self._answer = None
        if answer.cancelled() or answer.exception() is not None:
            self._call_in(self._interval, self._look)
        else:
            self._call_in(self._patience, self._probe_due)

    def _probe_due(self) -> None:
        if self._hears():
            self._call_in(self._interval, self._look)
            return
        self._missed += 1
        if self._missed < MOST_MISSED:
            self._publish()
            return
        self._deaf += 1
        self._subscriber.give_up_deaf(
            ConnectionLost(
                f"it delivers nothing: {MOST_MISSED} probes that this process published there "
                f"did not come back in {self._patience:g} s each"
            )
        )

    def _call_in(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, then)
