"""How a cluster is laid out, as one of its nodes says: for the checks that look at all of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mpx_channels.multiplexer.cluster.view import Address, Remap, announced, remapped
from mpx_channels.multiplexer.slots import SLOTS

__all__ = ["Layout", "Master", "ask_for_layout"]


@dataclass(slots=True)
class Master:
    """A master: where it is for us, the address that it ``announced``, its slots and replicas."""

    address: Address
    announced: Address
    replicas: int
    slots: list[range] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Layout:
    """The masters, in the order of their first slots, as the node ``said_by`` knows them."""

    said_by: str
    masters: tuple[Master, ...]

    @property
    def missing(self) -> int:
        """Slots without a master."""
        return SLOTS - sum(len(span) for master in self.masters for span in master.slots)

    def owner(self, slot: int) -> Master | None:
        """The master of a slot."""
        there = (each for each in self.masters if any(slot in span for span in each.slots))
        return next(there, None)


async def ask_for_layout(
    ask: Callable[..., Awaitable[Any]], asked: Address, name: str, remap: Remap | None
) -> Layout:
    """Ask the node at an address by `ask`, which sends a command, for CLUSTER SLOTS; raises as
    that, and as `remapped`."""
    masters: dict[Address, Master] = {}
    taken: dict[Address, Address] = {}
    for first, last, master, *replicas in await ask("CLUSTER", "SLOTS"):
        host = master[0].decode() if master[0] else ""
        told = announced(host, int(master[1]), asked)
        address = remapped(told, remap, taken)
        known = masters.setdefault(address, Master(address, told, len(replicas)))
        known.slots.append(range(int(first), int(last) + 1))
    ordered = sorted(masters.values(), key=lambda each: min(span.start for span in each.slots))
    return Layout(name, tuple(ordered))
