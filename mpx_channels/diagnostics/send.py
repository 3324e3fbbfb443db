"""`mpx send`, `mpx resolve` and `mpx request`: try things from a shell."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import ArgumentParser
from typing import Any

from channels.exceptions import ChannelFull

from mpx_channels.layer import (
    MessageTooLarge,
    RequestFailed,
    RequestTimeout,
    UnserializableMessage,
)

from .handlers import unhandled
from .output import Output
from .session import Session
from .streams import read_all
from .subcommand import FINE, FOUND, WRONG_USAGE, Refusal, Subcommand, named, seconds
from .values import milliseconds

__all__ = ["Request", "Resolve", "Send"]

# What the layer says of a name or a message that cannot be sent.
BAD_INPUT = (TypeError, UnserializableMessage, MessageTooLarge)
# So much of a message is repeated in an error.
QUOTED = 200


class Send(Subcommand):
    """Sends one message to a group or a channel."""

    name = "send"
    help = (
        "Send a message to a group or a channel. A consumer without a handler for its type fails, "
        "and its browser's connection ends."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "target", metavar="GROUP_OR_CHANNEL", help="a name with ! is a channel, else a group"
        )
        parser.add_argument(
            "message",
            metavar="JSON",
            help='an object such as {"type": "chat.message"}; - reads it from stdin',
        )
        parser.add_argument(
            "--channel", action="store_true", help="the name is a plain channel, not a group"
        )
        _add_force(parser)

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        target, message = options["target"], await _event(options["message"], out)
        to_channel = options["channel"] or "!" in target
        if not options["force"]:
            await _require_handler(message, "each consumer that gets the message would end")
        layer = await session.connect()
        try:
            if to_channel:
                processes = await layer.send_counted(target, message)
            else:
                processes = await layer.group_send_counted(target, message)
        except BAD_INPUT as error:
            raise named(target, error) from error
        except ChannelFull as error:
            raise Refusal(str(error)) from error
        if out.as_json:
            kind = "channel" if to_channel else "group"
            out.json({"sent_to": target, "kind": kind, "processes": processes})
        elif processes is None:
            out.say(f"In the queue of the plain channel {target}, for whichever worker reads it.")
        elif not to_channel:
            out.say(f"Sent to the group {target}: {_count(processes)} received it.")
        elif processes:
            out.say(f"Sent to the channel {target}: its process received it.")
        else:
            out.say(f"No process has the channel {target} any more: nobody received it.")
        return FOUND if to_channel and processes == 0 else FINE


class Resolve(Subcommand):
    """Settles the promises on a name."""

    name = "resolve"
    help = "Settle a promise: give everybody who waits for it a value."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("target", metavar="NAME", help="the promise's name")
        parser.add_argument("value", metavar="JSON", help="any JSON value; - reads it from stdin")

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        name, value = options["target"], await _json(options["value"], out)
        layer = await session.connect()
        try:
            waiting = await layer.resolve(name, value)
        except BAD_INPUT as error:
            raise named(name, error) from error
        if out.as_json:
            out.json({"promise": name, "resolved": waiting})
        elif waiting:
            out.say(f"Settled the promise {name}: {waiting} waited for it.")
        else:
            out.say(f"Nobody waits for the promise {name}: the value reached nobody.")
        return FINE if waiting else FOUND


class Request(Subcommand):
    """Sends a message to a channel and shows the answer."""

    name = "request"
    help = (
        "Send a message to a channel and wait for its consumer's answer. A consumer without a "
        "handler for its type fails, and its browser's connection ends."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "target", metavar="CHANNEL", help="the channel's name, which has a ! in it"
        )
        parser.add_argument(
            "message",
            metavar="JSON",
            help='an object such as {"type": "who.are.you"}; - reads it from stdin',
        )
        parser.add_argument(
            "--timeout", type=seconds, default=10.0, metavar="S", help="seconds to wait (10)"
        )
        parser.add_argument(
            "--channel", action="store_true", help="the name is a plain channel, of workers"
        )
        _add_force(parser)

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        channel, message = options["target"], await _event(options["message"], out)
        if "!" not in channel and not options["channel"]:
            raise Refusal(
                f"{channel!r} has no ! in it, so it is a group, which cannot be asked, or a plain "
                "channel, where the question would wait for a worker: --channel means the latter",
                WRONG_USAGE,
            )
        if not options["force"]:
            await _require_handler(message, "the consumer that gets the message would end")
        layer = await session.connect()
        started = time.perf_counter()
        try:
            answer = await layer.request(channel, message, options["timeout"])
        except RequestTimeout as error:
            waits = "" if "!" in channel else "; the question may still wait there for a worker"
            raise Refusal(f"{error}{waits}") from error
        except (RequestFailed, ChannelFull) as error:
            raise Refusal(str(error)) from error
        except (*BAD_INPUT, ValueError) as error:
            raise named(channel, error) from error
        took = time.perf_counter() - started
        if out.as_json:
            out.json({"channel": channel, "answer": answer, "seconds": took})
        else:
            out.pretty(answer)
            out.say(f"answered in {milliseconds(took)}", "dim")
        return FINE


def _add_force(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="also if no consumer has a handler for the type"
    )


async def _require_handler(message: dict[str, Any], otherwise: str) -> None:
    """Refuse a message that no consumer of the project can handle, as far as that is known."""
    # In a thread: what the project imports may refuse to be used on an event loop.
    reason = await asyncio.to_thread(unhandled, message["type"])
    if reason is not None:
        raise Refusal(f"{reason}, so {otherwise}; --force sends it", WRONG_USAGE)


async def _json(text: str, out: Output) -> Any:
    if text == "-":
        if sys.stdin.isatty():
            out.note("Type the JSON; Ctrl-D on an empty line ends it.", "dim")
        try:
            text = await read_all(sys.stdin)
        except UnicodeDecodeError as error:
            raise Refusal(f"what stdin has is not JSON: {error}", WRONG_USAGE) from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{_quoted(text)} is not JSON: {error}", WRONG_USAGE) from None


async def _event(text: str, out: Output) -> dict[str, Any]:
    event = await _json(text, out)
    if not isinstance(event, dict):
        raise Refusal(f"a message is a JSON object, not {_quoted(json.dumps(event))}", WRONG_USAGE)
    if not (isinstance(event.get("type"), str) and event["type"]):
        raise Refusal(
            'a message needs a "type", which names its handler: consumers fail without, as in '
            f'{{"type": "chat.message", ...}}; got {_quoted(json.dumps(event))}',
            WRONG_USAGE,
        )
    return event


def _quoted(text: str) -> str:
    """A text in an error: in a line, and no longer than people read."""
    text = text.strip()
    return repr(text if len(text) <= QUOTED else f"{text[:QUOTED]}...")


def _count(number: int) -> str:
    return "no process" if not number else "1 process" if number == 1 else f"{number} processes"
