"""What a cluster's nodes say, as errors: also with a redis-py that does not make them."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError

from mpx_channels.multiplexer.cluster_errors import CLUSTER_ERRORS, know_cluster_errors

PARSER = "_parser"


@pytest.fixture(params=["this", "one before 6.0"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    parser = getattr(Connection(), PARSER)
    if request.param != "this":
        classes = {**parser.EXCEPTION_CLASSES}
        for kind in CLUSTER_ERRORS:
            classes.pop(kind, None)
        monkeypatch.setattr(type(parser), "EXCEPTION_CLASSES", classes)
        assert type(parser.parse_error("TRYAGAIN x")) is ResponseError
    know_cluster_errors(parser)
    return parser


def test_each_is_an_error_of_its_own(parser: Any) -> None:
    moved = parser.parse_error("MOVED 17 10.0.0.1:6379")
    assert isinstance(moved, MovedError)
    assert (moved.slot_id, moved.host, moved.port) == (17, "10.0.0.1", 6379)
    asked = parser.parse_error("ASK 17 ::1:6379")
    assert isinstance(asked, AskError)
    assert not isinstance(asked, MovedError)
    assert (asked.host, asked.port) == ("::1", 6379)
    again = parser.parse_error("TRYAGAIN Multiple keys request during rehashing of slot")
    assert isinstance(again, TryAgainError)
    assert str(again) == "Multiple keys request during rehashing of slot"


def test_others_stay_what_they_are(parser: Any) -> None:
    assert type(parser.parse_error("ERR unknown command")) is ResponseError
    assert str(parser.parse_error("BUSY x")) == "BUSY x"
