"""Hash slots: which part of a cluster a key, or a sharded channel, belongs to."""

from __future__ import annotations

from functools import lru_cache

from redis.crc import key_slot

__all__ = ["SLOTS", "slot_of"]

SLOTS = 16384


@lru_cache(maxsize=1 << 15)
def slot_of(name: bytes) -> int:
    """The slot of a key or channel: CRC-16 of its hash tag, or of all of it if it has none.

    https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
    """
    return int(key_slot(name))
