"""`mpx listen`: messages as they pass, of a group, a channel, a pattern or the whole prefix."""

from __future__ import annotations

import asyncio
import base64
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from mpx_channels.layer import MpxChannelLayer, SubscriptionRefused, Tap, TapEvent, Tapped
from mpx_channels.multiplexer import escape_glob

from .output import Output
from .session import Session
from .streams import on_reader_gone
from .subcommand import FINE, Refusal, Subcommand, named, positive
from .values import as_json, as_text

__all__ = ["Listen"]

# After so many lines without a pause the event loop has its turn.
AT_ONCE = 50
# What cannot be read is shown up to here (bytes), on a line of its own in JSON in full.
PREVIEW = 200


class Listen(Subcommand):
    """Shows what a tap sees."""

    name = "listen"
    help = (
        "Show messages as they pass, decoded, until Ctrl-C. In a cluster with sharded Pub/Sub it "
        "looks for new names once a second, and misses what was sent to them before."
    )
    interrupted = FINE

    def add_arguments(self, parser: ArgumentParser) -> None:
        which = parser.add_mutually_exclusive_group()
        which.add_argument(
            "--group", action="append", metavar="G", help="messages to this group; repeatable"
        )
        which.add_argument(
            "--pattern", metavar="P", help="messages to groups that match, such as 'room-*'"
        )
        which.add_argument(
            "--channel",
            action="append",
            metavar="C",
            help="messages to this channel; of a plain one those that wait now; repeatable",
        )
        parser.add_argument(
            "--raw",
            action="store_true",
            help="data as it is; --pattern and --channel are names of Redis",
        )
        parser.add_argument(
            "--limit", type=positive, metavar="N", help="end after N messages with exit code 0"
        )

    async def run(self, session: Session, out: Output, options: dict[str, Any]) -> int:
        layer = await session.connect()
        queues, tap = _wanted(layer, options)
        shown = Shown(out, raw=options["raw"], limit=options["limit"])
        reading = asyncio.current_task()
        assert reading is not None
        gone = False

        def reader_gone() -> None:
            nonlocal gone
            gone = True
            reading.cancel()

        forget = on_reader_gone(out.file, reader_gone)
        try:
            for channel in queues:
                await self._peek(layer, channel, shown, out)
            if tap is not None and not shown.enough:
                await self._listen(layer, tap, shown, out, options)
        except asyncio.CancelledError:
            if gone:
                raise BrokenPipeError from None
            raise
        finally:
            forget()
        return FINE

    async def _peek(self, layer: MpxChannelLayer, channel: str, shown: Shown, out: Output) -> None:
        out.note(
            f"{channel} is a plain channel: these messages wait there now. A worker takes each of "
            "them away, so those to come cannot be listened to; `mpx status` shows how many wait.",
            "dim",
        )
        async for message in layer.peek(channel):
            await shown.message(message)
            if shown.enough:
                return

    async def _listen(
        self, layer: MpxChannelLayer, tap: Tap, shown: Shown, out: Output, options: dict[str, Any]
    ) -> None:
        try:
            await tap.__aenter__()
        except SubscriptionRefused as error:
            raise Refusal(f"{error}: {_allow(layer)}") from error
        try:
            out.note(f"Listening to {_what(layer, options)}; Ctrl-C ends it.", "dim")
            if _follows(layer, options):
                out.note(
                    "In a cluster these are the names that a process listens to; of a new one, "
                    "what comes in its first second may be missed.",
                    "dim",
                )
            async for passing in tap:
                if isinstance(passing, TapEvent):
                    await shown.event(passing)
                else:
                    await shown.message(passing)
                if shown.enough:
                    return
        finally:
            await tap.__aexit__()


class Shown:
    """What was shown: it counts."""

    def __init__(self, out: Output, *, raw: bool, limit: int | None) -> None:
        self._out = out
        self._raw = raw
        self._left = limit
        self._lines = 0

    @property
    def enough(self) -> bool:
        return self._left is not None and self._left <= 0

    async def message(self, message: Tapped) -> None:
        """Show a message."""
        if self._out.as_json:
            await self._out.json_line(message_as_json(message, raw=self._raw))
        else:
            await self._out.line(*message_line(message, raw=self._raw))
        if self._left is not None:
            self._left -= 1
        self._lines += 1
        if self._lines % AT_ONCE == 0:
            await asyncio.sleep(0)

    async def event(self, event: TapEvent) -> None:
        """Say what happened between two messages."""
        match event.event:
            case "disconnected":
                reason = event.reason.rstrip(".")
                text = f"Lost the connection: {reason}; messages may be missed until it is back"
                style = "red"
            case "connected":
                text, style = "Connected again", "green"
            case _:
                what = (
                    "1 message was" if event.messages == 1 else f"{event.messages:,} messages were"
                )
                text, style = f"{what} dropped: they came faster than they could be shown", "yellow"
        self._out.note(f"{_clock(event.at)}  {text}.", style)
        if self._out.as_json:
            value: dict[str, Any] = {"event": event.event, "at": event.at}
            if event.event == "disconnected":
                value["reason"] = event.reason
            elif event.event == "dropped":
                value["messages"] = event.messages
            await self._out.json_line(value)


