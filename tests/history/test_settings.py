"""Which groups have a history: what CONFIG says, and what is wrong with it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mpx_channels.history.settings import Histories, wrong_histories


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ([], "history must be a dict"),
        ({1: {"size": 1, "ttl": 1}}, "history key 1 must be a glob"),
        ({"*": 5}, r"history\['\*'\] must be"),
        ({"*": {"size": 5}}, r"history\['\*'\] must be"),
        ({"*": {"size": 0, "ttl": 1}}, "size must be a whole number of messages from 1 to"),
        ({"*": {"size": 10**30, "ttl": 1}}, "size must be a whole number of messages from 1 to"),
        ({re.compile(b"x"): {"size": 1, "ttl": 1}}, "must be a glob .* or a regex over str"),
        ({"*": {"size": True, "ttl": 1}}, "size must be"),
        ({"*": {"size": 1, "ttl": 0}}, "ttl must be a number of seconds above 0, not 0"),
        ({"*": {"size": 1, "ttl": float("inf")}}, "ttl must be"),
        ({"*": {"size": 1, "ttl": "1"}}, "ttl must be"),
    ],
)
def test_wrong(history: Any, problem: str) -> None:
    (said,) = wrong_histories(history)
    assert re.search(problem, said)


def test_none_is_wrong_with_none() -> None:
    assert list(wrong_histories(None)) == []
    assert not Histories(None).some


def test_the_first_that_matches_counts() -> None:
    first, second = {"size": 1, "ttl": 0.5}, {"size": 2, "ttl": 60}
    histories = Histories({"room-*": first, re.compile(r"[a-z]+-\d"): second})
    settings = [histories.of(group) for group in ("room-1", "hall-1", "hall-x", "room")]
    assert [setting and setting.size for setting in settings] == [1, 2, None, None]
    assert histories.some


def test_an_idempotency_key_needs_a_history() -> None:
    histories = Histories({"room": {"size": 1, "ttl": 1}})
    assert histories.required("room", "key") is histories.required("room", None)
    assert histories.required("hall", None) is None
    with pytest.raises(ValueError, match="none for the group 'hall'"):
        histories.required("hall", "key")
    wrong: Any
    for wrong in ("", 5, b"key"):
        with pytest.raises(TypeError, match="idempotency_key must be a str"):
            histories.required("room", wrong)
