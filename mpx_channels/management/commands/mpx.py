"""`manage.py mpx`: see, check and try a channel layer."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import difflib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.core.management.base import BaseCommand, CommandError, CommandParser

from mpx_channels import __version__
from mpx_channels.diagnostics import subcommands
from mpx_channels.diagnostics.output import Output
from mpx_channels.diagnostics.session import NotOurs, Session
from mpx_channels.diagnostics.subcommand import FINE, FOUND, WRONG_USAGE, Refusal, Subcommand
from mpx_channels.multiplexer import MpxError
from mpx_channels.multiplexer.exceptions import describe

# A shell's own exit code for a program that SIGTERM ended.
TERMINATED = 143


class Command(BaseCommand):
    """Reads the command line, and leaves the rest to the subcommand."""

    help = "See, check and try a channel layer of mpx-channels."
    # What is wrong in the settings is for `mpx doctor` to say.
    requires_system_checks: list[str] = []

    def get_version(self) -> str:
        """What ``--version`` prints: not Django's."""
        return f"mpx-channels {__version__}"

    def add_arguments(self, parser: CommandParser) -> None:
        """One parser for each subcommand; without one, the list of them is shown."""
        parser.set_defaults(run=None, show_help=parser.format_help)
        chosen = parser.add_subparsers(dest="subcommand", metavar="subcommand", title="subcommands")
        for subcommand in subcommands():
            sub = chosen.add_parser(
                subcommand.name, help=subcommand.help, description=subcommand.help
            )
            self._add_common_arguments(sub)
            subcommand.add_arguments(sub)
            sub.set_defaults(run=subcommand)
        chosen.choices = Choices(chosen.choices or {})

    def _add_common_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--layer", default="default", metavar="ALIAS", help="which of CHANNEL_LAYERS"
        )
        parser.add_argument("--json", action="store_true", help="JSON, for machines")
        # Django's own, which would otherwise have to come before the subcommand.
        for option in ("--settings", "--pythonpath"):
            parser.add_argument(option, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        parser.add_argument(
            "-v", "--verbosity", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        for option in ("--traceback", "--no-color", "--force-color"):
            parser.add_argument(
                option, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand; its exit code becomes the process'.

        From Python, `call_command` raises `CommandError` for what goes wrong, and `SystemExit` for
        other exit codes than 0.
        """
        subcommand: Subcommand | None = options["run"]
        if subcommand is None:
            try:
                self.stdout.write(options["show_help"]())
                self.stdout.flush()
            except BrokenPipeError:
                _write_no_more()
            return
        _require_no_running_loop()
        code = FINE
        try:
            code = self._run(subcommand, options)
        except NotOurs as error:
            raise CommandError(_sentence(error), returncode=WRONG_USAGE) from error
        except Refusal as error:
            raise CommandError(_sentence(error), returncode=error.code) from error
        except MpxError as error:
            raise CommandError(_sentence(error), returncode=FOUND) from error
        except Terminated:
            code = TERMINATED
        except KeyboardInterrupt:
            code = subcommand.interrupted
        except BrokenPipeError:
            # Such as `| head`: who read has enough.
            _write_no_more()
        except OSError as error:
            # Such as a disk that is full.
            _write_no_more()
            raise CommandError(_sentence(error), returncode=FOUND) from error
        if code != FINE:
            sys.exit(code)

    def _run(self, subcommand: Subcommand, options: dict[str, Any]) -> int:
        out = Output(
            options.get("stdout"),
            errors=options.get("stderr"),
            as_json=options["json"],
            color=False if options["no_color"] else True if options["force_color"] else None,
        )
        session = Session(options["layer"], out.note)
        with _quiet(options["verbosity"] < 2):
            return asyncio.run(_run(subcommand, session, out, options))


class Choices(dict[str, Any]):
    """The subcommands as argparse asks for them: what is none is told what is like it."""

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        near = difflib.get_close_matches(str(name), self, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self)}"
        # The name may be what an option had as its value.
        after = "" if near else "; options such as --layer come after it"
        raise argparse.ArgumentError(None, f"no subcommand {name!r}: {meant}{after}")


def _write_no_more() -> None:
    """Python would complain of what it has not flushed yet when it ends."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _run(
    subcommand: Subcommand, session: Session, out: Output, options: dict[str, Any]
) -> int:
    with _terminated_like_interrupted():
        try:
            return await subcommand.run(session, out, options)
        finally:
            await session.close()


class Terminated(BaseException):
    """SIGTERM ended the subcommand."""


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Have SIGTERM end the task as Ctrl-C does, so that it leaves the terminal as it was."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    try:
        if ours:
            with contextlib.suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(signal.SIGTERM, terminate)
        yield
    except asyncio.CancelledError:
        if terminated:
            raise Terminated from None
        raise
    finally:
        if ours:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(signal.SIGTERM)


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """What fails is said in a sentence; Python would print our warnings, too.

    It does so where no logging is set up. Where it is, they go there all the same.
    """
    logger, handler = logging.getLogger("mpx_channels"), logging.NullHandler()
    if quiet:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _require_no_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SynchronousOnlyOperation(
        "manage.py mpx runs an event loop of its own, so it cannot be called from one: use "
        "await asyncio.to_thread(call_command, 'mpx', ...), or the layer's own methods"
    )


def _sentence(error: Exception) -> str:
    """What went wrong, in a line."""
    return " ".join(describe(error).split())
