"""The layers of a process; of an alias in CHANNEL_LAYERS only one, whoever asks for it first."""

from __future__ import annotations

import inspect
import sys
import threading
import weakref
from types import FrameType
from typing import Any, TypeVar, cast

from channels.layers import ChannelLayerManager

from mpx_channels.loops.fork import in_forked_child

__all__ = ["LayerType", "living_layers"]

# Who asked for it in Channels' registry, or None for a layer that somebody made by hand: the
# registry, the alias, and its entry in the settings.
Origin = tuple[object, object, object]

T = TypeVar("T")


class LayerType(type):
    """Makes layers: for Channels' registry one of each alias, as the registry has no lock.

    Threads that ask it for an alias at the same time, such as the first requests of a process, all
    make one, and each goes on with whichever was put into the registry last by then. Here they get
    the same one. Whoever makes a layer by hand gets a new one.
    """

    def __call__(cls: type[T], *args: Any, **config: Any) -> T:
        origin = _origin(sys._getframe(1))  # noqa: SLF001 - as the standard library does
        # Without the lock, as it imports things: the spare ones hold no connections.
        made: T = type.__call__(cls, *args, **config)
        with _lock:
            if origin is not None:
                for other, its in _layers.items():
                    if _same(its, origin):
                        return cast("T", other)
            _layers[made] = origin
        return made

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of the class, which `__call__` would hide from editors and `inspect`."""
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])


def _origin(caller: FrameType) -> Origin | None:
    """Whether Channels' registry makes a layer because somebody asked for its alias.

    It hands over the values of CONFIG and nothing else, and they do not tell: two aliases may have
    the same. But it is in the middle of `ChannelLayerManager.__getitem__`.
    """
    frame: FrameType | None = caller
    asking = ChannelLayerManager.__getitem__.__code__
    while frame is not None and frame.f_globals.get("__name__") == ChannelLayerManager.__module__:
        if frame.f_code is asking:
            manager, alias = (frame.f_locals[name] for name in asking.co_varnames[:2])
            # Weakly: it holds the layer.
            return weakref.ref(manager), alias, manager.configs[alias]
        frame = frame.f_back
    return None


def _same(one: Origin | None, other: Origin) -> bool:
    """The same registry, alias and settings: settings that are equal may be another test's."""
    return one is not None and (one[0] == other[0] and one[1] == other[1] and one[2] is other[2])


_layers: weakref.WeakKeyDictionary[Any, Origin | None] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def living_layers() -> list[Any]:
    """Every layer of the process; thread-safe."""
    with _lock:
        return list(_layers)


def _forget_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global _lock
    _lock = threading.Lock()


in_forked_child(_forget_lock)
