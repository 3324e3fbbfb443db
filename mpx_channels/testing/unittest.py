"""`ChannelLayersMixin`, for test classes of unittest, Django and Channels."""

from __future__ import annotations

import unittest
from typing import Any

from .isolation import is_live_server, isolated_channel_layers, live_server_channel_layers

__all__ = ["ChannelLayersMixin"]


class ChannelLayersMixin:
    """Put before a test class, gives each test CHANNEL_LAYERS as `isolated_channel_layers` does.

    Works with unittest's ``TestCase`` and ``IsolatedAsyncioTestCase``, and Django's classes. With
    Channels' ``ChannelsLiveServerTestCase`` the tests of a class share one prefix: their server
    is started once, for all of them.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        order = cls.__mro__
        if unittest.TestCase in order and (
            order.index(unittest.TestCase) < order.index(ChannelLayersMixin)
        ):
            raise TypeError(
                f"{cls.__name__} must name ChannelLayersMixin before the test case: as it stands, "
                "its tests would use the project's own channel layers"
            )

    @classmethod
    def setUpClass(cls) -> None:
        if is_live_server(cls):
            cls.enterClassContext(live_server_channel_layers(cls))  # type: ignore[attr-defined]
        super().setUpClass()  # type: ignore[misc]

    def run(self, result: Any = None) -> Any:
        """Run the test; around all of it, up to the end of its event loop."""
        if is_live_server(type(self)):
            return super().run(result)  # type: ignore[misc]
        with isolated_channel_layers():
            return super().run(result)  # type: ignore[misc]
