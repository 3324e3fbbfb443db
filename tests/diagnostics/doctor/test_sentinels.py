"""`mpx doctor` behind Sentinels: all are asked, and not only the one that a process needs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from mpx_channels.diagnostics.doctor.findings import Level
from tests.proxy import free_port
from tests.sentinels import Sentinels

from .examine import examine, of, one

IDS = ("settings", "reachable", "sentinels")

if TYPE_CHECKING:
    from tests.tls import Certificates


async def test_all_is_well(session_sentinels: Sentinels) -> None:
    rows = await examine({"hosts": [session_sentinels.host]}, *IDS)
    master = f"127.0.0.1:{session_sentinels.master.port}"
    assert one(rows, "sentinels") == (Level.OK, f"it names {master} as the master of 'chat-master'")


async def test_nothing_to_say(redis_url: str) -> None:
    """Where there are none; and where none answers, of which 'Reachable' has the reasons."""
    silent = {"sentinels": [("127.0.0.1", free_port())], "master_name": "chat-master"}
    for host, level in ((redis_url, Level.OK), (silent, Level.PROBLEM)):
        rows = await examine({"hosts": [host]}, *IDS)
        assert of(rows, "sentinels") == []
        assert one(rows, "reachable")[0] == level


async def test_those_that_are_of_no_use(session_sentinels: Sentinels, redis_url: str) -> None:
    """With the good one before them, so that nobody else asks them."""
    host = session_sentinels.host
    away, no_sentinel = free_port(), int(redis_url.rpartition(":")[2])
    others = [("127.0.0.1", port) for port in (away, no_sentinel)]
    host = {**host, "sentinels": [*host["sentinels"], *others]}
    rows = await examine({"hosts": [host]}, *IDS)
    assert one(rows, "reachable")[0] == Level.OK
    findings = [row.finding for row in of(rows, "sentinels")]
    assert [each.level for each in findings] == [Level.WARNING] * 2
    for finding, (address, port) in zip(findings, others, strict=True):
        assert f"one of the Sentinels is of no use: {address}:{port}: " in finding.found
        assert "sentinel_kwargs" in finding.todo


async def test_a_certificate_that_is_wrong(certificates: Certificates) -> None:
    from tests.tls import TlsSentinel, TlsServer

    with (
        TlsServer(certificates) as master,
        TlsSentinel(certificates, master=master) as good,
        TlsSentinel(certificates, master=master, shows=certificates.expired) as bad,
    ):
        host = {**good.host, "sentinels": [("127.0.0.1", each.port) for each in (good, bad)]}
        rows = await examine({"hosts": [host]}, *IDS)
        level, found = one(rows, "sentinels")
        assert level == Level.WARNING
        assert f"the certificate of 127.0.0.1:{bad.port} has expired" in found


async def test_they_do_not_agree(session_sentinels: Sentinels) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # nobody waits for a good end
            while data := await reader.read(4096):
                # What redis-py begins with, and the question.
                writer.write(b"+OK\r\n" * (data.count(b"SETINFO") + data.count(b"AUTH\r\n")))
                if b"GET-MASTER-ADDR-BY-NAME" in data:
                    writer.write(b"*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        host: dict[str, Any] = session_sentinels.host
        host = {**host, "sentinels": [*host["sentinels"], ("127.0.0.1", port)]}
        level, found = one(await examine({"hosts": [host]}, *IDS), "sentinels")
    assert level == Level.WARNING
    assert "they name different masters of 'chat-master'" in found
    assert f"127.0.0.1:{port}: 127.0.0.1:6379" in found
