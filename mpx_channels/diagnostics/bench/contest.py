"""Turns, in rounds: what slows the machine for a while slows all layers alike."""

from __future__ import annotations

import asyncio
import gc
import math
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeVar

from mpx_channels.diagnostics.subcommand import Refusal

from .contenders import Contender
from .measures import MEASURES, Figure, Measure, Turn

__all__ = ["Contest", "Ratio", "Result"]

T = TypeVar("T")

LEAST_ROUNDS = 3
# Seconds that a turn, or the opening, may take longer than planned: then the server hangs, or
# the load is more than the layer can take.
LIMIT = 30.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times better ours was, round by round."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Self:
        """Of at least one round."""
        return cls(statistics.median(ratios), min(ratios), max(ratios))


@dataclass(slots=True)
class Result:
    """What came out: for each contender and measure a turn for each round."""

    turns: dict[str, dict[str, list[Turn]]] = field(default_factory=dict)

    def figure(self, name: str, figure: Figure) -> float:
        """A contender's figure, in the unit that its key says."""
        return figure.of(self.turns[name][figure.measure])

    def total(self, name: str, measure: str) -> int:
        """How many things were measured."""
        return sum(turn.count for turn in self.turns[name][measure])

    def lost(self, name: str) -> int:
        """Deliveries that never came."""
        return sum(turn.lost for turns in self.turns[name].values() for turn in turns)

    def ratio(self, figure: Figure, ours: str, theirs: str) -> Ratio | None:
        """How many times better ours is; None if no round can tell."""
        pairs = zip(
            self.turns[ours][figure.measure], self.turns[theirs][figure.measure], strict=True
        )
        ratios = [ratio for pair in pairs if (ratio := figure.times_better(*pair)) is not None]
        return Ratio.of(ratios) if ratios else None


class Contest:
    """Each contender takes its turn at each measure, in every round.

    ``seconds``: of measuring, for each contender. ``rounds`` come to about a second each, if not
    told otherwise.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        seconds: float,
        measures: Mapping[str, Measure] = MEASURES,
        rounds: int | None = None,
    ) -> None:
        self.contenders = contenders
        self.measures = measures
        self.rounds = rounds or max(LEAST_ROUNDS, math.ceil(seconds))
        self.slice = seconds / self.rounds / len(measures)

    @property
    def turns(self) -> int:
        """How many there will be."""
        return self.rounds * len(self.measures) * len(self.contenders)

    async def run(self, progress: Callable[[str], None]) -> Result:
        """Open all rooms, and measure; ``progress`` is told of every turn before it begins.

        Raises `Refusal` when one cannot go on.
        """
        for contender in self.contenders:
            await self._limited(contender, "letting the clients in", contender.open(), 0.0)
        names = [contender.name for contender in self.contenders]
        result = Result({name: {measure: [] for measure in self.measures} for name in names})
        for number in range(self.rounds):
            for measure, take in self.measures.items():
                # Who is first changes.
                for contender in self.contenders[:: 1 if number % 2 == 0 else -1]:
                    progress(f"round {number + 1} of {self.rounds}: {measure}, {contender.name}")
                    gc.collect()
                    turn = await self._limited(
                        contender, measure, take(contender.room, self.slice), self.slice
                    )
                    result.turns[contender.name][measure].append(turn)
        return result

    async def _limited(
        self, contender: Contender, what: str, work: Awaitable[T], planned: float
    ) -> T:
        try:
            async with asyncio.timeout(planned + LIMIT) as limit:
                with contender.trouble(f"failed at {what}"):
                    return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise Refusal(
                f"{contender.name} did not finish within {planned + LIMIT:.0f} s: {what}. "
                "Either the server hangs, or this is too much: try fewer --clients"
            ) from None
