"""Check of the Sentinels: a process needs one of them, and nobody notices the others."""

from __future__ import annotations

import asyncio
from copy import copy

from mpx_channels.diagnostics.pages import page
from mpx_channels.multiplexer import SentinelNode
from mpx_channels.multiplexer.tls import host_and_port

from .examination import Check, Examination, ProjectCheck
from .findings import Finding, ok, warning

__all__ = ["CHECKS"]


async def check_sentinels(exam: Examination) -> list[Finding]:
    """Ask each where the master is; of what no Sentinel says, 'Reachable' has the reasons."""
    findings = []
    for server in exam.servers:
        if isinstance(server.node, SentinelNode) and "reachable" not in server.failed:
            findings += await _check(server.node)
    return findings


async def _check(node: SentinelNode) -> list[Finding]:
    # As one who has heard nothing yet, and so looks closer at what is wrong.
    asking = copy(node)
    asking.master = None
    answers = await asyncio.gather(*map(asking.ask, node.sentinels))
    masters: dict[str, list[str]] = {}
    findings = []
    for sentinel, answer in zip(node.sentinels, answers, strict=True):
        at = host_and_port(*sentinel)
        if not isinstance(answer, str):
            masters.setdefault(host_and_port(*answer), []).append(at)
            continue
        findings.append(
            warning(
                f"one of the Sentinels is of no use: {answer}",
                "The others are asked instead of it. Without any, no process finds the master "
                "when it connects, and none hears of another master.",
                "Start it, or correct sentinels and sentinel_kwargs in hosts; what their user "
                f"needs: {page('acl', 'sentinel')}",
            )
        )
    if len(masters) > 1:
        said = "; ".join(f"{', '.join(at)}: {master}" for master, at in masters.items())
        findings.append(
            warning(
                f"they name different masters of {node.master_name!r} ({said})",
                "Which of them a process goes to is a matter of whom it asks.",
                "Look again in a minute. If it stays so, see SENTINEL MASTERS of each.",
            )
        )
    if findings:
        return findings
    number = len(node.sentinels)
    all_ = "it names" if number == 1 else f"all {number} name"
    return [ok(f"{all_} {next(iter(masters))} as the master of {node.master_name!r}")]


CHECKS: tuple[Check, ...] = (
    ProjectCheck(
        "sentinels",
        "Sentinels",
        "They know where the master is.",
        run=check_sentinels,
    ),
)
