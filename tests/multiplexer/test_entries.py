"""Who listens to a name, and who was notified of its activation."""

from __future__ import annotations

import pytest

from mpx_channels.multiplexer.entries import CHANNEL, Entry

from .test_registry import FakeListener


@pytest.fixture
def entry() -> Entry:
    """A name that is active."""
    entry = Entry(CHANNEL, b"name")
    entry.sent = entry.confirmed = True
    return entry


def test_one_listener_needs_no_dict(entry: Entry) -> None:
    listener = FakeListener()
    assert entry.add(listener)
    assert not entry.add(listener)
    assert entry.several is None
    assert list(entry.not_notified()) == [listener]
    assert list(entry.not_notified()) == []
    assert entry.discard(listener)
    assert not entry.discard(listener)
    assert not entry.wanted


def test_who_was_notified_is_known_when_others_come_and_go(entry: Entry) -> None:
    listeners = [FakeListener(), FakeListener(), FakeListener()]
    entry.add(listeners[0])
    assert list(entry.not_notified()) == listeners[:1]
    entry.add(listeners[1])
    entry.add(listeners[2])
    assert entry.was_notified(listeners[0])
    assert entry.listeners == tuple(listeners)
    assert entry.discard(listeners[2])
    assert list(entry.not_notified()) == [listeners[1]]
    entry.deactivated()
    assert not any(map(entry.was_notified, listeners))
    for listener in listeners[:2]:
        assert entry.discard(listener)
    assert not entry.wanted
    entry.sent = entry.confirmed = True
    entry.add(listeners[2])
    assert list(entry.not_notified()) == [listeners[2]]


def test_a_name_is_not_decoded_again() -> None:
    text = "na" + "me"
    assert Entry(CHANNEL, b"name", text).text is text
    assert Entry(CHANNEL, b"name").text == "name"
