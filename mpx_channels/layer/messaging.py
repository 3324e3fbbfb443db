"""Messages beyond the specification: many at once, to browsers, counted, kept, and as bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from time import monotonic
from typing import Any

from mpx_channels.history.positions import History
from mpx_channels.messages.broadcasts import broadcast
from mpx_channels.messages.codec import Message
from mpx_channels.messages.envelope import ENCRYPTED

from .specification import SpecifiedLayer

__all__ = ["MessagingLayer"]


class MessagingLayer(SpecifiedLayer):
    """More ways to send messages, and to read what was sent."""

    # -- groups -------------------------------------------------------------------------------

    async def group_send_many(self, messages: Iterable[tuple[str, Message]]) -> list[str | None]:
        """Send messages, each to its group, in one write; returns once Redis has all of them.

        All names and messages are checked before the first is sent. Returns their positions, as
        `group_send` does. Raises as `send`; if Redis refuses some, the others were sent.
        """
        named = [(self._group_name(group), message) for group, message in messages]
        frames = [(name, self.wrapping.wrap(name, message)) for name, message in named]
        try:
            return await self._hubs.run(lambda hub: hub.send_many(frames))
        finally:  # some may have been sent
            self._published_at.update(dict.fromkeys((name for name, _ in frames), monotonic()))

    async def group_broadcast(
        self,
        group: str,
        content: Any,
        *,
        exclude: Collection[str] = (),
        idempotency_key: str | None = None,
    ) -> str | None:
        """Send a frame to every browser in a group, encoded once, here.

        A str goes out as a text frame and bytes as a binary one; anything else as JSON. Our
        WebSocket consumers pass it on as it is, by their handler ``mpx_broadcast``: a thousand
        members cost one encoding, where ``send_json`` in a handler costs a thousand. Else as
        `group_send`.
        """
        return await self.group_send(
            group, broadcast(content), exclude=exclude, idempotency_key=idempotency_key
        )

    async def group_send_counted(self, group: str, message: Message) -> int:
        """As `group_send`, and return how many processes got it.

        Onlookers (`tap`, patterns) are not counted, unless an ACL forbids PUBSUB. For tools and
        tests: it costs Redis more.
        """
        name = self._group_name(group)
        data = self.wrapping.wrap(name, message)
        setting = self._histories.of(group)
        if setting is not None:
            return await self._hubs.run(lambda hub: hub.archive.send_counted(name, setting, data))
        return await self._hubs.run(lambda hub: hub.groups.send_counted(name, data))

    async def group_history(self, group: str, since: object = None, limit: int = 50) -> History:
        """The last messages of a group, or the first ones ``since`` a position; the oldest first.

        Each has its position under ``"mpx_position"``. If ``since`` is not a position, or is one of
        another epoch, these are the last messages, and the history is not ``complete``. It also has
        messages that were sent with ``exclude``. Raises `ValueError` for a group without a history
        and a limit below 1, and as `Multiplexer.publish`.
        """
        name = self._group_name(group)
        setting = self._histories.of(group)
        if setting is None:
            raise ValueError(f'the group {group!r} has no history: see "history" in CONFIG')
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit must be a whole number of messages from 1 up, not {limit!r}")
        return await self._hubs.run(lambda hub: hub.archive.read(name, setting, since, limit))

    async def send_counted(self, channel: str, message: Message) -> int | None:
        """As `send`, and return how many processes got it: one or none.

        None for a plain channel, where it waits for whoever reads. Else as `group_send_counted`.
        """
        inbox = self._inbox_name(channel)
        if not inbox:
            await self.send(channel, message)
            return None
        sent = self._hubs.run(lambda hub: hub.inbox.send(inbox, channel, message, exactly=True))
        return int(await sent)

    def require_idempotency(self, group: str, key: str) -> None:
        """Raise `TypeError` or `ValueError` where a message cannot have this idempotency key."""
        self.require_valid_group_name(group)
        self._histories.required(group, key)

    # -- messages as bytes --------------------------------------------------------------------

    def serialize(self, message: Message) -> bytes:
        """A message as bytes that `deserialize` reads: in the layer's format and nothing else, as
        channels_redis has it; if the layer has keys encrypted, but bound to no channel or group.

        Raises `TypeError`, `UnserializableMessage` and `MessageTooLarge`.
        """
        body = self.wrapping.encode(message)
        return self.wrapping.seal("", body) if self.wrapping.encrypts else body

    def deserialize(self, message: bytes) -> Message:
        """The message that `serialize` made bytes of, here or in another process, within
        ``expiry`` seconds if it is encrypted. Raises `UnreadableMessage`.
        """
        if self.wrapping.encrypts or message.startswith(ENCRYPTED):
            message = bytes(self.wrapping.unwrap("", message)[1])
        return self.wrapping.decode(message)
