"""A view that tells load balancers whether a process hears what is sent over its layers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import connections, transaction
from django.http import HttpRequest, JsonResponse
from django.utils.module_loading import import_string
from django.views.decorators.http import require_safe

from mpx_channels.layer import Health, MpxChannelLayer
from mpx_channels.loops.doors import doors
from mpx_channels.multiplexer.logs import LimitedLog, origin

__all__ = ["ready"]

logger = logging.getLogger("mpx_channels.health")
log = LimitedLog(logger)


@login_not_required
@require_safe
async def ready(request: HttpRequest) -> JsonResponse:
    """200 if every layer of ours in CHANNEL_LAYERS is healthy, else 503; the body is JSON.

    It is also 503 from the moment that the process is drained, and where CHANNEL_LAYERS has no
    layer of ours; the body says so.

    It answers within a second, and needs nothing but Redis. Under ASGI it looks at the connections
    of the server's event loop, which consumers use; under WSGI at those of synchronous code. The
    body has addresses of servers, and no credentials.
    """
    aliases = _aliases()
    found = await asyncio.gather(*map(_health, aliases))
    ok = bool(found) and all(each.ok for each in found)
    body: dict[str, Any] = {
        "ok": ok and not doors.draining,
        "layers": {alias: asdict(each) for alias, each in zip(aliases, found, strict=True)},
    }
    if not aliases:
        body["reason"] = "CHANNEL_LAYERS has no layer of mpx_channels"
    if doors.draining:
        body["reason"] = "this process is drained"
    return JsonResponse(
        body, status=200 if body["ok"] else 503, headers={"Cache-Control": "no-store"}
    )


if settings.configured:
    # Django refuses async views where ATOMIC_REQUESTS is on, and this one asks no database.
    for _database in connections:
        ready = transaction.non_atomic_requests(using=_database)(ready)


def _aliases() -> list[str]:
    """The aliases in CHANNEL_LAYERS that are ours; others' layers are not even made."""
    entries = getattr(settings, "CHANNEL_LAYERS", None)
    if not isinstance(entries, Mapping):
        return []
    return [alias for alias, entry in entries.items() if _is_ours(entry)]


def _is_ours(entry: Any) -> bool:
    try:
        backend = import_string(entry["BACKEND"])
    except Exception:  # whatever a module raises when it is imported; Channels says so
        return False
    return isinstance(backend, type) and issubclass(backend, MpxChannelLayer)


async def _health(alias: str) -> Health:
    try:
        layer: MpxChannelLayer = get_channel_layer(alias)
        return await layer.healthy()
    except Exception as error:
        # Not its text: who asks is anybody.
        log.error(
            origin(error),
            "Cannot tell the health of the channel layer %s",
            repr(alias),
            exc_info=error,
        )
        return Health(False, reason=f"{type(error).__name__}, see the log")
