"""Consumers that fail as Redis is away: the browser is told, and the log has a line for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mpx_channels.consumers import outages
from mpx_channels.generic.http import AsyncHttpConsumer
from mpx_channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from mpx_channels.layer import NotConnected
from mpx_channels.multiplexer.logs import LimitedLog
from tests.conftest import RestartableServer

from .conftest import MakeLayer


class Joining(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("room", {"type": "said"})

    async def said(self, event: dict[str, Any]) -> None:
        await self.send("said")


class JoiningInThread(WebsocketConsumer):
    groups = ["room"]


class Page(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        raise AssertionError("it cannot have begun")


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    log = LimitedLog(outages.logger)
    monkeypatch.setattr(outages, "log", log)
    yield
    for kind in log._kinds.values():  # noqa: SLF001 - no timer of it outlives the test
        kind.begin(0.0)


@pytest.fixture
def away(make_layer: MakeLayer, install: Any, restartable_server: RestartableServer) -> Any:
    """A layer whose server is not there."""
    return install(
        make_layer(hosts=[restartable_server.url], connect_timeout=0.5, backlog_timeout=0.5)
    )


@pytest.mark.parametrize("consumer", [Joining, JoiningInThread])
async def test_one_line_for_all_that_cannot_begin(
    away: Any, opened: Any, consumer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sockets = [opened(consumer) for _ in range(20)]
    for socket in sockets:
        await socket.ended()
        assert socket.sent == [{"type": "websocket.close", "code": 1011, "reason": ""}]
    # One, and on a loaded machine, where that takes seconds, another with the number of the rest.
    record, *later = [each for each in caplog.records if each.name == "mpx_channels.consumers"]
    assert all("more in the last" in each.getMessage() for each in later)
    text = record.getMessage()
    assert text.startswith(f"{consumer.__name__} ended, as Redis is away: redis://127.0.0.1:")
    assert "Connect call failed" in text
    assert (record.levelname, record.exc_info, text.count("\n")) == ("WARNING", None, 0)


async def test_a_server_that_can_gets_a_status(away: Any, opened: Any) -> None:
    socket = opened(Joining, extensions={"websocket.http.response": {}})
    await socket.ended()
    start, body = socket.sent
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
    assert body == {"type": "websocket.http.response.body", "body": b""}


async def test_in_a_handler(
    away: Any,
    connected: Any,
    restartable_server: RestartableServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    restartable_server.start()
    sockets = [await connected(Joining, extensions={"websocket.http.response": {}}) for _ in "123"]
    restartable_server.kill()
    for socket in sockets:
        socket.say("hello")
    for socket in sockets:
        await socket.ended()
        assert socket.sent[-1] == {"type": "websocket.close", "code": 1011, "reason": ""}
    lines = [each for each in caplog.records if each.name == "mpx_channels.consumers"]
    # Of those, one may have been sent when the link broke.
    assert len(lines) in (1, 2)
    assert not any(each.exc_info for each in lines)


async def test_what_is_no_websocket_raises_without_a_chain(away: Any, opened: Any) -> None:
    with pytest.raises(NotConnected, match="Connect call failed") as raised:
        await opened(Page, type="http", method="GET", headers=[]).ended()
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


async def test_a_browser_that_is_gone(away: Any, opened: Any) -> None:
    socket = opened(Joining)

    async def gone(frame: Any) -> None:
        raise OSError("closed")

    socket.send = gone
    await socket.ended()
