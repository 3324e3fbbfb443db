"""Asks the cluster's nodes who has which slots."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from ..exceptions import NotConnected, describe
from ..link import MOST_LOOKS
from ..packing import pack
from ..tls import host_and_port, look_closer, trouble_of
from ..topology import Node
from ..wire import hang_up
from .publishers import ClusterPublishers
from .topology import ClusterTopology
from .view import QUESTIONS, Remap, View, view_of

__all__ = ["Scout"]

# Seconds that a node has to answer: others may know. Less where there are many that may be gone
# without a trace, such as all of a cluster that got other addresses, but not less than that. Twice
# as long after each look in which somebody was too slow, up to ``connect_timeout``: they may be far
# away, or busy.
PATIENCE = 1.0
LEAST_PATIENCE = 0.25
MOST_DOUBLINGS = 16


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
        self._patience = patience
        self._remap = remap
        # Looks in a row that brought nothing, and where somebody was too slow.
        self._too_slow = 0
        # Whether a node has ever said anything, and until then what came of looking closer.
        self._found = False
        self._looked_at: dict[tuple[Node, str], Exception] = {}
        self._looks: Counter[tuple[Node, str]] = Counter()

    async def view(self, first: Node | None) -> View:
        """What a node says, `first` if it can; raises `NotConnected` if none says anything."""
        failed: list[tuple[Node, AbstractConnection | None, Exception, float]] = []
        up = self._connected(first)
        others = self._others(up)
        longer = 2**self._too_slow
        most = min(PATIENCE * longer, self._patience)
        share = max(LEAST_PATIENCE, self._patience / (len(others) + 1))
        less = min(most, share * longer)
        for node, patience in (*((each, most) for each in up), *((each, less) for each in others)):
            connection = None if node in up else node.connection()
            try:
                async with asyncio.timeout(patience):
                    answers = await (self._over(node) if connection is None else _over(connection))
                view = view_of(answers, node.endpoint, str(node), self._remap)
            except Exception as error:
                failed.append((node, connection, error, patience))
            else:
                self._found = True
                self._looked_at, self._looks = {}, Counter()
                self._too_slow = 0
                return view
            finally:
                if connection is not None:
                    hang_up(connection)
        if any(isinstance(error, TimeoutError) for _, _, error, _ in failed):
            self._too_slow = min(self._too_slow + 1, MOST_DOUBLINGS)
        said: dict[str, tuple[str, str]] = {}
        for node, connection, raised, patience in failed:
            why = raised
            if connection is not None:
                # Not before all were asked, as it takes longer than that.
                why = await self._look_at(node, raised, connection)
            address, text = host_and_port(*node.endpoint), describe(why)
            if isinstance(why, TimeoutError):
                text = f"no answer in {patience:.2g} s"
            if not isinstance(why, NotConnected) or address not in text:
                text = f"{node}: {text}"  # what is wrong with TLS, and most else, names it
            said[str(node)] = address, text
        raise NotConnected(f"no node of the cluster says who has which slots ({_together(said)})")

    def _connected(self, first: Node | None) -> list[Node]:
        up = [each.link.node for each in self._publishers.all if each.ready]
        random.shuffle(up)
        if first in up:
            up.remove(first)
            up.insert(0, first)
        return up

    def _others(self, up: Sequence[Node]) -> list[Node]:
        """Those to connect to: seeds and masters in turn, as all of one kind may be gone."""
        seeds = random.sample(self._topology.seeds, len(self._topology.seeds))
        down = [node for node in self._topology.nodes if node not in up]
        random.shuffle(down)
        pairs = itertools.zip_longest(down, seeds)
        return [node for pair in pairs for node in pair if node is not None]

    async def _over(self, node: Node) -> Sequence[Any]:
        submit = self._publishers.of(node).submit
        asked = [submit(pack(*words)) for words in QUESTIONS]
        return await asyncio.gather(*asked, return_exceptions=True)

    async def _look_at(
        self, node: Node, error: Exception, connection: AbstractConnection
    ) -> Exception:
        """The error in words that help, where TLS is what is wrong; as a link does it."""
        if self._found:
            trouble = trouble_of(error, connection)
            return error if trouble is None else trouble.error()
        # What is wrong may be in the settings. A node is asked once for each error; again if that
        # came to nothing, as it may be slow, but not if it is silent: it takes a second each time.
        key = node, describe(error)
        most = 1 if isinstance(error, TimeoutError) else MOST_LOOKS
        if key not in self._looked_at and self._looks[key] < most:
            self._looks[key] += 1
            trouble = await look_closer(error, connection)
            if trouble is not None:
                self._looked_at[key] = trouble.error()
        return self._looked_at.get(key, error)


async def _over(connection: AbstractConnection) -> Sequence[Any]:
    # As with Sentinels: by a connection, without redis-py's clients around it.
    await connection.connect()  # type: ignore[no-untyped-call]
    for words in QUESTIONS:
        await connection.send_command(*words)
    answers: list[Any] = []
    for _ in QUESTIONS:
        try:
            answers.append(await connection.read_response())
        except ResponseError as error:
            answers.append(error)
    return answers


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
