"""`mpx top`: what `mpx status` shows, live."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.live import Live

from mpx_channels.layer import MpxChannelLayer, MpxError

from .board import Board, View
from .columns import COLUMNS
from .output import Output
from .screen import draw
from .session import Session
from .snapshot import Snapshot, look
from .status import add_groups_argument, number_of_groups
from .subcommand import FINE, WRONG_USAGE, Refusal, Subcommand

__all__ = ["Top"]

# Seconds between two looks; oftener than the shortest is a load for all processes.
INTERVAL, SHORTEST_INTERVAL, LONGEST_INTERVAL = 1.0, 0.1, 60.0
# Seconds that one look may take: the processes have one, and Redis' keys.
PATIENCE = 4.0
# Seconds of them to connect again.
CONNECTING = 1.0
# Seconds between two looks at the queues, for which Redis has to walk over its keys.
QUEUES_EVERY = 5.0
# A shell's exit code for what a signal ended.
SIGNALLED = 128


class Top(Subcommand):
    """Asks all processes, again and again."""

    name = "top"
    help = "Watch the processes, the busiest groups and the queues, live."
    interrupted = FINE

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--interval",
            type=float,
            default=INTERVAL,
            metavar="S",
            help="seconds between looks (1)",
        )
        parser.add_argument("--limit", type=int, metavar="N", help="end after so many looks")
        parser.add_argument(
            "--sort",
            default="in/s",
            choices=[column.head for column in COLUMNS],
            metavar="COLUMN",
            help="the column to sort by at first (in/s)",
        )
        add_groups_argument(parser)

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        interval, limit = options["interval"], options["limit"]
        if not SHORTEST_INTERVAL <= interval <= LONGEST_INTERVAL:
            raise Refusal(
                f"--interval must be from {SHORTEST_INTERVAL} to {LONGEST_INTERVAL:g} seconds, "
                f"not {interval:g}",
                WRONG_USAGE,
            )
        if limit is not None and limit < 1:
            raise Refusal(f"--limit must be 1 or more, not {limit}", WRONG_USAGE)
        groups = number_of_groups(options)
        if not out.as_json and not _on_a_terminal(out):
            raise Refusal(
                "mpx top needs a terminal: with --json it prints an object a line anywhere, "
                "and mpx status prints one table",
                WRONG_USAGE,
            )
        watch = Watch(session, await session.connect(), interval, limit, groups)
        if out.as_json:
            return await watch.as_json(out)
        return await watch.on_terminal(out, View(options["sort"]))


def _on_a_terminal(out: Output) -> bool:
    try:
        both = sys.stdin.isatty() and os.isatty(out.console.file.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return both and not out.console.is_dumb_terminal


class Watch:
    """One run: looks every ``interval`` seconds, ``limit`` times or for ever."""

    def __init__(
        self,
        session: Session,
        layer: MpxChannelLayer,
        interval: float,
        limit: int | None,
        groups: int,
    ) -> None:
        self._session = session
        self._layer = layer
        self._interval = interval
        self._limit = limit
        self._groups = groups
        self._last: Snapshot | None = None
        self._queues_at = float("-inf")

    async def each(
        self, told: Callable[[Snapshot], object], failed: Callable[[str], object]
    ) -> None:
        """Look, and tell of each look, or why there is none."""
        loop = asyncio.get_running_loop()
        looks = 0
        while True:
            due = loop.time() + self._interval
            try:
                async with asyncio.timeout(PATIENCE):
                    snapshot = await self._look()
            except TimeoutError:
                failed(f"nothing came back in {PATIENCE:g} s")
            except MpxError as error:
                failed(str(error))
            else:
                told(snapshot)
                looks += 1
                if looks == self._limit:
                    return
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _look(self) -> Snapshot:
        # Says soon, and why, when there is no connection.
        await self._session.stay_connected(min(self._interval, CONNECTING))
        last, now = self._last, time.monotonic()
        queues = last is None or now - self._queues_at >= QUEUES_EVERY
        snapshot = await look(self._layer, last, groups=self._groups, queues=queues)
        if queues:
            self._queues_at = now
        elif last is not None:
            snapshot = snapshot.with_queues_of(last)
        self._last = snapshot
        return snapshot

    # -- for machines -------------------------------------------------------------------------

    async def as_json(self, out: Output) -> int:
        """An object a line; while there is nothing to tell, that is said on stderr, once."""
        self._last = await look(self._layer, groups=0, queues=False)
        self._queues_at = float("-inf")
        away = False

        def told(snapshot: Snapshot) -> None:
            nonlocal away
            away = False
            out.json(snapshot.as_json(), lines=True)

        def failed(error: str) -> None:
            nonlocal away
            if not away:
                out.note(error)
            away = True

        await asyncio.sleep(self._interval)
        await self.each(told, failed)
        return FINE

    # -- for people ---------------------------------------------------------------------------

    async def on_terminal(self, out: Output, view: View) -> int:
        """The screen, until somebody leaves; the terminal is as it was then."""
        try:
            from .keys import END_OF_INPUT, Keyboard
        except ImportError:  # Windows has no termios
            raise Refusal("mpx top needs a POSIX terminal: use --json", WRONG_USAGE) from None
        board = Board(samples=max(2, round(60 / self._interval)))
        display = Display(out, board, view)
        leaving: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def leave(code: int) -> None:
            if not leaving.done():
                leaving.set_result(code)

        def on_keys(keys: list[str]) -> None:
            for key in keys:
                if key in ("q", "Q"):
                    leave(FINE)
                elif key == END_OF_INPUT:
                    leave(SIGNALLED + signal.SIGHUP)
                else:
                    view.press(key)
            display.draw()

        def told(snapshot: Snapshot) -> None:
            board.update(snapshot, time.monotonic())
            display.draw()

        def failed(error: str) -> None:
            board.failed(error)
            display.draw()

        def suspend() -> None:
            display.stop()
            keyboard.__exit__()
            os.kill(os.getpid(), signal.SIGSTOP)
            # Later, when the shell has us go on.
            keyboard.__enter__()
            display.start()

        def end(number: int) -> Callable[[], None]:
            return lambda: leave(SIGNALLED + number)

        handlers = {
            signal.SIGTERM: end(signal.SIGTERM),
            signal.SIGHUP: end(signal.SIGHUP),
            signal.SIGWINCH: display.draw,
            signal.SIGTSTP: suspend,
        }
        keyboard = Keyboard(sys.stdin.fileno(), on_keys)
        with _quiet(), keyboard, _signals(handlers), display:
            watching = asyncio.ensure_future(self.each(told, failed))
            try:
                both: list[asyncio.Future[Any]] = [watching, leaving]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                watching.cancel()
                await asyncio.wait([watching])
        if not watching.cancelled():
            watching.result()
        return leaving.result() if leaving.done() else FINE


class Display:
    """The terminal's other screen, within ``with``; what was on the first comes back then."""

    def __init__(self, out: Output, board: Board, view: View) -> None:
        self._board, self._view = board, view
        self._fd = out.console.file.fileno()
        # Not as wide as $COLUMNS says, but as the terminal is now.
        self._console = Console(
            file=out.console.file,
            no_color=out.console.no_color,
            highlight=False,
            force_terminal=True,
        )
        self._ascii = "utf" not in self._console.encoding.lower()
        self._live: Live | None = None

    def __enter__(self) -> Display:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self.stop()

    def start(self) -> None:
        """Go to the other screen."""
        self._live = Live(
            self._drawn(),
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)

    def stop(self) -> None:
        """Go back."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def draw(self) -> None:
        """Draw it anew."""
        if self._live is not None:
            self._live.update(self._drawn(), refresh=True)

    def _drawn(self) -> Any:
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(self._fd)
            if size.columns and size.lines:
                self._console.size = (size.columns, size.lines)
        width, height = self._console.size
        return draw(self._board, self._view, width, height, ascii=self._ascii)


@contextlib.contextmanager
def _signals(handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No log of ours gets between the lines on the screen, which says the same."""
    logger = logging.getLogger("mpx_channels")
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = before
