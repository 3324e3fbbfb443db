"""The users of docs/acl.md in a cluster: each may do what the page says, on every node."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from redis.credentials import CredentialProvider

from mpx_channels.diagnostics.doctor.permissions import acl_rules, uses
from mpx_channels.layer import CommandRefused, MpxChannelLayer
from mpx_channels.layer.clusters import names_for
from mpx_channels.multiplexer.cluster import guide, scout
from tests.clusters import Cluster, one_by_one, slot_of
from tests.conftest import PATIENCE, eventually
from tests.diagnostics.doctor.examine import complaints, examine_patiently, of
from tests.docs.pages import DOCS

from .test_acl import (
    HISTORY,
    PASSWORD,
    USERS,
    Use,
    groups,
    histories,
    operations,
    presences,
    queues,
    rules_of,
    wildcards,
    within,
)

PAGE = (DOCS / "acl.md").read_text()
Two = tuple[MpxChannelLayer, MpxChannelLayer]


async def several(layer: MpxChannelLayer, other: MpxChannelLayer) -> None:
    """On all masters; with what only some members get, and what closes them."""
    mailbox = await layer.open_channel()
    names = [f"room.{number}" for number in range(20)]
    await asyncio.gather(*(layer.group_add(name, mailbox.channel) for name in names))
    await within(other.group_send_many((name, {"type": "x"}) for name in names))
    async with asyncio.timeout(PATIENCE):
        for _ in names:
            assert (await mailbox.get())["type"] == "x"
    await other.group_close("room.1", 4001)
    layer.close_channel(mailbox)


async def sizes(layer: MpxChannelLayer, other: MpxChannelLayer) -> None:
    mailbox = await layer.open_channel()
    await layer.group_add("sized", mailbox.channel)
    assert await other.group_size("sized") == 1


ALL = (sizes, groups, several, queues, histories, presences, operations)
MAY: dict[str, tuple[Use, ...]] = {
    "clustered": ALL,
    "clustered-consumers": (groups, several),
    "clustered-wildcards": (groups, several, wildcards),
}
MAY_NOT: dict[str, tuple[Use, ...]] = {
    "clustered-consumers": (queues, histories, presences),
    "clustered-wildcards": (queues, histories, presences),
}


class Administrator:
    """Makes users on all nodes, and looks into what they were refused."""

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self.cluster = cluster
        self.prefix = prefix
        self.made: set[str] = set()

    def make(self, user: str) -> str:
        """A user of the page; returns its name."""
        name = f"{self.prefix}-{user}"
        self.set(name, f">{PASSWORD}", *rules_of(user, self.prefix))
        return name

    def set(self, name: str, *rules: str) -> None:
        self.cluster.ask_all("ACL", "SETUSER", name, "on", *rules)
        self.made.add(name)

    def refused(self) -> list[str]:
        """What users of ours have been refused."""
        found = []
        for node in self.cluster.masters:
            for entry in node.ask("ACL", "LOG"):
                facts = entry
                if not isinstance(facts, dict):  # RESP2
                    facts = dict(zip(entry[::2], entry[1::2], strict=True))
                if facts[b"username"].decode() in self.made:
                    found.append(facts[b"object"].decode())
        return found

    def delete_all(self) -> None:
        for name in self.made:
            self.cluster.ask_all("ACL", "DELUSER", name)


@pytest.fixture
def administrator(cluster: Cluster, prefix: str) -> Iterator[Administrator]:
    it = Administrator(cluster, prefix)
    yield it
    it.delete_all()


NewLayer = Callable[..., MpxChannelLayer]


@pytest.fixture
async def new_layer(cluster: Cluster, prefix: str) -> AsyncIterator[NewLayer]:
    made: list[MpxChannelLayer] = []

    def new(**host: Any) -> MpxChannelLayer:
        sharded = host.pop("sharded", True)
        config: Any = {
            "hosts": [{"address": cluster.seeds[0], **host}],
            "cluster": True,
            "sharded_pubsub": sharded,
            "prefix": prefix,
            "history": HISTORY,
            # The tests do much in this thread, and a loaded machine does it slowly.
            "connect_timeout": PATIENCE,
            "backlog_timeout": PATIENCE,
        }
        made.append(MpxChannelLayer(**config))
        return made[-1]

    yield new
    for layer in made:
        await layer.close()


def two_of(new_layer: NewLayer, administrator: Administrator, user: str) -> Two:
    host = {"username": administrator.make(user), "password": PASSWORD}
    sharded = user != "clustered-wildcards"
    return new_layer(**host, sharded=sharded), new_layer(**host, sharded=sharded)


@pytest.mark.parametrize("user", MAY)
async def test_may(new_layer: NewLayer, administrator: Administrator, user: str) -> None:
    two = two_of(new_layer, administrator, user)
    for use in MAY[user]:
        await use(*two)
    optional = {"client|setinfo", "cluster|myshardid", "client"}
    assert set(administrator.refused()) <= optional


@pytest.mark.parametrize("user", MAY_NOT)
async def test_may_not(new_layer: NewLayer, administrator: Administrator, user: str) -> None:
    two = two_of(new_layer, administrator, user)
    for use in MAY_NOT[user]:
        with pytest.raises(CommandRefused, match=r"(?i)permission|can't run this command"):
            await use(*two)


async def test_redis_channels(
    new_layer: NewLayer, administrator: Administrator, cluster: Cluster, prefix: str
) -> None:
    """Those within the prefix, which are classic."""
    layer, _ = two_of(new_layer, administrator, "clustered")
    mailbox = await layer.open_channel()
    await layer.channel_add(f"{prefix}:raw", mailbox.channel)
    for node in cluster.masters:
        node.ask("PUBLISH", f"{prefix}:raw", "x")
        assert (await within(mailbox.get()))["data"] == b"x"


async def test_a_slot_moves_there_and_back(
    new_layer: NewLayer, administrator: Administrator, cluster: Cluster
) -> None:
    layer, other = two_of(new_layer, administrator, "clustered")
    mailbox = await layer.open_channel()
    await layer.group_add("kept-1", mailbox.channel)
    await layer.presence_join("kept-1", mailbox.channel, "ann")
    name = names_for(layer.config).group("kept-1")
    sends: list[asyncio.Task[Any]] = []
    home = cluster.master_of(name)
    away = next(node for node in cluster.masters if node is not home)
    await other.connect(PATIENCE)
    for target in (away, home):
        async for _ in one_by_one(cluster.migrating(slot_of(name), target)):
            # Scripts with several keys wait until all of these are on one side.
            send = other.group_send("kept-1", {"type": "x", "n": len(sends)})
            sends.append(asyncio.create_task(send))
            await asyncio.sleep(0.01)
    await within(asyncio.gather(*sends))
    got: set[int] = set()
    while len(got) < len(sends):
        message = await within(mailbox.get())
        if message["type"] == "x":
            got.add(message["n"])
    assert dict((await other.presence("kept-1")).members) == {"ann": {}}
    assert set(administrator.refused()) <= {"client|setinfo", "cluster|myshardid"}


def test_the_page_is_what_the_doctor_says() -> None:
    assert USERS["clustered"] == acl_rules("asgi", cluster=True).split()
    section = PAGE.partition("## Cluster")[2].partition("\n## ")[0]
    table = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", section, re.MULTILINE))
    of_one = {use.what for use in uses()}
    needed = {use.what: list(use.commands) for use in uses(cluster=True) if use.what not in of_one}
    assert {
        what: [name.replace("\\|", "|") for name in re.findall("`([^`]+)`", commands)]
        for what, commands in table.items()
        if what in needed
    } == needed


async def test_what_the_doctor_says(
    cluster: Cluster, administrator: Administrator, prefix: str
) -> None:
    host = {"username": administrator.make("clustered"), "password": PASSWORD}
    config = {"hosts": [{"address": cluster.seeds[0], **host}], "cluster": True, "prefix": prefix}
    rows = await examine_patiently(config)
    assert complaints(rows) == []
    assert {row.node for row in of(rows, "permissions")} == set(cluster.seeds)


class Vault(CredentialProvider):
    """Knows the password of the moment."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.password = PASSWORD
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        return self.user, self.password


async def test_a_password_that_changes(
    new_layer: NewLayer, administrator: Administrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is in stays in; whoever comes, to any master, comes with the new one."""
    for module in (guide, scout):  # who is slow would be asked again, by another connection
        monkeypatch.setattr(module, "PATIENCE", PATIENCE)
    vault = Vault(administrator.make("clustered"))
    layer, other = (new_layer(credential_provider=vault) for _ in range(2))
    await several(layer, other)
    asked = vault.asked
    # Two connections to each of three masters, and one to ask for them.
    assert asked == 2 * 7
    administrator.set(vault.user, "resetpass", ">second")
    await several(layer, other)
    assert vault.asked == asked
    mailbox = await layer.open_channel()
    # All connections end: the old password is of no use any more, and the provider is late.
    administrator.cluster.ask_all("CLIENT", "KILL", "USER", vault.user)
    await eventually(lambda: vault.asked > asked + 10)
    waiting = asyncio.create_task(other.group_send("room", {"type": "waits"}))
    adding = asyncio.create_task(layer.group_add("room", mailbox.channel))
    vault.password = "second"
    await within(asyncio.gather(waiting, adding))
    await several(layer, other)
