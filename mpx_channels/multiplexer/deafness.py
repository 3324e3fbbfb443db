"""A link that is connected and delivers nothing: found by a probe, and made anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis.backoff import EqualJitterBackoff

from .exceptions import ConnectionLost, MpxError
from .publisher import Publisher
from .silence import Silence
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
        # Since the answer to a probe's publish.
        self._silence = Silence(patience)
        self._backoff = EqualJitterBackoff(cap=LONGEST_PAUSE * interval, base=interval)
        self._timer: asyncio.TimerHandle | None = None
        self._answer: asyncio.Future[object] | None = None
        # That had come at the last look.
        self._messages = 0
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
        """Whether messages have come since the last look."""
        messages = self._subscriber.messages_in
        if messages == self._messages:
            return False
        self._messages = messages
        self._missed = self._deaf = 0
        return True

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
            now = asyncio.get_running_loop().time()
            self._silence.broken(now)
            self._call_in(self._silence.next_look(now) - now, self._probe_due)

    def _probe_due(self) -> None:
        wire, now = self._subscriber.link.wire, asyncio.get_running_loop().time()
        if wire is None:
            return
        if self._hears():
            self._call_in(self._interval, self._look)
            return
        if not self._silence.lasts_too_long(wire, now):
            self._call_in(self._silence.next_look(now) - now, self._probe_due)
            return
        self._missed += 1
        if self._missed < MOST_MISSED:
            self._publish()
            return
        self._deaf += 1
        self._subscriber.give_up_deaf(
            ConnectionLost(
                f"it delivers nothing: {MOST_MISSED} probes that this process published there "
                f"did not come back in {self._silence.patience:g} s each"
            )
        )

    def _call_in(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, then)
