"""The examples, run as their page says."""

from __future__ import annotations

import os
import sys
import urllib.request
from importlib.util import find_spec

import pytest
import redis

from tests.conftest import free_port, missing

from .pages import DOCS
from .programs import Program, WebSocket


def example(name: str, redis_url: str, **more: str) -> Program:
    environment = {**os.environ, "REDIS_URL": redis_url, **more}
    return Program(sys.executable, DOCS / "examples" / name, env=environment)


def break_connections(client: redis.Redis) -> None:
    """Throw out whoever subscribes to anything."""
    assert client.client_kill_filter(_type="pubsub")


async def test_simple(redis_url: str) -> None:
    async with example("simple.py", redis_url) as program:
        for _ in range(2):
            assert await program.line() == "channel: mychannel, message: Hello World!"
        await program.interrupt()


async def test_promises(redis_url: str, client: redis.Redis) -> None:
    async with (
        example("promises.py", redis_url) as ann,
        example("promises.py", redis_url) as ben,
    ):
        for program in (ann, ben):
            assert (await program.line()).startswith("Ready.")

        ann.type("+tea")
        assert await ann.line() == "tea: promised"
        ben.type("!tea is ready")
        assert await ann.line() == "tea: is ready"
        assert await ben.line() == "tea: sent, 2 listening"

        ann.type("+cake")
        assert await ann.line() == "cake: promised"
        ann.type("-cake")
        assert await ann.line() == "cake: cancelled"

        ann.type("+cake")
        assert await ann.line() == "cake: promised"
        break_connections(client)
        lost = "cake: lost the connection, so the message may have been missed"
        assert await ann.line() == lost
        ann.type("*cake")
        assert await ann.line() == "cake: promised"

        for program in (ann, ben):
            program.end_of_input()
            await program.ends(after="Lost the connection")


async def test_promises_are_interrupted(redis_url: str) -> None:
    async with example("promises.py", redis_url) as program:
        await program.line()
        program.type("+tea")
        assert await program.line() == "tea: promised"
        await program.interrupt()


async def test_websocket(redis_url: str, client: redis.Redis) -> None:
    if find_spec("daphne") is None:
        missing("Daphne is not installed")
    port = free_port()
    async with example("websocket.py", redis_url, PORT=str(port)) as server:
        assert await server.line() == f"http://127.0.0.1:{port} (Ctrl-C ends it)"

        async with WebSocket("127.0.0.1", port) as ann, WebSocket("127.0.0.1", port) as ben:
            for socket in (ann, ben):
                await socket.send("+tea")
                assert await socket.receive() == "*activated: tea*"
            assert client.pubsub_numsub("room:tea") == [(b"room:tea", 1)]

            await ann.send("!tea Hello Ben")
            for socket in (ann, ben):
                assert await socket.receive() == "tea: Hello Ben"

            await ben.send("-tea")
            await ben.send("?")
            assert await ben.receive() == "*in: no room*"
            await ann.send("!tea Still here?")
            assert await ann.receive() == "tea: Still here?"
            await ben.send("what")
            assert await ben.receive() == "*begin with + - ! or ?*"

            break_connections(client)
            for socket in (ann, ben):
                assert (await socket.receive()).startswith("*disconnected")
            assert await ann.receive() == "*activated: tea*"
            await ann.send("?")
            assert await ann.receive() == "*in: tea*"

        await server.interrupt(after="Lost the connection")


async def test_websocket_has_a_page(redis_url: str) -> None:
    if find_spec("daphne") is None:
        missing("Daphne is not installed")
    port = free_port()
    async with example("websocket.py", redis_url, PORT=str(port)) as server:
        await server.line()
        page = await server.aside(fetch, f"http://127.0.0.1:{port}/")
        assert b"new WebSocket" in page


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        body: bytes = response.read()
        return body


@pytest.mark.parametrize("name", [path.name for path in (DOCS / "examples").glob("*.py")])
def test_every_example_is_on_the_page(name: str) -> None:
    assert f"{{literalinclude}} examples/{name}" in (DOCS / "examples.md").read_text()
