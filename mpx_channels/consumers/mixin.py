"""MpxConsumerMixin: put before a consumer, it replaces Channels' own dispatch."""

from __future__ import annotations

from typing import Any

from channels.consumer import AsyncConsumer, SyncConsumer

from .dispatch import Dispatch

__all__ = ["MpxConsumerMixin"]


class MpxConsumerMixin(Dispatch):
    """Put it before any consumer of Channels to replace its dispatch loop with a faster one.

    Events of the socket and of the channel layer go into one mailbox, in the order of their
    arrival, and their handlers run one at a time, as in Channels. There is no task for each
    message, and no trip to another thread before each handler. As in Channels, the socket is not
    read while a handler runs: the server's flow control holds back a client that sends faster.

    Overrides in the consumer's own classes (`dispatch`, ``__call__``, or any method with a name
    that is also used here) keep working: their ``super()`` leads here instead of to Channels.

    However the consumer ends, its groups, subscriptions, promises and tasks end with it. Also works
    with other channel layers, as far as they support these things.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        order = cls.__mro__
        if AsyncConsumer not in order:
            return  # it is a mixin itself
        if order.index(AsyncConsumer) < order.index(MpxConsumerMixin):
            raise TypeError(
                f"{cls.__name__} must name the mixins of mpx_channels before the consumer of "
                "Channels: as it stands, Channels' own dispatch would run"
            )
        if not _is_in_place(cls):
            _put_in_place(cls)


class _Dispatch(Dispatch, AsyncConsumer):
    """What a consumer's classes have for `AsyncConsumer`: the same, with our dispatch."""


class _SyncDispatch(_Dispatch, SyncConsumer):
    """The same for `SyncConsumer`."""

    def send(self, message: dict[str, Any]) -> None:
        """Hand something to the server, as Channels' own."""
        super().send(message)


def _is_in_place(cls: type) -> bool:
    """Whether our dispatch comes right before Channels' own, after whatever overrides it."""
    order = cls.__mro__
    theirs = SyncConsumer if SyncConsumer in order else AsyncConsumer
    return order[order.index(theirs) - 1] is Dispatch


def _put_in_place(cls: type) -> None:
    """Give a consumer a base more, below all others that are consumers.

    A metaclass could do it without a change of `__bases__`, and would not go together with those
    of other packages.
    """
    ours = _SyncDispatch if issubclass(cls, SyncConsumer) else _Dispatch
    bases = [base for base in cls.__bases__ if base not in (_Dispatch, _SyncDispatch)]
    consumers = [n for n, base in enumerate(bases) if issubclass(base, AsyncConsumer)]
    named = [n for n in consumers if bases[n] in (AsyncConsumer, SyncConsumer)]
    # Not behind other bases, which may have to come after Channels' own.
    bases.insert(named[0] if named else consumers[-1] + 1, ours)
    cls.__bases__ = tuple(bases)
    if not _is_in_place(cls):
        raise TypeError(
            f"{cls.__name__} cannot have the mixins of mpx_channels: their dispatch has no place "
            "between its other classes and Channels' own consumer, in the order "
            f"{[each.__name__ for each in cls.__mro__]}"
        )
