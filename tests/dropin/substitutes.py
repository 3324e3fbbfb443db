"""A pytest plugin for the process that runs other people's tests: gives them ours for theirs.

The environment variable ``MPX_DROPIN`` has, as JSON, the ``redis_url`` to use, the ``sentinels``
in place of theirs, if there are any, and the ``known`` tests that cannot pass, with the reasons. A
known test that passes is a failure, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import redis
from channels.exceptions import ChannelFull

from mpx_channels.generic import http, websocket
from mpx_channels.layer import MpxChannelLayer, serializers
from mpx_channels.loops.portal import portal
from tests.inside import loops_of

told = json.loads(os.environ["MPX_DROPIN"])
THEIR_SERVER = "redis://localhost:6379"


class ChannelLayer(MpxChannelLayer):
    """Ours, on the server that is there."""

    def __init__(self, hosts: list[Any] | None = None, **config: Any) -> None:
        hosts = [
            {**host, "sentinels": told["sentinels"]}
            if isinstance(host, dict)
            else host.replace(THEIR_SERVER, told["redis_url"])
            for host in hosts or [THEIR_SERVER]
        ]
        super().__init__(hosts=hosts, prefix=config.pop("prefix", f"asgi-{os.getpid()}"), **config)

    async def group_send(self, group: str, message: Any, **options: Any) -> None:
        await super().group_send(group, message, **options)
        # Their core has it in Redis then, and tests rely on it. With ours it is on its way: what
        # processes answer comes behind it.
        await self.group_size(group)

    # What their tests look at where ours has the same.

    @property
    def _layers(self) -> dict[Any, Any]:
        # A closed loop's is forgotten when the next loop comes. That of synchronous callers stays.
        return {
            loop: hub
            for loop, hub in loops_of(self).items()
            if not loop.is_closed() and loop is not portal.running_loop
        }

    @property
    def _shards(self) -> list[Any]:
        return [SimpleNamespace(_redis=self)]


async def break_connection(layer: ChannelLayer) -> None:
    with redis.Redis.from_url(told["redis_url"]) as client:
        client.client_kill_filter(_type="pubsub")


def substitute(name: str, **contents: Any) -> None:
    module = sys.modules[name] = ModuleType(name)
    vars(module).update(contents)


substitute("channels_redis")
substitute("channels_redis.core", RedisChannelLayer=ChannelLayer, ChannelFull=ChannelFull)
substitute("channels_redis.pubsub", RedisPubSubChannelLayer=ChannelLayer)
substitute("channels_redis.utils", _close_redis=break_connection)
sys.modules["channels_redis.serializers"] = serializers
substitute("async_timeout", timeout=asyncio.timeout)
sys.modules["channels.generic.http"] = http
sys.modules["channels.generic.websocket"] = websocket


def is_known(test: str, name: str) -> bool:
    """Whether a test is meant by the name of a function, or by a beginning with parameters."""
    if "[" in name:
        return test.startswith(name)
    return test.partition("[")[0] == name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    unmet = set(told["known"])
    for item in items:
        # What their authors do not expect of theirs may still be expected of ours.
        item.own_markers = [mark for mark in item.own_markers if mark.name != "xfail"]
        for name, reason in told["known"].items():
            if is_known(item.name, name):
                unmet.discard(name)
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
    if unmet:
        raise pytest.UsageError(f"no such tests: {', '.join(sorted(unmet))}")
