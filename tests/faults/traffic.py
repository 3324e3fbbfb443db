"""Worker processes from their parent's side, and the traffic between them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .counts import Ledger

__all__ = ["Members", "Process", "WorkerFailed"]

ROOT = Path(__file__).parents[2]
# Long enough for a loaded machine.
PATIENCE = 60.0


class WorkerFailed(Exception):
    """A worker could not do what it was told, or did not answer."""


class Process:
    """A worker process (see worker.py): what it is told, and what it reports."""

    def __init__(
        self, name: str, layer: dict[str, Any], report: Callable[[str, list[Any]], None]
    ) -> None:
        self.name = name
        # Its tasks and descriptors before it used the layer.
        self.bare: dict[str, Any] = {}
        self._layer = layer
        self._report = report
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        # For as long as the process.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def errors(self) -> str:
        """The end of what it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-2000:]

    async def start(self, *, clock: float = 0.0, uvloop: bool = False) -> None:
        """Start it; return when it listens. ``clock``: seconds that its wall clock is off."""
        config = {"name": self.name, "layer": self._layer, "clock": clock, "uvloop": uvloop}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.worker", json.dumps(config),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, limit=1 << 26,
        )  # fmt: skip
        self._answers[0] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read())
        self.bare = await self._answer(0, PATIENCE)

    def tell(self, do: str, *arguments: Any) -> int:
        """Have it do something, and do not wait; return the number of the answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        command = {"id": number, "do": do, "with": arguments}
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        return number

    async def ask(self, do: str, *arguments: Any, timeout: float = PATIENCE) -> Any:
        """Have it do something; return what it says to it."""
        return await self._answer(self.tell(do, *arguments), timeout)

    async def _answer(self, number: int, timeout: float) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await self._answers[number]
        except TimeoutError:
            raise WorkerFailed(
                f"{self.name} does not answer in {timeout} s: {self.errors}"
            ) from None
        finally:
            self._answers.pop(number, None)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if "events" in said:
                self._report(self.name, said["events"])
                continue
            answer = self._answers.get(said["re"])
            if answer is None or answer.done():
                continue
            if "error" in said:
                answer.set_exception(WorkerFailed(f"{self.name}: {said['error']}"))
            else:
                answer.set_result(said["value"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(WorkerFailed(f"{self.name} has ended: {self.errors}"))
                answer.exception()

    # -- what befalls processes -------------------------------------------------------------

    def freeze(self) -> None:
        """Stop it where it stands, with SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, with SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def kill(self) -> None:
        """End it at once, with SIGKILL; harmless if it has ended."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading
        self._errors.close()


class Members:
    """Who is in which groups, and reads which plain channels."""

    def __init__(self, groups: int, kept: int, queues: int, channels: int, idle: int) -> None:
        """Groups are dealt out to so many channels of each process; the idle ones are silent.

        Those that are ``kept`` have a history.
        """
        self.kept = [f"kept-{number}" for number in range(kept)]
        self.groups = [f"group-{number}" for number in range(groups)] + self.kept
        self.queues = [f"queue-{number}" for number in range(queues)]
        self.idle = [f"idle-{number}" for number in range(idle)]
        self._channels = channels

    def receivers(self, worker: str) -> dict[str, list[str]]:
        """The channels of a worker, with their groups."""
        return {
            f"{worker}/{number}": self.groups[number :: self._channels]
            for number in range(self._channels)
        }

    def ledger(self, run: int, workers: list[str]) -> Ledger:
        """An empty ledger of traffic among these workers."""
        members = {
            receiver: groups
            for worker in workers
            for receiver, groups in self.receivers(worker).items()
        }
        readers = {queue: [f"{worker}/{queue}" for worker in workers] for queue in self.queues}
        return Ledger(run, members, readers, self.kept)
