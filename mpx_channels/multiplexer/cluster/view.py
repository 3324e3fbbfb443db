"""What one node says of the cluster: who has which slots, and since when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from ..exceptions import CommandRefused, NotConnected

__all__ = ["QUESTIONS", "Address", "Remap", "Share", "View", "announced", "remapped", "view_of"]

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


def announced(host: str, port: int, asked: Address) -> Address:
    """The address in a node's answer; ``asked`` is that of the node, for want of another host.

    An empty host, or none: the node does not know its own, or its clients are to keep theirs.
    """
    return (host if host and host != "?" else asked[0], port)


def remapped(address: Address, remap: Remap | None, taken: dict[Address, Address]) -> Address:
    """Where the node that announces an address is reached.

    ``taken``: what nodes announce that were looked at before, by where they are. Raises
    `NotConnected` for what is no address, or that of another node.
    """
    if remap is None:
        return address
    try:
        given: Any = remap(address)
    except Exception as error:
        raise NotConnected(f"address_remap raised {error!r} for {address}") from error
    try:
        host, port = given
        found: Address | None = (host, int(port))
    except (TypeError, ValueError):
        found = None
    if found is None or not isinstance(found[0], str) or not found[0] or not 0 < found[1] < 65536:
        raise NotConnected(f"address_remap returned {given!r} for {address}, and not (host, port)")
    if (other := taken.setdefault(found, address)) != address:
        raise NotConnected(f"address_remap returned {found} for both {other} and {address}")
    return found


def view_of(answers: Sequence[Any], asked: Address, name: str, remap: Remap | None) -> View:
    """What the node at `asked` has answered, or the errors, to `QUESTIONS`.

    Raises `NotConnected` for what is no cluster's, or one without slots, and the error that the
    first one got, if it got one.

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
    taken: dict[Address, Address] = {}
    for first, last, master, *_ in slots:
        host, port, *more = master
        told = announced(host.decode() if host else "", int(port), asked)
        address = remapped(told, remap, taken)
        epoch = epochs.get(more[0], 0) if more else 0
        shares.append(Share(int(first), int(last), address, epoch))
    return sorted(shares, key=lambda share: share.first)
