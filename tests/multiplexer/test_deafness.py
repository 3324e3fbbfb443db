"""When a link counts as deaf: by a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pytest

from mpx_channels.multiplexer import CommandRefused, ConnectionLost, MultiplexerStopped
from mpx_channels.multiplexer.deafness import LONGEST_PAUSE, MOST_MISSED, DeafnessWatch

INTERVAL, PATIENCE = 30.0, 5.0
# What two probes that stay out take; `Silence` looks a few times more, a hundredth apart.
TWO_OUT = MOST_MISSED * (PATIENCE + 0.1)


class Timer:
    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due, self.callback, self.cancelled = due, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class Answer:
    """Redis' answer to a publish."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Self], None]] = []
        self.error: Exception | None = None
        self.was_cancelled = False

    def add_done_callback(self, callback: Callable[[Self], None]) -> None:
        self.callbacks.append(callback)

    def remove_done_callback(self, callback: Callable[[Self], None]) -> None:
        self.callbacks.remove(callback)

    def cancel(self) -> None:
        self.was_cancelled = True

    def cancelled(self) -> bool:
        return self.was_cancelled

    def exception(self) -> Exception | None:
        return self.error

    def come(self, error: Exception | None = None) -> None:
        self.error = error
        for callback in self.callbacks:
            callback(self)


