"""Check that finds the masters of a cluster: those after it look at each of them."""

from __future__ import annotations

from redis.exceptions import AuthenticationError, ResponseError

from mpx_channels.multiplexer import NotConnected

from .examination import Check, Examination, ProjectCheck, Server
from .findings import Finding, ok, problem, warning
from .layout import Layout, ask_for_layout
from .probe import is_forbidden

__all__ = ["CHECKS"]

MAKE = "Make a cluster of the nodes: redis-cli --cluster create."


async def check_masters(exam: Examination) -> list[Finding]:
    """Ask the seeds in turn; what they all have no answer to, others say of each of them."""
    config = exam.config
    if config is None or not config.cluster:
        return []
    away: dict[str, str] = {}
    for seed in exam.servers:
        try:
            await seed.probe.open()
            layout = await ask_for_layout(
                seed.probe, seed.node.endpoint, str(seed.node), config.address_remap
            )
        except AuthenticationError as error:
            away[str(seed.node)] = str(error)
        except ResponseError as error:
            return [_refused(seed, error)]
        except NotConnected as error:  # of what is ours here
            return [_nowhere(seed, error)]
        except Exception as error:  # whatever connecting raises
            away[str(seed.node)], _ = await seed.probe.why(error)
        else:
            break
    else:
        return []
    if not layout.masters:
        return [problem(f"no slot has a master, as {layout.said_by} says", todo=MAKE)]
    exam.layout = layout
    _take(exam, layout, seed)
    nodes = ", ".join(str(server.node) for server in exam.servers)
    findings = [ok(f"{_number(len(layout.masters), 'master')}: {nodes}; as {layout.said_by} says")]
    for name, cause in away.items():
        findings.append(
            warning(
                f"{name}, one of the seeds in hosts, does not answer: {cause}",
                "A process needs one seed that answers to begin; after that it asks the masters.",
                "Start it, or name nodes in hosts that are there.",
            )
        )
    return findings


def _take(exam: Examination, layout: Layout, seed: Server) -> None:
    """Have all masters examined, and not the seeds."""
    assert exam.config is not None
    seeds = exam.servers
    known = {server.node.endpoint: server for server in seeds}
    exam.servers = []
    for master in layout.masters:
        server = known.get(master.address)
        if server is None:
            server = Server(seed.node.at(*master.address), exam.config)
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


def _nowhere(seed: Server, error: NotConnected) -> Finding:
    return problem(
        f"{error}, as {seed.node} announces it",
        "The layer connects to the masters at what address_remap in CONFIG makes of the addresses "
        "that they announce, and to none if it fails for one.",
        "Have it return a (host, port) for every address, one that this machine reaches.",
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
