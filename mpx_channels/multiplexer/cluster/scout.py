"""Asks the cluster's nodes who has which slots."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from redis.exceptions import RedisError

from ..exceptions import MpxError, NotConnected, describe
from ..packing import pack
from ..topology import Node
from .publishers import ClusterPublishers
from .topology import ClusterTopology
from .view import Remap, View, ask_for_view

__all__ = ["Scout"]

# Seconds that a node has to answer, at most: others may know.
PATIENCE = 1.0

Ask = Callable[..., Awaitable[Any]]


class Scout:
    """Asks one node after the other until one answers: first over the connections that stand.

    What it connects to by itself, it leaves again.
    """

    def __init__(
        self,
        topology: ClusterTopology,
        publishers: ClusterPublishers,
        *,
        patience: float,
        remap: Remap | None,
    ) -> None:
        self._topology = topology
        self._publishers = publishers
        self._patience = min(PATIENCE, patience)
        self._remap = remap

    async def view(self, first: Node | None) -> View:
        """What a node says, `first` if it can; raises `NotConnected` if none says anything."""
        said = []
        for node, connected in self._candidates(first):
            try:
                async with asyncio.timeout(self._patience):
                    if connected:
                        return await self._over(node, self._publishers.of(node).submit)
                    return await self._by_itself(node)
            except TimeoutError:
                said.append(f"{node}: no answer in {self._patience:g} s")
            except (MpxError, RedisError, OSError) as error:
                text = describe(error)
                said.append(text if str(node) in text else f"{node}: {text}")
        raise NotConnected(f"no node of the cluster says who has which slots ({'; '.join(said)})")

    def _candidates(self, first: Node | None) -> Iterator[tuple[Node, bool]]:
        up = [each.link.node for each in self._publishers.all if each.ready]
        random.shuffle(up)
        if first in up:
            up.remove(first)
            up.insert(0, first)
        yield from ((node, True) for node in up)
        down = [node for node in self._topology.nodes if node not in up]
        seeds = list(self._topology.seeds)
        for nodes in (down, seeds):
            random.shuffle(nodes)
            yield from ((node, False) for node in nodes)

    async def _over(self, node: Node, submit: Callable[[bytes], Awaitable[Any]]) -> View:
        async def ask(*words: bytes) -> Any:
            return await submit(pack(*words))

        return await ask_for_view(ask, node.endpoint, str(node), self._remap)

    async def _by_itself(self, node: Node) -> View:
        # As with Sentinels: by a connection, without redis-py's clients around it.
        connection = node.connection()
        turn = asyncio.Lock()

        async def ask(*words: bytes) -> Any:
            async with turn:
                await connection.send_command(*words)
                return await connection.read_response()

        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            view = await ask_for_view(ask, node.endpoint, str(node), self._remap)
        except GeneratorExit:
            raise  # the loop was closed, nothing can be awaited any more
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        await connection.disconnect(nowait=True)
        return view
