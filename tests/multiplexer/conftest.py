"""Multiplexers that end with their test, and an eye on what a test leaves in its loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis
from redis._parsers import _AsyncRESP2Parser
from redis.asyncio.connection import AbstractConnection

from mpx_channels.multiplexer import Multiplexer, Node, SentinelNode
from mpx_channels.multiplexer import wire as wire_module

from ..conftest import eventually, missing

NewMultiplexer = Callable[..., Multiplexer]


@pytest.fixture
async def clean_loop() -> AsyncIterator[None]:
    """Fail the test that leaves a task, or in which the loop had an exception to report."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    before = asyncio.all_tasks()
    yield
    current = asyncio.current_task()
    await eventually(lambda: not asyncio.all_tasks() - before - {current})
    assert not reports


@pytest.fixture
async def new_multiplexer(clean_loop: None, redis_url: str) -> AsyncIterator[NewMultiplexer]:
    """Makes multiplexers, for the session's Valkey where no URL is given; stops them all."""
    made = []

    def new(url: Any = redis_url, **options: Any) -> Multiplexer:
        made.append(Multiplexer(url, **options))
        return made[-1]

    yield new
    for mpx in made:
        await mpx.stop()


@pytest.fixture
async def mpx(new_multiplexer: NewMultiplexer) -> Multiplexer:
    """A multiplexer that is connected."""
    connected = new_multiplexer()
    await connected.start()
    await connected.wait_connected()
    return connected


@pytest.fixture(params=["hiredis", "python parser"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test with hiredis, and as where it is not installed."""
    if request.param == "hiredis":
        if not wire_module.HAS_HIREDIS:
            missing("hiredis is not installed")
        return "hiredis"
    monkeypatch.setattr(wire_module, "HAS_HIREDIS", False)
    monkeypatch.setattr(wire_module, "hiredis", None)
    # Up to redis-py 6 its connection looks here, too.
    monkeypatch.setattr("redis.asyncio.connection.HIREDIS_AVAILABLE", False, raising=False)
    for class_ in (Node, SentinelNode):
        new_connection = class_.connection

        def connection(self: Any, new: Any = new_connection) -> AbstractConnection:
            connection: AbstractConnection = new(self)
            # redis-py's own choice, for the handshake, was made when it was imported.
            connection.set_parser(_AsyncRESP2Parser)
            return connection

        monkeypatch.setattr(class_, "connection", connection)
    return "python parser"


@pytest.fixture
def restricted_url(client: redis.Redis, redis_url: str) -> Iterator[str]:
    """For a user who may subscribe to ``allowed*`` and nothing else, and may not publish."""
    rules = ["reset", "on", ">hush", "+@all", "-publish", "resetchannels", "&allowed*"]
    client.execute_command("ACL", "SETUSER", "restricted", *rules)
    yield redis_url.replace("redis://", "redis://restricted:hush@")
    client.execute_command("ACL", "DELUSER", "restricted")
