"""What one node says of the cluster: who has which slots, and since when."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from ..exceptions import CommandRefused, NotConnected
from ..topology import port_number

__all__ = ["QUESTIONS", "Address", "Remap", "Share", "View", "WrongRemap", "remapped", "view_of"]

# To be asked together: the epochs are those of the moment when the slots were so.
QUESTIONS = ((b"CLUSTER", b"SLOTS"), (b"CLUSTER", b"NODES"))

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


class WrongRemap(NotConnected):
    """``address_remap`` raised, or returned what is no address."""


def remapped(remap: Remap | None, announced: Address) -> Address:
    """Where the node that announces an address is reached; raises `WrongRemap`."""
    if remap is None:
        return announced
    try:
        found: Any = remap(announced)
    except Exception as error:  # whatever a function of somebody else's raises
        raise WrongRemap(f"address_remap raised {error!r} for {announced!r}") from error
    match found:
        case [str(host), int() | str() as port]:
            with contextlib.suppress(ValueError):
                return host, port_number(port)
    raise WrongRemap(
        f"address_remap must return (host, port), such as ('10.0.0.1', 6379), and returned "
        f"{found!r} for {announced!r}"
    )


def view_of(answers: Sequence[Any], asked: Address, name: str, remap: Remap | None) -> View:
    """What the node at `asked` has answered, or the errors, to `QUESTIONS`.

    Raises `NotConnected` for what is no cluster's, or one without slots, and the error that the
    first one got, if it got one; `WrongRemap` for what `remap` does.

    Where the ACL forbids CLUSTER NODES, all epochs are 0, and whoever answers last is believed.
    """
    slots, nodes = answers
    if isinstance(slots, BaseException):
        if isinstance(slots, CommandRefused | ResponseError):
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
        address = remapped(remap, (text if text and text != "?" else asked[0], int(port)))
        epoch = epochs.get(more[0], 0) if more else 0
        shares.append(Share(int(first), int(last), address, epoch))
    return sorted(shares, key=lambda share: share.first)