class World:
    """Event loop, wire, link, publisher and subscriber, as far as the watch knows them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        self.published: list[Answer] = []
        self.answers = True
        self.error: Exception | None = None
        self.late = False
        self.bytes_in = 0
        self.messages_in = 0
        self.given_up: list[ConnectionLost] = []
        self.wire: Any = self
        self.link = self
        self.watch = DeafnessWatch(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            b"probe",
            interval=INTERVAL,
            patience=PATIENCE,
        )

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + seconds, callback))
        return self.timers[-1]

    def time(self) -> float:
        return self.now

    def behind(self, bytes_in: int) -> bool:
        return self.late

    def submit(self, command: bytes) -> Answer:
        assert command == b"probe"
        if isinstance(self.error, MultiplexerStopped):
            raise self.error
        self.published.append(Answer())
        return self.published[-1]

    def give_up_deaf(self, reason: ConnectionLost) -> None:
        self.given_up.append(reason)

    @property
    def waiting(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def pass_time(self, seconds: float) -> None:
        """Whatever is due in this time; a publish is answered at once."""
        end = self.now + seconds
        while due := [timer for timer in self.waiting if timer.due <= end]:
            (timer,) = due
            self.timers.remove(timer)
            self.now = timer.due
            before = len(self.published)
            timer.callback()
            for answer in self.published[before:]:
                if self.answers:
                    answer.come(self.error)
        self.now = end


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr("asyncio.get_running_loop", lambda: world)
    return world


def test_silence_is_broken_by_the_probe_itself(world: World) -> None:
    world.watch.start()
    world.pass_time(INTERVAL - 1)
    assert not world.published
    for number in range(1, 5):
        world.pass_time(1)
        assert len(world.published) == number
        world.messages_in += 1  # it came back
        world.pass_time(PATIENCE + INTERVAL - 1)
    assert not world.given_up


def test_a_probe_that_came_back_need_not_be_waited_for(world: World) -> None:
    world.watch.start()
    for number in range(1, 5):
        world.pass_time(INTERVAL)
        assert len(world.published) == number
        world.watch.came_back()
        world.messages_in += 1
    # Also before the answer to its publish.
    world.answers = False
    world.pass_time(INTERVAL)
    world.watch.came_back()
    world.messages_in += 1
    world.pass_time(INTERVAL)
    assert len(world.published) == 6


def test_somebody_elses_does_not_start_it(world: World) -> None:
    world.watch.came_back()
    assert not world.timers


def test_while_messages_come_there_is_no_probe(world: World) -> None:
    world.watch.start()
    for _ in range(100):
        world.pass_time(INTERVAL / 2)
        world.messages_in += 1
    assert not world.published


def test_answers_are_no_messages(world: World) -> None:
    """PONGs and confirmations come over a deaf link, too."""
    world.watch.start()
    for _ in range(10):
        world.pass_time(INTERVAL / 5)
        world.bytes_in += 7
    assert world.published
    assert world.given_up


def test_two_that_stay_out_and_the_link_is_given_up_once(world: World) -> None:
    world.watch.start()
    world.pass_time(INTERVAL + MOST_MISSED * PATIENCE)
    assert not world.given_up
    world.pass_time(1)
    (reason,) = world.given_up
    assert str(reason) == (
        "it delivers nothing: 2 probes that this process published there did not come back "
        "in 5 s each"
    )
    world.pass_time(1000)
    assert len(world.published) == MOST_MISSED
    assert len(world.given_up) == 1


def test_one_that_stays_out_is_forgiven(world: World) -> None:
    world.watch.start()
    for _ in range(5):
        world.pass_time(INTERVAL + PATIENCE + 1)
        world.messages_in += 1  # any other message will do
        world.pass_time(PATIENCE - 1)
    assert len(world.published) == 10
    assert not world.given_up


@pytest.mark.parametrize(
    "error", [CommandRefused("NOPERM"), ConnectionLost("gone"), MultiplexerStopped("stopped")]
)
def test_a_publish_that_fails_says_nothing(world: World, error: Exception) -> None:
    world.error = error
    world.watch.start()
    world.pass_time(20 * INTERVAL)
    assert not world.given_up
    assert len(world.published) == (0 if isinstance(error, MultiplexerStopped) else 20)
    # And it goes on when it can.
    world.error = None
    world.pass_time(INTERVAL + TWO_OUT)
    assert world.given_up


def test_time_runs_from_the_answer(world: World) -> None:
    """A server that is busy has not published it yet."""
    world.answers = False
    world.watch.start()
    world.pass_time(100 * INTERVAL)
    (answer,) = world.published
    assert not world.given_up
    world.answers = True
    answer.come()
    world.pass_time(TWO_OUT)
    assert world.given_up


def test_without_a_publishing_link_nothing_is_asked(world: World) -> None:
    world.watch.start()
    wire, world.wire = world.wire, None
    world.pass_time(10 * INTERVAL)
    assert not world.published
    world.wire = wire
    world.pass_time(INTERVAL)
    assert world.published


def test_who_is_behind_with_reading_cannot_know(world: World) -> None:
    world.watch.start()
    world.pass_time(INTERVAL + PATIENCE - 1)
    assert len(world.published) == 1
    world.late = True
    world.pass_time(INTERVAL)
    assert not world.given_up
    assert len(world.published) == 1
    world.late = False
    world.pass_time(TWO_OUT)
    assert world.given_up


def test_what_came_while_the_loop_was_busy_is_read_first(world: World) -> None:
    """After a pause timers may come before the sockets: so the first look decides nothing."""
    world.watch.start()
    world.pass_time(INTERVAL + PATIENCE)
    world.messages_in += 1
    world.pass_time(INTERVAL)
    assert len(world.published) == 1


def test_deaf_links_in_a_row_get_longer_and_longer(world: World) -> None:
    pauses = []
    for _ in range(8):
        world.watch.start()
        (timer,) = world.waiting
        pauses.append(timer.due - world.now)
        world.pass_time(timer.due - world.now + TWO_OUT)
    assert len(world.given_up) == 8
    assert pauses[0] == INTERVAL
    for number, pause in enumerate(pauses[1:], 1):
        longest = min(2**number, LONGEST_PAUSE) * INTERVAL
        assert longest / 2 <= pause <= longest
    # One that delivers sets it back.
    world.watch.start()
    world.messages_in += 1
    world.watch.start()
    (timer,) = world.waiting
    assert timer.due - world.now == INTERVAL


def test_without_an_interval_there_is_no_probe(world: World) -> None:
    watch = DeafnessWatch(
        world,  # type: ignore[arg-type]
        world,  # type: ignore[arg-type]
        b"probe",
        interval=0.0,
        patience=PATIENCE,
    )
    watch.start()
    assert not world.timers


def test_without_a_link_there_is_nothing_to_watch(world: World) -> None:
    world.watch.start()
    world.watch.stop()
    assert not world.waiting
    # Also while a probe is on its way: one that was not written yet need not be.
    world.answers = False
    world.watch.start()
    world.pass_time(INTERVAL)
    world.watch.stop()
    (answer,) = world.published
    assert answer.was_cancelled
    assert not answer.callbacks
    # And while it is to come back.
    world.answers = True
    world.watch.start()
    world.pass_time(INTERVAL + 1)
    world.watch.stop()
    assert not world.waiting
