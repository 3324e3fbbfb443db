"""Where a server is and who we are there: IPv6, Unix sockets, names and passwords of any kind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis
from redis.asyncio.connection import parse_url

from mpx_channels.multiplexer import NotConnected
from mpx_channels.multiplexer.hosts import parse_hosts
from tests.inside import links_of

from ..conftest import RestartableServer, eventually, missing
from .conftest import NewMultiplexer

# All that a keyboard has, in an order that a URL would take for something else.
SPECIAL = "p@ss:w/or?d#[%41]&=+ '\"\\`{}|<>^~!$()*,;._-\u00e4\u20ac\U0001f511"


def node_of(host: Any) -> Any:
    return parse_hosts([host])[0].node()


async def who_am_i(mpx: Any) -> str:
    await mpx.start()
    await mpx.wait_connected(10)
    name: bytes = await mpx.command(b"ACL", b"WHOAMI")
    return name.decode()


# -- users and passwords -------------------------------------------------------------------------


@pytest.fixture(params=[SPECIAL, *"@:/?#[]%&+ =\u00e4"], ids=ascii)
def password(request: pytest.FixtureRequest, client: redis.Redis) -> Iterator[str]:
    """The password of a user, whose name is as odd as Redis allows."""
    given: str = request.param
    name = given.replace(" ", "")
    client.execute_command("ACL", "SETUSER", f"u{name}", "on", f">{given}", "~*", "&*", "+@all")
    yield given
    client.acl_deluser(f"u{name}")


def user_of(password: str) -> str:
    return f"u{password.replace(' ', '')}"


def decodes_twice() -> bool:
    options: Any = parse_url("redis://x?password=%2541")
    return bool(options["password"] != "%41")


async def test_in_a_url(new_multiplexer: NewMultiplexer, redis_url: str, password: str) -> None:
    user = user_of(password)
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
    url = redis_url.replace("://", f"://{credentials}@")
    assert await who_am_i(new_multiplexer(node_of(url))) == user


async def test_in_a_url_of_a_socket(
    new_multiplexer: NewMultiplexer, unix_url: str, password: str
) -> None:
    user = user_of(password)
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
    url = f"{unix_url.replace('://', f'://{credentials}@')}?db=3"
    mpx = new_multiplexer(node_of(url))
    assert await who_am_i(mpx) == user
    assert b"db=3" in await mpx.command(b"CLIENT", b"INFO")


async def test_in_the_query_of_a_url(
    new_multiplexer: NewMultiplexer, redis_url: str, password: str
) -> None:
    user = user_of(password)
    if "%" in password and decodes_twice():
        pytest.skip("this redis-py decodes the query of a URL twice")
    url = f"{redis_url}?username={quote(user, safe='')}&password={quote(password, safe='')}"
    assert await who_am_i(new_multiplexer(node_of(url))) == user


@pytest.mark.parametrize("protocol", [2, 3])
async def test_in_a_dict(
    new_multiplexer: NewMultiplexer, redis_url: str, password: str, protocol: int
) -> None:
    user = user_of(password)
    host = {
        "address": redis_url,
        "username": user,
        "password": password,
        "protocol": protocol,
    }
    assert await who_am_i(new_multiplexer(node_of(host))) == user


async def test_a_wrong_one_is_not_said_aloud(
    new_multiplexer: NewMultiplexer, redis_url: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = f"not-{password}-not"
    host = {"address": redis_url, "username": user_of(password), "password": wrong}
    mpx = new_multiplexer(node_of(host), backlog_timeout=0.2)
    await mpx.start()
    await eventually(lambda: all(link.last_error for link in links_of(mpx)))
    with pytest.raises(NotConnected, match=r"(?i)invalid username-password pair") as caught:
        await mpx.publish("a", b"x")
    said = str(caught.value) + caplog.text + repr(mpx.stats())
    assert wrong not in said
    assert quote(wrong, safe="") not in said


@pytest.mark.parametrize("password", [SPECIAL])
async def test_requirepass(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer, password: str
) -> None:
    restartable_server.start()
    with restartable_server.client() as admin:
        admin.config_set("requirepass", password)
    url = restartable_server.url.replace("://", f"://:{quote(password, safe='')}@")
    assert await who_am_i(new_multiplexer(node_of(url))) == "default"
    host = {"address": restartable_server.url, "password": password}
    assert await who_am_i(new_multiplexer(node_of(host))) == "default"


# -- IPv6 ----------------------------------------------------------------------------------------


@pytest.fixture
def on_ipv6(server: object) -> Iterator[RestartableServer]:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        missing("this machine has no IPv6")
    alone = RestartableServer(config={"bind": "127.0.0.1 ::1"})
    alone.start()
    yield alone
    alone.kill()


@pytest.mark.parametrize("form", ["url", "with user", "pair", "dict"])
async def test_ipv6(new_multiplexer: NewMultiplexer, on_ipv6: RestartableServer, form: str) -> None:
    port = on_ipv6.port
    host: Any = {
        "url": f"redis://[::1]:{port}/2",
        "with user": f"redis://default:@[::1]:{port}",
        "pair": ("::1", port),
        "dict": {"host": "::1", "port": port},
    }[form]
    node = node_of(host)
    assert str(node) == f"redis://[::1]:{port}"
    mpx = new_multiplexer(node)
    assert await who_am_i(mpx) == "default"
    assert b"addr=[::1]:" in await mpx.command(b"CLIENT", b"INFO")
    assert mpx.stats().nodes[0].address == f"redis://[::1]:{port}"
    # And the errors have it as it is written.
    on_ipv6.kill()
    await eventually(lambda: all(link.last_error for link in links_of(mpx)))
    with pytest.raises(NotConnected, match=rf"redis://\[::1\]:{port}"):
        await mpx.wait_connected(0.05)


def test_ipv6_of_sentinels() -> None:
    node = node_of({"sentinels": [("::1", 26379), ("s", 26380)], "master_name": "chat"})
    assert str(node) == "redis+sentinel://[::1]:26379,s:26380/chat"


# -- Unix sockets --------------------------------------------------------------------------------


async def test_a_socket_in_a_dict(new_multiplexer: NewMultiplexer, unix_url: str) -> None:
    path = unix_url.removeprefix("unix://")
    node = node_of({"path": path, "db": 1})
    assert str(node) == unix_url
    mpx = new_multiplexer(node)
    assert await who_am_i(mpx) == "default"
    assert b"db=1" in await mpx.command(b"CLIENT", b"INFO")


async def test_a_socket_that_is_not_there(new_multiplexer: NewMultiplexer) -> None:
    mpx = new_multiplexer(node_of("unix:///nowhere/valkey.sock"))
    await mpx.start()
    with pytest.raises(NotConnected, match=r"unix:///nowhere/valkey\.sock"):
        await mpx.wait_connected(0.2)
