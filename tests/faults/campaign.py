"""Plays cases one after the other, on stages that those of one setup share."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Self

from .cases import CASES, Case
from .counts import Verdict
from .stage import Setup, Stage, run
from .traffic import WorkerFailed

__all__ = ["Campaign", "chosen", "for_minutes"]

# A seed that is easy to type.
SEEDS = 1_000_000


class Campaign:
    """Keeps the stage of the last setup that was needed."""

    def __init__(self, *, long: bool = False, processes: int | None = None) -> None:
        self._long = long
        self._processes = processes
        self._stage: Stage | None = None
        self._setup: Setup | None = None

    async def play(self, case: Case, seed: int) -> Verdict:
        """One case; what it left in no good state, the next one does not get."""
        setup = case.setup
        if self._processes is not None:
            setup = replace(setup, processes=self._processes)
        verdict = Verdict()
        if self._setup != setup:
            # What the cases before it have left is found where they end.
            verdict.add("left over after close()", await self.close())
        try:
            if self._stage is None:
                self._setup, self._stage = setup, Stage(setup, long=self._long)
                await self._stage.open()
            ended = await run(self._stage, case.play, seed)
        except BaseException as error:
            await self._abandon()
            if not isinstance(error, Exception):
                raise
            verdict.add("the harness failed", [f"{type(error).__name__}: {error}"])
            return verdict
        verdict.problems += ended.problems
        verdict.figures = ended.figures
        if verdict.problems:
            await self._abandon()
        return verdict

    async def close(self) -> list[str]:
        """End the stage; return what was left over in its processes."""
        stage, self._stage, self._setup = self._stage, None, None
        if stage is None:
            return []
        try:
            return await stage.close()
        except WorkerFailed as error:
            await stage.abandon()
            return [str(error)]

    async def _abandon(self) -> None:
        stage, self._stage, self._setup = self._stage, None, None
        if stage is not None:
            await stage.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._abandon()


def chosen(names: Iterable[str], seed: int) -> Iterator[tuple[Case, int]]:
    """These cases once, those that share a stage one after the other; each with the seed."""
    cases = [CASES[name] for name in names]
    setups = list(dict.fromkeys(case.setup for case in cases))
    for case in sorted(cases, key=lambda case: setups.index(case.setup)):
        yield case, seed


def for_minutes(
    minutes: float, names: Iterable[str], seed: int, now: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Case, int]]:
    """Cases by chance for so long, each with a seed of its own: the same ones for the same seed.

    They come in rounds, each of all cases in another order, so that none is left out.
    """
    chance = random.Random(seed)
    names = list(names)
    until = now() + minutes * 60
    while True:
        shuffled = [CASES[name] for name in chance.sample(names, len(names))]
        setups = list(dict.fromkeys(case.setup for case in shuffled))
        for case in sorted(shuffled, key=lambda case: setups.index(case.setup)):
            if now() >= until:
                return
            yield case, chance.randrange(SEEDS)
