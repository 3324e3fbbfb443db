"""Health: whether a process hears its own publish, on every host."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass

from .exceptions import ConnectionLost, MpxError, describe
from .probe import Probe
from .publisher import Publisher
from .subscriber import Subscriber
from .topology import Node

__all__ = ["Health", "Host", "examine", "require_timeout"]


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


@dataclass(frozen=True, slots=True)
class Host:
    """A node, and what a message takes to get there and back."""

    node: Node
    probe: Probe
    subscriber: Subscriber
    publisher: Publisher


async def examine(hosts: Iterable[Host], timeout: float) -> Health:
    """Publish on every host, and listen for `timeout` seconds; never raises."""
    found = await asyncio.gather(*[_look(host, timeout) for host in hosts])
    reasons = [each for each in found if isinstance(each, str)]
    if reasons:
        return Health(False, reason="; ".join(reasons))
    return Health(True, round_trip=max(each for each in found if isinstance(each, float)))


async def _look(host: Host, timeout: float) -> float | str:
    """How long it takes on one host, or what is wrong there."""
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    await host.probe.listening()
                    return await host.probe.round_trip(host.publisher)
                except ConnectionLost:
                    continue  # it may be back in time
    except TimeoutError:
        return _what_is_missing(host, timeout)
    except MpxError as error:
        text = describe(error)
        return text if str(host.node) in text else f"{host.node}: {text}"


def _what_is_missing(host: Host, timeout: float) -> str:
    for link in (host.subscriber.link, host.publisher.link):
        if link.wire is None:
            cause = f": {describe(link.last_error)}" if link.last_error is not None else ""
            return f"no connection to {host.node}{cause}"
    if not host.probe.listens:
        return f"{host.node} did not confirm a subscription in {timeout:g} s"
    return f"{host.node} did not deliver in {timeout:g} s what this process published there"
