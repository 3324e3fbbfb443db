"""CONFIG's numbers of presence, and what an id and an info may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["MAX_ID", "MAX_INFO", "PresenceSetting", "require_id", "require_info", "require_limit"]

# Bytes. A page of a thousand members is a MiB at most, and so is an event.
MAX_INFO = 1024
MAX_ID = 256


@dataclass(frozen=True, slots=True)
class PresenceSetting:
    """``lease`` and ``linger`` in seconds; ``events``: up to how many members events name them."""

    lease: float
    linger: float
    events: int


def require_id(id: object) -> str:
    """The id of a member; raises `TypeError` or `ValueError` for what cannot be one."""
    if not isinstance(id, str):
        raise TypeError(f"the id of who is present must be a str, such as a user's key, not {id!r}")
    try:
        length = len(id.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the id of who is present must be valid Unicode, not {id!r}") from None
    if not 0 < length <= MAX_ID:
        raise ValueError(
            f"the id of who is present must have 1 to {MAX_ID} bytes, not the {length} of "
            f"{id[:MAX_ID]!r}"
        )
    return id


def require_info(info: object, encode: Callable[[dict[str, Any]], bytes]) -> dict[str, Any]:
    """What is known of a member; raises `TypeError`, `ValueError` and what ``encode`` does."""
    if info is None:
        return {}
    if not isinstance(info, dict):
        raise TypeError(f"the info of who is present must be a dict, or None, not {info!r}")
    length = len(encode(info))
    if length > MAX_INFO:
        raise ValueError(
            f"the info of who is present takes {length:,} bytes, over {MAX_INFO:,}: everybody gets "
            "it, so keep to a name and the like, and have the rest looked up by the id"
        )
    return info


def require_limit(limit: object) -> int:
    """How many members to list; raises `ValueError` for what is no number of them."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"limit must be a whole number of members from 1 up, not {limit!r}")
    return limit