def message_line(message: Tapped, *, raw: bool) -> list[tuple[str, str | None]]:
    """The parts of the line for a message."""
    where: list[tuple[str, str | None]] = [
        (_clock(message.at), "dim"),
        (f"{message.kind} {message.name}", "cyan"),
    ]
    size: tuple[str, str | None] = (f"{len(message.data):,} B", "dim")
    if raw or message.kind == "raw":
        return [*where, (as_text(message.data), None), size]
    if message.error:
        preview = as_text(message.data[:PREVIEW]) + ("..." if len(message.data) > PREVIEW else "")
        return [*where, (f"unreadable: {message.error}", "red"), (preview, "dim"), size]
    content: Any = message.message
    if isinstance(content, dict) and isinstance(content.get("type"), str):
        content = dict(content)
        where.append((content.pop("type"), "bold green"))
    parts = [*where, (as_json(content), "json"), size]
    if message.exclude:
        parts.append((f"not to {', '.join(message.exclude)}", "yellow"))
    if message.expires is not None:
        parts.append((f"expires at {_clock(message.expires)}", "dim"))
    return parts


def message_as_json(message: Tapped, *, raw: bool) -> dict[str, Any]:
    """What ``--json`` prints for a message."""
    value: dict[str, Any] = {
        "event": "message",
        "at": message.at,
        "kind": message.kind,
        "name": message.name,
        "size": len(message.data),
    }
    if message.expires is not None:
        value["expires"] = message.expires
    if raw or message.kind == "raw" or message.error:
        if message.error and not raw:
            value["error"] = message.error
        try:
            value.update(data=message.data.decode(), encoding="utf-8")
        except UnicodeDecodeError:
            value.update(data=base64.b64encode(message.data).decode(), encoding="base64")
        return value
    value["message"] = message.message
    if message.exclude:
        value["exclude"] = list(message.exclude)
    return value


def _wanted(layer: MpxChannelLayer, options: dict[str, Any]) -> tuple[list[str], Tap | None]:
    """The plain channels to peek into, and the tap for all else."""
    _require_valid(layer, options)
    groups, pattern, channels = options["group"], options["pattern"], options["channel"]
    if groups:
        return [], layer.tap(groups=groups)
    if options["raw"]:
        if channels:
            return [], layer.tap(channels=channels)
        return [], layer.tap(patterns=[pattern or f"{escape_glob(layer.prefix)}:*"])
    if pattern:
        return [], layer.tap(group_patterns=[pattern])
    if channels:
        plain = [channel for channel in channels if "!" not in channel]
        local = [channel for channel in channels if "!" in channel]
        return plain, layer.tap(local_channels=local) if local else None
    return [], layer.tap(everything=True)


def _require_valid(layer: MpxChannelLayer, options: dict[str, Any]) -> None:
    raw, pattern = options["raw"], options["pattern"]

    def of_channels(name: str) -> object:
        return layer.tap(channels=[name]) if raw else layer.require_valid_channel_name(name)

    def of_pattern(name: str) -> object:
        return layer.tap(patterns=[name]) if raw else layer.tap(group_patterns=[name])

    checks: tuple[tuple[Iterable[str], Callable[[str], object]], ...] = (
        (options["group"] or (), layer.require_valid_group_name),
        (() if pattern is None else (pattern,), of_pattern),
        (options["channel"] or (), of_channels),
    )
    for names, require in checks:
        for name in names:
            try:
                require(name)
            except (TypeError, ValueError) as error:
                raise named(name, error) from error


def _what(layer: MpxChannelLayer, options: dict[str, Any]) -> str:
    if options["group"]:
        return f"the group{'s' * (len(options['group']) > 1)} {', '.join(options['group'])}"
    of_redis = " of Redis" if options["raw"] else ""
    if options["pattern"]:
        return f"{'channels' if of_redis else 'groups'}{of_redis} that match {options['pattern']}"
    if options["channel"]:
        channels = [each for each in options["channel"] if of_redis or "!" in each]
        return f"the channel{'s' * (len(channels) > 1)}{of_redis} {', '.join(channels)}"
    if of_redis:
        return f"all channels of Redis that begin with {layer.prefix}:"
    return f"all groups, channels of processes and promises of {layer.prefix}"


def _sharded(layer: MpxChannelLayer) -> bool:
    return layer.config.cluster and layer.config.sharded_pubsub


def _follows(layer: MpxChannelLayer, options: dict[str, Any]) -> bool:
    """Whether names are looked for, as there are no patterns."""
    return _sharded(layer) and not (options["group"] or options["channel"])


def _allow(layer: MpxChannelLayer) -> str:
    """What a user of Redis needs."""
    if _sharded(layer):
        return (
            "let the user of Redis have the commands SSUBSCRIBE and PUBSUB SHARDCHANNELS, and the "
            "names (ACL SETUSER ... +ssubscribe +pubsub|shardchannels &NAMES)"
        )
    return (
        "let the user of Redis have this pattern word for word (ACL SETUSER ... &PATTERN) and the "
        "command PSUBSCRIBE"
    )


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S.%f")[:-3]
