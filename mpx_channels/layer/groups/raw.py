"""Redis channels and patterns by their full names: what anybody publishes, in any language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpx_channels.channels.mailbox import Event
from mpx_channels.channels.mailboxes import Mailboxes
from mpx_channels.channels.part import Context

from .topics import ChannelTopics, Observer, PatternTopics, Topics

__all__ = ["RawChannels", "RawPatterns"]


class RawChannels(ChannelTopics):
    """The Redis channels that channels of this event loop subscribed to."""

    kind = "channel"
    classic = True

    def __init__(self, context: Context, observer: Observer, mailboxes: Mailboxes) -> None:
        super().__init__(context, observer, self._received)
        self._mailboxes = mailboxes

    def _received(self, name: str, data: bytes) -> None:
        event = {"type": "channel.message", "channel": name, "data": data}
        _deliver(self, self._mailboxes, name, event)

    def counts(self) -> Mapping[str, int]:
        return {"raw_channels": len(self.topics)}


class RawPatterns(PatternTopics):
    """The Redis patterns that channels of this event loop subscribed to."""

    kind = "pattern"

    def __init__(self, context: Context, observer: Observer, mailboxes: Mailboxes) -> None:
        super().__init__(context, observer, self._match)
        self._mailboxes = mailboxes

    def _match(self, pattern: str, name: str, data: bytes) -> None:
        event = {"type": "pattern.message", "pattern": pattern, "channel": name, "data": data}
        _deliver(self, self._mailboxes, pattern, event)

    def counts(self) -> Mapping[str, int]:
        return {"patterns": len(self.topics)}


def _deliver(topics: Topics, mailboxes: Mailboxes, name: str, event: dict[str, Any]) -> None:
    context = topics.context
    context.counters.messages_in += 1
    members = topics.members_of(name)
    if members:
        mailboxes.deliver(members, Event(event, context.loop.time() + context.expiry))
