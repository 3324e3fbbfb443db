"""Positions, and what of a history there is to replay after one."""

from __future__ import annotations

from typing import Any

import pytest

from mpx_channels.history.positions import Gap, State, judge, parse, salvage, split, text
from mpx_channels.messages.exceptions import UnreadableMessage

OLD, OLDER, NOW, OTHER = "0" * 16, "a" * 16, "1" * 16, "2" * 16
# Twenty messages, of which the first ten are gone. Of older counts, this server knew less.
STATE = State(NOW, 20, {OLD: 18, OLDER: 12}, 11)


def test_what_users_get_is_what_they_hand_in() -> None:
    assert parse(text((NOW, 17))) == (NOW, 17)


@pytest.mark.parametrize(
    "wrong",
    [None, 5, b"x", "", "x", NOW, f"{NOW}-", f"{NOW}-01", f"{NOW}-1 ", f"{NOW}-{10**15}", []],
)
def test_what_is_no_position(wrong: Any) -> None:
    assert parse(wrong) is None


def test_the_position_of_a_message() -> None:
    data = b"\xc1\x03" + NOW.encode() + (258).to_bytes(8, "big") + b"the rest"
    assert split(data) == (NOW, 258)
    for wrong in (data[:25], b"\xc1\x01" + data[2:], b""):
        with pytest.raises(UnreadableMessage):
            split(wrong)


@pytest.mark.parametrize(
    ("position", "gap"),
    [
        ((NOW, 20), Gap(20, 0)),
        ((NOW, 15), Gap(15, 5)),
        ((NOW, 10), Gap(10, 10)),
        ((NOW, 9), Gap(20, 0, "trimmed")),
        ((NOW, 21), Gap(20, 0, "invalid")),
        ((OTHER, 15), Gap(20, 0, "epoch")),
        ((OLD, 19), Gap(20, 0, "failover")),
        ((OLD, 18), Gap(18, 2, "failover")),
        ((OLDER, 13), Gap(20, 0, "failover")),
        ((OLDER, 12), Gap(12, 8, "failover")),
        ((OLDER, 9), Gap(20, 0, "failover")),
        (None, Gap(20, 0, "invalid")),
    ],
)
def test_judged(position: tuple[str, int] | None, gap: Gap) -> None:
    assert judge(position, STATE, limit=10) == gap


def test_judged_by_the_limit_and_by_time() -> None:
    assert judge((NOW, 15), STATE, limit=4) == Gap(20, 0, "limit")
    assert judge((NOW, 15), State(NOW, 20, {}, 0), limit=10) == Gap(20, 0, "expired")


@pytest.mark.parametrize(
    ("position", "found"),
    [
        ((NOW, 15), (15, None, None)),
        ((NOW, 5), (10, "trimmed", 5)),
        ((OTHER, 15), (10, "flushed", None)),
        ((OLD, 8), (10, "failover", None)),
        ((OLD, 19), (18, "failover", None)),
        ((OLDER, 12), (12, "failover", None)),
    ],
)
def test_salvaged(position: tuple[str, int], found: tuple[int, str | None, int | None]) -> None:
    assert salvage(position, STATE) == found
