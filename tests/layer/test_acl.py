"""The users of docs/acl.md: each may do what its paragraph says, and not what others are for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis

from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.diagnostics.doctor.permissions import acl_rules
from mpx_channels.layer import CommandRefused, MpxChannelLayer, Tapped
from tests.conftest import PATIENCE, eventually
from tests.diagnostics.doctor.examine import complaints, examine_patiently, of
from tests.docs.pages import DOCS
from tests.sentinels import Sentinels
from tests.users import SENTINEL_RULES, as_admin

PASSWORD = "secret"
# The rules of each user, by name, as they are on the page.
USERS = {
    words[2]: words[5:]
    for block in re.findall(r"```text\n(.*?)```", (DOCS / "acl.md").read_text(), re.DOTALL)
    if (words := block.split())[:2] == ["ACL", "SETUSER"]
}
HISTORY = {"kept-*": {"size": 100, "ttl": 60}}

Use = Callable[[MpxChannelLayer, MpxChannelLayer], Awaitable[None]]


def rules_of(user: str, prefix: str) -> list[str]:
    return [word.replace("asgi:", f"{prefix}:") for word in USERS[user]]


async def within(awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def groups(layer: MpxChannelLayer, other: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await other.group_send("room", {"type": "x"})
    assert await within(layer.receive(channel)) == {"type": "x"}
    await other.send(channel, {"type": "y"})
    assert await within(layer.receive(channel)) == {"type": "y"}
    promise = await layer.new_promise("order", 10)
    assert await other.resolve("order", 1) == 1
    assert await promise == 1
    await layer.group_discard("room", channel)


async def wildcards(layer: MpxChannelLayer, other: MpxChannelLayer) -> None:
    channel = await layer.new_channel()
    await layer.group_pattern_add("room-*", channel)
    await other.group_send("room-1", {"type": "x"})
    assert (await within(layer.receive(channel)))["type"] == "x"


async def queues(layer: MpxChannelLayer, other: MpxChannelLayer) -> None:
    reader = asyncio.create_task(layer.receive("jobs"))
    await other.send("more-jobs", {"type": "y"})
    await other.send("jobs", {"type": "x"})
    assert await within(reader) == {"type": "x"}
    assert await within(layer.receive("more-jobs")) == {"type": "y"}


async def histories(layer: MpxChannelLayer, other: MpxChannelLayer) -> None:
    sent = await within(other.group_send("kept-1", {"type": "x", "n": 1}))
    await within(other.group_send("kept-1", {"type": "x", "n": 2}, idempotency_key="two"))
    await within(other.group_send("kept-1", {"type": "x", "n": 2}, idempotency_key="two"))
    channel = await layer.new_channel()
    recovery = await layer.group_add("kept-1", channel, since=sent)
    assert recovery is not None
    assert recovery.recovered
    assert (await within(layer.receive(channel)))["n"] == 2


async def presences(layer: MpxChannelLayer, other: MpxChannelLayer) -> None:
    channel, second = await layer.new_channel(), await layer.new_channel()
    await within(layer.presence_join("room", channel, "ann", {"n": 1}))
    await within(layer.presence_join("room", second, "bob"))
    assert dict((await other.presence("room")).members) == {"ann": {"n": 1}, "bob": {}}
    assert (await other.presence_count("room")).members == 2
    await layer.presence_leave("room", channel, "ann")
    assert dict((await other.presence("room")).members) == {"bob": {}}


async def operations(layer: MpxChannelLayer, other: MpxChannelLayer) -> None:
    await other.send("unread", {"type": "x"})
    stats = await layer.fleet_stats()
    assert not stats.incomplete
    assert stats.queues == {"unread": 1}
    await layer.flush()
    assert (await layer.fleet_stats()).queues == {}


async def listening(layer: MpxChannelLayer, other: MpxChannelLayer) -> None:
    """As `mpx listen` does it without options."""
    async with layer.tap(everything=True) as tap:
        await other.group_send("room", {"type": "x"})
        passing = await within(anext(tap))
        assert isinstance(passing, Tapped)
        assert passing.message == {"type": "x"}


ALL = (groups, queues, histories, presences, operations)
MAY: dict[str, tuple[Use, ...]] = {
    "chat": ALL,
    "consumers": (groups,),
    "wildcards": (groups, wildcards),
    "workers": (groups, queues),
    "histories": (groups, histories),
    "members": (groups, presences),
    "operator": (*ALL, listening),
}
MAY_NOT: dict[str, tuple[Use, ...]] = {
    "chat": (wildcards, listening),
    "consumers": (wildcards, queues, histories, presences),
    "wildcards": (queues, histories, presences),
    "workers": (wildcards, histories, presences),
    "histories": (wildcards, queues, presences),
    "members": (wildcards, queues, histories),
    "operator": (wildcards,),
}

MakeUser = Callable[[str], str]


@pytest.fixture
def url_of(client: redis.Redis, redis_url: str, prefix: str) -> Iterator[MakeUser]:
    """Makes a user of the page, and returns its URL."""
    made: list[str] = []

    def make(user: str) -> str:
        name = f"{prefix}-{user}"
        rules = rules_of(user, prefix)
        client.execute_command("ACL", "SETUSER", name, "on", f">{PASSWORD}", *rules)
        made.append(name)
        return redis_url.replace("://", f"://{name}:{PASSWORD}@")

    yield make
    for name in made:
        client.acl_deluser(name)


@pytest.fixture
async def two(
    request: pytest.FixtureRequest, url_of: MakeUser, prefix: str
) -> AsyncIterator[tuple[MpxChannelLayer, MpxChannelLayer]]:
    """Two layers of a user."""
    url = url_of(request.param)
    config: Any = {"hosts": [url], "prefix": prefix, "history": HISTORY}
    config["connect_timeout"] = PATIENCE
    first, second = MpxChannelLayer(**config), MpxChannelLayer(**config)
    yield first, second
    await first.close()
    await second.close()


def params(table: dict[str, tuple[Use, ...]]) -> Any:
    return pytest.mark.parametrize(
        ("two", "use"),
        [
            pytest.param(user, use, id=f"{user}-{use.__name__}")
            for user, uses in table.items()
            for use in uses
        ],
        indirect=["two"],
    )


@params(MAY)
async def test_may(two: tuple[MpxChannelLayer, MpxChannelLayer], use: Use) -> None:
    await use(*two)


@params(MAY_NOT)
async def test_may_not(two: tuple[MpxChannelLayer, MpxChannelLayer], use: Use) -> None:
    with pytest.raises(CommandRefused, match=r"(?i)permission|can't run this command"):
        await use(*two)


def test_the_page_has_all_of_them() -> None:
    of_cluster = {"clustered", "clustered-consumers", "clustered-wildcards"}
    assert set(USERS) == {*MAY, "watcher", *of_cluster}
    assert USERS["chat"] == acl_rules("asgi").split()
    assert USERS["watcher"] == SENTINEL_RULES.split()


@pytest.mark.parametrize("user", ["chat", "operator"])
async def test_what_the_doctor_says(url_of: MakeUser, prefix: str, user: str) -> None:
    rows = await examine_patiently({"hosts": [url_of(user)], "prefix": prefix})
    assert complaints(rows, but="neighbours") == []
    if user == "operator":
        # Only patterns that are in its rules.
        (skipped,) = [row for row in rows if row.finding.level == Level.SKIPPED]
        assert skipped.check.id == "patterns"
        assert of(rows, "output-buffer")[0].finding.level == Level.OK


@pytest.fixture
def sentinels(server: object) -> Iterator[Sentinels]:
    with Sentinels() as running:
        yield running


async def test_behind_sentinels(sentinels: Sentinels, prefix: str) -> None:
    for server in sentinels.servers:
        with server.client() as admin:
            rules = rules_of("chat", prefix)
            admin.execute_command("ACL", "SETUSER", "chat", "on", f">{PASSWORD}", *rules)
    for port in sentinels.ports:
        with redis.Redis(port=port) as admin:
            rules = USERS["watcher"]
            admin.execute_command("ACL", "SETUSER", "watcher", "on", f">{PASSWORD}", *rules)
    host = {
        **sentinels.host,
        "username": "chat",
        "password": PASSWORD,
        "sentinel_kwargs": {"username": "watcher", "password": PASSWORD},
    }
    config: Any = {"hosts": [host], "prefix": prefix, "history": HISTORY}
    first, second = MpxChannelLayer(**config), MpxChannelLayer(**config)
    try:
        for use in (groups, queues, histories, operations):
            await use(first, second)
        reconnects = first.stats().multiplexer.reconnects  # type: ignore[union-attr]
        await asyncio.to_thread(sentinels.failover)
        # By the Sentinels' word, and not when the old master ends connections.
        await eventually(lambda: first.stats().multiplexer.reconnects > reconnects)  # type: ignore[union-attr]
        async with asyncio.timeout(PATIENCE):
            while not all([(await each.healthy(1)).ok for each in (first, second)]):
                pass
        for use in (groups, queues):
            await use(first, second)
        for port in sentinels.ports:
            with redis.Redis(port=port) as admin:
                refused = repr(admin.execute_command("ACL", "LOG"))
                assert "subscribe" not in refused
                assert "sentinel" not in refused
    finally:
        await first.close()
        await second.close()


async def test_as_admin_looks_from_outside(client: redis.Redis, redis_url: str) -> None:
    assert client.acl_whoami() in ("default", "admin")
    assert as_admin(redis_url).endswith(redis_url.partition("://")[2])
