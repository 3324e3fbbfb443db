"""What a layer holds and has counted in all event loops of a process, also those that ended."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import reduce
from typing import Any, Protocol

from mpx_channels.channels.layer_stats import LayerCounters, LayerStats
from mpx_channels.multiplexer import Multiplexer
from mpx_channels.multiplexer.figures import gauges, parts

__all__ = ["Ledger", "LocalStats", "Source"]

# Seconds that busy event loops have, all together, to take their snapshots themselves.
LOOPS_HAVE = 1.0
# Looks at a loop that is too busy to answer: each may come in the middle of a change.
LOOKS = 100

# Of one that never ran.
NOTHING = LayerStats.of(
    [dict.fromkeys(gauges(LayerStats), 0)],
    LayerCounters(),
    replace(Multiplexer().stats(), nodes=()),
)


class Source(Protocol):
    """What has statistics: a hub, which belongs to an event loop."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def process_id(self) -> str: ...

    def stats(self) -> LayerStats: ...


@dataclass(frozen=True, slots=True)
class LocalStats:
    """A layer in all event loops of a process, at one moment.

    - ``loops``: the layer in each event loop that uses it now, that of the background thread of
      synchronous callers among them; by the id of the loop's inbox.
    - ``ended``: what event loops that ended, or in which the layer was closed, had counted. They
      hold nothing any more.
    """

    loops: Mapping[str, LayerStats]
    ended: LayerStats

    def __add__(self, other: LocalStats) -> LocalStats:
        """Two layers together."""
        return LocalStats({**self.loops, **other.loops}, add(self.ended, other.ended))

    @property
    def total(self) -> LayerStats:
        """All of it together; its counts never go down.

        ``multiplexer.connected`` is whether the subscribing connections of all loops stand, and
        ``connected_since`` since when they all do. False and None if there is no loop. ``nodes``
        has those of all loops, one loop after the other.
        """
        total = reduce(add, self.loops.values(), self.ended)
        engines = [stats.multiplexer for stats in self.loops.values()]
        since = [engine.connected_since for engine in engines if engine.connected_since is not None]
        connected = bool(engines) and all(engine.connected for engine in engines)
        return replace(
            total,
            multiplexer=replace(
                total.multiplexer,
                connected=connected,
                connected_since=max(since) if connected and since else None,
                nodes=tuple(node for engine in engines for node in engine.nodes),
            ),
        )


class Ledger:
    """The hubs that a layer has or had in this process. Thread-safe."""

    def __init__(self) -> None:
        self._accounts: tuple[_Account, ...] = ()
        self._lock = threading.Lock()

    def open(self, hub: Source) -> Callable[[], None]:
        """Take a new hub in; call what this returns when it has ended, as often as need be.

        That may be called from any thread at any time: by the garbage collector, if an event loop
        was closed in silence. So it takes no lock, which this thread might hold.
        """
        account = _Account(hub)
        with self._lock:
            ended, living = self._read()
            self._accounts = (_Account(ended), *living, account)
        return account.close

    def stats(self) -> LocalStats:
        """A snapshot, from any thread."""
        ended, living = self._read()
        return LocalStats(snapshots(living.values()), ended)

    def _read(self) -> tuple[LayerStats, dict[_Account, Source]]:
        """What has ended, all together, and the accounts of those that live."""
        ended = NOTHING
        living: dict[_Account, Source] = {}
        # One read of one tuple, and one of each account: a hub that ends meanwhile counts once.
        for account in self._accounts:
            source = account.source
            if isinstance(source, LayerStats):
                ended = add(ended, source)
            else:
                living[account] = source
        return ended, living


class _Account:
    """A hub; once it has ended, what it had counted, so that it is not kept for that."""

    __slots__ = ("source",)

    def __init__(self, source: Source | LayerStats) -> None:
        self.source = source

    def close(self) -> None:
        if not isinstance(self.source, LayerStats):
            self.source = counts_of(look(self.source))


def snapshots(hubs: Iterable[Source]) -> dict[str, LayerStats]:
    """Snapshots of hubs on any event loops, by their id, from any thread.

    A hub is changed by its loop's thread without locks, so its loop takes the snapshot: between
    two callbacks all figures fit together. Read from here, bytes would now and then be counted
    neither with a connection nor, yet, with those that ended; and a counter that goes down once
    is a restart to Prometheus, and a peak in every rate. A loop that does not run is not changing
    anything, and can be read from here. So is one that does not get to it in time, with what that
    costs in precision: who looks wants to see a loop that is stuck all the more.
    """
    taken: dict[str, LayerStats] = {}
    asked: list[tuple[Source, Future[LayerStats]]] = []
    for hub in hubs:
        answer: Future[LayerStats] = Future()
        if not hub.loop.is_running() or hub.loop is _running_loop():
            taken[hub.process_id] = look(hub)
            continue
        try:
            hub.loop.call_soon_threadsafe(_answer, hub, answer)
        except RuntimeError:  # closed just now
            taken[hub.process_id] = look(hub)
        else:
            asked.append((hub, answer))
    deadline = time.monotonic() + LOOPS_HAVE
    for hub, answer in asked:
        try:
            taken[hub.process_id] = answer.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            answer.cancel()
            taken[hub.process_id] = look(hub)
    return taken


def _answer(hub: Source, answer: Future[LayerStats]) -> None:
    if not answer.set_running_or_notify_cancel():
        return  # too late
    try:
        answer.set_result(hub.stats())
    except Exception as error:
        answer.set_exception(error)


def look(hub: Source) -> LayerStats:
    """A snapshot from this thread; again, if a dictionary changed in the middle of it."""
    for _ in range(LOOKS - 1):
        try:
            return hub.stats()
        except RuntimeError:
            continue
    return hub.stats()


def counts_of(stats: LayerStats) -> LayerStats:
    """What was counted, without what was held."""
    counted: LayerStats = _without_gauges(stats, NOTHING)
    return counted


def _without_gauges(stats: Any, nothing: Any) -> Any:
    left = {name: getattr(nothing, name) for name in gauges(type(stats))}
    for name in parts(type(stats)):
        left[name] = _without_gauges(getattr(stats, name), getattr(nothing, name))
    return replace(stats, **left)


def add(one: Any, other: Any) -> Any:
    """The sum of two statistics of one kind, field by field."""
    if is_dataclass(one) and not isinstance(one, type):
        names = [field.name for field in fields(one)]
        summed = {name: add(getattr(one, name), getattr(other, name)) for name in names}
        return replace(one, **summed)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        summed = {**one}
        for key, value in other.items():
            summed[key] = add(summed[key], value) if key in summed else value
        return summed
    if _is_number(one) and _is_number(other):
        return one + other
    # What has no sum: whoever adds decides for all.
    return other


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
