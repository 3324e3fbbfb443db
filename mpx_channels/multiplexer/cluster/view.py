"""What one node says of the cluster: who has which slots, and since when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..exceptions import CommandRefused, NotConnected

__all__ = ["Address", "Remap", "Share", "View", "ask_for_view"]

Address = tuple[str, int]
# From the address that a node announces to one at which it can be reached; as redis-py has it.
Remap = Callable[[Address], Address]


@dataclass(frozen=True, slots=True)
class Share:
    """Slots ``first`` to ``last`` are the master's at ``address``.

    ``epoch``: its configuration epoch. Of two nodes that both claim a slot, the higher one is right
    (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-slots-configuration-propagation-and-updates).
    """

    first: int
    last: int
    address: Address
    epoch: int


@dataclass(frozen=True, slots=True)
class View:
    """The shares of all masters, as the node at ``seen_from`` has it."""

    seen_from: str
    shares: tuple[Share, ...]


async def ask_for_view(
    ask: Callable[..., Awaitable[Any]], asked: Address, name: str, remap: Remap | None
) -> View:
    """Ask a node by `ask`, which sends a command.

    Raises `NotConnected` for what is no cluster's, or one without slots, and as `ask`.

    Where the ACL forbids CLUSTER NODES, all epochs are 0, and whoever answers last is believed.
    """
    told: tuple[Any, Any] = await asyncio.gather(
        ask(b"CLUSTER", b"SLOTS"), ask(b"CLUSTER", b"NODES"), return_exceptions=True
    )
    slots, nodes = told
    if isinstance(slots, BaseException):
        if isinstance(slots, CommandRefused):
            raise NotConnected(f"{name} is no node of a cluster, or refuses to say: {slots}")
        raise slots
    epochs = _epochs(nodes) if isinstance(nodes, bytes) else {}
    shares = tuple(_shares(slots, epochs, asked, remap))
    if not shares:
        # Such as one that has left a cluster, and is a seed still.
        raise NotConnected(f"{name} knows of no node that has slots")
    return View(name, shares)


def _epochs(text: bytes) -> Mapping[bytes, int]:
    """The epochs of nodes by their ids, from lines such as
    ``<id> <ip:port@cport> <flags> <master> <ping> <pong> <epoch> <link state> <slots> ...``."""
    lines = [line.split() for line in text.splitlines()]
    return {words[0]: int(words[6]) for words in lines if len(words) > 6 and words[6].isdigit()}


def _shares(
    slots: Sequence[Any], epochs: Mapping[bytes, int], asked: Address, remap: Remap | None
) -> list[Share]:
    shares = []
    for first, last, master, *_ in slots:
        host, port, *more = master
        # An empty host, or none: the node does not know its own, or its clients are to keep theirs.
        text = host.decode() if host else ""
        address: Address = (text if text and text != "?" else asked[0], int(port))
        if remap is not None:
            address = remap(address)
        epoch = epochs.get(more[0], 0) if more else 0
        shares.append(Share(int(first), int(last), address, epoch))
    return sorted(shares, key=lambda share: share.first)
