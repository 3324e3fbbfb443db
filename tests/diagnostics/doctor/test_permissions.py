"""`mpx doctor`, the ACL: each rule that is missing is named, and what it names is enough."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.exceptions import NoPermissionError, ResponseError

import mpx_channels
from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.diagnostics.doctor.permissions import (
    HANDSHAKE,
    NEEDED,
    SINCE_7_2,
    Refusals,
    acl_rules,
    channels_rule,
    commands,
    keys_rule,
)
from mpx_channels.layer import MpxChannelLayer
from tests.proxy import Proxy
from tests.sentinels import Sentinels

from ..conftest import ROOT, MakeProject, Project
from .examine import examine, of, one, worst

USER = "mpx-doctor-test"
# Commands of which an ACL may have a part.
CONTAINERS = ("CLUSTER", "PUBSUB")


class User:
    """A user of the session's server."""

    def __init__(self, client: redis.Redis, redis_url: str, prefix: str) -> None:
        self.prefix = prefix
        self.url = redis_url.replace("redis://", f"redis://{USER}:secret@")
        self.port = redis_url.rpartition(":")[2]
        self._client = client

    def set(self, *rules: str) -> None:
        self._client.execute_command(
            "ACL", "SETUSER", USER, "reset", "on", ">secret", *" ".join(rules).split()
        )

    @property
    def config(self) -> dict[str, object]:
        return {"hosts": [self.url], "prefix": self.prefix}


@pytest.fixture
def user(client: redis.Redis, redis_url: str, prefix: str) -> Iterator[User]:
    yield User(client, redis_url, prefix)
    client.execute_command("ACL", "DELUSER", USER)


def sent() -> set[str]:
    """The commands in the source of the layer and the engine, as ACL rules name them."""
    found = set()
    root = Path(mpx_channels.__file__).parent
    packages = ("channels", "history", "layer", "multiplexer", "presence")
    for path in (path for package in packages for path in (root / package).rglob("*.py")):
        source = path.read_text()
        for word, sub in re.findall(r'b"([A-Z]{3,})"(?:, b"([A-Z]{3,})")?', source):
            if word not in ("MATCH", "COUNT", "PONG"):
                found.add(f"{word}|{sub}".lower() if word in CONTAINERS else word.lower())
        found |= {word.lower() for word in re.findall(r"redis\.p?call\('(\w+)'", source)}
        found |= {f"cluster|{what}".lower() for what in re.findall(r"told\('([A-Z]+)'\)", source)}
        found |= {word.lower() for word in re.findall(r"\\r\\n\$\d+\\r\\n([A-Z]+)\\r", source)}
    found.add("psubscribe")
    found.add("punsubscribe")
    found |= {"ssubscribe", "sunsubscribe"}
    found.discard("cluster")  # of which the scripts say what above
    return found


def test_no_command_of_the_source_is_missing() -> None:
    assert sent() == {*commands(), *commands(cluster=True), *SINCE_7_2}


@pytest.mark.parametrize("command", commands())
async def test_a_missing_command_is_named(user: User, command: str) -> None:
    user.set(acl_rules(user.prefix), f"-{command}")
    rows = await examine(user.config, "permissions")
    named = [row for row in rows if row.finding.todo == f"ACL SETUSER {USER} +{command}"]
    assert named, [row.as_json() for row in of(rows, "permissions")]
    uses = [use for use in NEEDED if command in use.commands]
    assert named[0].finding.level == uses[0].level
    for use in uses:
        assert use.what in named[0].finding.why
    # And nothing else than that.
    assert [row for row in of(rows, "permissions") if "may not" in row.finding.found] == named


async def test_a_missing_rule_for_channels_is_named(user: User) -> None:
    user.set(acl_rules(user.prefix), "resetchannels", "&other:*")
    rows = await examine(user.config, "permissions")
    first = of(rows, "permissions")[0].finding
    assert (first.level, first.todo) == (
        Level.PROBLEM,
        f"ACL SETUSER {USER} {channels_rule(user.prefix)}",
    )


