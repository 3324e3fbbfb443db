"""When a silent server is given up: by a clock that is set by hand."""

from __future__ import annotations

from mpx_channels.multiplexer.silence import LOOKS, Silence


class Reading:
    """A wire, as far as looks go."""

    def __init__(self) -> None:
        self.bytes_in = 0
        self.late = False

    def behind(self, bytes_in: int) -> bool:
        return self.late


def looks_until_given_up(silence: Silence, wire: Reading, now: float) -> int:
    looks = 1
    while not silence.lasts_too_long(wire, now):
        looks += 1
        assert looks < 100
    return looks


def test_it_takes_some_looks_after_the_patience() -> None:
    silence, wire = Silence(5.0), Reading()
    silence.broken(10.0)
    assert not any(silence.lasts_too_long(wire, 14.9) for _ in range(10))
    assert silence.next_look(12.0) == 15.0
    assert silence.next_look(15.0) > 15.0
    assert looks_until_given_up(silence, wire, 15.0) == LOOKS + 1


def test_an_answer_breaks_it() -> None:
    silence, wire = Silence(5.0), Reading()
    for _ in range(LOOKS):
        assert not silence.lasts_too_long(wire, 5.0)
    silence.broken(5.0)
    assert not silence.lasts_too_long(wire, 5.0)
    assert looks_until_given_up(silence, wire, 10.0) == LOOKS + 1


def test_who_is_behind_with_reading_cannot_know() -> None:
    silence, wire = Silence(5.0), Reading()
    wire.late = True
    assert not any(silence.lasts_too_long(wire, 9.0) for _ in range(10))
    wire.late = False
    assert looks_until_given_up(silence, wire, 9.0) == LOOKS
