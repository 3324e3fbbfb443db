"""Who listens to a name, and who was notified of its activation."""

from __future__ import annotations

import pytest

from mpx_channels.multiplexer.entries import CHANNEL, Entry

from .test_registry import Ear


@pytest.fixture
def entry() -> Entry:
    """A name that is active."""
    entry = Entry(CHANNEL, b"name")
    entry.sent = entry.confirmed = True
    return entry


def test_one_listener_needs_no_dict(entry: Entry) -> None:
    ear = Ear()
    assert entry.add(ear)
    assert not entry.add(ear)
    assert entry.several is None
    assert list(entry.not_notified()) == [ear]
    assert list(entry.not_notified()) == []
    assert entry.discard(ear)
    assert not entry.discard(ear)
    assert not entry.wanted


def test_who_was_notified_is_known_when_others_come_and_go(entry: Entry) -> None:
    ears = [Ear(), Ear(), Ear()]
    entry.add(ears[0])
    assert list(entry.not_notified()) == ears[:1]
    entry.add(ears[1])
    entry.add(ears[2])
    assert entry.was_notified(ears[0])
    assert entry.listeners == tuple(ears)
    assert entry.discard(ears[2])
    assert list(entry.not_notified()) == [ears[1]]
    entry.deactivated()
    assert not any(map(entry.was_notified, ears))
    for ear in ears[:2]:
        assert entry.discard(ear)
    assert not entry.wanted
    entry.sent = entry.confirmed = True
    entry.add(ears[2])
    assert list(entry.not_notified()) == [ears[2]]


def test_a_name_is_not_decoded_again() -> None:
    text = "na" + "me"
    assert Entry(CHANNEL, b"name", text).text is text
    assert Entry(CHANNEL, b"name").text == "name"
