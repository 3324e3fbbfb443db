"""Servers that lack what managed services keep from their users: see docs/managed.md."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.layer import MpxChannelLayer
from tests.conftest import RestartableServer
from tests.diagnostics.conftest import Project
from tests.diagnostics.doctor.examine import examine, one
from tests.docs.pages import DOCS
from tests.users import needs_more
from tests.warm import start_cold

from .test_acl import HISTORY, groups, histories, operations, queues, wildcards

pytestmark = needs_more

PAGE = (DOCS / "managed.md").read_text()
# What each service has not got, as the page's table says.
SERVICES = {
    row[0]: re.findall(r"`([A-Z]+)`", row[1])
    for line in PAGE.splitlines()
    if (row := [cell.strip() for cell in line.strip("|").split("|")])[0]
    and len(row) == 3
    and "`CONFIG`" in row[1]
}
# And one that has nothing that can be done without.
SERVICES["the poorest"] = [
    "ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "INFO", "LATENCY", "MEMORY", "MONITOR",
    "OBJECT", "PUBSUB", "ROLE", "SCRIPT", "SLOWLOG",
]  # fmt: skip


def without(commands: list[str]) -> dict[str, str]:
    """The configuration of a server that has not got these."""
    first, *more = [f'{command} ""' for command in commands]
    return {"rename-command": "\n".join([first, *(f"rename-command {each}" for each in more)])}


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, server: object) -> Iterator[RestartableServer]:
    running = RestartableServer(config=without(SERVICES[request.param]))
    running.start()
    running.lacks = SERVICES[request.param]  # type: ignore[attr-defined]
    yield running
    running.kill()


@pytest.fixture
async def two(service: RestartableServer) -> AsyncIterator[tuple[MpxChannelLayer, MpxChannelLayer]]:
    config: Any = {"hosts": [service.url], "history": HISTORY}
    first, second = MpxChannelLayer(**config), MpxChannelLayer(**config)
    yield first, second
    await first.close()
    await second.close()


async def test_the_layer_works(
    two: tuple[MpxChannelLayer, MpxChannelLayer], service: RestartableServer
) -> None:
    for use in (groups, wildcards, queues, histories):
        await use(*two)
    if "PUBSUB" not in service.lacks:  # type: ignore[attr-defined]
        await operations(*two)
    else:
        # What PUBLISH counts tells who is silent.
        assert (await two[0].fleet_stats()).processes
        await two[0].flush()
    assert (await two[0].healthy(5)).ok


async def test_what_the_doctor_says(service: RestartableServer) -> None:
    rows = await examine({"hosts": [service.url]})
    assert not [row.as_json() for row in rows if row.finding.level == Level.PROBLEM]
    unseen = [row for row in rows if row.finding.level == Level.SKIPPED]
    assert unseen
    for row in unseen:
        assert row.finding.folded
        assert row.finding.found.startswith("the server does not have this command, or disabled it")
    assert {"output-buffer", "timeout", "tcp-keepalive"} <= {row.check.id for row in unseen}
    # No rule of an ACL brings back what a service has not got.
    assert not [row for row in rows if "ACL SETUSER" in row.finding.todo]
    for id in ("login", "server", "role", "groups", "promises", "plain-channels"):
        assert one(rows, id)[0] == Level.OK


async def test_words_of_their_own(proxy: Any, prefix: str) -> None:
    """A refusal that is neither of an ACL nor of Redis."""
    said = b"-ERR CONFIG is not permitted on this plan\r\n"

    def refuse(data: bytes) -> bytes:
        # A question and its answer are a piece each.
        asked = b"CONFIG" in bytes(proxy.to_server.data[-200:])
        proxy.to_server.data.clear()
        return said if asked else data

    proxy.to_client.rewrite = refuse
    rows = await examine({"hosts": [proxy.url], "prefix": prefix}, "timeout")
    assert one(rows, "timeout") == (
        Level.SKIPPED,
        "the server refuses CONFIG GET: CONFIG is not permitted on this plan",
    )


@pytest.mark.alike
def test_said_once(server: object) -> None:
    """On the screen there is one line for all that one command would have told."""
    running = RestartableServer(config=without(SERVICES["ElastiCache"]))
    running.start()
    project = Project({"hosts": [running.url]}, start_cold)
    try:
        done = project.run("doctor", "--strict")
        assert (done.returncode, done.stderr) == (0, "")
        lines = [line for line in done.stdout.splitlines() if line.startswith("skipped")]
        assert lines == [
            "skipped  Not looked at    Output buffer, Timeout, Keepalive: the server does not "
            "have this command, or disabled it (CONFIG GET)"
        ]
        told = project.json("doctor")
        assert told["skipped"] == 3
    finally:
        project.close()
        running.kill()


def test_the_page_has_the_services() -> None:
    assert {"ElastiCache", "MemoryDB", "Memorystore for Redis", "Azure Cache for Redis"} < {
        *SERVICES
    }
