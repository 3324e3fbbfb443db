"""A publisher among others: what it cannot do, another does."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Iterator

from ..backlog import Waiting
from ..exceptions import MultiplexerStopped
from ..packing import pack
from ..publisher import Publisher, Sent
from ..wire import Frame

__all__ = ["ClusterPublisher"]

# Before a command for a slot that is on its way to this node.
ASKING = pack(b"ASKING")


class ClusterPublisher(Publisher):
    """Hands commands on to the publishers of other nodes, and takes over theirs."""

    @property
    def ready(self) -> bool:
        """Whether what is submitted now is written in this turn."""
        return self._wire is not None and not self._wire.paused

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything here."""
        return not (self._unanswered or self._backlog or self._doubts)

    def take_over(self, sent: Iterable[Sent], *, asking: bool = False) -> None:
        """Send what was submitted elsewhere, in its order; its futures get the replies.

        ``asking``: each behind an ASKING. Never raises: what cannot be sent fails.
        """
        for future, command, again, in_doubt in sent:
            if future.done():
                continue
            if self._loop is None:
                stopped = MultiplexerStopped("the multiplexer was stopped before this was sent")
                future.set_exception(stopped)
                continue
            self._refusable[future] = command
            if again is not None:
                self._doubts.watch(future, again, in_doubt=in_doubt)
            wire = self._wire
            if wire is not None and not wire.paused:
                if not self._batch:
                    self._loop.call_soon(self._write_batch)
                if asking:
                    self._batch.append(ASKING)
                    self._unanswered.append(None)
                self._batch.append(command)
                self._unanswered.append(future)
            elif in_doubt:
                self._doubts.wait(future, command)
            else:
                self._backlog.add(Waiting(future, command))

    def take_out(self, wanted: Callable[[bytes], bool] = lambda command: True) -> Iterator[Sent]:
        """What waits here for a connection, as far as it is `wanted`, for another to take over.

        That which is in doubt comes first.
        """
        late = [each for each in self._backlog if wanted(each.command)]
        for each in late:
            self._backlog.discard(each)
        for future, command in (*self._doubts.take_out(wanted), *late):
            self._refusable.pop(future, None)
            if not future.done():
                yield self._sent(future, command)

    def under_way(self) -> list[tuple[asyncio.Future[Frame], bytes]]:
        """What `on_refusal` may get: the commands that are not answered yet."""
        return list(self._refusable.items())

    def settled(self) -> asyncio.Future[None]:
        """Done once all that has been written by now is answered, or never will be."""
        assert self._loop is not None
        done: asyncio.Future[None] = self._loop.create_future()
        for last in reversed(self._unanswered):
            if last is not None and not last.done():
                last.add_done_callback(functools.partial(_end, done))
                return done
        done.set_result(None)
        return done


def _end(done: asyncio.Future[None], _: asyncio.Future[Frame]) -> None:
    if not done.done():
        done.set_result(None)
