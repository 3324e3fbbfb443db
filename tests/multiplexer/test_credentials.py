"""Credentials that are renewed while we are connected."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.credentials import CredentialProvider

from mpx_channels.multiplexer import Multiplexer
from mpx_channels.multiplexer.hosts import parse_hosts

from ..conftest import PATIENCE, eventually
from .conftest import NewMultiplexer

try:
    from redis.credentials import StreamingCredentialProvider
except ImportError:  # redis-py before 5.3
    StreamingCredentialProvider = None  # type: ignore[assignment,misc]

USER = "renewed"


class Vault(CredentialProvider):
    """Knows the password of the moment."""

    def __init__(self) -> None:
        self.password = "first"
        self.asked = 0
        self.error: Exception | None = None

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return USER, self.password


class AsyncVault(Vault):
    """One that is asked over a network."""

    async def get_credentials_async(self) -> tuple[str, str]:
        await asyncio.sleep(0)
        return super().get_credentials()

    def get_credentials(self) -> tuple[str, str]:
        raise AssertionError("it would block the event loop")


class Administrator:
    """Who gives the user its passwords."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def make(self, password: str) -> None:
        self._run("SETUSER", USER, "reset", "on", f">{password}", "~*", "&*", "+@all")

    def change(self, password: str) -> None:
        self._run("SETUSER", USER, "resetpass", f">{password}")

    def delete(self) -> None:
        """Redis ends the user's connections with it."""
        self._run("DELUSER", USER)

    def cut(self) -> None:
        """End the user's connections, and leave the user."""
        self._client.client_kill_filter(user=USER)  # type: ignore[call-arg]

    def _run(self, *words: str) -> None:
        self._client.execute_command("ACL", *words)


@pytest.fixture
def administrator(client: redis.Redis) -> Iterator[Administrator]:
    it = Administrator(client)
    it.make("first")
    yield it
    it.delete()


class Ears:
    """A subscription, and what it has heard."""

    def __init__(self, mpx: Multiplexer) -> None:
        self.heard: list[bytes] = []
        self.mpx = mpx
        self._subscription = mpx.new_channel_subscription(lambda _, data: self.heard.append(data))
        self._subscription.add("a")

    async def hears(self, data: bytes) -> bool:
        """Whether what is published now is heard, when the links stand."""
        async with asyncio.timeout(PATIENCE):
            await self._subscription.wait_for_activation("a")
        self.heard.clear()
        assert await self.mpx.publish("a", data) == 1
        await eventually(lambda: self.heard == [data])
        return True


async def connected(new: NewMultiplexer, url: str, vault: Vault, **options: Any) -> Ears:
    host = {"address": url, "credential_provider": vault, **options}
    mpx = new(parse_hosts([host])[0].node(), backlog_timeout=PATIENCE)
    await mpx.start()
    ears = Ears(mpx)
    assert await ears.hears(b"1")
    return ears


VAULTS = [
    pytest.param(Vault(), id="sync"),
    pytest.param(
        AsyncVault(),
        id="async",
        marks=pytest.mark.skipif(
            not hasattr(CredentialProvider, "get_credentials_async"),
            reason="this redis-py asks by get_credentials only",
        ),
    ),
]


@pytest.mark.parametrize("vault", VAULTS)
@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_password_that_changes(
    new_multiplexer: NewMultiplexer,
    redis_url: str,
    administrator: Administrator,
    vault: Vault,
    protocol: int,
) -> None:
    vault.password, vault.asked = "first", 0
    ears = await connected(new_multiplexer, redis_url, vault, protocol=protocol)
    assert vault.asked == 2
    administrator.change("second")
    vault.password = "second"
    # Who is in stays in, and nobody is asked again.
    assert await ears.hears(b"2")
    assert vault.asked == 2
    assert ears.mpx.stats().reconnects == 0
    # New connections come with the new one.
    administrator.cut()
    await eventually(lambda: vault.asked == 4)
    assert await ears.hears(b"3")


async def test_a_user_who_is_deleted_and_comes_back(
    new_multiplexer: NewMultiplexer, redis_url: str, administrator: Administrator
) -> None:
    vault = Vault()
    ears = await connected(new_multiplexer, redis_url, vault)
    administrator.delete()
    await eventually(lambda: "invalid username-password pair" in said_last(ears.mpx))
    # What is sent meanwhile waits.
    waiting = asyncio.create_task(ears.mpx.publish("a", b"waiting"))
    administrator.make("second")
    vault.password = "second"
    assert await waiting == 1
    assert await ears.hears(b"2")
    assert ears.mpx.stats().reconnects == 1


def said_last(mpx: Multiplexer) -> str:
    return str(mpx.last_error).lower()


async def test_a_provider_that_is_late(
    new_multiplexer: NewMultiplexer, redis_url: str, administrator: Administrator
) -> None:
    vault = Vault()
    ears = await connected(new_multiplexer, redis_url, vault)
    administrator.change("second")
    administrator.cut()
    # It is asked again at every attempt, and need not be right at once.
    await eventually(lambda: "invalid username-password pair" in said_last(ears.mpx))
    asked = vault.asked
    await eventually(lambda: vault.asked > asked + 2)
    vault.password = "second"
    assert await ears.hears(b"2")


async def test_a_provider_that_fails(
    new_multiplexer: NewMultiplexer, redis_url: str, administrator: Administrator
) -> None:
    vault = Vault()
    ears = await connected(new_multiplexer, redis_url, vault)
    vault.error = RuntimeError("the vault is sealed")
    administrator.cut()
    await eventually(lambda: "the vault is sealed" in said_last(ears.mpx))
    vault.error = None
    assert await ears.hears(b"2")


@pytest.mark.skipif(StreamingCredentialProvider is None, reason="redis-py has none yet")
async def test_a_provider_that_pushes_tokens(
    new_multiplexer: NewMultiplexer, redis_url: str, administrator: Administrator
) -> None:
    """It is asked as the others are; a token that it pushes is for the next connection."""

    class Pushing(Vault, StreamingCredentialProvider):  # type: ignore[misc,valid-type]
        def on_next(self, callback: Any) -> None:
            raise AssertionError("nobody listens")

        def on_error(self, callback: Any) -> None:
            raise AssertionError("nobody listens")

        def is_streaming(self) -> bool:
            return True

    vault = Pushing()
    ears = await connected(new_multiplexer, redis_url, vault)
    administrator.change("second")
    vault.password = "second"
    assert await ears.hears(b"2")
    assert vault.asked == 2
    administrator.cut()
    await eventually(lambda: vault.asked == 4)
    assert await ears.hears(b"3")


async def test_for_sentinels_too(
    new_multiplexer: NewMultiplexer, redis_url: str, administrator: Administrator
) -> None:
    """``sentinel_kwargs`` may have one; here the "Sentinel" refuses, and says whom it refuses."""
    vault = Vault()
    vault.password = "wrong"
    port = int(redis_url.rpartition(":")[2])
    host = {
        "sentinels": [("127.0.0.1", port)],
        "master_name": "chat",
        "sentinel_kwargs": {"credential_provider": vault},
    }
    mpx = new_multiplexer(parse_hosts([host])[0].node())
    await mpx.start()
    await eventually(lambda: "invalid username-password pair" in said_last(mpx))
    assert vault.asked
