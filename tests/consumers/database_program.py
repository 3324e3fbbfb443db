"""Processes with a database, for test_connections: in each, one consumer does what it is told.

    python -m tests.consumers.database_program JSON

The JSON has the ``database`` settings and a list of ``orders``, each for a process of its own:
the ``kind`` of consumer, its ``interval``, CONN_MAX_AGE as ``age``, and the ``steps``. For each
it prints what every "look" told, which is how many connections there were so far, or the error;
and at last whether the consumer's end has closed the connection.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
from multiprocessing.connection import Connection
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings


class Database:
    """What the steps do; they run where a consumer's handlers would use the ORM."""

    def __init__(self) -> None:
        from django.db import connection
        from django.db.backends.signals import connection_created

        self.connection = connection
        self.created = 0
        connection_created.connect(self.count)

    def count(self, **_: Any) -> None:
        self.created += 1

    def do(self, step: str) -> Any:
        return getattr(self, step)()

    def look(self) -> Any:
        """Use the database."""
        try:
            with self.connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except Exception as error:
            return type(error).__name__
        return self.created

    def kill(self) -> None:
        """End the connection behind Django's back."""
        raw = self.connection.connection
        if raw is None:
            return  # on a slow machine somebody looked in between, and found it too old
        if self.connection.vendor == "postgresql":
            import psycopg

            with psycopg.connect(raw.info.dsn) as other:
                query = "SELECT pg_terminate_backend(%s, 10000)"
                other.execute(query, [raw.info.backend_pid])
        else:
            raw.close()

    def is_closed(self) -> bool:
        return self.connection.connection is None


def make_consumer(kind: str, interval: float, database: Database, told: list[Any]) -> Any:
    from channels.generic import websocket as stock

    from mpx_channels.generic import websocket as mixed

    module: Any = stock if kind.startswith("stock") else mixed

    class Async(module.AsyncWebsocketConsumer):  # type: ignore[misc]
        close_old_connections_interval = interval

        async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            told.append(await sync_to_async(database.do)(text_data))
            await self.send(text_data="done")

    class Sync(module.WebsocketConsumer):  # type: ignore[misc]
        close_old_connections_interval = interval

        def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
            told.append(database.do(text_data))
            self.send(text_data="done")

    return Sync if kind.endswith(" sync") else Async


async def obey(order: dict[str, Any]) -> list[Any]:
    from .socket import Socket

    told: list[Any] = []
    database = Database()
    consumer = make_consumer(order["kind"], order["interval"], database, told)
    sockets = [await Socket(consumer).connect() for _ in range(3)]
    for number, step in enumerate(order["steps"]):
        if isinstance(step, float):
            await asyncio.sleep(step)
            continue
        socket = sockets[number % len(sockets)]
        socket.say(step)
        await socket.text()
    for socket in sockets:
        await socket.disconnect()
    told.append(await sync_to_async(database.do)("is_closed"))
    return [each for each in told if each is not None]


def run(order: dict[str, Any], results: Connection) -> None:
    settings.DATABASES["default"]["CONN_MAX_AGE"] = order["age"]
    results.send(asyncio.run(obey(order)))


def main(database: dict[str, Any], orders: list[dict[str, Any]]) -> None:
    settings.configure(DATABASES={"default": database}, CHANNEL_LAYERS={})
    django.setup()
    import mpx_channels.generic.websocket  # noqa: F401 - once, before the forks

    # A fork each, all at once: Django takes longer to import than all that they do.
    context = multiprocessing.get_context("fork")
    running = []
    for order in orders:
        results, sender = context.Pipe(duplex=False)
        process = context.Process(target=run, args=(order, sender))
        process.start()
        sender.close()
        running.append((process, results))
    print(json.dumps([results.recv() for _, results in running]))
    for process, _ in running:
        process.join()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
