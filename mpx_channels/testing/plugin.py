"""A pytest plugin: each test gets CHANNEL_LAYERS as `isolated_channel_layers` does.

In the project's conftest.py::

    pytest_plugins = ["mpx_channels.testing.plugin"]
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings

__all__ = ["mpx_channel_layers", "mpx_live_server_channel_layers"]


@pytest.fixture(scope="class", autouse=True)
def mpx_live_server_channel_layers(request: pytest.FixtureRequest) -> Iterator[None]:
    """For a `ChannelsLiveServerTestCase`, whose server is started once, before its tests."""
    from .isolation import is_live_server, live_server_channel_layers

    if _has_settings() and is_live_server(request.cls):
        with live_server_channel_layers(request.cls):
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def mpx_channel_layers(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """The CHANNEL_LAYERS of the test."""
    from .isolation import is_live_server, isolated_channel_layers

    if not _has_settings():
        yield {}
    elif is_live_server(request.cls):
        yield settings.CHANNEL_LAYERS
    else:
        with isolated_channel_layers() as isolated:
            yield isolated


def _has_settings() -> bool:
    return settings.configured or "DJANGO_SETTINGS_MODULE" in os.environ
