"""`mpx drain` and `mpx undrain`: have the consumers of processes go elsewhere, one by one."""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mpx_channels.layer import Draining, MpxChannelLayer, RequestTimeout
from mpx_channels.layer.processes.fleet import host_name
from mpx_channels.multiplexer import MpxError

from .output import Output
from .session import Session
from .subcommand import FINE, FOUND, Refusal, Subcommand, seconds

__all__ = ["Drain", "Undrain"]

# Seconds between two looks at how far it has come, and between two lines in a pipe.
LOOK, LINE = 0.5, 5.0
# Times that a process may leave a question unanswered: it is busy, or its connection or ours is
# made anew, and then it is lost.
MISSES = 10


@dataclass
class Target:
    """A process, its hubs by their process ids, and how far it has come."""

    host: str
    pid: int
    ids: list[str] = field(default_factory=list)
    state: Draining | None = None
    ended: bool = False
    misses: int = 0
    # Why it was not asked, or could not do it.
    why: str = ""

    @property
    def left(self) -> int:
        """Connections that are to go."""
        return self.state.left if self.state is not None and not self.ended else 0

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.ended or self.misses >= MISSES or not self.left

    @property
    def word(self) -> str:
        """What it is, in a word."""
        if self.ended:
            return "ended"
        if self.state is None or self.misses:
            return "silent"
        if not self.state.draining:
            return "open"
        return "draining" if self.left else "drained"

    @property
    def silence(self) -> str:
        """That it does not answer, and why, if that is known."""
        why = f" ({self.why})" if self.why else ""
        return f"{self.host} {self.pid} does not answer{why}"

    async def ask(self, question: Callable[[str], Awaitable[Draining | None]]) -> None:
        """Ask it something; any of its event loops can answer for all.

        Others are asked all the same if that fails: it may be for the host of this one's inbox.
        """
        for process_id in self.ids:
            try:
                state = await question(process_id)
            except RequestTimeout:
                continue
            except MpxError as error:
                self.why = str(error)
                continue
            if state is not None:
                self.state, self.misses = state, 0
                return
        self.misses += 1

    async def look(self, layer: MpxChannelLayer) -> None:
        """See how far it has come, or, with some patience, that it has ended.

        Without a connection it goes on closing its sockets.
        """
        try:
            await self.ask(layer.draining)
            if self.misses >= MISSES:
                self.ended = not await self._lives(layer)
        except MpxError:
            self.misses += 1

    async def _lives(self, layer: MpxChannelLayer) -> bool:
        stats = await layer.fleet_stats(groups=0, queues=False)
        return any(process.process_id in self.ids for process in stats.processes)

    def as_json(self) -> dict[str, Any]:
        state = asdict(self.state or Draining())
        where = {"host": self.host, "pid": self.pid, "process_ids": self.ids}
        return {**where, "state": self.word, **state, "left": self.left}


class _Doors(Subcommand):
    """What both have in common: which processes."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "process",
            nargs="*",
            metavar="PROCESS",
            help="a pid, HOST:PID, or a process id; without any, all of the host",
        )
        parser.add_argument(
            "--host", metavar="H", help="the processes of this host (this machine's own)"
        )

    async def targets(self, layer: MpxChannelLayer, options: dict[str, Any]) -> list[Target]:
        """The processes that are meant; refuses what is none."""
        host = host_name() if options["host"] is None else options["host"]
        stats = await layer.fleet_stats(groups=0, queues=False)
        found: dict[tuple[str, int], Target] = {}
        for each in stats.processes:
            if each.process_id != layer.process_id:
                target = found.setdefault((each.host, each.pid), Target(each.host, each.pid))
                target.ids.append(each.process_id)
        there = ", ".join(f"{each.host}:{each.pid}" for each in found.values()) or "none"
        names = options["process"]
        if not names:
            chosen = [target for target in found.values() if target.host == host]
            if not chosen:
                raise Refusal(f"no process on {host!r} uses this layer; there are: {there}")
            return chosen
        chosen = []
        for name in names:
            meant = [
                target
                for target in found.values()
                if name in (*target.ids, f"{target.host}:{target.pid}")
                or (name == str(target.pid) and target.host == host)
            ]
            if not meant:
                raise Refusal(
                    f"no process {name!r} uses this layer on {host!r}; there are: {there}"
                )
            chosen += [target for target in meant if target not in chosen]
        return chosen


class Drain(_Doors):
    """Has processes drained, and shows how far they come."""

    name = "drain"
    help = "Have the consumers of processes go elsewhere, one by one, and let no more in."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--over",
            type=seconds,
            default=30.0,
            metavar="S",
            help="seconds in which they go, evenly (30)",
        )
        parser.add_argument("--wait", action="store_true", help="return when the last one has gone")

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        layer, over = await session.connect(), options["over"]
        targets = await self.targets(layer, options)
        asked = [target.ask(lambda each: layer.drain_process(each, over)) for target in targets]
        await asyncio.gather(*asked)
        for target in targets:
            if target.state is None:
                out.note(f"{target.silence}: it may not be drained")
        if options["wait"]:
            await _wait(layer, [target for target in targets if target.state is not None], out)
        return _tell(out, targets)


class Undrain(_Doors):
    """Takes a drain back."""

    name = "undrain"
    help = "Have processes let consumers in again, and keep those that are left."

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        layer = await session.connect()
        targets = await self.targets(layer, options)
        await asyncio.gather(*(target.ask(layer.undrain_process) for target in targets))
        for target in targets:
            if target.state is None:
                out.note(f"{target.silence}: it may be drained still")
        return _tell(out, targets)


async def _wait(layer: MpxChannelLayer, targets: list[Target], out: Output) -> None:
    total = sum(target.left for target in targets)
    with _progress(out, total) as show:
        while waiting := [target for target in targets if not target.over]:
            show(sum(target.left for target in targets))
            await asyncio.sleep(LOOK)
            await asyncio.gather(*(target.look(layer) for target in waiting))
        show(sum(target.left for target in targets))


@contextmanager
def _progress(out: Output, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how many are left: as a bar, or as lines where nobody looks on."""
    if not out.terminal:
        said = time.monotonic()

        def say(left: int) -> None:
            nonlocal said
            if left and time.monotonic() - said >= LINE:
                said = time.monotonic()
                out.say(f"{left:,} of {total:,} connections are left")

        yield say
        return
    columns = (
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} connections have gone"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out.console, transient=True) as progress:
        bar = progress.add_task("", total=total)
        yield lambda left: progress.update(bar, completed=total - left, refresh=True)


def _tell(out: Output, targets: list[Target]) -> int:
    if out.as_json:
        out.json({"processes": [target.as_json() for target in targets]})
    else:
        rows = [(f"{each.host} {each.pid}", each.word, *_numbers(each)) for each in targets]
        heads = ("process", "is", "connections", "left")
        out.table(heads, rows, right={"connections", "left"})
    return FOUND if any(each.misses and not each.ended for each in targets) else FINE


def _numbers(target: Target) -> tuple[str, str]:
    if target.state is None or not target.state.draining:
        return "", ""
    return f"{target.state.total:,}", f"{target.left:,}"
