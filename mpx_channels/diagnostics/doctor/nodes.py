"""Checks of each server: reached, logged in to, what it is, how far away, its clock."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import statistics
import time

from redis.exceptions import AuthenticationError, ResponseError

from mpx_channels.diagnostics.pages import page
from mpx_channels.diagnostics.values import milliseconds
from mpx_channels.multiplexer.tls import host_and_port

from .examination import Check, Server, ServerCheck
from .findings import Finding, info, ok, problem, warning
from .probe import Forbidden

__all__ = ["CHECKS", "is_local"]

OLDEST_REDIS = (6, 2)
# What Redis says from 7.0 on of whom it forbids a command.
NAMED = re.compile(r"User (\S+) has no permissions")
# PINGs that the round trip is measured with.
PINGS = 20
# Seconds: a median above this is a server far away, or one that has too much to do.
SLOW = 0.02
# Seconds that the clocks may differ: what people compare logs with, and what encryption allows.
CLOCKS_DIFFER = 1.0
CLOCKS_REFUSE = 30.0


async def check_reachable(server: Server) -> list[Finding]:
    """A connection, and whoever answers there."""
    try:
        await server.probe.open()
    except AuthenticationError as error:
        # It answers, and that is what is asked for here.
        server.login_error = error
        return [ok(f"{server.node} answers")]
    except Exception as error:
        cause, todo = await server.probe.why(error)
        return [problem(f"{server.node} cannot be reached: {cause}", todo=todo)]
    return [ok(f"{server.node} answers")]


async def check_login(server: Server) -> list[Finding]:
    """Who we are there, and whether that takes a password."""
    if server.login_error is None:
        try:
            await server.probe("PING")
        except AuthenticationError as error:
            server.login_error = error
        except ResponseError:
            pass  # such as for want of +ping, which is said elsewhere
    if server.login_error is not None:
        return [_refused(server, server.login_error)]
    try:
        server.user = (await server.probe.ask("+acl|whoami", "ACL", "WHOAMI")).decode()
    except Forbidden as error:
        # The name in the settings will do. Of one that a provider gave, the refusal has it.
        if server.probe.has_provider and (named := NAMED.search(str(error.__cause__))):
            server.user = named[1]
    findings = [ok(f"logged in as {server.user!r}")]
    address = server.probe.address
    if address is None or is_local(address):
        return findings
    if not server.probe.has_credentials:
        findings.append(
            warning(
                f"{address} lets us in without a password",
                "Whoever reaches it can read all messages, publish any, and delete everything.",
                "Give the server's users passwords (ACL SETUSER, or requirepass), and write them "
                "into hosts: rediss://user:password@host:6379.",
            )
        )
    if not str(server.node).startswith("rediss:"):
        findings.append(
            info(
                "the connection is not encrypted (no TLS)",
                "Whoever listens on the network in between can read the password and the messages.",
                "Use rediss:// in hosts if that network is not yours alone.",
            )
        )
    return findings


def _refused(server: Server, error: AuthenticationError) -> Finding:
    if server.probe.has_provider:
        return problem(
            f"what the credential_provider in hosts returned is refused: {error}",
            todo="See what it returns: a user and its password, or a password alone; and the user "
            "on the server (ACL SETUSER).",
        )
    if server.probe.has_credentials:
        return problem(
            f"the password of the user {server.user!r} is refused: {error}",
            todo="Correct user and password in hosts (redis://user:password@host:6379; % and @ in "
            "a password are written %25 and %40), or the user on the server (ACL SETUSER).",
        )
    return problem(
        "the server wants a password, and hosts has none",
        todo="Write it into hosts: redis://user:password@host:6379, or redis://:password@host:6379 "
        "for requirepass.",
    )


async def check_server(server: Server) -> list[Finding]:
    """Kind and version."""
    try:
        facts = await server.info()
        redis_version = facts.get("redis_version", "0")
        valkey = facts.get("valkey_version") or ""
        other = next((key for key in ("dragonfly_version", "garnet_version") if key in facts), "")
    except Forbidden:
        facts = await server.hello()
        redis_version = facts.get("version", "0")
        valkey = redis_version if facts.get("server") == "valkey" else ""
        other = "" if facts.get("server") in ("redis", "valkey") else facts.get("server", "")
    if valkey:
        return [ok(f"Valkey {valkey}, protocol RESP{server.probe.protocol}")]
    if other:
        return [
            info(
                f"{other.removesuffix('_version')} (as Redis {redis_version})",
                "mpx_channels is tested with Redis and Valkey.",
                "Look at the round trips below.",
            )
        ]
    if _numbers(redis_version) < OLDEST_REDIS:
        return [
            problem(
                f"Redis {redis_version}",
                "mpx_channels is for Redis from 6.2 on, and for Valkey; commands may be missing.",
                "Upgrade the server.",
            )
        ]
    return [ok(f"Redis {redis_version}, protocol RESP{server.probe.protocol}")]


async def check_role(server: Server) -> list[Finding]:
    """A master, or what should not be talked to."""
    try:
        facts = await server.info()
        role = facts.get("role", "master")
        # Redis' name for it, and that of Valkey from 9 on.
        mode = facts.get("redis_mode") or facts.get("server_mode") or "standalone"
        master = host_and_port(facts.get("master_host", "?"), facts.get("master_port", "?"))
    except Forbidden:
        facts = await server.hello()
        role, mode = facts.get("role", "master"), facts.get("mode", "standalone")
        master = "another server"
    if mode == "sentinel":
        return [
            problem(
                "a Sentinel, which watches over servers and carries no messages",
                todo="Name the master in hosts, or configure Sentinel as this page has it: "
                f"{page('hosts', 'sentinel')}",
            )
        ]
    if role in ("slave", "replica"):
        return [
            problem(
                f"a replica of {master}",
                "What is published on a replica reaches nobody on the master, and plain channels "
                "cannot be written to.",
                f"Name the master in hosts ({master}), or promote this one (REPLICAOF NO ONE).",
            )
        ]
    return [ok(f"a {role}, {mode}")]


async def check_round_trip(server: Server) -> list[Finding]:
    """The way there and back."""
    times = []
    for _ in range(PINGS):
        started = time.perf_counter()
        with contextlib.suppress(ResponseError):  # a refusal takes as long
            await server.probe("PING")
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    figures = (milliseconds(each, 2) for each in (min(times), median, max(times)))
    found = f"{' / '.join(figures)} (least, median, most of {PINGS})"
    if median <= SLOW:
        return [ok(found)]
    return [
        warning(
            found,
            "Every first join of a group waits for a round trip, and every message takes one.",
            "Move the server into the same data centre, or look for what keeps it busy "
            "(SLOWLOG GET, LATENCY DOCTOR).",
        )
    ]


async def check_clock(server: Server) -> list[Finding]:
    """The server's clock against this machine's."""
    best = float("inf")
    difference = 0.0
    for _ in range(5):
        started = time.perf_counter()
        seconds, microseconds = await server.probe.ask("+time", "TIME")
        now, took = time.time(), time.perf_counter() - started
        if took < best:
            # The answer was made halfway.
            best = took
            difference = int(seconds) + int(microseconds) / 1e6 - (now - took / 2)
    encrypts = bool(server.config.symmetric_encryption_keys)
    size = abs(difference)
    found = (
        f"{_seconds(size)} {'ahead of' if difference > 0 else 'behind'} this machine's "
        f"(give or take {milliseconds(best / 2, 2)})"
    )
    if size <= CLOCKS_DIFFER:
        return [ok(found)]
    make = problem if encrypts and size > CLOCKS_REFUSE else warning
    return [
        make(
            found,
            "Encrypted messages are refused where clocks differ by more than 30 seconds; log "
            "entries of several machines cannot be put in order.",
            "Run a time service (NTP, chrony) on this machine and on the server's.",
        )
    ]


def is_local(address: str) -> bool:
    """Whether what goes to this host stays on this machine."""
    if address.lower() == "localhost" or address.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _seconds(seconds: float) -> str:
    return milliseconds(seconds, 2) if seconds < 0.1 else f"{seconds:,.1f} s"


REACHED = ("settings", "reachable", "login")

CHECKS: tuple[Check, ...] = (
    ServerCheck(
        "reachable",
        "Reachable",
        "Without a server nothing is delivered to anybody.",
        ("settings",),
        run=check_reachable,
    ),
    ServerCheck(
        "login",
        "Login",
        "Before it the server lets us do nothing; without a password it lets anybody do anything.",
        ("settings", "reachable"),
        run=check_login,
    ),
    ServerCheck(
        "server",
        "Server",
        "The layer is tested with Redis from 6.2 on and with Valkey.",
        REACHED,
        run=check_server,
    ),
    ServerCheck(
        "role",
        "Role",
        "All processes must publish and subscribe on a master.",
        REACHED,
        run=check_role,
    ),
    ServerCheck(
        "round-trip",
        "Round trip",
        "It is the least time from a sender to a receiver.",
        REACHED,
        run=check_round_trip,
    ),
    ServerCheck(
        "clock",
        "Clock",
        "Encrypted messages are bound to their time.",
        REACHED,
        run=check_clock,
    ),
)
