"""Check of who else uses the same server: other prefixes of ours, and channels_redis."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from .examination import Check, Server, ServerCheck
from .findings import Finding, Level, info, ok, warning
from .nodes import REACHED

__all__ = ["CHECKS"]

# Steps of SCAN, and keys looked at in each: a large server must not be kept busy.
STEPS, KEYS_PER_STEP = 100, 1000

# A process of ours: the control channel's name, its id, pid and host (see channels/names.py).
PROCESS = re.compile(r"(.*):c:[0-9a-f]{16}:\d+:")
# What channels_redis 4 makes of its prefix, by the source of its two layers: sorted sets for
# groups and for a process' channels; Redis channels for both with its Pub/Sub layer.
KEYS = (
    re.compile(r"(.*):group:[\w.-]+$", re.ASCII),
    re.compile(r"(.*?)specific\.[0-9a-f]{32}!"),
)
CHANNELS = (
    re.compile(r"(.*)__group__[\w.-]+$", re.ASCII),
    re.compile(r"(.*?)specific\.[0-9a-f]{32}$"),
)


async def check_neighbours(server: Server) -> list[Finding]:
    """Who is there by Redis' channels, and by its keys."""
    prefix = server.config.prefix
    ours = _prefixes([PROCESS], await _channels(server, "*:c:*"))
    listening = _prefixes(
        CHANNELS,
        [*await _channels(server, "*__group__*"), *await _channels(server, "*specific.*")],
    )
    keys, complete = await _sorted_sets(server)
    left = _prefixes(KEYS, keys)
    findings = []
    others = {name: count for name, count in ours.items() if name != prefix}
    if others:
        findings.append(
            info(
                f"other prefixes of mpx_channels: {_listed(others, 'process', 'processes')}",
                "Prefixes never hear each other, but share the server's memory and processor.",
                "If they are the same project, give them the same prefix in CONFIG.",
            )
        )
    for what, counts, unit in (
        ("processes that use channels_redis now", listening, ("channel", "channels")),
        ("keys of channels_redis", left, ("key", "keys")),
    ):
        if prefix in counts:
            findings.append(
                warning(
                    f"{what} with this prefix: {_listed({prefix: counts[prefix]}, *unit)}",
                    "Processes with channels_redis and with mpx_channels do not hear each other, "
                    "so a project must not run both for one layer.",
                    "Restart what still runs channels_redis. Its keys expire by themselves "
                    f"(group_expiry, a day): or redis-cli --scan --pattern '{prefix}:group:*' | "
                    "xargs redis-cli UNLINK.",
                )
            )
        rest = {name: count for name, count in counts.items() if name != prefix}
        if rest:
            findings.append(
                info(
                    f"{what} with other prefixes: {_listed(rest, *unit)}",
                    "They do not disturb this layer; they share the server.",
                    "Nothing, if they are somebody else's.",
                )
            )
    if not findings:
        findings.append(ok("no other prefix has processes or keys here"))
    if not complete:
        findings.append(
            Finding(Level.INFO, f"only some {STEPS * KEYS_PER_STEP:,} of its keys were looked at")
        )
    return findings


async def _channels(server: Server, pattern: str) -> list[str]:
    names = await server.probe.ask("+pubsub|channels", "PUBSUB", "CHANNELS", pattern)
    return [_text(name) for name in names]


async def _sorted_sets(server: Server) -> tuple[list[str], bool]:
    """Names of sorted sets, and whether those are all."""
    found: list[str] = []
    cursor: Any = "0"
    for _ in range(STEPS):
        words = ("SCAN", cursor, "COUNT", str(KEYS_PER_STEP), "TYPE", "zset")
        cursor, keys = await server.probe.ask("+scan", *words)
        found += map(_text, keys)
        if _text(cursor) == "0":
            return list(dict.fromkeys(found)), True
    return list(dict.fromkeys(found)), False


def _prefixes(patterns: Iterable[re.Pattern[str]], names: Iterable[str]) -> dict[str, int]:
    """How many of the names each prefix has."""
    matches = (match for name in names for each in patterns if (match := each.match(name)))
    return dict(Counter(match[1] for match in matches).most_common())


def _listed(counts: dict[str, int], one: str, many: str) -> str:
    return ", ".join(
        f"{name!r} ({count:,} {one if count == 1 else many})" for name, count in counts.items()
    )


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


CHECKS: tuple[Check, ...] = (
    ServerCheck(
        "neighbours",
        "Neighbours",
        "Who else uses the server takes from its memory and its time.",
        REACHED,
        run=check_neighbours,
    ),
)
