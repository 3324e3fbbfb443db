"""Entries that go from the registry of one server to that of another."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

from .deadlines import DueOrder
from .entries import Command, Entry, Kind, Listener
from .refusals import Refused

__all__ = ["Moves"]


class Moves:
    """What a registry does about them; see `Registry` for what it holds."""

    taken: list[Entry]
    _dirty: dict[Entry, None]
    _lingering: DueOrder[Entry]
    _late: list[tuple[Entry, Listener]]
    _unanswered: deque[Command | None]
    _retry_alone: list[Entry]
    _forbidden: Refused[Entry]
    _put_off: Refused[Entry]

    def table(self, kind: Kind) -> dict[bytes, Entry]:
        """The entries of one kind by their name."""
        raise NotImplementedError

    def release(self, entries: Collection[Entry]) -> None:
        """Let go of entries that go to another registry, as ones of which nothing was sent.

        What this server still has of a name is to be unsubscribed, by one that stands in for it.
        """
        left: dict[Entry, Entry] = {}
        for entry in entries:
            table = self.table(entry.kind)
            del table[entry.name]
            if entry.sent or entry.confirmed or entry.inflight:
                stays = table[entry.name] = left[entry] = Entry(entry.kind, entry.name, entry.text)
                stays.take_over(entry)
        self._forget_all(entries, left)
        self._dirty.update(dict.fromkeys(left.values()))
        for entry in entries:
            entry.forget_redis()

    def adopt(self, entries: Collection[Entry]) -> None:
        """Take entries that another registry has released.

        Of those that the server still has, listeners are to be told as late joiners are.
        """
        left: dict[Entry, Entry] = {}
        for entry in entries:
            table = self.table(entry.kind)
            was_here = table.get(entry.name)
            if was_here is not None:
                # Redis has not heard that it left, or not said so.
                entry.take_over(was_here)
                left[was_here] = entry
                if entry.active:
                    self._late += [(entry, listener) for listener in entry.listeners]
            table[entry.name] = entry
        if left:
            self._forget_all(left, left)
        self._dirty.update(dict.fromkeys(entries))

    def _forget_all(self, entries: Collection[Entry], left: Mapping[Entry, Entry]) -> None:
        """They are to be found nowhere any more; in commands that are on their way, others are."""
        for entry in entries:
            self._dirty.pop(entry, None)
            self._lingering.discard(entry)
            self._forbidden.discard(entry)
            self._put_off.discard(entry)
        gone = set(entries)
        self._late = [each for each in self._late if each[0] not in gone]
        self._retry_alone = [each for each in self._retry_alone if each not in gone]
        self.taken = [each for each in self.taken if each not in gone]
        for command in self._unanswered:
            if command is not None and left:
                command.entries = [left.get(each, each) for each in command.entries]
