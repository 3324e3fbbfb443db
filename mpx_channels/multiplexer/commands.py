"""What is asked of Redis besides publishing and subscribing; all of it by way of a multiplexer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from .exceptions import CommandRefused, ConnectionLost
from .multiplexer import Multiplexer
from .subscriptions import encode_name
from .topology import Node

__all__ = [
    "list_items",
    "list_length",
    "ping",
    "pop_first",
    "publish_as_scripts",
    "publish_counted",
    "publish_to_one",
    "scan",
    "server_time",
    "sharded_channels",
    "subscribed",
    "subscribers",
    "unlink",
]

# Keys that one SCAN looks at, about; and items that one LRANGE asks for.
SCANNED_AT_ONCE = 1000
ITEMS_AT_ONCE = 100
# Seconds between two publishes to somebody who may be about to follow.
FOLLOWING = 0.02
_PUBLISH = b"return redis.call('PUBLISH', ARGV[1], ARGV[2])"


async def publish_counted(
    multiplexer: Multiplexer, name: str, data: bytes, *, classic: bool = False
) -> int:
    """Publish to `name`; return how many clients got it that subscribe to this very name.

    Whoever listens by a pattern, to look on perhaps, gets it and does not count, unless an ACL
    forbids PUBSUB; nor do the `onlookers` of sharded channels. Raises as `Multiplexer.publish`.
    """
    results: list[Any] = await asyncio.gather(
        multiplexer.publish_soon(name, data, classic=classic),
        *multiplexer.numsub(name, classic=classic),
        return_exceptions=True,
    )
    received, *counted = results
    if isinstance(received, BaseException):
        raise received
    count = _sum(counted)
    if count is None:
        return int(received)
    return min(received, count) if multiplexer.counts_all and not classic else count


async def publish_as_scripts(multiplexer: Multiplexer, key: str, name: str, data: bytes) -> int:
    """As `publish_counted`, the way of what scripts publish that have this key: behind that.

    Where there are `Multiplexer.scripts_apart`.
    """
    words = (b"EVAL", _PUBLISH, b"1", encode_name(key), encode_name(name), data)
    received = await multiplexer.command(*words, node=multiplexer.node_of(key))
    return await subscribers(multiplexer, name, received)


async def publish_to_one(multiplexer: Multiplexer, name: str, data: bytes) -> int:
    """As `publish_counted`, to a name that a process has for its life; if nobody got it, again
    until those who follow its slot have had time to.
    """
    while not (received := await publish_counted(multiplexer, name, data)):
        if not multiplexer.moved_lately(name):
            break
        await asyncio.sleep(FOLLOWING)
    return received


async def subscribers(multiplexer: Multiplexer, name: str, received: int) -> int:
    """How many of those that ``received`` what was published subscribe to this very name.

    All of them where an ACL forbids PUBSUB.
    """
    counted = await asyncio.gather(*multiplexer.numsub(name), return_exceptions=True)
    for error in counted:
        if isinstance(error, BaseException) and not isinstance(error, CommandRefused):
            raise error
    count = _sum(counted)
    if count is None:
        return received
    return min(received, count) if multiplexer.counts_all else count


def _sum(counted: Sequence[Any]) -> int | None:
    """What all nodes have counted; None if none of them has."""
    known = [
        # Without those who only look on, where a node was asked for them.
        int(each[1]) - (int(each[3]) if len(each) > 3 else 0)
        for each in counted
        if not isinstance(each, BaseException)
    ]
    return sum(known) if known else None


async def subscribed(multiplexer: Multiplexer, node: Node, pattern: str) -> list[bytes]:
    """The channels that match and that somebody is subscribed to."""
    found: list[bytes] = await multiplexer.command(
        b"PUBSUB", b"CHANNELS", encode_name(pattern), node=node
    )
    return found


def sharded_channels(
    multiplexer: Multiplexer, node: Node, pattern: str
) -> asyncio.Future[list[bytes]]:
    """The sharded channels that match and that somebody is subscribed to on a node of a cluster."""
    return multiplexer.command(b"PUBSUB", b"SHARDCHANNELS", encode_name(pattern), node=node)


async def scan(multiplexer: Multiplexer, node: Node, pattern: str) -> AsyncIterator[list[bytes]]:
    """The keys of a node that match, in batches; some perhaps twice."""
    cursor = b"0"
    while True:
        words = (b"MATCH", encode_name(pattern), b"COUNT", b"%d" % SCANNED_AT_ONCE)
        cursor, keys = await multiplexer.command(b"SCAN", cursor, *words, node=node)
        yield keys
        if cursor == b"0":
            return


async def unlink(multiplexer: Multiplexer, node: Node, keys: list[bytes]) -> None:
    """Delete keys."""
    together: dict[Hashable, list[bytes]] = {}
    for key in keys:
        together.setdefault(multiplexer.place_of(key), []).append(key)
    deleted = [multiplexer.command(b"UNLINK", *each, node=node) for each in together.values()]
    await asyncio.gather(*deleted)


def list_length(multiplexer: Multiplexer, node: Node, key: bytes) -> asyncio.Future[int]:
    """The length of a list."""
    return multiplexer.command(b"LLEN", key, node=node)


async def list_items(multiplexer: Multiplexer, name: str) -> AsyncIterator[bytes]:
    """The items of a list from its head, which stay there."""
    key, node = encode_name(name), multiplexer.node_of(name)
    start = 0
    while True:
        end = start + ITEMS_AT_ONCE
        words = (b"LRANGE", key, b"%d" % start, b"%d" % (end - 1))
        found: list[bytes] = await multiplexer.command(*words, node=node)
        for item in found:
            yield item
        if len(found) < ITEMS_AT_ONCE:
            return
        start = end


@dataclass(frozen=True, slots=True)
class Popped:
    """The ``item`` that was at the head of the list ``name``, and the server's clock right after.

    ``milliseconds``: since 1970; 0 where the server would not tell.
    """

    name: str
    item: bytes
    milliseconds: int


async def pop_first(
    multiplexer: Multiplexer, node: Node, names: Sequence[str], timeout: float
) -> Popped | None:
    """The head of the first of these lists that has one, or None after `timeout` seconds.

    Over the connection that blocks. In a cluster one command would have no place for all names.
    """
    blocking = multiplexer.blocking_command
    keys = [encode_name(name) for name in names]
    answers: tuple[Any, Any] = await asyncio.gather(
        blocking(b"BLPOP", *keys, b"%g" % timeout, node=node),
        blocking(b"TIME", node=node),
        return_exceptions=True,
    )
    match answers:
        case BaseException() as error, _:
            raise error
        case [bytes(name), bytes(item)], time:
            now = 0
            if isinstance(time, list) and len(time) == 2:
                now = int(time[0]) * 1000 + int(time[1]) // 1000
            return Popped(name.decode("utf-8", "surrogateescape"), item, now)
        case None, _:
            return None
    raise ConnectionLost(f"{node} answered {answers[0]!r:.100} to BLPOP")


async def server_time(multiplexer: Multiplexer, node: Node) -> float:
    """The server's clock: Unix time in seconds."""
    seconds, microseconds = await multiplexer.command(b"TIME", node=node)
    return int(seconds) + int(microseconds) / 1e6


async def ping(multiplexer: Multiplexer, node: Node) -> None:
    """Return once the server has answered."""
    await multiplexer.command(b"PING", node=node)
