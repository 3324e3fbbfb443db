"""What a cluster's nodes say, as errors of their own, with every redis-py."""

from __future__ import annotations

from typing import Any

import redis.exceptions

__all__ = ["know_cluster_errors"]

CLUSTER_ERRORS: dict[str, type[Exception]] = {
    "ASK": redis.exceptions.AskError,
    "CLUSTERDOWN": redis.exceptions.ClusterDownError,
    "CROSSSLOT": redis.exceptions.ClusterCrossSlotError,
    "MASTERDOWN": redis.exceptions.MasterDownError,
    "MOVED": redis.exceptions.MovedError,
    "TRYAGAIN": redis.exceptions.TryAgainError,
}


def know_cluster_errors(parser: Any) -> None:
    """Have the parser of a connection that is not connected yet make these errors.

    Up to redis-py 5.3 only the connections of its cluster's client do.
    """
    if CLUSTER_ERRORS.keys() <= getattr(parser, "EXCEPTION_CLASSES", {}).keys():
        return
    parse = parser.parse_error

    def parse_all(text: str) -> Exception:
        kind, _, rest = text.partition(" ")
        class_ = CLUSTER_ERRORS.get(kind)
        error: Exception = parse(text) if class_ is None else class_(rest)
        return error

    parser.parse_error = parse_all
