"""Which groups have a history: CONFIG's ``history``, checked."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Histories", "HistorySetting", "wrong_histories"]

# Days that the count of a group's messages outlives the last of them, at least: with it ends the
# epoch, and positions mean nothing any more.
META_DAYS = 30
META_TTLS = 20
# Groups whose setting is remembered: it is asked for with every message.
REMEMBERED = 8192


@dataclass(frozen=True, slots=True)
class HistorySetting:
    """How much of a group is kept: ``size`` messages, for ``ttl`` seconds after the last one."""

    size: int
    ttl: float

    @property
    def ttl_ms(self) -> int:
        return max(1, round(self.ttl * 1000))

    @property
    def meta_ttl_ms(self) -> int:
        return max(META_DAYS * 86_400_000, META_TTLS * self.ttl_ms)


class Histories:
    """The settings of groups, the first pattern that matches counts."""

    def __init__(self, history: Mapping[Any, Mapping[str, Any]] | None) -> None:
        self._rules = [
            (_matcher(pattern), HistorySetting(**setting))
            for pattern, setting in (history or {}).items()
        ]
        # Whether there are groups with a history at all.
        self.some = bool(self._rules)
        self._of = functools.lru_cache(REMEMBERED)(self._find)

    def of(self, group: str) -> HistorySetting | None:
        """How much of a group is kept; None if nothing is."""
        return self._of(group)

    def required(self, group: str, key: str | None) -> HistorySetting | None:
        """As `of`; raises `TypeError` or `ValueError` where a message cannot have this key."""
        setting = self._of(group)
        if key is not None:
            if not isinstance(key, str) or not key:
                raise TypeError(f"an idempotency_key must be a str that is not empty, not {key!r}")
            if setting is None:
                raise ValueError(
                    f'an idempotency_key needs a history, and "history" in CONFIG has none for '
                    f"the group {group!r}"
                )
        return setting

    def _find(self, group: str) -> HistorySetting | None:
        return next((setting for match, setting in self._rules if match(group)), None)


def _matcher(pattern: Any) -> Callable[[str], object]:
    # As Channels has it for channel_capacity.
    if isinstance(pattern, str):
        return re.compile(fnmatch.translate(pattern)).match
    match: Callable[[str], object] = pattern.match
    return match


def wrong_histories(history: Any) -> Iterator[str]:
    """A sentence for everything that is wrong."""
    if history is None:
        return
    if not isinstance(history, Mapping):
        yield (
            'history must be a dict of globs or regexes to {"size": messages, "ttl": seconds}, '
            f"not {history!r}"
        )
        return
    for pattern, setting in history.items():
        key = f"history[{pattern!r}]"
        if not isinstance(pattern, str) and not _matches_text(pattern):
            yield f"history key {pattern!r} must be a glob (str) or a regex over str"
        if not isinstance(setting, Mapping) or set(setting) != {"size", "ttl"}:
            yield f'{key} must be {{"size": messages, "ttl": seconds}}, not {setting!r}'
            continue
        size, ttl = setting["size"], setting["ttl"]
        whole = isinstance(size, int) and not isinstance(size, bool)
        if not whole or not 0 < size <= LARGEST_SIZE:
            yield (
                f"{key}: size must be a whole number of messages from 1 to {LARGEST_SIZE:,}, "
                f"not {size!r}"
            )
        right = isinstance(ttl, int | float) and not isinstance(ttl, bool)
        if not right or not 0 < ttl < LONGEST_TTL:
            yield f"{key}: ttl must be a number of seconds above 0, not {ttl!r}"


def _matches_text(pattern: Any) -> bool:
    try:
        pattern.match("group")
    except (AttributeError, TypeError):  # one over bytes, for instance
        return False
    return True


# Nobody has the memory for more, and Redis' numbers end somewhere.
LARGEST_SIZE = 1_000_000_000
# Seconds; some hundred years, for Redis counts milliseconds in 64 bits.
LONGEST_TTL = 1e10
