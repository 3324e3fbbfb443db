"""Credential providers, asked so that what is wrong with one is said of it.

redis-py takes what they return as it comes, and what they raise looks like an error of the server:
of a provider that asks a service, a refused connection or a certificate is that service's.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from typing import Any

from redis.credentials import CredentialProvider

from .exceptions import NotConnected

__all__ = ["NoCredentials", "asked"]


class NoCredentials(NotConnected):
    """A credential provider raised an error, or returned what is no user and password."""


def asked(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options of connections, with their provider, if there is one, as `Asked`.

    Raises `ValueError` where there is a user or a password besides.
    """
    provider = options.get("credential_provider")
    if provider is None:
        return dict(options)
    if options.get("username") or options.get("password"):
        raise ValueError(
            "a credential_provider stands instead of a user and a password: leave these out"
        )
    return {**options, "credential_provider": Asked(provider, where)}


class Asked(CredentialProvider):
    """A provider that raises `NoCredentials`, whatever is wrong with the one that it asks.

    ``where``: the option that has that one, as people know it. redis-py asks by
    `get_credentials_async`, and before 5.3 by `get_credentials`.
    """

    def __init__(self, provider: Any, where: str) -> None:
        self._provider = provider
        self._name = f"the credential_provider in {where} ({type(provider).__name__})"

    def get_credentials(self) -> tuple[Any, ...]:
        try:
            given = self._provider.get_credentials()
        except (Exception, asyncio.CancelledError) as error:
            raise self._failed(error) from error
        return self._checked(given)

    async def get_credentials_async(self) -> tuple[Any, ...]:
        ask = getattr(self._provider, "get_credentials_async", self._provider.get_credentials)
        try:
            given = ask()
            # Twice, where get_credentials is a coroutine and the other one is redis-py's.
            while inspect.isawaitable(given):
                given = await given
        except asyncio.CancelledError as error:
            # Of a task that it waited for. Taken for our own, nobody would try again.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise self._failed(error) from error
        except Exception as error:
            raise self._failed(error) from error
        return self._checked(given)

    def _failed(self, error: BaseException) -> NoCredentials:
        # Not its repr, which with redis-py's own errors has no text.
        text = " ".join(str(error).split())
        kind = type(error).__name__
        return NoCredentials(f"{self._name} raised {f'{kind}: {text}' if text else kind}")

    def _checked(self, given: Any) -> tuple[Any, ...]:
        """What it returned; the error says no value, as that may be a password."""
        if isinstance(given, tuple | list):
            if len(given) <= 2 and all(isinstance(each, str | bytes | int) for each in given):
                return tuple(given)
            returned = f"({', '.join(type(each).__name__ for each in given)})"
        else:
            returned = f"a value of type {type(given).__name__}"
            if inspect.iscoroutine(given):
                given.close()
        raise NoCredentials(
            f"{self._name} returned {returned}: it must return a user and its password, "
            "(str, str), or a password alone, (str,)"
        )
