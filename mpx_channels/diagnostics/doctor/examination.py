"""What a check of the doctor is and how it is run, and what is known by then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from mpx_channels.diagnostics.session import Session
from mpx_channels.layer import CommandRefused, MpxError
from mpx_channels.layer.config import LayerConfig
from mpx_channels.multiplexer.topology import Node

from .findings import Finding, Level, not_looked_at, problem, skipped
from .layout import Layout
from .probe import Forbidden, Probe, cause_of

__all__ = ["Check", "Examination", "ProjectCheck", "Row", "Server", "ServerCheck", "not_shown"]

# Seconds that a check has as a whole: one that hangs must not keep the others from being run.
LONGEST = 20.0


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    ``why``: why one looks at this at all. ``needs``: ids of checks that must have gone well, or
    this one is skipped.
    """

    id: str
    title: str
    why: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A finding of a check, on a server if it is about one."""

    check: Check
    finding: Finding
    node: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As ``--json`` has it."""
        finding = self.finding
        return {
            "id": self.check.id,
            "title": self.check.title,
            "node": self.node,
            "level": str(finding.level),
            "found": finding.found,
            "why": finding.why or self.check.why,
            "todo": finding.todo,
        }


class Server:
    """One server under examination."""

    def __init__(self, node: Node, config: LayerConfig) -> None:
        self.node = node
        self.config = config
        self.probe = Probe(node)
        # Why it could not be logged in to, though it answers.
        self.login_error: AuthenticationError | None = None
        self.failed: dict[str, str] = {}
        # Whether its ACL refuses patterns that it does not have word for word.
        self.only_literal_patterns = False
        self.user = self.probe.user or ("USER" if self.probe.has_provider else "default")
        # Those that it has as the master of a cluster.
        self.slots: Sequence[range] = ()
        self._info: dict[str, str] | None = None

    async def info(self) -> dict[str, str]:
        """What INFO tells, of all its sections; raises `Forbidden`."""
        if self._info is None:
            text = (await self.probe.ask("+info", "INFO")).decode(errors="replace")
            pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
            self._info = {key: value for key, _, value in pairs}
        return self._info

    async def hello(self) -> dict[str, str]:
        """What HELLO tells, which no ACL forbids: server, version, role, mode."""
        reply = await self.probe.ask("+hello", "HELLO")
        pairs = reply.items() if isinstance(reply, dict) else zip(*[iter(reply)] * 2, strict=False)
        return {_text(key): _text(value) for key, value in pairs}

    async def setting(self, name: str) -> str | None:
        """A value of the server's configuration; None if it has no such. Raises `Forbidden`."""
        reply = await self.probe.ask("+config|get", "CONFIG", "GET", name)
        if isinstance(reply, dict):
            reply = [word for pair in reply.items() for word in pair]
        return _text(reply[1]) if reply else None


class Examination:
    """The project under examination. Its checks run one after the other."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.config: LayerConfig | None = None
        self.servers: list[Server] = []
        # Of a cluster: how it is laid out, and seeds that are no masters.
        self.layout: Layout | None = None
        self.others: list[Server] = []
        # Checks that did not go well, by id, and what to say of what needs them.
        self.failed: dict[str, str] = {}

    async def run(self, check: Check, server: Server | None = None) -> list[Row]:
        """Run a check, on a server if it is about one; never raises for what it finds."""
        node = str(server.node) if server is not None else None
        findings = await self._findings(check, server)
        if any(each.level in (Level.PROBLEM, Level.SKIPPED) for each in findings):
            failed = server.failed if server is not None else self.failed
            failed.setdefault(check.id, f"{check.title!r} has to be well first")
        return [Row(check, finding, node) for finding in findings]

    async def close(self) -> None:
        """Close the connections of the checks; the session has its own."""
        for server in (*self.servers, *self.others):
            await server.probe.close()

    async def _findings(self, check: Check, server: Server | None) -> list[Finding]:
        reason = self._reason_to_skip(check, server)
        if reason is not None:
            return [not_looked_at(reason)]
        try:
            async with asyncio.timeout(LONGEST):
                if isinstance(check, ServerCheck):
                    assert server is not None
                    return await check.run(server)
                assert isinstance(check, ProjectCheck)
                return await check.run(self)
        except Forbidden as error:
            return [not_shown(error, server)]
        except (CommandRefused, ResponseError) as error:
            return [
                problem(
                    f"the server refused a command: {error}",
                    todo="See what 'ACL permissions' says, and the server's log.",
                )
            ]
        except (MpxError, RedisError, OSError, EOFError) as error:
            return [self._lost(check, server, error)]
        except Exception as error:
            return [
                problem(
                    f"the check itself failed: {type(error).__name__}: {error}",
                    todo="Please report this: it is a mistake of mpx doctor.",
                )
            ]

    def _reason_to_skip(self, check: Check, server: Server | None) -> str | None:
        servers = self.servers if server is None else [server]
        for need in check.needs:
            for failed in (self.failed, *(each.failed for each in servers)):
                if need in failed:
                    return failed[need]
        if isinstance(check, ServerCheck) and server is None:
            return "there is no server to look at"
        return None

    def _lost(self, check: Check, server: Server | None, error: Exception) -> Finding:
        """The server went away, or answers no more: what comes later need not try."""
        cause, todo = cause_of(error)
        for each in self.servers if server is None else [server]:
            each.failed["reachable"] = f"the server went away during {check.title!r}"
        return problem(
            f"the server went away: {cause}",
            "Connections that break in the midst of their work make processes miss messages.",
            todo,
        )


@dataclass(frozen=True, slots=True)
class ProjectCheck(Check):
    """A check of the project and its layer as a whole."""

    run: Callable[[Examination], Awaitable[list[Finding]]] = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class ServerCheck(Check):
    """A check of each server."""

    run: Callable[[Server], Awaitable[list[Finding]]] = field(kw_only=True)


# What nothing but the checks asks for; the other rules are those of 'ACL permissions', too.
DOCTORS_OWN = ("+acl|whoami", "+cluster|info", "+config|get")


def not_shown(error: Forbidden, server: Server | None) -> Finding:
    """What could not be looked at, and why."""
    if error.unknown:
        return skipped(
            f"the server does not have this command, or disabled it ({error.command})", folded=True
        )
    if error.said:
        return skipped(f"the server refuses {error.command}: {error.said}", folded=True)
    user = server.user if server is not None else "default"
    only_here = "; the layer does not need it" if error.rule in DOCTORS_OWN else ""
    return skipped(
        f"the user {user!r} may not ask for it ({error.command})",
        f"ACL SETUSER {user} {error.rule} lets mpx doctor see it{only_here}.",
        folded=True,
    )


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
