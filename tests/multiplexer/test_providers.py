"""What is wrong with a credential provider is said of it, and never ends the attempts."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
import redis
from redis.credentials import CredentialProvider

from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.multiplexer import NotConnected
from mpx_channels.multiplexer.cluster.multiplexer import ClusterMultiplexer
from mpx_channels.multiplexer.hosts import parse_hosts
from tests.diagnostics.doctor.examine import examine

from ..conftest import eventually
from .conftest import NewMultiplexer


class Vault(CredentialProvider):
    """Returns, or raises, what it is given; by either of redis-py's methods."""

    def __init__(self, given: Any) -> None:
        self.given = given
        self.asked = 0

    def get_credentials(self) -> Any:
        self.asked += 1
        if isinstance(self.given, BaseException):
            raise self.given
        return self.given


class Asynchronous(Vault):
    async def get_credentials(self) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().get_credentials()


ASYNCHRONOUS = pytest.mark.skipif(
    not hasattr(CredentialProvider, "get_credentials_async"),
    reason="this redis-py asks by get_credentials only",
)
WRONG = {
    "nothing": (None, "returned a value of type NoneType"),
    "a password that is no tuple": ("hush", "returned a value of type str"),
    "no password": (("user", None), "returned (str, NoneType)"),
    "too much": (("user", "hush", "hush"), "returned (str, str, str)"),
    "an error": (KeyError("password"), "raised KeyError: 'password'"),
    "an error of redis-py": (redis.ConnectionError("sealed"), "raised ConnectionError: sealed"),
    "more than a line": (
        RuntimeError("sealed\nsince noon"),
        "raised RuntimeError: sealed since noon",
    ),
    "no time": (TimeoutError(), "raised TimeoutError"),
    # What the provider asks, and not Redis.
    "refused": (ConnectionRefusedError(111, "refused"), "raised ConnectionRefusedError: "),
    "a certificate": (ssl.SSLCertVerificationError("x"), "raised SSLCertVerificationError: "),
}


@pytest.mark.parametrize("kind", [Vault, pytest.param(Asynchronous, marks=ASYNCHRONOUS)])
@pytest.mark.parametrize(("given", "says"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_said_of_it(
    new_multiplexer: NewMultiplexer, redis_url: str, given: Any, says: str, kind: type[Vault]
) -> None:
    host = {"address": redis_url, "credential_provider": kind(given)}
    mpx = new_multiplexer(parse_hosts([host])[0].node())
    await mpx.start()
    await eventually(lambda: mpx.last_error is not None)
    said = str(mpx.last_error)
    assert said.startswith(f"the credential_provider in hosts ({kind.__name__}) {says}")
    assert "hush" not in said
    assert "\n" not in said
    # In the doctor's words.
    for cluster in (False, True):
        rows = await examine({"hosts": [host], "cluster": cluster}, "masters", "reachable")
        (row,) = [row for row in rows if row.finding.level == Level.PROBLEM]
        assert says in row.finding.found
        assert row.finding.todo.startswith("Correct the provider")


@pytest.mark.parametrize("place", ["server", "sentinels", "cluster"])
@pytest.mark.parametrize("kind", [Vault, pytest.param(Asynchronous, marks=ASYNCHRONOUS)])
async def test_one_whose_own_task_was_cancelled_is_asked_again(
    new_multiplexer: NewMultiplexer, redis_url: str, kind: type[Vault], place: str
) -> None:
    """A cancellation that is none of ours must not end our task: nobody would try again."""
    if place != "server" and not hasattr(CredentialProvider, "get_credentials_async"):
        pytest.skip("this redis-py asks by get_credentials only")
    vault = kind(asyncio.CancelledError())
    host: dict[str, Any] = {"address": redis_url, "credential_provider": vault}
    if place == "sentinels":
        address = ("127.0.0.1", int(redis_url.rpartition(":")[2]))
        kwargs = {"credential_provider": vault}
        host = {"sentinels": [address], "master_name": "chat", "sentinel_kwargs": kwargs}
    node = parse_hosts([host])[0].node()
    if place == "cluster":
        mpx: Any = ClusterMultiplexer([node], max_backoff=0.05)
    else:
        mpx = new_multiplexer(node, max_backoff=0.05)
    await mpx.start()
    await eventually(lambda: vault.asked > 3)
    with pytest.raises(NotConnected, match=r"raised CancelledError"):
        await mpx.wait_connected(0.05)
    # Ours ends it.
    async with asyncio.timeout(5):
        await mpx.stop()


async def test_one_that_hangs_is_left(new_multiplexer: NewMultiplexer, redis_url: str) -> None:
    class Hanging(CredentialProvider):
        asked = 0

        def get_credentials(self) -> Any:
            Hanging.asked += 1
            return asyncio.Event().wait()

    if not hasattr(CredentialProvider, "get_credentials_async"):
        pytest.skip("this redis-py asks by get_credentials only")
    host = {"address": redis_url, "credential_provider": Hanging()}
    mpx = new_multiplexer(parse_hosts([host])[0].node(), connect_timeout=0.1, max_backoff=0.05)
    await mpx.start()
    await eventually(lambda: Hanging.asked > 3)
    async with asyncio.timeout(5):
        await mpx.stop()
