"""`mpx bench`: what it is asked, what it says beforehand, and how it ends."""

from __future__ import annotations

import asyncio
import time
import uuid
from argparse import ArgumentParser
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from mpx_channels.diagnostics.output import Output
from mpx_channels.diagnostics.session import Session, entry
from mpx_channels.diagnostics.subcommand import FINE, FOUND, WRONG_USAGE, Refusal, Subcommand
from mpx_channels.layer import CommandRefused, MpxChannelLayer

from .contenders import AGAINST, NOT_IN_CLUSTER, Contender, Ours, Theirs, find
from .contest import Contest
from .report import Report, Settings

__all__ = ["Bench"]

T = TypeVar("T")

MOST_CLIENTS = 10_000
LEAST_SECONDS, MOST_SECONDS = 0.1, 120.0
# Calls that are under way at once, at most: channels_redis.core opens a connection for each, and
# redis-py allows it a hundred.
BURST = 50
# Seconds to clean up; and for the news of a broken link, which tell more than what came of it.
CLEANING, NEWS = 5.0, 0.5


class Bench(Subcommand):
    """Measures a layer with the project's CONFIG, under a prefix of its own."""

    name = "bench"
    help = "Measure this layer on this server, from here."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--clients", type=int, default=100, metavar="N", help="channels with a reader (100)"
        )
        parser.add_argument(
            "--groups", type=int, default=10, metavar="N", help="groups that they are in (10)"
        )
        parser.add_argument(
            "--seconds", type=float, default=5.0, metavar="S", help="how long, for each layer (5)"
        )
        parser.add_argument(
            "--against", choices=AGAINST, metavar="LAYER", help=f"{' or '.join(AGAINST)}"
        )

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        clients, groups, seconds = _checked(options)
        against = options["against"]
        rival = find(against) if against else None
        err = Console(
            file=out.errors,
            no_color=options["no_color"] or None,
            soft_wrap=True,
        )
        layer = await session.connect()
        notes = []
        if layer.config.cluster and against:
            if against in NOT_IN_CLUSTER:
                rival = None
                notes.append(f"{against} cannot use a cluster, and is left out.")
            else:
                notes.append(f"{against} knows no cluster: it uses one node, which reaches all.")
        others = await _other_processes(layer)
        await session.close()

        config = entry(session.alias).get("CONFIG", {})
        # Below the project's prefix, where its ACL allows it; no name of its own begins so.
        prefix = f"{layer.prefix}:bench-{uuid.uuid4().hex[:8]}"
        burst = min(BURST, layer.config.max_backlog)
        load = {"clients": clients, "groups": groups, "burst": burst}
        ours = Ours(type(layer), config, prefix, **load)
        contenders: list[Contender] = [ours]
        if rival is not None:
            contenders.append(Theirs(against, rival, config, prefix, **load))
        contest = Contest(contenders, seconds)
        settings = Settings(clients, groups, seconds, burst, contest.rounds)
        at, server = time.time(), _server(layer)
        for line in _announcement(session.alias, server, prefix, settings, contenders):
            out.say(line)
        for note in notes:
            err.print(Text(note, style="yellow"))
        if others:
            number = "1 other process is" if others == 1 else f"{others} other processes are"
            warning = f"Warning: {number} live under {layer.prefix} on this server, and will feel"
            err.print(Text(f"{warning} the load.", style="yellow"))
        out.say()
        try:
            with _progress(err, contest.turns) as progress:
                result = await _while_linked(ours, contest.run(progress))
            report = Report(session.alias, server, prefix, at, others, settings, contenders, result)
            if out.as_json:
                out.json(report.as_json())
            else:
                report.show(out)
        finally:
            await _close(contenders)
        return FOUND if result.lost(ours.name) else FINE


def _checked(options: dict[str, Any]) -> tuple[int, int, float]:
    clients, groups, seconds = options["clients"], options["groups"], options["seconds"]
    if not 1 <= clients <= MOST_CLIENTS:
        raise Refusal(f"--clients must be from 1 to {MOST_CLIENTS:,}, not {clients}", WRONG_USAGE)
    if not 1 <= groups <= clients:
        raise Refusal(
            f"--groups must be from 1 to the number of --clients, {clients:,}, not {groups}",
            WRONG_USAGE,
        )
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:  # neither is NaN
        raise Refusal(
            f"--seconds must be from {LEAST_SECONDS:g} to {MOST_SECONDS:g}, not {seconds:g}",
            WRONG_USAGE,
        )
    return clients, groups, seconds


def _announcement(
    alias: str, server: str, prefix: str, settings: Settings, contenders: Sequence[Contender]
) -> Iterator[str]:
    total = settings.seconds * len(contenders)
    against = f" against {contenders[1].name}" if len(contenders) > 1 else ""
    yield f'Measuring the layer "{alias}"{against} on {server}, for about {total:g} s.'
    clients = "1 client" if settings.clients == 1 else f"{settings.clients:,} clients"
    groups = "1 group" if settings.groups == 1 else f"{settings.groups:,} groups"
    yield (
        f"{clients} in {groups}, up to {settings.burst} calls at once, under the prefix {prefix}: "
        "nobody else hears them."
    )


def _server(layer: MpxChannelLayer) -> str:
    """Where the server is, or the servers or a cluster's seeds are, without credentials."""
    return ", ".join(
        host.url if host.url.startswith(("embedded:", "embedded+cluster:")) else str(host.node())
        for host in layer.config.parsed_hosts
    )


async def _other_processes(layer: MpxChannelLayer) -> int | None:
    """How many live under the project's prefix; None if we may not know."""
    try:
        stats = await layer.fleet_stats(groups=1)
    except CommandRefused:
        return None
    return sum(process.process_id != layer.process_id for process in stats.processes)


@contextmanager
def _progress(err: Console, turns: int) -> Iterator[Callable[[str], None]]:
    """Shows a bar on a terminal; without a thread, which would take part in the measurement."""
    if not err.is_terminal:
        yield lambda what: None
        return
    columns = (BarColumn(30), TextColumn("{task.percentage:>3.0f}%  {task.description}"))
    with Progress(*columns, console=err, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("connecting", total=turns + 1)
        progress.refresh()

        def advance(what: str) -> None:
            progress.update(task, advance=1, description=what, refresh=True)

        yield advance


async def _while_linked(ours: Ours, work: Coroutine[Any, Any, T]) -> T:
    """Do it, for as long as the link to the server stands; raises `Refusal` if it breaks."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(ours.lost())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done() and working.exception() is not None:
            await asyncio.wait({watching}, timeout=NEWS)
        if watching.done():
            raise Refusal(
                f"the link to the server broke while it was measured: {watching.result()}"
            )
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait({working, watching}, timeout=CLEANING)
        for task in (working, watching):
            if task.done() and not task.cancelled():
                task.exception()  # was said, or is no news


async def _close(contenders: Sequence[Contender]) -> None:
    """Leave nothing behind, as far as the server still lets us."""
    closing = [asyncio.create_task(contender.close()) for contender in contenders]
    done, _ = await asyncio.wait(closing, timeout=CLEANING)
    for task in closing:
        task.cancel()
    for task in done:
        if not task.cancelled():
            task.exception()
