"""The short selection of the campaign, a test for each case.

Cases wait more than they work, so some are played at the same time: all that are to run begin with
the first of these tests, and each test waits for the verdict of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.conftest import missing

from .campaign import Campaign, chosen
from .cases import CASES
from .counts import Verdict

SHORT = [name for name, case in CASES.items() if case.short]
SEED = 1
# How many are played at the same time: more, and they are late for want of a processor.
LANES = 2
# Seconds for a verdict, that of those played before included.
LONGEST = 240.0


class Playing(threading.Thread):
    """Plays cases on an event loop of its own."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(name="faults")
        self.verdicts: dict[str, Future[Verdict]] = {name: Future() for name in names}
        self._waiting = list(chosen(names, SEED))

    def run(self) -> None:
        asyncio.run(self._play_all())

    def stop(self) -> None:
        """End when the cases that are being played have ended, whose stages end as ever."""
        self._waiting.clear()
        self.join()

    async def _play_all(self) -> None:
        await asyncio.gather(*[self._lane() for _ in range(LANES)])

    async def _lane(self) -> None:
        async with Campaign() as campaign:
            while self._waiting:
                case, seed = self._waiting.pop(0)
                verdict = await campaign.play(case, seed)
                if any(problem.what == "the harness failed" for problem in verdict.problems):
                    # Such as a server that did not start: that says nothing of the layer.
                    verdict = await campaign.play(case, seed)
                if not self._waiting:
                    verdict.add("left over after close()", await campaign.close())
                self.verdicts[case.name].set_result(verdict)


async def alone(name: str) -> Verdict:
    """Once more, with nothing else of ours beside it."""
    async with Campaign() as campaign:
        ((case, seed),) = chosen([name], SEED)
        return await campaign.play(case, seed)


@pytest.fixture(scope="module")
def playing(request: pytest.FixtureRequest) -> Iterator[Playing]:
    if not Path("/proc/self/fd").exists():
        missing("what is left over is counted in /proc")
    names = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_case
    ]
    thread = Playing(names)
    thread.start()
    yield thread
    thread.stop()


@pytest.mark.parametrize("name", SHORT)
def test_case(playing: Playing, name: str, request: pytest.FixtureRequest) -> None:
    if getattr(request.node, "execution_count", 1) > 1:  # of pytest-rerunfailures
        verdict = asyncio.run(alone(name))
    else:
        verdict = playing.verdicts[name].result(timeout=LONGEST)
    again = f"python -m tests.faults --case {name} --seed {SEED}"
    assert not verdict.problems, "\n".join(
        [*map(str, verdict.problems), f"figures: {verdict.figures}", f"again: {again}"]
    )
