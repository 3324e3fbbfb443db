"""What CONFIG says of a cluster, checked, and the multiplexer for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from mpx_channels.channels.cluster_names import ClusterNames
from mpx_channels.channels.names import Names
from mpx_channels.channels.partitions import DEFAULT_PARTITIONS, MOST_PARTITIONS
from mpx_channels.multiplexer import Node
from mpx_channels.multiplexer.cluster.agreement import Agreement
from mpx_channels.multiplexer.cluster.multiplexer import ClusterMultiplexer
from mpx_channels.multiplexer.cluster.topology import require_cluster_node

__all__ = ["ClusterConfig", "cluster_multiplexer", "names_for", "wrong_cluster"]


class ClusterConfig(Protocol):
    """The keys of CONFIG that this is about."""

    @property
    def cluster(self) -> bool: ...
    @property
    def prefix(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def sharded_pubsub(self) -> bool: ...
    @property
    def address_remap(self) -> Any: ...


def names_for(config: ClusterConfig) -> Names:
    """The names in Redis of a layer."""
    return (
        ClusterNames(config.prefix, config.partitions) if config.cluster else Names(config.prefix)
    )


def cluster_multiplexer(
    config: ClusterConfig, seeds: Sequence[Node], *, agree: bool = True, **options: Any
) -> ClusterMultiplexer:
    """A multiplexer for a cluster, not started; raises `ValueError` for what is no seed.

    ``agree``: whether it sees first that all processes have the same number of partitions.
    """
    agreement = Agreement(
        ClusterNames(config.prefix, config.partitions).partitions,
        str(config.partitions),
        what="CONFIG's partitions",
        todo="all processes of a prefix need the same number; to change it, stop all of them, "
        "delete that key, and start them with the new one (docs: cluster)",
    )
    return ClusterMultiplexer(
        seeds,
        sharded=config.sharded_pubsub,
        address_remap=config.address_remap,
        agreement=agreement if agree else None,
        **options,
    )


def wrong_cluster(config: ClusterConfig, seeds: Sequence[Node]) -> Iterator[str]:
    """A sentence for everything that is wrong with these keys."""
    for key in ("cluster", "sharded_pubsub"):
        value = getattr(config, key)
        if not isinstance(value, bool):
            yield f"{key} must be True or False, not {value!r}"
    number: object = config.partitions
    if not isinstance(number, int) or isinstance(number, bool) or not _is_power_of_two(number):
        yield (
            f"partitions must be a power of two from 1 to {MOST_PARTITIONS}, such as "
            f"{DEFAULT_PARTITIONS}, not {number!r}"
        )
    if config.address_remap is not None and not callable(config.address_remap):
        yield (
            "address_remap must be a function from (host, port) to (host, port), not "
            f"{config.address_remap!r}"
        )
    if config.cluster is not True:
        if config.address_remap is not None:
            yield "address_remap is for a cluster: set 'cluster': True, or leave it out"
        return
    prefix: object = config.prefix
    if isinstance(prefix, str) and ("{" in prefix or "}" in prefix):
        yield (
            f"prefix {prefix!r} must have no braces in a cluster: what is in them says on which "
            "node a key is, and all would be on one"
        )
    for seed in seeds:
        try:
            require_cluster_node(seed)
        except ValueError as error:
            yield str(error)
    first, *others = [str(seed) for seed in seeds] or [""]
    if first.startswith("redis:"):
        for other in others:
            if other.startswith("rediss:"):
                yield (
                    f"hosts has {other}, with TLS, behind {first}, without: in a cluster the first "
                    "entry's options are for all nodes, so write rediss:// there, too"
                )


def _is_power_of_two(number: int) -> bool:
    return 1 <= number <= MOST_PARTITIONS and number & (number - 1) == 0
