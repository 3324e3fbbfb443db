"""Subscriptions for code that is no consumer: a view, a task, a management command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Self

from mpx_channels.channels.mailbox import Failure, Mailbox
from mpx_channels.messages.codec import Message

__all__ = ["Subscription"]


class Subscription:
    """A channel of its own for whoever listens; made by `MpxChannelLayer.subscribe`.

    Entering it returns once Redis has confirmed everything; leaving it ends everything. The
    layer's ``capacity`` and ``expiry`` hold for it as for a consumer.
    """

    def __init__(
        self,
        open_channel: Callable[[], Awaitable[Mailbox]],
        close_channel: Callable[[Mailbox], object],
        wanted: Iterable[tuple[Callable[[str, str], Awaitable[object]], Iterable[str]]],
    ) -> None:
        """``wanted``: methods that add a channel to a name, each with its names."""
        self._open_channel = open_channel
        self._close_channel = close_channel
        self._wanted = [(add, tuple(names)) for add, names in wanted]
        self._mailbox: Mailbox | None = None

    @property
    def channel_name(self) -> str:
        """The name of the channel, while it is open: for `send`, `request` and ``exclude``."""
        return self._opened.channel

    async def __aenter__(self) -> Self:
        if self._mailbox is not None:
            raise RuntimeError("this subscription is open already: make another one")
        self._mailbox = mailbox = await self._open_channel()
        try:
            for add, names in self._wanted:
                for name in names:
                    await add(name, mailbox.channel)
        except BaseException:
            self._close_channel(mailbox)
            self._mailbox = None
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        mailbox, self._mailbox = self._opened, None
        self._close_channel(mailbox)
        # Whoever still iterates, in another task, comes to the end.
        while mailbox.waited_for:
            mailbox.put_always(Failure(StopAsyncIteration()))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        return await self._opened.get()

    @property
    def _opened(self) -> Mailbox:
        if self._mailbox is None:
            raise RuntimeError("a subscription is open between 'async with' and its end only")
        return self._mailbox
