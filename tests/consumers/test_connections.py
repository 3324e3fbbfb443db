"""Stale database connections, with real databases, in processes with settings of their own."""

from __future__ import annotations

import glob
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpx_channels.consumers import MpxConsumerMixin
from mpx_channels.generic.websocket import AsyncWebsocketConsumer
from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
MIXED = ["mixed async", "mixed sync"]
KINDS = ["stock async", "stock sync", *MIXED]
NEVER = 3600.0

# What a consumer does: its interval, CONN_MAX_AGE and steps. A number is a pause, in seconds.
Order = tuple[float, float | None, list[Any]]
ORDERS: dict[str, Order] = {
    "the interval has passed": (0.1, 0.05, ["look", "kill", 0.2, "look"]),
    "the interval has not passed": (NEVER, 0.05, ["look", "kill", 0.2, "look"]),
    # With CONN_MAX_AGE = 0 whoever looks for stale connections ends one: they count the looks.
    "always": (0.0, 0, ["look"] * 10),
    "hardly ever": (NEVER, 0, ["look"] * 10),
    "old at the end": (NEVER, 0, ["look"]),
    "young at the end": (NEVER, 60, ["look"]),
}
HEALTH_ORDERS: dict[str, Order] = {
    "the interval has passed": (0.1, None, ["look", "kill", 0.2, "look"]),
    "the interval has not passed": (NEVER, None, ["look", "kill", "look"]),
}


class Told:
    """What the looks of each kind of consumer told, for each order."""

    def __init__(self, database: dict[str, Any], orders: dict[str, Order]) -> None:
        asked = [(name, kind) for name in orders for kind in KINDS]
        sent = [
            dict(zip(("interval", "age", "steps"), orders[name], strict=True), kind=kind)
            for name, kind in asked
        ]
        program = [sys.executable, "-W", "error", "-m", "tests.consumers.database_program"]
        process = subprocess.run(
            [*program, json.dumps({"database": database, "orders": sent})],
            cwd=ROOT, capture_output=True, timeout=60,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr.decode()
        self._told = dict(zip(asked, json.loads(process.stdout), strict=True))

    def looks(self, name: str, kind: str) -> list[Any]:
        return self._told[name, kind][:-1]

    def closed(self, name: str, kind: str) -> bool:
        """Whether the consumer's end has closed the connection."""
        return self._told[name, kind][-1]


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Told:
    name = tmp_path_factory.mktemp("sqlite") / "db.sqlite3"
    return Told({"ENGINE": "django.db.backends.sqlite3", "NAME": str(name)}, ORDERS)


def test_the_default_is_once_a_second() -> None:
    assert MpxConsumerMixin.close_old_connections_interval == 1.0
    assert AsyncWebsocketConsumer.close_old_connections_interval == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_stale_connection_is_not_handed_out(sqlite: Told, kind: str) -> None:
    """It is older than CONN_MAX_AGE, and dead."""
    assert sqlite.looks("the interval has passed", kind) == [1, 2]


@pytest.mark.parametrize("kind", MIXED)
def test_within_the_interval_nobody_looks(sqlite: Told, kind: str) -> None:
    """The counter-proof: the dead connection is what the handler meets."""
    assert sqlite.looks("the interval has not passed", kind) == [1, "ProgrammingError"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_interval_of_nothing_looks_always(sqlite: Told, kind: str) -> None:
    assert sqlite.looks("always", kind) == list(range(1, 11))


@pytest.mark.parametrize("kind", MIXED)
def test_the_interval_is_for_the_process(sqlite: Told, kind: str) -> None:
    """Three consumers take turns; the first message of all was the only one to look before."""
    assert sqlite.looks("hardly ever", kind) == [1] * 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_of_a_consumer_closes_what_is_old(sqlite: Told, kind: str) -> None:
    assert sqlite.closed("old at the end", kind)
    assert not sqlite.closed("young at the end", kind)


# -- PostgreSQL, where there is one ---------------------------------------------------------------


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Told]:
    """A PostgreSQL of this module's own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = shutil.which("initdb") or next(
        iter(sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)), None
    )
    if found is None:
        pytest.skip("there is no PostgreSQL server")
    programs = Path(found).resolve().parent
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
    port = free_port()
    # Not in a folder of pytest's: those are for our user's eyes only.
    with tempfile.TemporaryDirectory(prefix="mpx-postgresql-") as folder:
        if user is not None:
            shutil.chown(folder, user)

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [programs / program, "-D", f"{folder}/data", *arguments],
                check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL, timeout=60,
            )  # fmt: skip

        run("initdb", "-U", "mpx", "-A", "trust", "-N")
        run("pg_ctl", "-w", "-l", f"{folder}/log", "-o", f"-p {port} -k {folder}", "start")
        try:
            yield Told(
                {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": "postgres",
                    "USER": "mpx",
                    "HOST": "127.0.0.1",
                    "PORT": port,
                    "CONN_HEALTH_CHECKS": True,
                },
                HEALTH_ORDERS,
            )
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_the_server_ended(postgresql: Told, kind: str) -> None:
    """The server, or a firewall between, ends what is idle; CONN_HEALTH_CHECKS notices."""
    assert postgresql.looks("the interval has passed", kind) == [1, 2]


@pytest.mark.parametrize("kind", MIXED)
def test_a_connection_that_the_server_ended_just_now(postgresql: Told, kind: str) -> None:
    """The counter-proof."""
    assert postgresql.looks("the interval has not passed", kind) == [1, "OperationalError"]
