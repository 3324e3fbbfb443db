"""CHANNEL_LAYERS for the length of a test: the test run's server, and names that no other has."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from channels.layers import channel_layers
from django.conf import settings
from django.test.utils import override_settings
from django.utils.module_loading import import_string

from mpx_channels.layer import MpxChannelLayer

from .server import server_url

__all__ = ["is_live_server", "isolated_channel_layers", "live_server_channel_layers"]

BACKEND = "mpx_channels.layer.MpxChannelLayer"

Layers = dict[str, dict[str, Any]]


@contextlib.contextmanager
def isolated_channel_layers() -> Iterator[Layers]:
    """Have every alias of ours in CHANNEL_LAYERS use the test run's server, under a new prefix.

    Other keys of CONFIG stay as they are, and so do aliases with another backend. Two aliases
    that share names in the project share them here. If there is no alias at all, ``default`` is
    ours. At the end the layers are closed, and the setting is as it was.
    """
    isolated = _isolated(getattr(settings, "CHANNEL_LAYERS", None) or {})
    with override_settings(CHANNEL_LAYERS=isolated):
        try:
            yield isolated
        finally:
            _close(list(channel_layers.backends.values()))


def is_live_server(test_case: type | None) -> bool:
    """Whether this is a `ChannelsLiveServerTestCase`, whose server is there for a whole class."""
    return hasattr(test_case, "ProtocolServerProcess")


@contextlib.contextmanager
def live_server_channel_layers(test_case: Any) -> Iterator[None]:
    """`isolated_channel_layers` for a `ChannelsLiveServerTestCase`, and for its server.

    The server is a process of its own. Where it is no fork of this one (on macOS, and from Python
    3.14), it makes the settings anew, without what tests have overridden: so it is told.
    """
    with isolated_channel_layers() as isolated:
        own = vars(test_case).get("ProtocolServerProcess")
        process = test_case.ProtocolServerProcess
        test_case.ProtocolServerProcess = staticmethod(
            functools.partial(_new_process, process, isolated)
        )
        try:
            yield
        finally:
            if own is None:
                del test_case.ProtocolServerProcess
            else:
                test_case.ProtocolServerProcess = own


def _new_process(
    process: Callable[..., Any],
    isolated: Layers,
    host: str,
    get_application: Callable[[], Any],
    **options: Any,
) -> Any:
    return process(host, functools.partial(_application, isolated, get_application), **options)


def _application(isolated: Layers, get_application: Callable[[], Any]) -> Any:
    """In the server's process: what it calls first."""
    settings.INSTALLED_APPS  # noqa: B018 - what has not been loaded cannot be overridden
    override_settings(CHANNEL_LAYERS=isolated).enable()
    return get_application()


def _isolated(layers: Mapping[str, Mapping[str, Any]]) -> Layers:
    run = f"test-{uuid.uuid4().hex[:12]}"
    prefixes: dict[str, str] = {}
    isolated: Layers = {}
    for alias, entry in (layers or {"default": {"BACKEND": BACKEND}}).items():
        isolated[alias] = changed = dict(entry)
        if _is_ours(entry.get("BACKEND")):
            config = dict(entry.get("CONFIG", {}))
            names = f"{config.get('hosts')!r} {config.get('prefix')!r}"
            prefix = prefixes.setdefault(names, f"{run}-{len(prefixes)}")
            # Where production's nodes are reached says nothing of this one's.
            config.pop("address_remap", None)
            hosts = [server_url(cluster=bool(config.get("cluster")))]
            changed["CONFIG"] = {**config, "hosts": hosts, "prefix": prefix}
    return isolated


def _is_ours(backend: object) -> bool:
    try:
        layer = import_string(backend)
    except (ImportError, TypeError, AttributeError):
        return False  # Channels says so, when it is used.
    return isinstance(layer, type) and issubclass(layer, MpxChannelLayer)


def _close(layers: list[Any]) -> None:
    """Close what synchronous code has sent over; event loops end theirs themselves."""
    ours = [layer for layer in layers if isinstance(layer, MpxChannelLayer)]
    if not ours:
        return

    async def close() -> None:
        for layer in ours:
            await layer.close()

    # In a thread: an event loop may be running in this one.
    thread = threading.Thread(target=asyncio.run, args=(close(),), name="mpx-testing-close")
    thread.start()
    thread.join()
