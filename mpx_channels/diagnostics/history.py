"""`mpx history`: the messages that a group has had."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from mpx_channels.layer import History as Found

from .output import Output
from .session import Session
from .subcommand import FINE, WRONG_USAGE, Refusal, Subcommand, named, positive
from .values import as_json

__all__ = ["History"]


class History(Subcommand):
    """Shows the history of a group."""

    name = "history"
    help = "Show the last messages of a group that keeps a history."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("target", metavar="GROUP", help="the group's name")
        parser.add_argument(
            "--since", metavar="POSITION", help="the first messages behind this position"
        )
        parser.add_argument(
            "--limit", type=positive, default=50, metavar="N", help="at most so many (50)"
        )

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        group, since = options["target"], options["since"]
        layer = await session.connect()
        try:
            found: Found = await layer.group_history(group, since, options["limit"])
        except TypeError as error:
            raise named(group, error) from error
        except ValueError as error:
            raise Refusal(str(error), WRONG_USAGE) from error
        if out.as_json:
            out.json(
                {
                    "group": group,
                    "messages": list(found.messages),
                    "position": found.position,
                    "complete": found.complete,
                }
            )
            return FINE
        for message in found.messages:
            position = message.pop("mpx_position")
            await out.line((position, "dim"), (as_json(message), "json"))
        start = "the beginning" if since is None else since
        if not found.complete:
            out.note(f"Between {start} and these, messages are missing.", "dim")
        if not found.messages:
            out.note("There are none.", "dim")
        out.note(f"The next are those behind {found.position}.", "dim")
        return FINE