async def test_a_missing_rule_for_keys_is_named(user: User) -> None:
    user.set(acl_rules(user.prefix), "resetkeys", "~other:*")
    rows = await examine(user.config, "permissions")
    first = of(rows, "permissions")[0].finding
    assert (first.level, first.todo) == (
        Level.WARNING,
        f"ACL SETUSER {USER} {keys_rule(user.prefix)}",
    )


async def test_what_the_doctor_tells_to_do_helps(user: User, client: redis.Redis) -> None:
    user.set("-@all +ping +subscribe")
    rows = await examine(user.config, "permissions")
    assert worst(rows, "permissions") == Level.PROBLEM
    (whole,) = [
        row.finding.todo for row in rows if row.finding.found.startswith("the rules of a user")
    ]
    client.execute_command(*whole.split())
    rows = await examine(user.config, "permissions", "groups", "plain-channels", "promises")
    assert {row.finding.level for row in rows} == {Level.OK, Level.INFO}


async def test_patterns_are_possible_only_as_the_rules_have_them(user: User) -> None:
    user.set(acl_rules(user.prefix))
    rows = await examine(user.config, "permissions", "patterns")
    (hint,) = [row for row in of(rows, "permissions") if row.finding.level == Level.INFO]
    assert "word for word" in hint.finding.found
    assert one(rows, "patterns")[0] == Level.SKIPPED
    layer = MpxChannelLayer(hosts=[user.url], prefix=user.prefix)
    with pytest.raises(ResponseError):
        await layer.group_pattern_add("room-*", await layer.new_channel())
    await layer.close()
    # What the hint says does help.
    user.set(acl_rules(user.prefix), f"&{user.prefix}:g:room-*")
    layer = MpxChannelLayer(hosts=[user.url], prefix=user.prefix)
    async with layer.subscribe(group_patterns=["room-*"]) as events:
        await layer.group_send("room-1", {"type": "x"})
        assert (await anext(events))["mpx_group"] == "room-1"
    await layer.close()


async def test_a_command_that_the_server_has_not_got(proxy: Proxy, prefix: str) -> None:
    proxy.to_server.rewrite = lambda data: data.replace(b"SCAN", b"NACS")
    rows = await examine({"hosts": [proxy.url], "prefix": prefix}, "permissions", "neighbours")
    first = of(rows, "permissions")[0].finding
    assert (first.level, first.found) == (Level.WARNING, "the server does not know: scan")
    assert one(rows, "neighbours") == (
        Level.SKIPPED,
        "the server does not have this command, or disabled it (SCAN)",
    )


async def test_others_talk_meanwhile(user: User, proxy: Proxy) -> None:
    # With these rules the doctor listens to all of the prefix, for a moment.
    user.set(acl_rules(user.prefix), "-unsubscribe")
    message = b"*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\na\r\n$1\r\nb\r\n"
    proxy.to_client.rewrite = lambda data: data + message * 10 * (b"\r\npsubscribe" in data)
    hosts = [user.url.replace(str(user.port), str(proxy.port))]
    rows = await examine({**user.config, "hosts": hosts}, "permissions")
    first = of(rows, "permissions")[0].finding
    assert first.found == f"the user {USER!r} may not: unsubscribe"


