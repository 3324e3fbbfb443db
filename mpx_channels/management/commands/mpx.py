"""`manage.py mpx`: see, check and try a channel layer."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from mpx_channels.diagnostics import subcommands
from mpx_channels.diagnostics.output import Output
from mpx_channels.diagnostics.session import NotOurs, Session
from mpx_channels.diagnostics.subcommand import FINE, WRONG_USAGE, Refusal, Subcommand
from mpx_channels.multiplexer import MpxError


class Command(BaseCommand):
    """Reads the command line, and leaves the rest to the subcommand."""

    help = "See, check and try a channel layer of mpx-channels."
    # What is wrong in the settings is for `mpx doctor` to say.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """One parser for each subcommand."""
        chosen = parser.add_subparsers(
            dest="subcommand", metavar="subcommand", required=True, title="subcommands"
        )
        for subcommand in subcommands():
            sub = chosen.add_parser(
                subcommand.name, help=subcommand.help, description=subcommand.help
            )
            self._add_common_arguments(sub)
            subcommand.add_arguments(sub)
            sub.set_defaults(run=subcommand)

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
        """Run the subcommand; its exit code becomes the process'."""
        if options["verbosity"] < 2:
            # What fails is said in a sentence. Python would print our warnings, too, where no
            # logging is set up; where it is, they go there.
            logging.getLogger("mpx_channels").addHandler(logging.NullHandler())
        subcommand: Subcommand = options["run"]
        out = Output(
            options.get("stdout") or sys.stdout,
            as_json=options["json"],
            color=False if options["no_color"] else True if options["force_color"] else None,
        )
        code = FINE
        try:
            session = Session(options["layer"])
            code = asyncio.run(_run(subcommand, session, out, options))
        except NotOurs as error:
            raise CommandError(_sentence(error), returncode=WRONG_USAGE) from error
        except Refusal as error:
            raise CommandError(_sentence(error), returncode=error.code) from error
        except MpxError as error:
            raise CommandError(_sentence(error), returncode=1) from error
        except KeyboardInterrupt:
            code = subcommand.interrupted
        except BrokenPipeError:
            # Such as `| head`: who read has enough. Python would complain when it flushes.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code != FINE:
            sys.exit(code)


async def _run(
    subcommand: Subcommand, session: Session, out: Output, options: dict[str, Any]
) -> int:
    try:
        return await subcommand.run(session, out, options)
    finally:
        await session.close()


def _sentence(error: Exception) -> str:
    return str(error) or type(error).__name__
