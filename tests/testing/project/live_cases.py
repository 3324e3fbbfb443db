"""A server in a process of its own."""

import asyncio
import multiprocessing
import os

from channels.layers import get_channel_layer
from channels.testing import ChannelsLiveServerTestCase

from mpx_channels.testing import ChannelLayersMixin
from tests.docs.programs import WebSocket


class Nothing:
    """Instead of the mixin where the plugin is."""


Mixin = Nothing if "PYTEST_VERSION" in os.environ else ChannelLayersMixin
multiprocessing.set_start_method(os.environ["START_METHOD"])


async def talk(host, port):
    layer = get_channel_layer()
    async with WebSocket(host, port, "/room") as ann, WebSocket(host, port, "/room") as ben:
        await ann.send("Hello")
        for client in (ann, ben):
            assert await client.receive() == "Hello"
        await layer.group_send("room", {"type": "room.said", "text": "of the test"})
        for client in (ann, ben):
            assert await client.receive() == "of the test"


class LiveTests(Mixin, ChannelsLiveServerTestCase):
    serve_static = False

    def test_talk(self):
        asyncio.run(talk(self.host, self._port))

    def test_talk_again(self):
        asyncio.run(talk(self.host, self._port))


class MoreLiveTests(Mixin, ChannelsLiveServerTestCase):
    """Another server, under another prefix."""

    serve_static = False

    def test_talk(self):
        asyncio.run(talk(self.host, self._port))
