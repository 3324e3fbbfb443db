"""TLS with real servers: what is right works, and what is wrong is a sentence with a host in it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import shutil
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio.connection import SSLConnection

from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.multiplexer import NotConnected, SentinelNode, link, tls
from mpx_channels.multiplexer.hosts import parse_hosts
from mpx_channels.multiplexer.tls import look_closer
from tests.diagnostics.doctor.examine import examine, one

from ..conftest import PATIENCE, RestartableServer, eventually
from .conftest import NewMultiplexer

if TYPE_CHECKING:
    from tests.tls import Certificates

Host = dict[str, Any]


@dataclass
class Case:
    """What a server is like, and how it is spoken to; what is said of that."""

    says: str
    todo: str
    server: Callable[[Certificates], Host] = lambda certificates: {}
    host: Callable[[Certificates], Host] = lambda certificates: {}
    leaves_out: tuple[str, ...] = ()
    options: Host = field(default_factory=dict)


WRONG = {
    "unknown authority": Case(
        "the certificate of localhost:{port} was signed by nobody whom this machine trusts",
        "ssl_ca_certs",
        host=lambda certificates: {"ssl_ca_certs": certificates.other_ca},
    ),
    "no authority": Case(
        "the certificate of localhost:{port} was signed by nobody whom this machine trusts",
        "ssl_ca_certs",
        leaves_out=("ssl_ca_certs",),
    ),
    "expired": Case(
        "the certificate of localhost:{port} has expired",
        "give the server a new one",
        server=lambda certificates: {"shows": certificates.expired},
    ),
    "not valid yet": Case(
        "the certificate of localhost:{port} is not valid yet",
        "this machine's clock",
        server=lambda certificates: {"shows": certificates.not_yet},
    ),
    "other name": Case(
        "the certificate of localhost:{port} is one for other names",
        "write one of these into hosts",
        server=lambda certificates: {"shows": certificates.elsewhere},
    ),
    "other address": Case(
        "the certificate of 127.0.0.2:{port} is one for other names",
        "write one of these into hosts",
        server=lambda certificates: {"bind": "127.0.0.1 127.0.0.2"},
        host=lambda certificates: {"address": "rediss://127.0.0.2:{port}"},
    ),
    "none of ours": Case(
        "localhost:{port} wants a certificate of ours and has got none",
        "ssl_certfile",
        server=lambda certificates: {"wants_ours": True},
    ),
    "none of ours in TLS 1.2": Case(
        "localhost:{port} wants a certificate of ours and has got none",
        "ssl_certfile",
        server=lambda certificates: {"wants_ours": True, "version": "TLSv1.2"},
    ),
    "ours from a stranger": Case(
        "localhost:{port} refuses our certificate (unknown ca)",
        "an authority of the server",
        server=lambda certificates: {"wants_ours": True},
        host=lambda certificates: {"ssl_certfile": certificates.stranger},
    ),
    "ours has expired": Case(
        "localhost:{port} refuses our certificate (certificate expired)",
        "has not expired",
        server=lambda certificates: {"wants_ours": True},
        host=lambda certificates: {"ssl_certfile": certificates.expired},
    ),
    "no version in common": Case(
        "localhost:{port} and we have no version of TLS in common",
        "ssl_min_version",
        server=lambda certificates: {"version": "TLSv1.2"},
        host=lambda certificates: {"ssl_min_version": ssl.TLSVersion.TLSv1_3},
    ),
    "spoken to without TLS": Case(
        "localhost:{port} speaks TLS and is spoken to without",
        "write rediss://",
        host=lambda certificates: {"address": "redis://localhost:{port}"},
        leaves_out=("ssl_ca_certs",),
    ),
    "no such file": Case(
        "the file '/nowhere/ca.pem' cannot be read (No such file or directory)",
        "correct ssl_ca_certs in hosts",
        host=lambda certificates: {"ssl_ca_certs": "/nowhere/ca.pem"},
    ),
    "no certificate in a text": Case(
        "the text in ssl_ca_data is no certificate",
        "correct it in hosts",
        host=lambda certificates: {"ssl_ca_data": "nonsense"},
    ),
    "a key of another": Case(
        "the key in '{client}' is not that of the certificate in '{server}'",
        "correct ssl_certfile and ssl_keyfile",
        host=lambda certificates: {
            "ssl_certfile": certificates.server,
            "ssl_keyfile": certificates.client,
        },
    ),
}

if "ssl_ca_path" in inspect.signature(SSLConnection).parameters:
    WRONG["no such folder"] = Case(
        "the file '/nowhere' cannot be read (No such file or directory)",
        "correct ssl_ca_path in hosts",
        host=lambda certificates: {"ssl_ca_path": "/nowhere"},
        leaves_out=("ssl_ca_certs",),
    )


@pytest.fixture(autouse=True)
def looks_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At what is wrong with TLS; a busy machine may need more than the second that there is."""
    monkeypatch.setattr(tls, "PATIENCE", PATIENCE)


