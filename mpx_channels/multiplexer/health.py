"""Health: whether a process hears its own publish, on every node."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .exceptions import ConnectionLost, MpxError, describe
from .link import Link
from .probes import Probes
from .topology import Node

__all__ = ["Health", "examine", "require_timeout"]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether what this process publishes reaches it, through every host.

    - ``ok``: whether it does; ``round_trip``: seconds that it took, on the slowest host, or None if
      not ok; ``reason``: what is wrong, with the host's address and no credentials, or None if ok.
    """

    ok: bool
    round_trip: float | None = None
    reason: str | None = None


def require_timeout(timeout: float) -> None:
    """Raise `ValueError` for what is no time to wait for."""
    if isinstance(timeout, bool) or not (
        isinstance(timeout, int | float) and 0 < timeout < math.inf
    ):
        raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")


async def examine(
    probes: Probes, links: Sequence[tuple[Node, Sequence[Link]]], timeout: float
) -> Health:
    """Publish on every node, and listen for `timeout` seconds; never raises.

    ``links``: the nodes, each with the connections that this takes.
    """
    found = await asyncio.gather(*[_look(probes, *each, timeout) for each in links])
    reasons = [each for each in found if isinstance(each, str)]
    if reasons:
        return Health(False, reason="; ".join(reasons))
    return Health(True, round_trip=max(each for each in found if isinstance(each, float)))


async def _look(probes: Probes, node: Node, links: Sequence[Link], timeout: float) -> float | str:
    """How long it takes on one node, or what is wrong there."""
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    await probes.listening(node)
                    return await probes.round_trip(node)
                except ConnectionLost:
                    continue  # it may be back in time
    except TimeoutError:
        return _what_is_missing(probes, node, links, timeout)
    except MpxError as error:
        text = describe(error)
        return text if str(node) in text else f"{node}: {text}"


def _what_is_missing(probes: Probes, node: Node, links: Sequence[Link], timeout: float) -> str:
    for link in links:
        if link.wire is None:
            cause = f": {describe(link.last_error)}" if link.last_error is not None else ""
            return f"no connection to {node}{cause}"
    if not probes.listens_at(node):
        return f"{node} did not confirm a subscription in {timeout:g} s"
    return f"{node} did not deliver in {timeout:g} s what this process published there"
