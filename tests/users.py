"""Has the tests' layers run as a user of least privilege: ``MPX_TEST_ACL=1 pytest tests/layer``.

Whoever logs in as nobody is "default", so it is that user who gets the rules of docs/acl.md and
nothing else, on each server that a test starts. The tests themselves, who look from outside and do
what operators do, are "admin".
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import pytest
import redis

from mpx_channels.diagnostics.doctor.permissions import acl_rules
from mpx_channels.multiplexer import subscriber
from mpx_channels.multiplexer.entries import CHANNEL, SHARDED

__all__ = [
    "ADMIN",
    "PASSWORD",
    "SENTINEL_RULES",
    "as_admin",
    "as_admin_options",
    "granting",
    "is_least",
    "needs_more",
    "restrict",
    "restrict_again",
]

VARIABLE = "MPX_TEST_ACL"
ADMIN, PASSWORD = "admin", "tests"
# The prefixes of layers in tests: that of the fixture, the default, and some by their names.
PREFIXES = ("test-*", "asgi", "by-hand", "other", "mpx-*", "existing-*", "allowed")
# Of the user that Sentinels know.
SENTINEL_RULES = (
    "resetkeys resetchannels &+switch-master -@all +subscribe +ping "
    "+sentinel|get-master-addr-by-name"
)


def is_least() -> bool:
    """Whether tests run so."""
    return bool(os.environ.get(VARIABLE))


# For a test of something else that needs more than our layer does.
needs_more = pytest.mark.skipif(is_least(), reason="what it tests besides needs other rules")


def as_admin(url: str) -> str:
    """The URL of a server, for whoever looks from outside."""
    return url.replace("://", f"://{ADMIN}:{PASSWORD}@", 1) if is_least() else url


def as_admin_options() -> dict[str, str]:
    """The same, as keywords of a client."""
    return {"username": ADMIN, "password": PASSWORD} if is_least() else {}


def rules(*, cluster: bool = False) -> list[str]:
    """The rules of docs/acl.md, for all prefixes of the tests."""
    words = acl_rules("PREFIX", cluster=cluster).split()
    for prefix in PREFIXES:
        words += [f"~{prefix}:*", f"&{prefix}:*"]
    return words


# Ports of servers that are restricted so, those that are open for the running test, and what got a
# rule of its own.
_restricted: set[int] = set()
_of_clusters: set[int] = set()
_open: set[int] = set()
_granted: set[bytes] = set()


def restrict(port: int, *, cluster: bool = False) -> None:
    """Leave the "default" of a server, or of a cluster's node, nothing but these rules."""
    if not is_least():
        return
    with redis.Redis(port=port) as client:
        client.execute_command(
            "ACL", "SETUSER", ADMIN, "on", f">{PASSWORD}", "allkeys", "allchannels", "+@all"
        )
        # So that it can replicate another one that is restricted.
        client.config_set("masteruser", ADMIN)
        client.config_set("masterauth", PASSWORD)
    _restricted.add(port)
    if cluster:
        _of_clusters.add(port)
    _set_rules(port)


def restrict_again() -> None:
    """After a test: one that subscribes to ``*`` may hear everything, for as long as it runs."""
    for port in list(_open & _restricted):
        with contextlib.suppress(redis.RedisError):
            _set_rules(port)
    _open.clear()


def _set_rules(port: int) -> None:
    own = [b"&" + name for name in _granted]
    words = rules(cluster=port in _of_clusters)
    with redis.Redis(port=port, username=ADMIN, password=PASSWORD, socket_timeout=2) as client:
        client.execute_command("ACL", "SETUSER", "default", *words, *own)


def _grant(name: bytes) -> None:
    if name == b"*":
        _open.update(_restricted)
    else:
        _granted.add(name)
    # Where all is allowed, Redis takes no rule more.
    for port in _restricted - (_open if name != b"*" else set()):
        try:
            with redis.Redis(
                port=port, username=ADMIN, password=PASSWORD, socket_timeout=2
            ) as client:
                client.execute_command("ACL", "SETUSER", "default", b"&" + name)
        except redis.RedisError:  # it is not there any more, or hangs, or has another default
            _restricted.discard(port)


@contextlib.contextmanager
def granting() -> Iterator[None]:
    """Add rules for what docs/acl.md says needs one of its own: patterns, word for word, and Redis
    channels outside of the prefix.
    """
    if not is_least():
        yield
        return
    prefixes = "|".join(prefix.replace("*", "[^:/]*") for prefix in PREFIXES)
    known = re.compile(f"(?:{prefixes}):".encode())
    add = subscriber.Subscriber.add

    def grant_and_add(self: object, kind: object, name: bytes, *rest: object) -> object:
        own = kind in (CHANNEL, SHARDED) and known.match(name)
        if not own and name not in _granted:
            _grant(name)
        return add(self, kind, name, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subscriber.Subscriber, "add", grant_and_add)
        yield