async def test_the_rules_suffice_for_all_that_the_layer_does(user: User) -> None:
    user.set(acl_rules(user.prefix))
    url = f"{user.url}/1?client_name=mpx"
    first = MpxChannelLayer(hosts=[url], prefix=user.prefix, unsubscribe_delay=0)
    second = MpxChannelLayer(hosts=[url], prefix=user.prefix)
    try:
        channel = await first.new_channel()
        await first.group_add("room", channel)
        await second.group_send("room", {"type": "to.group"})
        assert await first.receive(channel) == {"type": "to.group"}
        await second.send(channel, {"type": "to.channel"})
        assert await first.receive(channel) == {"type": "to.channel"}
        # Another queue while the first is read: the blocking command is woken.
        reader = asyncio.create_task(first.receive("queue-1"))
        other = asyncio.create_task(first.receive("queue-2"))
        for name in ("queue-2", "queue-1"):
            await second.send(name, {"type": name})
        assert (await reader, await other) == ({"type": "queue-1"}, {"type": "queue-2"})
        promise = await first.new_promise("answer", 10)
        await second.resolve("answer", 42)
        assert await promise == 42
        await second.send("queue-3", {"type": "unread"})
        stats = await second.fleet_stats()
        assert not any(process.silent for process in stats.processes)
        assert (stats.groups, stats.queues) == ({"room": 1}, {"queue-3": 1})
        assert await second.group_size("room") == 1
        await first.group_discard("room", channel)
        await second.flush()
        assert (await second.fleet_stats()).queues == {}
    finally:
        await first.close()
        await second.close()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # Redis 6.2, 7.0, 7.2 and Valkey; redis-py cuts the first word off.
        ("this user has no permissions to run the 'x' command or its subcommand", "commands"),
        ("User a has no permissions to run the 'x' command", "commands"),
        ("this user has no permissions to access one of the keys used as arguments", "keys"),
        ("No permissions to access a key", "keys"),
        (
            "this user has no permissions to access one of the channels used as arguments",
            "channels",
        ),
        ("No permissions to access a channel", "channels"),
    ],
)
def test_refusals_of_all_ages(text: str, kind: str) -> None:
    refusals = Refusals()
    refusals.add("x", NoPermissionError(text))
    refusals.add("y", ResponseError("READONLY You can't write against a read only replica."))
    expected = Refusals()
    getattr(expected, kind).append("x")
    assert refusals == expected


def test_the_rules_are_in_the_documentation() -> None:
    page = (ROOT / "docs" / "layer.md").read_text().partition("### ACL permissions")[2]
    block = page.partition("```text")[2].partition("```")[0]
    assert block.split() == ["ACL", "SETUSER", "chat", "on", ">secret", *acl_rules("asgi").split()]
    table = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", page, re.MULTILINE))
    for use in NEEDED:
        named = re.findall("`([^`]+)`", table[use.what])
        assert [name.replace("\\|", "|") for name in named] == list(use.commands)


async def test_behind_sentinels(session_sentinels: Sentinels, prefix: str) -> None:
    master = session_sentinels.master
    host = {**session_sentinels.host, "username": USER, "password": "secret"}
    with master.client() as admin:
        for rule in ("+role", "-role"):
            words = [*acl_rules(prefix).split(), rule]
            admin.execute_command("ACL", "SETUSER", USER, "reset", "on", ">secret", *words)
            rows = await examine({"hosts": [host], "prefix": prefix}, "permissions")
            refused = [row for row in of(rows, "permissions") if row.finding.level == Level.WARNING]
            if rule == "+role":
                assert refused == []
            else:
                (row,) = refused
                assert row.finding.todo == f"ACL SETUSER {USER} +role"
                assert "what the Sentinels name is the master" in row.finding.why
        admin.acl_deluser(USER)


async def test_no_handshake_rule_is_superfluous(user: User) -> None:
    for rule in HANDSHAKE:
        user.set(acl_rules(user.prefix), f"-{rule}")
        config = {**user.config, "hosts": [f"{user.url}/1?client_name=mpx"]}
        level, found = one(await examine(config, "reachable"), "reachable")
        assert level == Level.PROBLEM
        assert "the ACL forbids what the connection begins with" in found


def test_as_a_user_sees_it(user: User, make_project: MakeProject) -> None:
    project: Project = make_project(hosts=[user.url])
    user.set(acl_rules(user.prefix), "-publish")
    done = project.run("doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"do: ACL SETUSER {USER} +publish\n" in done.stdout
    user.set(acl_rules(user.prefix))
    done = project.run("doctor", "--strict")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


async def test_a_check_leaves_nothing_behind(
    user: User, client: redis.Redis, redis_url: str
) -> None:
    await examine({"hosts": [redis_url], "prefix": user.prefix})
    # The queues' reader may have been woken, which leaves a key for ten seconds.
    left = [key for key in client.keys(f"{user.prefix}:*") if b":w:" not in key]
    assert left == []