def node_of(host: Host) -> Any:
    return parse_hosts([host])[0].node()


def is_one_sentence(text: str) -> bool:
    return text.count("\n") == 0 and "_ssl.c" not in text and "[SSL" not in text


async def first_error(
    new: NewMultiplexer, node: Any, says: str, seconds: float, **options: Any
) -> tuple[Any, str]:
    """A multiplexer, and what the first caller is told after so many seconds.

    If that is not yet what it is to be, another one's first caller has more time: finding out is
    work, and the machine may be busy.
    """
    for patience in (seconds, 3 * seconds, PATIENCE):
        mpx = new(node, backlog_timeout=patience, **options)
        await mpx.start()
        with pytest.raises(NotConnected) as caught:
            await mpx.publish("a", b"x")
        if says in str(caught.value):
            break
        await mpx.stop()
    return mpx, str(caught.value)


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_a_sentence(
    new_multiplexer: NewMultiplexer,
    certificates: Certificates,
    case: Case,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from tests.tls import TlsServer

    with TlsServer(certificates, **case.server(certificates)) as server:
        host = {**server.host, **case.host(certificates)}
        host["address"] = host["address"].format(port=server.port)
        for key in case.leaves_out:
            del host[key]
        says = case.says.format(
            port=server.port, client=certificates.client, server=certificates.server
        )
        # In the error, also of whoever is the first, and in the log.
        mpx, error = await first_error(new_multiplexer, node_of(host), says, 2.0)
        assert says in error
        assert case.todo in error
        assert is_one_sentence(error)
        with pytest.raises(NotConnected, match="no connection to") as caught:
            await mpx.wait_connected(0.01)
        assert says in str(caught.value)
        assert mpx.stats().nodes[0].last_error is not None
        assert says in mpx.stats().nodes[0].last_error
        logged = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert any(says in each.getMessage() for each in logged)
        assert all(is_one_sentence(each.getMessage()) for each in logged)
        await mpx.stop()
        # In the doctor's words.
        level, found = one(await examine({"hosts": [host]}, "reachable"), "reachable")
        assert level == Level.PROBLEM
        assert says in found


async def test_tls_to_a_port_that_speaks_none(
    new_multiplexer: NewMultiplexer, redis_url: str, certificates: Certificates
) -> None:
    """The server is silent, and the first caller knows why, all the same."""
    host = {
        "address": redis_url.replace("redis://", "rediss://"),
        "ssl_ca_certs": certificates.ca,
    }
    at = redis_url.rpartition("/")[2].rpartition("@")[2]
    says = f"{at} speaks no TLS: write redis://"
    mpx, error = await first_error(new_multiplexer, node_of(host), says, 3.0, connect_timeout=1.0)
    assert says in error
    await mpx.stop()
    level, found = one(await examine({"hosts": [host]}, "reachable"), "reachable")
    assert level == Level.PROBLEM
    assert f"{at} speaks no TLS" in found


async def test_a_server_is_not_asked_at_every_attempt(
    new_multiplexer: NewMultiplexer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tls import TlsServer

    looks: dict[tuple[str, int], int] = {}

    async def look(error: Exception, connection: Any) -> Any:
        key = (str(error), connection.port)
        looks[key] = looks.get(key, 0) + 1
        return await look_closer(error, connection)

    monkeypatch.setattr(link, "look_closer", look)
    with TlsServer(certificates, shows=certificates.expired) as server:
        mpx = new_multiplexer(node_of(server.host), max_backoff=0.01)
        await mpx.start()
        refused = server.refused
        await eventually(lambda: server.refused > refused + 10 and sum(looks.values()) > 1)
        # Once for each of two connections.
        assert list(looks.values()) == [2]
        await mpx.stop()


async def test_a_server_that_is_slow_to_say_it_is_asked_again(
    new_multiplexer: NewMultiplexer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tls import TlsServer

    looks: list[Any] = []

    async def look(error: Exception, connection: Any) -> Any:
        looks.append(connection)
        return await look_closer(error, connection) if len(looks) > 2 else None

    monkeypatch.setattr(link, "look_closer", look)
    with TlsServer(certificates, shows=certificates.expired) as server:
        mpx = new_multiplexer(node_of(server.host), max_backoff=0.01)
        await mpx.start()
        await eventually(lambda: "give the server a new one" in str(mpx.last_error))
        await mpx.stop()


async def test_a_server_that_has_nothing_to_say_is_not_asked_at_every_attempt(
    new_multiplexer: NewMultiplexer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tls import TlsServer

    looks: dict[str, int] = {}

    async def look(error: Exception, connection: Any) -> Any:
        looks[str(error)] = looks.get(str(error), 0) + 1

    monkeypatch.setattr(link, "look_closer", look)
    with TlsServer(certificates, shows=certificates.expired) as server:
        mpx = new_multiplexer(node_of(server.host), max_backoff=0.01)
        await mpx.start()
        refused = server.refused
        await eventually(lambda: server.refused > refused + 20)
        assert 0 < max(looks.values()) < 20
        await mpx.stop()


@pytest.mark.parametrize("case", ["unknown authority", "expired", "other name"])
async def test_a_certificate_is_looked_at_also_where_the_time_was_over(
    certificates: Certificates, case: str
) -> None:
    """On a busy machine the error is that, and says nothing."""
    from tests.tls import TlsServer

    wrong = WRONG[case]
    with TlsServer(certificates, **wrong.server(certificates)) as server:
        node = node_of({**server.host, **wrong.host(certificates)})
        trouble = await look_closer(TimeoutError("no answer in 1 s"), node.connection())
        assert trouble is not None
        assert wrong.says.format(port=server.port) in str(trouble.error())
        assert wrong.todo in str(trouble.error())


async def published_and_heard(mpx: Any) -> bool:
    heard: list[bytes] = []
    sub = mpx.new_channel_subscription(lambda name, message: heard.append(message))
    sub.add("a")
    async with asyncio.timeout(PATIENCE):
        await sub.wait_for_activation("a")
    await mpx.publish("a", b"x")
    await eventually(lambda: heard == [b"x"])
    return True


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_with_a_certificate_of_ours(
    new_multiplexer: NewMultiplexer, certificates: Certificates, version: str, name: str
) -> None:
    from tests.tls import TlsServer

    with TlsServer(certificates, wants_ours=True, version=version) as server:
        # The key is in the same file, which need be named once.
        ours = {"ssl_certfile": certificates.client, "address": f"rediss://{name}:{server.port}"}
        mpx = new_multiplexer(node_of({**server.host, **ours}))
        await mpx.start()
        assert await published_and_heard(mpx)


async def test_options_in_the_url(
    new_multiplexer: NewMultiplexer, certificates: Certificates
) -> None:
    from tests.tls import TlsServer

    with TlsServer(certificates, shows=certificates.elsewhere, wants_ours=True) as server:
        options = (
            f"ssl_ca_certs={certificates.ca}&ssl_certfile={certificates.client}"
            "&ssl_check_hostname=false"
        )
        mpx = new_multiplexer(f"{server.url}?{options}")
        await mpx.start()
        assert await published_and_heard(mpx)


@pytest.mark.parametrize("reqs", ["none", None])
async def test_no_certificate_is_looked_at(
    new_multiplexer: NewMultiplexer, certificates: Certificates, reqs: str | None
) -> None:
    from tests.tls import TlsServer

    with TlsServer(certificates, shows=certificates.expired) as server:
        host = {"address": server.url, "ssl_cert_reqs": reqs, "ssl_check_hostname": True}
        mpx = new_multiplexer(node_of(host))
        await mpx.start()
        assert await published_and_heard(mpx)


async def test_a_certificate_that_is_put_right(
    new_multiplexer: NewMultiplexer, certificates: Certificates
) -> None:
    """Nothing need be restarted but the server."""
    from tests.tls import TlsServer

    with TlsServer(certificates, shows=certificates.expired) as server:
        mpx = new_multiplexer(node_of(server.host), max_backoff=0.05)
        await mpx.start()
        await eventually(lambda: "has expired" in str(mpx.last_error))
        port = server.port
    with TlsServer(certificates, port=port):
        assert await published_and_heard(mpx)
    # And it may go wrong again, under a link that was up before.
    with TlsServer(certificates, port=port, shows=certificates.elsewhere):
        await eventually(lambda: "is one for other names" in str(mpx.last_error))
        await mpx.stop()


async def test_files_are_read_again(
    new_multiplexer: NewMultiplexer, certificates: Certificates, tmp_path: Path
) -> None:
    """A certificate of ours that is renewed in its file needs no restart."""
    from tests.tls import TlsServer

    ours = tmp_path / "ours.pem"
    shutil.copy(certificates.expired, ours)
    with TlsServer(certificates, wants_ours=True) as server:
        mpx = new_multiplexer(node_of({**server.host, "ssl_certfile": str(ours)}), max_backoff=0.05)
        await mpx.start()
        await eventually(lambda: "refuses our certificate" in str(mpx.last_error))
        shutil.copy(certificates.client, ours)
        assert await published_and_heard(mpx)


async def test_sentinels_and_master(
    new_multiplexer: NewMultiplexer, certificates: Certificates
) -> None:
    from tests.tls import TlsSentinel, TlsServer

    with (
        TlsServer(certificates, wants_ours=True, arguments=("--tls-replication", "yes")) as master,
        TlsSentinel(certificates, master=master, wants_ours=True) as sentinel,
    ):
        host = sentinel.host
        host["ssl_certfile"] = certificates.client
        host["sentinel_kwargs"]["ssl_certfile"] = certificates.client
        mpx = new_multiplexer(node_of(host))
        await mpx.start()
        assert await published_and_heard(mpx)
        assert str(mpx.node).startswith("rediss+sentinel://")


AT_SENTINEL = {
    "unknown authority": Case(
        "the certificate of 127.0.0.1:{sentinel} was signed by nobody",
        "as ssl_ca_certs in sentinel_kwargs",
        options={"sentinel_kwargs": {"ssl": True}},
    ),
    "other name": Case(
        "the certificate of 127.0.0.1:{sentinel} is one for other names",
        "write one of these",
        server=lambda certificates: {"shows": certificates.elsewhere},
    ),
    "expired": Case(
        "the certificate of 127.0.0.1:{sentinel} has expired",
        "give the server a new one",
        server=lambda certificates: {"shows": certificates.expired},
    ),
    "none of ours": Case(
        "127.0.0.1:{sentinel} wants a certificate of ours and has got none",
        "that of its key as ssl_keyfile, in sentinel_kwargs",
        server=lambda certificates: {"wants_ours": True},
    ),
    "spoken to without TLS": Case(
        "127.0.0.1:{sentinel} speaks TLS and is spoken to without",
        "write 'ssl': True in sentinel_kwargs",
        options={"sentinel_kwargs": None},
    ),
    "master without TLS": Case(
        "127.0.0.1:{master} speaks TLS and is spoken to without",
        "'ssl': True",
        leaves_out=("ssl", "ssl_ca_certs"),
    ),
    "master unknown": Case(
        "the certificate of 127.0.0.1:{master} was signed by nobody",
        "as ssl_ca_certs in hosts",
        leaves_out=("ssl_ca_certs",),
    ),
}


@pytest.mark.parametrize("case", AT_SENTINEL.values(), ids=AT_SENTINEL)
async def test_what_is_wrong_behind_sentinels(
    new_multiplexer: NewMultiplexer, certificates: Certificates, case: Case
) -> None:
    from tests.tls import TlsSentinel, TlsServer

    with (
        TlsServer(certificates) as master,
        TlsSentinel(certificates, master=master, **case.server(certificates)) as sentinel,
    ):
        host = {**sentinel.host, **case.options}
        for key in case.leaves_out:
            del host[key]
        says = case.says.format(sentinel=sentinel.port, master=master.port)
        node = node_of(host)
        assert isinstance(node, SentinelNode)
        mpx, error = await first_error(new_multiplexer, node, says, 3.0)
        assert says in error
        assert case.todo in error
        await mpx.stop()
        level, found = one(await examine({"hosts": [host]}, "reachable"), "reachable")
        assert level == Level.PROBLEM
        assert says in found


@pytest.mark.parametrize("raised", [ssl.SSLError, ssl.SSLCertVerificationError])
async def test_an_error_that_openssl_has_no_number_for(
    new_multiplexer: NewMultiplexer, certificates: Certificates, raised: type[ssl.SSLError]
) -> None:
    """It lacks what others have, and ends the attempts no more than they do."""

    class Refusing(SSLConnection):
        attempts = 0

        async def _connect(self) -> None:
            Refusing.attempts += 1
            raise raised("No cipher can be selected.")

    host = {"host": "localhost", "connection_class": Refusing, "ssl_ca_certs": certificates.ca}
    mpx = new_multiplexer(node_of(host), max_backoff=0.01)
    await mpx.start()
    await eventually(lambda: Refusing.attempts > 4)
    assert "localhost:6379" in str(mpx.last_error)
    assert "No cipher can be selected" in str(mpx.last_error)
    await mpx.stop()


def test_a_key_needs_a_certificate() -> None:
    with pytest.raises(ValueError, match="ssl_keyfile is the key of a certificate"):
        node_of({"host": "x", "ssl": True, "ssl_keyfile": "key.pem"})


async def test_what_is_no_trouble_of_tls(
    new_multiplexer: NewMultiplexer, restartable_server: RestartableServer
) -> None:
    mpx = new_multiplexer(restartable_server.url)
    await mpx.start()
    await eventually(lambda: mpx.last_error is not None)
    assert "TLS" not in str(mpx.last_error)
