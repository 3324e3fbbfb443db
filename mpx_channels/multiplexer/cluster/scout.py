"""Asks the cluster's nodes who has which slots."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from ..exceptions import MpxError, NotConnected, describe
from ..packing import pack
from ..tls import host_and_port, look_closer, trouble_of
from ..topology import Node
from ..wire import hang_up
from .publishers import ClusterPublishers
from .topology import ClusterTopology
from .view import QUESTIONS, Remap, View, view_of

__all__ = ["Scout"]

# Seconds that a node has to answer: others may know. Where nobody answers in time it is twice as
# long at the next attempt, up to ``connect_timeout``: they may be far away, or busy.
PATIENCE = 1.0


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
        self._most_patience = patience
        self._patience = min(PATIENCE, patience)
        self._remap = remap
        # Whether a node has ever said anything, and until then what came of looking closer.
        self._found = False
        self._looked_at: dict[tuple[Node, str], Exception] = {}

    async def view(self, first: Node | None) -> View:
        """What a node says, `first` if it can; raises `NotConnected` if none says anything."""
        said: dict[str, tuple[str, str]] = {}
        patience = self._patience
        for node, connected in self._candidates(first):
            address = host_and_port(*node.endpoint)
            try:
                if connected:
                    async with asyncio.timeout(patience):
                        view = await self._over(node, self._publishers.of(node).submit)
                else:
                    view = await self._by_itself(node)
            except TimeoutError:
                text = f"{node}: no answer in {patience:g} s"
                self._patience = min(2 * patience, self._most_patience)
            except NotConnected as error:
                text = str(error)
                if address not in text:  # what is wrong with TLS, and most else, names it
                    text = f"{node}: {text}"
            except (MpxError, RedisError, OSError) as error:
                text = f"{node}: {describe(error)}"
            else:
                self._found = True
                self._patience = min(PATIENCE, self._most_patience)
                self._looked_at = {}
                return view
            said[str(node)] = address, text
        raise NotConnected(f"no node of the cluster says who has which slots ({_together(said)})")

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

    async def _over(self, node: Node, submit: Callable[[bytes], asyncio.Future[Any]]) -> View:
        asked = [submit(pack(*words)) for words in QUESTIONS]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return self._view_of(answers, node)

    async def _by_itself(self, node: Node) -> View:
        # As with Sentinels: by a connection, without redis-py's clients around it.
        connection = node.connection()
        answers: list[Any] = []
        try:
            async with asyncio.timeout(self._patience):
                await connection.connect()  # type: ignore[no-untyped-call]
                for words in QUESTIONS:
                    await connection.send_command(*words)
                for _ in QUESTIONS:
                    try:
                        answers.append(await connection.read_response())
                    except ResponseError as error:
                        answers.append(error)
            return self._view_of(answers, node)
        except Exception as error:
            found = await self._look_at(node, error, connection)
            if found is not error:
                raise found from error
            raise
        finally:
            hang_up(connection)

    def _view_of(self, answers: Sequence[Any], node: Node) -> View:
        return view_of(answers, node.endpoint, str(node), self._remap)

    async def _look_at(
        self, node: Node, error: Exception, connection: AbstractConnection
    ) -> Exception:
        """The error in words that help, where TLS is what is wrong; as a link does it."""
        if self._found:
            trouble = trouble_of(error, connection)
            return error if trouble is None else trouble.error()
        # What is wrong may be in the settings. A node is asked once for each error.
        key = node, describe(error)
        if key not in self._looked_at:
            trouble = await look_closer(error, connection)
            self._looked_at[key] = error if trouble is None else trouble.error()
        return self._looked_at[key]


def _together(said: dict[str, tuple[str, str]]) -> str:
    """What is wrong with each node, by its name, as address and text; what is alike, once."""
    alike: dict[str, list[str]] = {}
    for name, (address, text) in said.items():
        alike.setdefault(text.replace(address, ""), []).append(name)
    sentences = []
    for first, *others in alike.values():
        also = f" (so it is with {', '.join(others)})" if others else ""
        sentences.append(said[first][1] + also)
    return "; ".join(sentences)
