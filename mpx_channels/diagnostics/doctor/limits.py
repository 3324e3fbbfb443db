"""Checks of the server's limits: those that cut off subscribers, or throw messages away."""

from __future__ import annotations

import contextlib

from .examination import Check, Server, ServerCheck
from .findings import Finding, info, ok, problem, skipped, warning
from .nodes import REACHED
from .probe import Forbidden

__all__ = ["CHECKS"]

# Largest messages that should fit into a subscriber's buffer at once, and for a while.
AT_ONCE, FOR_A_WHILE = 8, 2
# Parts of maxclients in use, and of maxmemory.
MANY, TOO_MANY = 0.75, 0.9


async def check_output_buffer(server: Server) -> list[Finding]:
    """What Redis keeps for a subscriber that does not read as fast as others publish."""
    text = await server.setting("client-output-buffer-limit")
    words = (text or "").split()
    if "pubsub" not in words:
        return [_not_told("client-output-buffer-limit for Pub/Sub")]
    at = words.index("pubsub")
    hard, soft, seconds = (int(word) for word in words[at + 1 : at + 4])
    largest = server.config.max_message_size
    found = (
        f"pubsub {_limit(hard)} at once, {_limit(soft)} for {seconds} s; "
        f"max_message_size is {_bytes(largest)}"
    )
    if hard == soft == 0:
        return [
            info(
                f"pubsub without a limit; max_message_size is {_bytes(largest)}",
                "A subscriber that hangs makes the server's memory grow until there is none left.",
                f"CONFIG SET client-output-buffer-limit 'pubsub {_mb(AT_ONCE * largest)}mb "
                f"{_mb(FOR_A_WHILE * largest)}mb 60' (and in redis.conf)",
            )
        ]
    todo = (
        f"CONFIG SET client-output-buffer-limit 'pubsub {_mb(AT_ONCE * largest)}mb "
        f"{_mb(FOR_A_WHILE * largest)}mb 60' (and in redis.conf), or a lower max_message_size."
    )
    why = (
        "The server disconnects a subscriber that has so much unread: a larger burst cuts off all "
        "processes with members in that group, and what was on its way to them is lost."
    )
    if 0 < hard < largest or (0 < soft < largest and seconds == 0):
        return [problem(f"{found}: not even one message of that size fits", why, todo)]
    if 0 < hard < AT_ONCE * largest or 0 < soft < FOR_A_WHILE * largest:
        return [warning(f"{found}: few messages of that size fit", why, todo)]
    return [ok(found)]


async def check_timeout(server: Server) -> list[Finding]:
    """The server's patience with connections that are silent."""
    text = await server.setting("timeout")
    if text is None:
        return [_not_told("timeout")]
    seconds = int(text)
    ping = server.config.ping_interval
    if not seconds:
        return [ok("none: silent connections stay")]
    if seconds > ping:
        return [ok(f"{seconds} s, and the layer sends a PING each {ping:g} s")]
    return [
        problem(
            f"{seconds} s, and the layer sends a PING each {ping:g} s only",
            "The server closes the connection that publishes whenever it was silent for so long: "
            "what is published at that moment may be lost.",
            f"CONFIG SET timeout 0 (and in redis.conf), or ping_interval below {seconds} in CONFIG",
        )
    ]


async def check_clients(server: Server) -> list[Finding]:
    """How many more connections the server takes."""
    facts = await server.info()
    most = int(facts.get("maxclients") or await server.setting("maxclients") or 0)
    now = int(facts.get("connected_clients", 0))
    if not most:
        return [_not_told("maxclients")]
    found = f"{now:,} of {most:,} clients are connected"
    if now < MANY * most:
        return [ok(found)]
    make = problem if now >= TOO_MANY * most else warning
    return [
        make(
            found,
            "A process takes two connections for its consumers and two for its synchronous code, "
            "and one more where plain channels are read. When there are none left, new processes "
            "cannot connect.",
            f"CONFIG SET maxclients {most * 2} (and in redis.conf; also the server's limit of open "
            "files), or find who holds so many connections: CLIENT LIST.",
        )
    ]


async def check_memory(server: Server) -> list[Finding]:
    """What the server does when its memory is full."""
    policy = limit = None
    with contextlib.suppress(Forbidden):  # INFO has it as well, as a rule
        policy = await server.setting("maxmemory-policy")
        limit = await server.setting("maxmemory")
    facts = await server.info()
    policy, limit = policy or facts.get("maxmemory_policy"), limit or facts.get("maxmemory")
    if policy is None or limit is None:
        return [_not_told("maxmemory")]
    most, used = int(limit), int(facts.get("used_memory", 0))
    if not most:
        return [ok(f"no maxmemory, so nothing is thrown away (policy {policy})")]
    found = f"{policy}, {_bytes(used)} of {_bytes(most)} in use"
    if policy != "noeviction":
        return [
            warning(
                found,
                "When its memory is full, the server throws keys away, among them plain channels "
                "with all their unread messages (all of them have an expiry).",
                "CONFIG SET maxmemory-policy noeviction (and in redis.conf), or a server of its "
                "own for the cache that wants the policy. Groups are not affected.",
            )
        ]
    if used >= TOO_MANY * most:
        return [
            warning(
                found,
                "When its memory is full, the server takes no more messages for plain channels.",
                "Raise maxmemory, or find what fills it: redis-cli --bigkeys.",
            )
        ]
    return [ok(found)]


async def check_keepalive(server: Server) -> list[Finding]:
    """How the server notices that a peer is gone without a word."""
    text = await server.setting("tcp-keepalive")
    if text is None:
        return [_not_told("tcp-keepalive")]
    seconds = int(text)
    if seconds:
        return [ok(f"tcp-keepalive {seconds} s")]
    return [
        warning(
            "tcp-keepalive 0: off",
            "Connections of machines that vanished stay open for good, and count as subscribers.",
            "CONFIG SET tcp-keepalive 300 (and in redis.conf)",
        )
    ]


def _not_told(setting: str) -> Finding:
    return skipped(f"the server does not tell its {setting}")


def _bytes(number: int) -> str:
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number} bytes"


def _limit(number: int) -> str:
    return _bytes(number) if number else "any amount"


def _mb(number: int) -> int:
    return max(1, -(-number // (1 << 20)))


CHECKS: tuple[Check, ...] = (
    ServerCheck(
        "output-buffer",
        "Output buffer",
        "Beyond client-output-buffer-limit the server disconnects a subscriber.",
        REACHED,
        run=check_output_buffer,
    ),
    ServerCheck(
        "timeout",
        "Timeout",
        "The server closes connections that are silent for longer than its timeout.",
        REACHED,
        run=check_timeout,
    ),
    ServerCheck(
        "maxclients",
        "Clients",
        "When maxclients are connected, nobody else can.",
        REACHED,
        run=check_clients,
    ),
    ServerCheck(
        "memory",
        "Memory",
        "Plain channels keep unread messages in the server's memory.",
        REACHED,
        run=check_memory,
    ),
    ServerCheck(
        "tcp-keepalive",
        "Keepalive",
        "It tells the server of peers that vanished.",
        REACHED,
        run=check_keepalive,
    ),
)
