"""What is measured, and what figures come of it; benchmarks/layer.py measures with these, too."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from .room import TEXT, Pairs, Room, in_bursts

__all__ = ["FIGURES", "MEASURES", "Figure", "Measure", "Turn", "join_and_leave", "percentile"]


@dataclass(slots=True)
class Turn:
    """One layer's turn at one measure.

    ``count`` things took ``seconds``; ``lost`` messages never came; ``laps`` are the seconds of
    each thing, where they were measured one by one.
    """

    count: int = 0
    seconds: float = 0.0
    lost: int = 0
    laps: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Things per second."""
        return self.count / self.seconds if self.seconds else 0.0


async def publish(room: Room, seconds: float) -> Turn:
    """A burst of tasks send to groups that nobody is in, again and again."""
    turn, end = Turn(), time.perf_counter() + seconds
    message = {"type": "mpx.bench", "text": TEXT, "n": 0}
    groups = [f"nobody-{number % len(room.groups)}" for number in range(room.burst)]
    send = room.layer.group_send
    while not turn.count or time.perf_counter() < end:
        started = time.perf_counter()
        await in_bursts((send(group, message) for group in groups), room.burst)
        turn.seconds += time.perf_counter() - started
        turn.count += len(groups)
    return turn


async def fan_out(room: Room, seconds: float) -> Turn:
    """Every group gets messages, and every client reads those of its group."""
    turn, end = Turn(), time.perf_counter() + seconds
    while not turn.count or time.perf_counter() < end:
        done = await room.broadcast()
        turn.seconds += done.seconds
        turn.count += done.arrived
        turn.lost += done.due - done.arrived
        if not done.arrived:
            break
    return turn


async def round_trip(room: Room, seconds: float) -> Turn:
    """From `group_send` to the return of `receive`, one message at a time."""
    turn, end = Turn(), time.perf_counter() + seconds
    message = {"type": "mpx.bench", "text": TEXT, "n": 0}
    send, receive = room.layer.group_send, room.layer.receive
    group, channel = room.probe_group, room.probe
    while True:
        started = time.perf_counter()
        await send(group, message)
        await receive(channel)
        now = time.perf_counter()
        turn.laps.append(now - started)
        if now >= end:
            break
    turn.count = len(turn.laps)
    turn.seconds = sum(turn.laps)
    return turn


async def joins(room: Room, seconds: float) -> Turn:
    """All clients join a group each, at once."""
    return await join_and_leave(room, seconds, room.fresh_pairs, room.join)


async def join_and_leave(
    room: Room,
    seconds: float,
    fresh_pairs: Callable[[], Pairs],
    join: Callable[[Pairs], Awaitable[None]],
) -> Turn:
    """Channels join groups that nobody is in; leaving them again is not counted."""
    turn, end = Turn(), time.perf_counter() + seconds
    while not turn.count or time.perf_counter() < end:
        pairs = fresh_pairs()
        started = time.perf_counter()
        await join(pairs)
        turn.seconds += time.perf_counter() - started
        turn.count += len(pairs)
        await room.leave(pairs)
        # Ours does not wait for Redis to unsubscribe: what is confirmed after it, does.
        probe = [(room.fresh_group(), room.probe)]
        await room.join(probe)
        await room.leave(probe)
    return turn


# A room, and the seconds that it may take.
Measure = Callable[[Room, float], Awaitable[Turn]]

MEASURES: dict[str, Measure] = {
    "publish": publish,
    "fan-out": fan_out,
    "round trip": round_trip,
    "joins": joins,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is shown.

    ``key``: its name in JSON, with its unit; ``title`` and ``unit``: in the table, where it is
    ``factor`` times that in JSON; ``measure``: what it comes from; ``percentile``: of the laps,
    None for a rate.
    """

    key: str
    title: str
    unit: str
    measure: str
    factor: float = 1.0
    percentile: float | None = None

    def of(self, turns: Sequence[Turn]) -> float:
        """Over all turns: the percentile of all laps together, or the median of the rates."""
        if self.percentile is not None:
            return percentile([lap for turn in turns for lap in turn.laps], self.percentile)
        return statistics.median(turn.rate for turn in turns)

    def times_better(self, ours: Turn, theirs: Turn) -> float | None:
        """How many times better ours was than theirs; None where one of them got nowhere."""
        first, second = self.of([ours]), self.of([theirs])
        if not first or not second:
            return None
        return first / second if self.percentile is None else second / first


FIGURES = (
    Figure("publishes_per_second", "publish", "messages/s", "publish"),
    Figure("deliveries_per_second", "fan-out", "deliveries/s", "fan-out"),
    Figure("round_trip_p50_seconds", "round trip, p50", "µs", "round trip", 1e6, 0.5),
    Figure("round_trip_p99_seconds", "round trip, p99", "µs", "round trip", 1e6, 0.99),
    Figure("joins_per_second", "joins", "joins/s", "joins"),
)


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that this share of all are not above."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
