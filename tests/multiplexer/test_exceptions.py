"""What can be caught, and as what."""

from __future__ import annotations

import redis

from mpx_channels import multiplexer
from mpx_channels.multiplexer import exceptions


def test_everything_descends_from_one_root() -> None:
    for name in {*exceptions.__all__} - {"describe"}:
        assert issubclass(getattr(exceptions, name), exceptions.MpxError)
        assert getattr(multiplexer, name) is getattr(exceptions, name)
        assert name in multiplexer.__all__


def test_code_written_around_redis_py_catches_them() -> None:
    for connection_error in (
        exceptions.ConnectionLost,
        exceptions.NotConnected,
        exceptions.BacklogFull,
        exceptions.PromiseDisconnected,
    ):
        assert issubclass(connection_error, redis.ConnectionError)
    assert issubclass(exceptions.CommandRefused, redis.ResponseError)
    assert issubclass(exceptions.SubscriptionRefused, exceptions.CommandRefused)


def test_public_names_exist() -> None:
    for name in multiplexer.__all__:
        assert hasattr(multiplexer, name)
