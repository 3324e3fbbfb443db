"""Check that finds the masters of a cluster: those after it look at each of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from redis.exceptions import AuthenticationError, ResponseError

from mpx_channels.multiplexer import NotConnected
from mpx_channels.multiplexer.cluster.view import Remap
from mpx_channels.multiplexer.providers import NoCredentials

from .examination import Check, Examination, ProjectCheck, Server
from .findings import Finding, Level, ok, problem, warning
from .layout import Layout, ask_for_layout
from .probe import is_forbidden

__all__ = ["CHECKS"]

SEEDS = "A process needs one seed that answers to begin; after that it asks the masters."
REMAP = (
    "Correct it in CONFIG: it gets the (host, port) that a node announces, and returns the one at "
    "which this process reaches that node."
)
MAKE = "Make a cluster of the nodes: redis-cli --cluster create."


async def check_masters(exam: Examination) -> list[Finding]:
    """Ask all seeds, and believe the first that knows; the others are warned of.

    Where none knows, of those that answer it is said why; of the others each says so itself.
    """
    config = exam.config
    if config is None or not config.cluster:
        return []
    answers = await asyncio.gather(*(_ask(seed, config.address_remap) for seed in exam.servers))
    asked = list(zip(exam.servers, answers, strict=True))
    found = next((answer for answer in answers if isinstance(answer, Layout)), None)
    if found is None:
        return [answer for answer in answers if isinstance(answer, Finding)]
    exam.layout = layout = found
    _take(exam, layout)
    nodes = ", ".join(str(server.node) for server in exam.servers)
    findings = [ok(f"{_number(len(layout.masters), 'master')}: {nodes}; as {layout.said_by} says")]
    for server, answer in asked:
        if server in exam.servers:
            continue  # of a master the checks below say what is wrong
        if isinstance(answer, str):
            findings.append(
                warning(
                    f"{server.node}, one of the seeds in hosts, does not answer: {answer}",
                    SEEDS,
                    "Start it, or name nodes in hosts that are there.",
                )
            )
        elif isinstance(answer, Finding):
            findings.append(replace(answer, level=Level.WARNING, why=SEEDS))
    return findings


async def _ask(seed: Server, remap: Remap | None) -> Layout | Finding | str:
    """What a seed says of the masters; what is wrong with what it says, or why it says nothing."""
    try:
        await seed.probe.open()
        layout = await ask_for_layout(seed.probe, seed.node.endpoint, str(seed.node), remap)
    except (AuthenticationError, NoCredentials) as error:
        return str(error)
    except ResponseError as error:
        return _refused(seed, error)
    except NotConnected as error:
        return problem(str(error), todo=REMAP)
    except Exception as error:  # whatever connecting raises
        return (await seed.probe.why(error))[0]
    if not layout.masters:
        return problem(f"no slot has a master, as {layout.said_by} says", todo=MAKE)
    return layout


def _take(exam: Examination, layout: Layout) -> None:
    """Have all masters examined, and not the seeds: with the options of the first, as the layer."""
    assert exam.config is not None
    seeds = exam.servers
    first = seeds[0]
    exam.servers = []
    for master in layout.masters:
        server = first
        if first.node.endpoint != master.address:
            server = Server(first.node.at(*master.address), exam.config)
        server.slots = master.slots
        exam.servers.append(server)
    exam.others = [server for server in seeds if server not in exam.servers]


def _refused(seed: Server, error: ResponseError) -> Finding:
    if is_forbidden(error):
        return problem(
            f"the user {seed.user!r} may not ask {seed.node} for CLUSTER SLOTS",
            "The layer finds the cluster's masters by it, and connects to none without.",
            f"ACL SETUSER {seed.user} +cluster|slots",
        )
    return problem(
        f"{seed.node} is no node of a cluster: {error}",
        "CONFIG has 'cluster': True, so the layer asks for the masters, and finds none.",
        "Name nodes of a cluster in hosts, or leave 'cluster' out of CONFIG.",
    )


def _number(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


CHECKS: tuple[Check, ...] = (
    ProjectCheck(
        "masters",
        "Masters",
        "A process connects to all masters, at the addresses that they announce.",
        run=check_masters,
    ),
)
